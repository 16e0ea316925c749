"""Comforts of an open index: ranges, iteration, explanations, pickling, forks, tables, notebooks."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading

import numpy as np
import pytest

import spann
from spann.errors import InputError
from spann.testing import clustered, exact_neighbours

BASE, QUERIES = clustered(5000, 16, 40, 6)
EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)


@pytest.fixture(scope="module", params=["l2", "cosine", "ip"])
def index(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("comfort") / "i"
    params = spann.BuildParams(code_bits=4, posting_size=20, calibration_queries=300)
    with spann.build(BASE, path, metric=request.param, params=params) as made:
        yield made


@pytest.fixture(scope="module")
def truth(index):
    return exact_neighbours(BASE, QUERIES, len(BASE), index.metric)


def near(truth, radius, metric):
    """Rows within the radius, of each query: those that are in any case, and those that rounding may put there."""
    ids, distances = truth
    beyond = radius - distances if metric == spann.Metric.IP else distances - radius
    rounding = 1e-4 * abs(radius) + 1e-6
    return [
        (set(row[d < -rounding].tolist()), set(row[d < rounding].tolist())) for row, d in zip(ids, beyond, strict=True)
    ]


@pytest.mark.parametrize("rank", [0, 7, 300, 2000])
def test_a_range_is_everything_within_it(index, truth, rank):
    """Radii that hold from none to half of the collection."""
    radius = float(np.median(truth[1][:, rank])) if rank else float(truth[1][:, 0].min() - 1)
    if rank == 0 and index.metric is spann.Metric.IP:
        radius = float(truth[1].max() + 1)
    found = index.search_range(QUERIES, radius, params=EVERYTHING)
    expected = near(truth, radius, index.metric)
    assert len(found) == len(QUERIES)
    assert found.limits[-1] == len(found.ids) == len(found.distances)
    for i, (surely, perhaps) in enumerate(expected):
        ids, distances = found.of(i)
        assert surely <= set(ids.tolist()) <= perhaps
        order = -distances if index.metric is spann.Metric.IP else distances
        assert (np.diff(order) >= 0).all()
    if rank == 0:
        assert len(found.ids) == 0


def test_a_range_by_default_has_the_recall_of_the_default(index, truth):
    radius = float(np.median(truth[1][:, 100]))
    found = index.search_range(QUERIES, radius)
    expected = near(truth, radius, index.metric)
    precision = [len(x & set(found.of(i)[0].tolist())) / len(x) for i, (x, _) in enumerate(expected) if x]
    assert np.mean(precision) >= 0.93
    assert found.stats["distances"].sum() < 0.4 * len(QUERIES) * len(BASE), "what is beyond the radius is not read"


def test_an_inner_radius_leaves_copies_out(index):
    itself = index.search(BASE[:1], 1, EVERYTHING)
    radius = float(index.search(BASE[:1], 20, EVERYTHING).distances[0, -1])
    whole = index.search_range(BASE[:1], radius, params=EVERYTHING)
    ring = index.search_range(BASE[:1], radius, inner=float(itself.distances[0, 0]), params=EVERYTHING)
    assert len(whole.ids) == len(ring.ids) + 1
    assert itself.ids[0, 0] not in ring.ids


def test_contradictory_or_infinite_limits_are_refused(index):
    for limit in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(InputError, match="must be a finite number"):
            index.search_range(QUERIES, limit)
        for limits in ({"radius": limit}, {"inner": limit}, {"radius": 1.0, "inner": limit}):
            with pytest.raises(InputError, match="must be a finite number"):
                index.search(QUERIES, 5, **limits)
    wrong = (2.0, 1.0) if index.metric is spann.Metric.IP else (1.0, 2.0)
    for radius, inner in (wrong, (1.0, 1.0)):
        with pytest.raises(InputError, match=f"radius is {radius} and inner {inner}; nothing can be there"):
            index.search(QUERIES, 5, radius=radius, inner=inner)
        with pytest.raises(InputError, match="nothing can be there"):
            index.search_range(QUERIES, radius, inner=inner)


@pytest.mark.parametrize(("outer", "inner"), [(30, None), (None, 30), (300, 30), (None, 2500), (4, 2)])
def test_only_vectors_within_the_limits_are_found(index, outer, inner):
    """Those between two ranks of the first query, against a search for everything."""
    every = index.search(QUERIES, len(BASE), EVERYTHING)
    limits = {
        name: float(every.distances[0, rank])
        for name, rank in (("radius", outer), ("inner", inner))
        if rank is not None
    }
    for k in (1, 10, 50):
        found = index.search(QUERIES, k, EVERYTHING, **limits)
        assert found.ids.shape == found.distances.shape == (len(QUERIES), k)
        for i in range(len(QUERIES)):
            near = every.distances[i] if index.metric is not spann.Metric.IP else -every.distances[i]
            sign = -1 if index.metric is spann.Metric.IP else 1
            fits = (near <= sign * limits.get("radius", np.inf * sign)) & (
                near > sign * limits.get("inner", -np.inf * sign)
            )
            expected = every.ids[i][fits][:k]
            n = len(expected)
            np.testing.assert_array_equal(found.ids[i, :n], expected)
            np.testing.assert_array_equal(found.distances[i, :n], every.distances[i][fits][:k])
            assert (found.ids[i, n:] == -1).all()
            assert (found.distances[i, n:] == sign * np.inf).all()
    assert found.stats["postings_scored"].min() > 0


def test_nothing_within_the_limits_is_padding(index):
    far = 1e30 if index.metric is spann.Metric.IP else -1.0
    found = index.search(QUERIES, 3, radius=far)
    assert (found.ids == -1).all()
    assert np.isinf(found.distances).all()
    assert found.columns()["id"].size == 0
    more = index.search(QUERIES[0], len(BASE) + 5, EVERYTHING, inner=far)
    assert (more.ids[0, -5:] == -1).all()
    assert (more.ids[0, :-5] >= 0).all()


def test_iteration_goes_on_to_the_last_vector(index, truth):
    batches = list(index.iterate(QUERIES[0], 7, params=EVERYTHING))
    assert len(batches[0][0]) == 7
    ids = np.concatenate([ids for ids, _ in batches])
    assert sorted(ids.tolist()) == list(range(len(BASE)))
    np.testing.assert_array_equal(ids[:50], truth[0][0, :50])
    few = index.iterate(QUERIES[0], 3)
    assert len(next(few)[0]) == 3
    with pytest.raises(InputError, match="batch is 0"):
        index.iterate(QUERIES[0], 0)


def test_an_explanation_adds_up(index):
    told = index.explain(QUERIES[3], 10)
    stats = index.search(QUERIES[3:4], 10).stats[0]
    assert (told.postings_scored, told.codes_scored) == (stats["postings_scored"], stats["estimates"])
    assert told.found == 10
    assert told.total_us > 0
    assert 0.9 < told.predicted["recall"] <= 1
    assert "postings" in str(told)
    assert told.to_json()["stopped"] == told.stopped
    few = index.explain(QUERIES[3], 10, spann.SearchParams(max_postings=3))
    assert (few.postings_scored, few.stopped) == (3, "max_postings reached")
    near_only = index.explain(QUERIES[3], 10, spann.SearchParams(max_postings=200, epsilon2=0.001))
    assert "times as far as those of the 16th" in near_only.stopped
    assert index.explain(QUERIES[3], 10, EVERYTHING).stopped == "every posting was scored"


def test_a_pickled_index_opens_again(index):
    again = pickle.loads(pickle.dumps(index))
    with again:
        np.testing.assert_array_equal(again.search(QUERIES, 5).ids, index.search(QUERIES, 5).ids)


def test_after_a_fork_parent_and_child_search(index):
    expected = index.search(QUERIES, 5, threads=2).ids
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = all(np.array_equal(index.search(QUERIES, 5, threads=n).ids, expected) for n in (1, 2))
            os.write(write, b"same" if same else b"else")
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"same"
    os.waitpid(child, 0)
    os.close(read)
    np.testing.assert_array_equal(index.search(QUERIES, 5, threads=2).ids, expected)


def test_many_threads_at_once(index):
    expected = index.search(QUERIES, 5).ids
    wrong = []

    def work():
        for _ in range(5):
            if not np.array_equal(index.search(QUERIES, 5, threads=2).ids, expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_search_async_returns_the_same(index):
    async def both():
        return await asyncio.gather(*(index.search_async(QUERIES[i : i + 20], 5) for i in (0, 20)))

    found = asyncio.run(both())
    np.testing.assert_array_equal(np.concatenate([one.ids for one in found]), index.search(QUERIES, 5).ids)


def test_tables(index):
    found = index.search(QUERIES[:3], 4)
    columns = found.columns()
    assert columns["query"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert columns["rank"].tolist() == [0, 1, 2, 3] * 3
    np.testing.assert_array_equal(columns["id"].reshape(3, 4), found.ids)
    pyarrow = pytest.importorskip("pyarrow")
    table = found.to_arrow()
    assert table.column_names == ["query", "rank", "id", "distance"]
    assert table.schema.field("distance").type == pyarrow.float32()
    ranged = index.search_range(QUERIES[:3], float(found.distances[:, 2].mean())).to_arrow()
    assert ranged["query"].to_pylist() == sorted(ranged["query"].to_pylist())


def test_pandas(index):
    pytest.importorskip("pandas")
    assert index.search(QUERIES[:3], 4).to_pandas().shape == (12, 4)


def test_in_a_notebook(index):
    text = index._repr_html_()
    assert text.startswith("<table>")
    assert "5,000 of dimension 16" in text
    assert "k 1, 3, 10, 30, 100, 300, 1000" in text
