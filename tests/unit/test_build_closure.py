"""The postings of a vector: the closure rule against a plain computation, and invariants of every index."""

from __future__ import annotations

import numpy as np
import pytest

import spann
from spann.building.sizes import Sizes
from spann.building.stages.layout import TAIL_CUT
from spann.building.stages.neighborhood import _joined
from spann.config import DEFAULT_REPLICAS
from spann.format.postings import PAGE, Record
from spann.store.reader import IndexReader
from spann.testing import clustered
from spann.types import Metric
from tests import builds
from tests.kernels import twins


def memberships(decode, path):
    """(vector id, centroid number) of every entry, and the centroids' ids."""
    reader = IndexReader.open(path)
    rows = reader.read("centroids/ids").astype(np.int64)
    postings = decode(path)
    name = "postings/directory/chain"
    chain = reader.read(name) if name in reader.arrays() else np.arange(len(rows) + 1)
    owner = np.repeat(np.arange(len(rows)), np.diff(chain.astype(np.int64)))
    ids = np.concatenate([ids for ids, _ in postings]).astype(np.int64)
    return ids, np.repeat(owner, [len(ids) for ids, _ in postings]), rows


def exact_data(n, dim, seed):
    """Small whole numbers: every sum in float32 is exact in any order, so two computations must agree to the bit."""
    base = clustered(n, dim, 0, seed, np.uint8)[0] // 4
    return np.unique(base, axis=0)[np.random.default_rng(seed).permutation(len(np.unique(base, axis=0)))]


@pytest.mark.parametrize(
    "params",
    [
        spann.BuildParams(),
        spann.BuildParams(max_replicas=2, posting_size=500),
        spann.BuildParams(epsilon1=0.1, centroids=0.3, posting_size=500),
        spann.BuildParams(epsilon1=0.0, posting_size=500, centroids=0.1),
        spann.BuildParams(rng_factor=0.5, closure_candidates=16, centroids=0.1),
        spann.BuildParams(rng_factor=2.0, closure_candidates=4, max_replicas=5, seed=9, centroids=0.05),
        spann.BuildParams(posting_size=4, max_replicas=8),
    ],
)
def test_postings_are_what_the_closure_rule_says(tmp_path, decode, params):
    base = exact_data(1500, 12, 1)
    spann.build(base, tmp_path / "i", params=params).close()
    ids, owner, centroid_rows = memberships(decode, tmp_path / "i")
    members = np.setdiff1d(np.arange(len(base)), centroid_rows)
    centroids = base[centroid_rows].astype(np.float32)
    params = params.decide("uint8", 12, Metric.L2, len(base))
    sqdist = np.square(base[members, None].astype(np.float32) - centroids).sum(axis=2)
    chosen, chosen_sqdist, counts = twins.closure(
        sqdist,
        centroids,
        near=params.closure_candidates,
        replicas=params.max_replicas,
        reach=(1 + params.epsilon1) ** 2,
        rng=params.rng_factor,
    )
    place = np.broadcast_to(np.arange(chosen.shape[1]), chosen.shape)
    taken = place < counts[:, None]
    row, centroid, distance, replica = np.repeat(members, counts), chosen[taken], chosen_sqdist[taken], place[taken] > 0
    per_page = PAGE // Record.of(IndexReader.open(tmp_path / "i").attributes).primary
    assert counts.max() > 1 or params.epsilon1 == 0
    for c in range(len(centroid_rows)):
        own = np.flatnonzero(centroid == c)
        own = own[np.lexsort((row[own], distance[own], replica[own]))]
        kept = ids[owner == c]
        # Those at the same distance may be in any order, that of the build's own.
        known = {r: (rep, d) for r, rep, d in zip(row[own], replica[own], distance[own], strict=True)}
        assert [known[r] for r in kept.tolist()] == list(known.values())[: len(kept)], f"posting of centroid {c}"
        assert len(set(kept.tolist())) == len(kept)
        primaries = int((~replica[own]).sum())
        limit = max(primaries, min(len(own), params.posting_bound))
        assert primaries <= len(kept) <= limit
        assert limit - len(kept) <= TAIL_CUT * per_page


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_every_index_keeps_its_invariants(tmp_path, decode, metric, dtype, replicas):
    base = clustered(2500, 10, 0, 2, dtype)[0]
    base[(base == 0).all(axis=1)] = 1
    params = spann.BuildParams(max_replicas=replicas, posting_size=20)
    with spann.build(base, tmp_path / "i", metric=metric, params=params) as index:
        info = index.info()
    ids, owner, centroid_rows = memberships(decode, tmp_path / "i")
    postings = decode(tmp_path / "i")
    assert len(postings) == info["postings"]
    for held, vectors in postings:
        np.testing.assert_array_equal(vectors, base[held.astype(np.int64)])
        assert len(np.unique(held)) == len(held), "a vector twice in one posting"
        assert len(held) <= 40, "twice the size that was asked for"
    assert len(np.unique(np.stack([ids, owner]), axis=1).T) == len(ids), "a vector twice in a chain"
    assert len(np.unique(centroid_rows)) == len(centroid_rows)
    assert not np.isin(centroid_rows, ids).any(), "a representative inside a posting"
    per_vector = np.bincount(ids, minlength=len(base))
    members = np.setdiff1d(np.arange(len(base)), centroid_rows)
    assert (per_vector[members] >= 1).all(), "a vector was dropped"
    assert per_vector.max() <= replicas
    assert info["entries"] == len(ids)
    assert info["replicas_mean"] == pytest.approx(per_vector[members].mean())
    distinct = np.unique(base[centroid_rows], axis=0)
    assert len(distinct) == len(centroid_rows), "two centroids are the same vector"
    primaries = IndexReader.open(tmp_path / "i").read("postings/directory/primaries")
    assert primaries.sum() == len(members), "each vector has one primary posting"
    if replicas > 1:
        assert per_vector[members].mean() > 1.2


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_the_nearest_centroid_always_has_the_vector(tmp_path, decode, metric):
    """In the space of each metric, up to what float32 can tell apart."""
    base = clustered(2000, 8, 0, 3)[0]
    spann.build(base, tmp_path / "i", metric=metric, params=spann.BuildParams(epsilon1=0.5)).close()
    ids, owner, centroid_rows = memberships(decode, tmp_path / "i")
    x = base.astype(np.float64)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    if metric == "ip":
        sqnorm = np.square(x).sum(axis=1)
        x = np.concatenate([x, np.sqrt(sqnorm.max() - sqnorm)[:, None]], axis=1)
    sqdist = np.square(x[:, None] - x[centroid_rows]).sum(axis=2)
    nearest = sqdist.min(axis=1)
    margin = 1e-5 * np.square(x).sum(axis=1).max()
    own = np.full(len(base), np.inf)
    np.minimum.at(own, ids, sqdist[ids, owner])
    members = np.setdiff1d(np.arange(len(base)), centroid_rows)
    assert (own[members] <= nearest[members] + margin).all()
    assert (sqdist[ids, owner] <= 1.5**2 * (nearest[ids] + margin) + margin).all(), "beyond (1 + epsilon1)"


