"""Vectors that do not count: they never come, take no place of a result, and nothing else changes."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest

import spann
from spann._kernels import _search
from spann.jobs.own import OwnVectors
from spann.search import Engine, Within, iterate, search_range
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours

COUNT = 700
EVERYTHING = spann.SearchParams(max_postings=10**6, rerank=10**6, error_bound=1e6)
FEW = spann.SearchParams(max_postings=4)
KINDS = {
    "codes": spann.BuildParams(code_bits=2, posting_size=20, calibration_queries=0),
    "replicas": spann.BuildParams(code_bits=2, posting_size=20, max_replicas=4, calibration_queries=0),
    "vectors": spann.BuildParams(code_bits=0, posting_size=12, calibration_queries=0),
}
GROWN = {f"{kind} and appends": params for kind, params in KINDS.items()}
CASES = [(kind, metric) for kind in KINDS for metric in ("l2", "cosine", "ip")] + [("vectors", "hamming")]
CASES += [(kind, "l2") for kind in GROWN] + [("vectors and appends", "hamming"), ("replicas and appends", "ip")]
CODED = [("codes", "l2"), ("replicas", "ip")]


@functools.cache
def data(metric):
    base, queries = clustered(COUNT, 24, 9, 5, "uint8")
    if metric == "hamming":
        return base, queries
    base[:, 0] += base[:, 0] == 0
    queries[:, 0] += queries[:, 0] == 0
    return base, queries


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """From kind and metric to the path of an index, built when it is first asked for."""
    folder = tmp_path_factory.mktemp("live")

    @functools.cache
    def built(kind, metric):
        path, ids, params = folder / f"{kind}-{metric}", np.arange(COUNT) * 3 + 1, (KINDS | GROWN)[kind]
        first, *appends = np.split(np.arange(COUNT), [400, 550] if kind in GROWN else [])
        spann.build(data(metric)[0][first], path, metric=metric, ids=ids[first], params=params).close()
        for some in appends:
            spann.append(path, data(metric)[0][some], ids=ids[some]).close()
        return path

    return built


class Opened:
    """An engine, and the stored row of each vector of the base."""

    def __init__(self, path, **how):
        self.reader = IndexReader.open(path)
        self.engine = Engine(self.reader, **how)
        stored = OwnVectors(self.reader).ids()
        self.row = np.empty(COUNT, np.int64)
        self.row[(stored - 1) // 3] = np.arange(COUNT)

    def without(self, dead):
        """All vectors but those at `dead` places of the base."""
        return self.engine.arrays.all_alive(COUNT).without(self.row[dead], dead * 3 + 1)

    def search(self, queries, k, params, dead, **how):
        return self.engine.search(queries, k, params, alive=self.without(dead), **how)


@pytest.fixture
def opened(path):
    with contextlib.ExitStack() as undo:

        def open_(kind, metric, **how):
            found = Opened(path(kind, metric), **how)
            undo.callback(found.engine.close)
            return found

        yield open_


def deletions(metric):
    """Places of the base, by name."""
    base, queries = data(metric)
    rng = np.random.default_rng(1)
    nearest = exact_neighbours(base, queries, 60, metric)[0]
    return {
        "one": np.array([17]),
        "a tenth": rng.permutation(COUNT)[: COUNT // 10],
        "two thirds": rng.permutation(COUNT)[: COUNT * 2 // 3],
        "the nearest": np.unique(nearest),
        "all but seven": rng.permutation(COUNT)[7:],
    }


def left(dead):
    return np.setdiff1d(np.arange(COUNT), dead)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_a_search_of_everything_is_exact_among_the_vectors_that_count(opened, check_neighbours, kind, metric):
    base, queries = data(metric)
    one = opened(kind, metric)
    for dead in deletions(metric).values():
        rest = left(dead)
        for k, order in ((1, "query"), (10, "posting"), (10, "query"), (COUNT, "query"), (COUNT, "posting")):
            found = one.search(queries, k, EVERYTHING, dead, order=order, threads=2)
            check_neighbours(found, base[rest], queries, k, metric, rest * 3 + 1)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_k_results_come_from_few_postings_in_every_order_and_with_every_budget(opened, kind, metric):
    queries = data(metric)[1]
    for dead in deletions(metric).values():
        rest, first = left(dead), None
        for budget, order, threads in (("none", "query", 1), ("auto", "query", 2), ("none", "posting", 2)):
            one = opened(kind, metric, memory_budget=budget)
            found = one.search(queries, 10, FEW, dead, order=order, threads=threads)
            assert np.isin(found.ids, [*(rest * 3 + 1), -1]).all()
            assert ((found.ids >= 0).sum(axis=1) == min(10, len(rest))).all()
            first = first or found
            np.testing.assert_array_equal(found.ids, first.ids)
            np.testing.assert_array_equal(found.distances, first.distances)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_ranges_and_iterators_have_the_vectors_that_count_and_no_others(opened, kind, metric):
    base, queries = data(metric)
    one = opened(kind, metric)
    dead = deletions(metric)["two thirds"]
    rest, alive = left(dead), one.without(dead)
    _, distances = exact_neighbours(base[rest], queries, 30, metric)
    radius = float(np.median(distances[:, 20]))
    within = Within.checked(radius, None, metric == "ip")

    def search(some, k):
        return one.engine.search(some, k, EVERYTHING, radius=radius, alive=alive)

    found = search_range(search, queries, within, alive.count, owed=not one.engine.arrays.kind.is_reranked)
    ids, every = exact_neighbours(base[rest], queries, len(rest), metric)
    for i in range(len(queries)):
        near = every[i] >= radius if metric == "ip" else every[i] <= radius
        edge = np.abs(every[i] - radius) <= 1e-4 * max(1, abs(radius))
        got = set(found.of(i)[0].tolist())
        assert set((rest[ids[i][near & ~edge]] * 3 + 1).tolist()) <= got
        assert got <= set((rest[ids[i][near | edge]] * 3 + 1).tolist())

    walk = iterate(lambda some, k: one.engine.search(some, k, FEW, threads=1, alive=alive), queries[0], 13, alive.count)
    seen = np.concatenate([some for some, _ in walk])
    assert sorted(seen.tolist()) == (rest * 3 + 1).tolist()


@pytest.mark.parametrize(("kind", "metric"), [*CODED, ("vectors", "l2")])
def test_where_all_count_nothing_changes(opened, kind, metric):
    queries = data(metric)[1]
    one = opened(kind, metric)
    without_mask = one.engine.search(queries, 10, FEW)
    masked = one.engine.search(queries, 10, FEW, alive=one.engine.arrays.all_alive(COUNT))
    np.testing.assert_array_equal(without_mask.ids, masked.ids)
    np.testing.assert_array_equal(without_mask.distances, masked.distances)
    for name in ("postings_scored", "estimates", "distances", "centroid_distances"):
        np.testing.assert_array_equal(without_mask.stats[name], masked.stats[name])


@pytest.mark.parametrize(("kind", "metric"), [*CODED, ("vectors", "cosine")])
def test_where_none_counts_nothing_is_found(opened, kind, metric):
    queries = data(metric)[1]
    for order in ("query", "posting"):
        found = opened(kind, metric).search(queries, 3, FEW, np.arange(COUNT), order=order)
        assert (found.ids == -1).all()
        assert (found.distances == (-np.inf if metric == "ip" else np.inf)).all()


def test_a_posting_without_a_live_vector_is_not_read(opened):
    one = opened("codes", "l2", memory_budget="none")
    row_of_dead = np.arange(int(one.engine.arrays.cells.first_row[-3]))  # of all postings but the last three
    place = np.argsort(one.row)
    found = one.search(data("l2")[1], 5, EVERYTHING, place[row_of_dead])
    assert (found.stats["postings_scored"] == 3).all()
    assert (found.stats["postings_read"] == 3).all()


def test_every_step_of_deleting_one_by_one_equals_deleting_at_once(opened):
    one = opened("replicas", "l2")
    dead = np.random.default_rng(2).permutation(COUNT)[:300]
    alive = one.engine.arrays.all_alive(COUNT)
    for part in np.array_split(dead, 7):
        alive = alive.without(one.row[part], part * 3 + 1)
    at_once = one.without(dead)
    assert alive.count == at_once.count == COUNT - 300
    queries = data("l2")[1]
    a, b = (one.engine.search(queries, 10, FEW, alive=some) for some in (alive, at_once))
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.stats["postings_scored"], b.stats["postings_scored"])


def test_ids_that_do_not_count_are_looked_up_by_value():
    rng = np.random.default_rng(3)
    dead = np.unique(np.concatenate([[0, 2**63 - 1, 2**32], rng.integers(0, 2**63 - 1, 3000), np.arange(0, 4096, 16)]))
    live = _search.Live(1, np.ones(1, np.uint16))
    live.set_dead(dead)
    assert all(live.is_dead(int(i)) for i in dead)
    others = np.setdiff1d(np.concatenate([rng.integers(0, 2**63 - 1, 3000), dead[:-1] + 1]), dead)
    assert not any(live.is_dead(int(i)) for i in others)
