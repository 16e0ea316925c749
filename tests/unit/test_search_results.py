"""The results of a search: exact neighbours among the vectors read, in true units, for every way of running it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import spann
from spann.building.sizes import Sizes
from spann.errors import CorruptionError, InputError
from spann.testing import clustered, exact_neighbours
from spann.types import MAX_K
from tests import builds

EVERYTHING = spann.SearchParams(max_postings=2**31)
BASE, QUERIES = clustered(6000, 24, 100, 1)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "i"
    spann.build(BASE, path).close()
    return path


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
@pytest.mark.parametrize("dim", [2, 17, 33])
def test_reading_everything_is_brute_force(tmp_path, check_neighbours, metric, dtype, dim):
    base, queries = clustered(700, dim, 6, dim, dtype)
    for vectors in (base, queries):
        vectors[(vectors == 0).all(axis=1)] = 1
    with spann.build(base, tmp_path / "i", metric=metric) as index:
        for k in (1, 10, 699, 700):
            check_neighbours(index.search(queries, k, EVERYTHING), base, queries, k, metric)
        # The default reads as much as it takes to find k.
        check_neighbours(index.search(queries, 900), base, queries, 900, metric)


def test_equal_distances_come_in_the_order_of_ids(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 4, (2000, 3), dtype=np.uint8)
    queries = rng.integers(0, 4, (30, 3), dtype=np.uint8)
    ids = rng.permutation(10_000)[:2000]
    order = np.argsort(ids)
    expected = exact_neighbours(base[order], queries, 400)
    with spann.build(base, tmp_path / "i", ids=ids) as index:
        for k in (1, 13, 400):
            found = index.search(queries, k, EVERYTHING)
            np.testing.assert_array_equal(found.ids, ids[order][expected[0][:, :k]])
            np.testing.assert_allclose(found.distances, expected[1][:, :k], rtol=1e-6)


def test_distances_are_in_the_metrics_unit(tmp_path):
    base = np.array([[3, 4], [0, 2], [-6, 8], [1, 0]], np.float32)
    query = np.array([0, 1], np.float32)
    for metric, ids, distances in (
        ("l2", [1, 3, 0, 2], [1, 2**0.5, 18**0.5, 85**0.5]),
        ("cosine", [1, 0, 2, 3], [0, 0.2, 0.2, 1]),
        ("ip", [2, 0, 1, 3], [8, 4, 2, 0]),
    ):
        with spann.build(base, tmp_path / metric, metric=metric) as index:
            found = index.search(query, 4)
        assert found.ids[0].tolist() == ids, metric
        np.testing.assert_allclose(found.distances[0], distances, rtol=1e-6, atol=1e-7)


def test_shapes_and_types_of_queries(built):
    with spann.open(built) as index:
        one = index.search(QUERIES[0], 7)
        assert one.ids.shape == one.distances.shape == (1, 7)
        assert one.stats.shape == (1,)
        many = index.search(QUERIES, 7)
        assert (many.ids.shape, many.ids.dtype, many.distances.dtype) == ((100, 7), np.int64, np.float32)
        np.testing.assert_array_equal(many.ids[0], one.ids[0])
        ids, distances = many
        assert ids is many.ids
        assert distances is many.distances
        np.testing.assert_array_equal(index.search(np.asfortranarray(QUERIES), 7).ids, many.ids)
        np.testing.assert_array_equal(index.search(np.repeat(QUERIES, 2, axis=0)[::2], 7).ids, many.ids)
        assert index.search(QUERIES[:2], np.int64(3)).ids.shape == (2, 3)


@pytest.mark.parametrize(
    ("queries", "k", "match"),
    [
        (QUERIES[:, :-1], 5, r"shape \(100, 23\).*\(queries, 24\)"),
        (QUERIES[None], 5, r"shape \(1, 100, 24\)"),
        (np.float32(1), 5, r"shape \(\)"),
        (QUERIES, 0, f"k is 0.*from 1 to {MAX_K}"),
        (QUERIES, -1, "k is -1"),
        (QUERIES, MAX_K + 1, f"k is {MAX_K + 1}"),
        (QUERIES, 2.5, r"k is 2\.5"),
        (QUERIES, "10", "k is '10'"),
        (np.where(np.arange(100)[:, None] == 41, np.float32(np.nan), QUERIES), 5, "row 41 column 0 of queries is nan"),
        (np.where(np.arange(100)[:, None] == 41, np.float32(np.inf), QUERIES), 5, "row 41 column 0 of queries is inf"),
    ],
)
def test_unusable_queries_are_refused(built, queries, k, match):
    with spann.open(built) as index, pytest.raises(InputError, match=match):
        index.search(queries, k)


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_invalid_threads_are_refused(built, threads):
    with spann.open(built) as index, pytest.raises(InputError, match=f"threads is {threads}"):
        index.search(QUERIES, 5, threads=threads)


def test_a_query_without_direction(tmp_path):
    with spann.build(BASE[:100], tmp_path / "i", metric="cosine") as index:
        queries = QUERIES.copy()
        queries[3] = 0
        with pytest.raises(InputError, match="row 3 of queries is all zeros"):
            index.search(queries, 5)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1e18, 1e19, 1e30])
def test_queries_of_extreme_length_are_right_or_refused(tmp_path, check_neighbours, metric, scale):
    base = BASE[:300]
    with np.errstate(all="ignore"):
        queries = (QUERIES[:4] * np.float64(scale)).astype(np.float32)
    with spann.build(base, tmp_path / "i", metric=metric) as index:
        try:
            found = index.search(queries, 10, EVERYTHING)
        except InputError as error:
            refused = str(error)
        else:
            refused = ""
            check_neighbours(found, base, queries, 10, metric)
    assert not refused or "row 0 of queries" in refused
    assert not refused or not 1e-14 < scale < 1e17


def test_more_neighbours_than_vectors_are_padded(built):
    with spann.open(built) as index:
        found = index.search(QUERIES[:2], 6005)
    assert (found.ids[:, 6000:] == -1).all()
    assert np.isinf(found.distances[:, 6000:]).all()
    np.testing.assert_array_equal(np.sort(found.ids[:, :6000], axis=1), np.tile(np.arange(6000), (2, 1)))


@pytest.mark.parametrize("k", [1, 50, 1500])
@pytest.mark.parametrize("max_postings", [1, 3, 64])
def test_k_neighbours_come_back_whatever_the_budget(built, k, max_postings):
    with spann.open(built) as index:
        found = index.search(QUERIES, k, spann.SearchParams(max_postings=max_postings, epsilon2=0.0))
    assert (found.ids >= 0).all()
    assert all(len(set(row)) == k for row in found.ids.tolist())
    true = np.linalg.norm(QUERIES[:, None].astype(np.float64) - BASE[found.ids], axis=2)
    np.testing.assert_allclose(found.distances, true, rtol=1e-5)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_threads_and_ways_of_reading_never_show(tmp_path, metric):
    spann.build(BASE, tmp_path / "i", metric=metric).close()
    results = []
    for io in ("buffered", "direct", "auto"):
        try:
            index = spann.open(tmp_path / "i", io=io)
        except spann.StorageError as error:
            if io == "direct":
                pytest.skip(f"no direct reads here: {error}")
            raise
        with index:
            for threads in (1, 2, 3, 4, None):
                results.append(index.search(QUERIES, 10, spann.SearchParams(max_postings=8), threads=threads))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].ids, other.ids)
        np.testing.assert_array_equal(results[0].distances, other.distances)
        for field in ("postings_read", "pages_read", "distances", "centroid_distances"):
            np.testing.assert_array_equal(results[0].stats[field], other.stats[field])


def test_queries_do_not_influence_each_other(built):
    with spann.open(built) as index:
        together = index.search(QUERIES, 10, threads=2)
        for i in (0, 1, 50, 99):
            np.testing.assert_array_equal(index.search(QUERIES[i], 10).ids[0], together.ids[i])
        backwards = index.search(QUERIES[::-1], 10, threads=1)
    np.testing.assert_array_equal(backwards.ids[::-1], together.ids)


def test_many_threads_search_one_index(built):
    with spann.open(built) as index:
        expected = index.search(QUERIES, 10).ids
        found = [None] * 6

        def work(i):
            found[i] = [index.search(QUERIES[j::5], 10, threads=1 + i % 2).ids for j in range(5)]

        workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for parts in found:
        for j, part in enumerate(parts):
            np.testing.assert_array_equal(part, expected[j::5])


@pytest.mark.parametrize("io", ["buffered", "direct"])
@pytest.mark.parametrize("bits", [0, 2])
def test_an_index_of_many_shards(tmp_path, check_neighbours, io, bits):
    shard = 32 * 4096
    params = spann.BuildParams(code_bits=bits, max_replicas=8)
    builds.build(BASE, tmp_path / "i", params=params, sizes=Sizes(shard_bytes=shard))
    for name in ("postings/pages", *(["vectors/exact"] if bits else [])):
        assert len(list((tmp_path / "i" / name / "c").glob("*/0"))) > 1, name
    assert spann.verify(tmp_path / "i") == []
    everything = EVERYTHING.with_(rerank=10**6, error_bound=1e6)
    with spann.open(tmp_path / "i", io=io, memory_budget="none") as index:
        for order in ("query", "posting"):
            check_neighbours(index.search(QUERIES[:10], 10, everything, order=order), BASE, QUERIES[:10], 10, "l2")
        assert index.search(QUERIES, 10, spann.SearchParams(max_postings=64)).stats["postings_read"].max() <= 64


def test_files_that_are_cut_short_under_an_open_index(tmp_path):
    for io in ("buffered", "direct"):
        path = tmp_path / io
        for name, match in (("postings/pages", r"posting \d+"), ("vectors/exact", r"page \d+ of vectors/exact")):
            spann.build(BASE[:1000], path, overwrite=True).close()
            with spann.open(path, io=io, memory_budget="none") as index:
                with open(next((path / name / "c" / "0").glob("*")), "r+b") as file:
                    file.truncate(8192)
                with pytest.raises(CorruptionError, match=f"{match} ends early"):
                    index.search(QUERIES, 10, EVERYTHING)


def test_no_queries_have_an_empty_result(built):
    with spann.open(built) as index:
        for result in (index.search(QUERIES[:0], 5), index.search(QUERIES[:0], 5, radius=1.0)):
            assert result.ids.shape == result.distances.shape == (0, 5)
            assert len(result) == len(result.stats) == len(result.to_list()) == 0
        near = index.search_range(QUERIES[:0], 1.0)
        assert (near.limits.tolist(), len(near), len(near.ids)) == ([0], 0, 0)
        with pytest.raises(InputError, match=r"shape \(0, 23\)"):
            index.search(QUERIES[:0, :23], 5)
