"""The reads of a search, its report, and the gain of more reads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import spann
from spann.format.postings import PAGE, Record
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours

BASE, QUERIES = clustered(20_000, 32, 200, 3)
CLASSIC = spann.BuildParams(code_bits=0)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "i"
    spann.build(BASE, path, params=CLASSIC).close()
    return path


@pytest.fixture(scope="module")
def index(built):
    with spann.open(built, io="buffered") as index:
        yield index


@pytest.fixture(scope="module")
def reach():
    return exact_neighbours(BASE, QUERIES, 10)[1][:, -1:]


def recall(result, reach):
    return float((result.distances <= reach * (1 + 1e-6)).mean())


def test_recall_grows_with_what_is_read(index, reach):
    found = [recall(index.search(QUERIES, 10, spann.SearchParams(max_postings=n)), reach) for n in (1, 4, 16, 64, 256)]
    assert all(b >= a - 0.005 for a, b in itertools.pairwise(found)), found
    assert found[0] < found[2] - 0.05
    assert found[3] >= 0.9
    assert found[4] >= 0.99


@pytest.mark.parametrize(("metric", "least"), [("cosine", 0.95), ("ip", 0.8)])
def test_recall_under_other_metrics(tmp_path, metric, least):
    with spann.build(BASE, tmp_path / "i", metric=metric, params=CLASSIC) as index:
        found = index.search(QUERIES, 10)
    truth = exact_neighbours(BASE, QUERIES, 10, metric)[0]
    hits = [len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), truth.tolist(), strict=True)]
    assert np.mean(hits) / 10 >= least


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16"])
def test_recall_of_other_types(tmp_path, dtype):
    base, queries = clustered(8000, 32, 100, 3, dtype)
    with spann.build(base, tmp_path / "i", params=CLASSIC) as index:
        found = index.search(queries, 10)
    truth = exact_neighbours(base, queries, 10)[1][:, -1:]
    assert recall(found, truth) >= 0.95


def test_the_order_of_insertion_hardly_matters(tmp_path, reach, index):
    usual = recall(index.search(QUERIES, 10, spann.SearchParams(max_postings=16)), reach)
    for name, order in (("first", np.argsort(BASE[:, 0])), ("norm", np.argsort(np.linalg.norm(BASE, axis=1)))):
        with spann.build(BASE[order], tmp_path / name, params=CLASSIC) as other:
            found = other.search(QUERIES, 10, spann.SearchParams(max_postings=16))
        assert abs(recall(found, reach) - usual) <= 0.02, name


def test_statistics_of_a_query_add_up(built):
    record = Record.of(IndexReader.open(built).attributes).primary
    results = {}
    for io in ("buffered", "direct"):
        try:
            index = spann.open(built, io=io)
        except spann.StorageError as error:
            pytest.skip(f"no direct reads here: {error}")
        with index:
            stats = results[io] = index.search(QUERIES, 10, spann.SearchParams(max_postings=16)).stats
        assert stats.shape == (200,)
        assert (stats["postings_read"] <= 16).all()
        assert stats["postings_read"].mean() > 15
        expected = stats["pages_read"] * PAGE if io == "direct" else stats["distances"] * record
        np.testing.assert_array_equal(stats["bytes_read"], expected)
        assert (stats["bytes_read"] >= stats["distances"] * record).all()
        assert (stats["pages_read"] * PAGE >= stats["distances"] * record).all()
        assert (stats["pages_read"] >= stats["postings_read"]).all()
        assert (stats["centroid_distances"] >= 16).all()
        assert (stats["centroid_distances"] < 3200).all(), "navigation looks at a part of the centroids"
        assert (stats["total_ns"] > 0).all()
        # Reads go on while other things are done, so their time is part of the whole, but no share of it.
        assert (stats["navigate_ns"] + stats["score_ns"] + stats["rerank_ns"] <= stats["total_ns"]).all()
        assert (stats["read_ns"] <= stats["total_ns"]).all()
    for name in ("postings_read", "pages_read", "distances"):
        np.testing.assert_array_equal(results["buffered"][name], results["direct"][name])


@pytest.mark.parametrize("max_postings", [1, 2, 7, 100, 1000])
def test_no_more_postings_are_read_than_allowed(index, max_postings):
    stats = index.search(QUERIES, 1, spann.SearchParams(max_postings=max_postings)).stats
    assert stats["postings_read"].max() == max_postings


def test_pruning_reads_less(index, reach):
    read, found = [], []
    for epsilon2 in (0.0, 0.05, 0.1, 0.15, np.inf):
        result = index.search(QUERIES, 10, spann.SearchParams(max_postings=64, epsilon2=epsilon2))
        read.append(result.stats["postings_read"].mean())
        found.append(recall(result, reach))
    assert read == sorted(read)
    assert 15 < read[0] <= 16, "of the nearest 16 only those that the graph misses and empty ones are not read"
    assert read[1] < 0.8 * read[-1]
    assert read[-2] < 0.98 * read[-1], "no loss, for less reading"
    assert read[-1] == 64
    assert found[-2] >= found[-1] - 0.01
    assert all(b >= a - 0.005 for a, b in itertools.pairwise(found)), found


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_pruning_has_a_meaning_under_every_metric(tmp_path, metric):
    """Postings within (1 + epsilon2) of the 16th nearest centroid, in the space where ratios of distances exist."""
    base, queries = BASE[:3000].astype(np.float64), QUERIES[:50].astype(np.float64)
    with spann.build(BASE[:3000], tmp_path / "i", metric=metric, params=CLASSIC) as index:
        stats = index.search(QUERIES[:50], 1, spann.SearchParams(max_postings=2**20, epsilon2=0.05)).stats
    reader = IndexReader.open(tmp_path / "i")
    x, q = base[reader.read("centroids/ids")], queries
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    if metric == "ip":
        largest = np.linalg.norm(base, axis=1).max()
        q = np.pad(q / np.linalg.norm(q, axis=1, keepdims=True) * largest, ((0, 0), (0, 1)))
        x = np.concatenate([x, np.sqrt(np.maximum(0, largest**2 - np.square(x).sum(axis=1)))[:, None]], axis=1)
    distance = np.linalg.norm(q[:, None] - x, axis=2)
    held = reader.read("postings/directory/length") > 0
    ratio = distance / np.sort(distance, axis=1)[:, 15:16]
    at_least = ((ratio <= 1.05 * 0.9999) & held).sum(axis=1)
    at_most = ((ratio <= 1.05 * 1.0001) & held).sum(axis=1)
    assert (stats["postings_read"] >= at_least).all()
    assert (stats["postings_read"] <= at_most).all()
    assert at_most.max() > at_most.min()


def test_navigation_finds_the_nearest_centroids(built):
    """The graph is good enough that the first posting read is that of the nearest centroid, nearly always."""
    rows = IndexReader.open(built).read("centroids/ids").astype(np.int64)
    nearest = exact_neighbours(BASE[rows], QUERIES, 1)[1]
    with spann.open(built) as index:
        found = index.search(QUERIES, 1, spann.SearchParams(max_postings=1))
    assert (found.distances <= nearest * (1 + 1e-5)).mean() >= 0.98


def test_a_wider_beam_is_used(index):
    narrow = index.search(QUERIES, 10, spann.SearchParams(max_postings=8, navigate=8)).stats
    wide = index.search(QUERIES, 10, spann.SearchParams(max_postings=8, navigate=400)).stats
    assert wide["centroid_distances"].mean() > 2 * narrow["centroid_distances"].mean()
    np.testing.assert_array_equal(wide["postings_read"], 8)


def test_a_budget_that_ends_inside_a_chain(tmp_path):
    base = np.concatenate([np.zeros((3000, 4), np.uint8), np.full((3000, 4), 9, np.uint8)])
    with spann.build(base, tmp_path / "i", params=spann.BuildParams(code_bits=0, posting_size=10)) as index:
        assert index.info()["postings"] > 250
        for budget in (1, 2, 100):
            result = index.search(base[:1], 5, spann.SearchParams(max_postings=budget))
            assert result.stats["postings_read"].tolist() == [budget]
            assert (result.distances == 0).all()
        every = index.search(base[:1], 6000)
        assert np.sort(every.ids[0]).tolist() == list(range(6000))
        assert (every.distances[0] == np.repeat([0, 18], 3000)).all()
        # The budget grew fourfold several times on the way, and what was read before was read again: a third at most.
        assert index.info()["postings"] <= every.stats["postings_read"][0] <= index.info()["postings"] * 4 / 3