def test_balanced_leaves_are_the_postings_without_replicas(tmp_path):
    base = clustered(8000, 16, 0, 4)[0]
    params = spann.BuildParams(posting_size=125, max_replicas=1, code_bits=0)
    with spann.build(base, tmp_path / "i", params=params) as index:
        length = index.info()["posting_length"]
        assert index.info()["postings"] == 64
    assert length["mean"] == pytest.approx(124)
    assert length["std"] / length["mean"] <= 0.35
    assert length["max"] <= 2 * length["mean"]


def test_the_number_of_centroids_is_as_asked(tmp_path):
    base = clustered(4000, 8, 0, 5)[0]
    for params, wanted in (
        (spann.BuildParams(centroids=0.01), 40),
        (spann.BuildParams(centroids=0.25), 1000),
        (spann.BuildParams(posting_size=50), 80),
        (spann.BuildParams(), 560),
    ):
        with spann.build(base, tmp_path / "i", params=params, overwrite=True) as index:
            assert index.info()["centroids"] == pytest.approx(wanted, rel=0.02)


def test_runs_are_joined_as_far_as_they_fit():
    ends = np.array([3, 5, 9, 30, 31, 40, 41])
    np.testing.assert_array_equal(_joined(ends, 10), [9, 30, 40, 41])
    np.testing.assert_array_equal(_joined(ends, 1), ends)
    np.testing.assert_array_equal(_joined(ends, 100), [41])
    assert len(_joined(ends[:0], 10)) == 0


def test_closure_finds_what_comparing_with_all_centroids_finds(tmp_path, decode):
    """Far more centroids than closure looks at: groups of few leaves, runs of many centroids."""
    sizes = Sizes(closure_candidates=150, closure_reached=400)
    base = exact_data(20_000, 12, 5)
    params = spann.BuildParams(code_bits=0, centroids=0.05, posting_size=1000)
    builds.build(base, tmp_path / "i", params=params, sizes=sizes)
    ids, owner, rows = memberships(decode, tmp_path / "i")
    members = np.setdiff1d(np.arange(len(base)), rows)[::50]
    centroids = base[rows].astype(np.float32)
    sqdist = np.square(base[members, None].astype(np.float32) - centroids).sum(axis=2)
    chosen, _, counts = twins.closure(
        sqdist, centroids, near=params.closure_candidates, replicas=DEFAULT_REPLICAS, reach=(1 + params.epsilon1) ** 2,
        rng=params.rng_factor,
    )  # fmt: skip
    wanted = {(m, c) for i, m in enumerate(members.tolist()) for c in chosen[i, : counts[i]].tolist()}
    found = set(zip(ids.tolist(), owner.tolist(), strict=True))
    assert len(rows) > 5 * sizes.closure_candidates
    assert len(wanted & found) > 0.8 * len(wanted)
