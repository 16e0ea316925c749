"""Real vectors: the files that scripts/ and benchmarks/ use, when SPANN_DATA names their directory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.measuring.exact import exact_search
from spann.store.reader import IndexReader
from spann.vectors import open_source

ROWS = 100_000
QUERIES = 500


CLASSIC = spann.BuildParams(code_bits=0)


@pytest.fixture(scope="module")
def data():
    """(source of at most `ROWS` vectors, queries, squared distance of each one's tenth neighbour)"""
    place = os.environ.get("SPANN_DATA")
    if not place:
        pytest.skip("SPANN_DATA does not name a directory with base.u8bin, query.u8bin and truth.ibin")
    files = [Path(place) / name for name in ("base.u8bin", "query.u8bin", "truth.ibin")]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        pytest.skip(f"SPANN_DATA has no {missing[0]}")
    with open_source(files[0]) as everything:
        rows = min(ROWS, everything.count)
    with open_source(files[0], max_rows=rows) as base, open_source(files[1]) as asked:
        queries = asked.read(0, min(QUERIES, asked.count)).copy()
        _, sqdist = exact_search(base, queries, 10, "l2")
        yield base, queries, np.sqrt(sqdist[:, -1:])


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("sift") / "i"
    spann.build(data[0], path, params=CLASSIC).close()
    return path


def recall(path, queries, tenth, max_postings):
    with spann.open(path) as index:
        found = index.search(queries, 10, spann.SearchParams(max_postings=max_postings))
    return float((found.distances <= tenth * (1 + 1e-6)).mean()), found.stats


@pytest.mark.parametrize(("max_postings", "least"), [(16, 0.85), (32, 0.93), (64, 0.97)])
def test_recall(data, built, max_postings, least):
    _, queries, tenth = data
    found, stats = recall(built, queries, tenth, max_postings)
    assert found >= least
    assert stats["postings_read"].max() <= max_postings
    assert stats["pages_read"].mean() <= 2 * max_postings


def test_sizes(data, built):
    with spann.open(built) as index:
        info = index.info()
    assert info["count"] == data[0].count
    assert info["open_memory_bytes_per_vector"] <= 45
    assert info["disk_bytes"] / info["count"] <= 950
    length = info["posting_length"]
    assert length["max"] <= length["bound"]
    assert length["std"] / length["mean"] <= 0.5


def test_nothing_is_wrong_and_nothing_lost(data, built):
    assert spann.verify(built) == []
    base, queries, _ = data
    with spann.open(built) as index:
        every = index.search(queries[:1], base.count)
    assert np.array_equal(np.sort(every.ids[0]), np.arange(base.count))
    assert (np.diff(every.distances[0]) >= 0).all()


def test_balanced_clusters_without_replicas(data, tmp_path):
    params = CLASSIC.with_(posting_size=125, max_replicas=1)
    with spann.build(data[0], tmp_path / "i", params=params) as index:
        length = index.info()["posting_length"]
    assert length["std"] / length["mean"] <= 0.25
    assert length["max"] <= 2 * length["mean"]


@pytest.mark.parametrize("order", ["component", "norm"])
def test_the_order_of_insertion_hardly_matters(data, built, tmp_path, order):
    source, queries, tenth = data
    base = source.read(0, source.count)
    key = base[:, 0] if order == "component" else np.square(base.astype(np.int64)).sum(axis=1)
    spann.build(base[np.argsort(key, kind="stable")], tmp_path / "i", params=CLASSIC).close()
    usual, other = (recall(path, queries, tenth, 32)[0] for path in (built, tmp_path / "i"))
    assert abs(usual - other) <= 0.01


def test_threads_never_show(data, built, tmp_path):
    spann.build(data[0], tmp_path / "i", params=CLASSIC, threads=1).close()
    for name in ("postings/pages", "centroids/vectors", "centroids/graph/level0/neighbors"):
        np.testing.assert_array_equal(
            IndexReader.open(tmp_path / "i").read(name), IndexReader.open(built).read(name), name
        )


def test_codes_lie_evenly_and_near_vectors_share_pages(data, tmp_path):
    source, queries, _ = data
    spann.build(source, tmp_path / "i").close()
    assert spann.verify(tmp_path / "i") == []
    reader = IndexReader.open(tmp_path / "i")
    assert reader.attributes["code_bits"] == 2
    primaries = reader.read("postings/directory/primaries").astype(int)
    assert primaries.std() / primaries.mean() <= 0.25
    exact = reader.read("vectors/exact").astype(np.float32)
    near = np.argpartition(np.square(exact).sum(axis=1) - 2 * queries[:100].astype(np.float32) @ exact.T, 30)[:, :30]
    posting = np.repeat(np.arange(len(primaries)), primaries)
    shuffled = np.argsort(np.lexsort((np.random.default_rng(0).random(len(posting)), posting)))
    per_page = 4096 // source.row_bytes
    pages, others = (np.mean([len(np.unique(rows // per_page)) for rows in at]) for at in (near, shuffled[near]))
    assert pages <= 0.93 * others
