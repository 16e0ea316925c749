"""A collection that changes: after every step it is what a dictionary says, for its writer and for everyone else."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import spann
from spann.errors import InputError
from spann.testing import exact_neighbours

EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)
DIM = 8
EXAMPLES = int(os.environ.get("SPANN_UPDATE_EXAMPLES", "4"))
"""Histories that are tried: a thousand take an hour."""

KINDS = {
    "codes": {"code_bits": 2, "posting_size": 8},
    "replicas": {"code_bits": 2, "posting_size": 8, "max_replicas": 3},
    "classic": {"code_bits": 0, "posting_size": 8},
}
SPACES = [
    ("l2", "float32"),
    ("l2", "uint8"),
    ("cosine", "float16"),
    ("ip", "float32"),
    ("ip", "int8"),
    ("l2", "bfloat16"),
]


def vectors_of(seed: int, count: int, dtype: str, metric: str) -> np.ndarray:
    """Vectors of few different values, so that copies occur."""
    found = np.random.default_rng(seed).integers(0 if dtype == "uint8" else -4, 5, (count, DIM))
    if metric == "cosine":
        found[~found.any(axis=1)] = 1
    return found.astype(np.float32 if dtype == "bfloat16" else dtype)


class Collection(RuleBasedStateMachine):
    """Any order of operations, each compared with the same on a dictionary."""

    @initialize(kind=st.sampled_from(sorted(KINDS)), space=st.sampled_from(SPACES), data=st.data())
    def begin(self, kind, space, data):
        self.place = Path(tempfile.mkdtemp())
        self.path = self.place / "i"
        self.metric, self.dtype = space
        self.params = spann.BuildParams(**KINDS[kind], calibration_queries=0)
        self.model: dict[int, np.ndarray] = {}
        count = data.draw(st.sampled_from([0, 1, 60]))
        self.numbered, self.next_id = data.draw(st.booleans()), count
        if count == 0:
            self.index = spann.create(
                self.path, DIM, metric=self.metric, dtype=self.dtype, params=self.params, given_ids=not self.numbered
            )
        else:
            ids = np.arange(count) if self.numbered else np.arange(count) * 3 + 1
            base = vectors_of(1, count, self.dtype, self.metric)
            source = base
            if self.dtype == "bfloat16":
                np.save(self.place / "base.npy", (base.view(np.uint32) >> 16).astype(np.uint16).view("V2"))
                source = self.place / "base.npy"
            given = {} if self.numbered else {"ids": ids}
            self.index = spann.build(source, self.path, metric=self.metric, params=self.params, **given)
            self.model = dict(zip(ids.tolist(), base, strict=True))
        self.reader = spann.open(self.path)
        self.seen = dict(self.model)

    def teardown(self):
        if hasattr(self, "place"):
            self.index.close()
            self.reader.close()
            shutil.rmtree(self.place)

    def known(self, data, size=6):
        """Ids, most of them of vectors that are there."""
        some = (
            st.integers(0, 250)
            if not self.model
            else st.one_of(st.sampled_from(sorted(self.model)), st.integers(0, 250))
        )
        return np.array(data.draw(st.lists(some, min_size=1, max_size=size)), np.int64)

    @rule(data=st.data(), seed=st.integers(0, 1000))
    def upsert(self, data, seed):
        ids = self.known(data)
        vectors = vectors_of(seed, len(ids), self.dtype, self.metric)
        old = len(set(ids.tolist()) & self.model.keys())
        assert self.index.upsert(ids, vectors) == (len(set(ids.tolist())) - old, old)
        self.model.update(zip(ids.tolist(), vectors, strict=True))
        self.next_id = max(self.next_id, int(ids.max()) + 1)

    @rule(data=st.data(), seed=st.integers(0, 1000))
    def add(self, data, seed):
        count = data.draw(st.integers(1, 4))
        vectors = vectors_of(seed, count, self.dtype, self.metric)
        if not self.numbered:
            ids = np.unique(self.known(data))[:count]
            vectors = vectors[: len(ids)]
            if set(ids.tolist()) & self.model.keys():
                with pytest.raises(InputError, match="has a vector already"):
                    self.index.add(vectors, ids)
                return
            assert self.index.add(vectors, ids).tolist() == ids.tolist()
        else:
            ids = self.index.add(vectors)
            assert ids.tolist() == list(range(self.next_id, self.next_id + count))
            self.next_id += count
        self.model.update(zip(ids.tolist(), vectors, strict=True))

    @rule(data=st.data(), strict=st.booleans())
    def delete(self, data, strict):
        ids = self.known(data, 12)
        there = set(ids.tolist()) & self.model.keys()
        if strict and len(there) < len(set(ids.tolist())):
            with pytest.raises(InputError, match="no vector has id"):
                self.index.delete(ids, missing="raise")
            return
        assert self.index.delete(ids, missing="raise" if strict else "ignore") == len(there)
        for i in there:
            del self.model[i]

    @rule()
    def flush(self):
        before = self.index.version
        done = self.index.flush()
        assert (self.index.version.generation > before.generation) == (done.operations > 0)

    @rule(how=st.sampled_from(["", "full", "purge", "rebuild"]))
    def optimize(self, how):
        done = self.index.optimize(**({how: True} if how else {}))
        assert done.live == len(self.model)
        if how in ("purge", "rebuild") and self.model:
            assert done.dead == 0

    @rule()
    def refresh(self):
        self.reader.refresh()
        self.seen = dict(self.model)

    @rule()
    def reopen(self):
        self.index.close()
        self.index = spann.open(self.path, memory_budget="none")

    @precondition(lambda self: self.model)
    @rule(k=st.integers(1, 12), seed=st.integers(0, 50))
    def iterate(self, k, seed):
        query = vectors_of(seed, 1, self.dtype, self.metric)[0]
        found = [ids for ids, _ in self.index.iterate(query, k, params=EVERYTHING)]
        assert sorted(np.concatenate(found).tolist()) == sorted(self.model)

    @invariant()
    def searches_find_what_is_there(self):
        if not hasattr(self, "model"):
            return
        for index, model in ((self.index, self.model), (self.reader, self.seen)):
            assert len(index) == len(model)
            keys = np.array(sorted(model), np.int64)
            queries = vectors_of(7, 3, self.dtype, self.metric)
            found = index.search(queries, 5, EVERYTHING)
            assert (found.ids[:, len(keys) :] == -1).all()
            if not len(keys):
                continue
            vectors = np.stack([model[key] for key in keys.tolist()])
            n = min(5, len(keys))
            _, distances = exact_neighbours(vectors, queries, n, self.metric)
            np.testing.assert_allclose(found.distances[:, :n], distances, rtol=1e-3, atol=1e-4)
            assert all(len(set(row)) == n and set(row) <= model.keys() for row in found.ids[:, :n].tolist())
        keys = np.array(sorted(self.model), np.int64)
        if len(keys):
            np.testing.assert_array_equal(self.index.get(keys), np.stack([self.model[key] for key in keys.tolist()]))
        assert 10**6 not in self.index

    @invariant()
    def nothing_is_damaged(self):
        if hasattr(self, "path"):
            assert spann.verify(self.path) == []


TestCollection = Collection.TestCase
TestCollection.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a history is short, and shrinking one takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
