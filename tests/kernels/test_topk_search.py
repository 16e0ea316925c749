"""The native search over postings made here, against exhaustive search: results, ties, damage, short files."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spann._kernels import _search
from spann._kernels.checksum import crc32c
from spann._kernels.distances import element_number, metric_number
from spann._kernels.io import BACKENDS, backends
from spann.types import ELEMENT_TYPES, QUERY_STATS, Array, Metric
from tests.kernels import twins

PAGE = 4096
OK, READ_SHORT, DAMAGED = _search.OK, _search.READ_SHORT, _search.DAMAGED
EVERYTHING = 10**6
METRICS = [metric for metric in Metric if metric is not Metric.HAMMING]


@dataclass
class Made:
    """An index of `rows`, row i with id 3 * i and in one to three of the postings; posting 1 is empty."""

    native: Any
    rows: Array
    metric: Metric
    path: Path
    files: NDArray[np.int32]
    postings: int

    def search(
        self,
        queries: Array,
        k: int,
        *,
        max_postings: int = EVERYTHING,
        navigate: int = 16,
        epsilon2: float = np.inf,
        direct: bool = False,
        check: bool = True,
        in_flight: int = 3,
        depth: int = 8,
        backend: str = "auto",
        posting_major: bool = False,
    ) -> tuple[tuple[int, int, int, int], NDArray[np.int64], NDArray[np.float32], Array]:
        n = len(queries)
        ids, distances = np.full((n, k), -7, np.int64), np.zeros((n, k), np.float32)
        stats = np.zeros((n, QUERY_STATS.itemsize), np.uint8)
        params = _search.Params(
            k=k,
            max_postings=max_postings,
            navigate=navigate,
            epsilon2=epsilon2,
            rerank=1,
            error_bound=1.0,
            radius=math.inf,
            join=0,
            in_flight=in_flight,
            depth=depth,
            backend=BACKENDS.index(backend),
            direct=direct,
            check=check,
            stop=_search.Stop(),
            live=None,
        )
        raw = queries.view(np.uint8)
        if posting_major:
            status = self.posting_major(params, raw, ids, distances, stats)
        else:
            searcher = _search.Searcher(self.native)
            status = searcher.run(params, raw, np.zeros(1, np.int64), ids, distances, stats)
        return status, ids, distances, stats.view(QUERY_STATS)[:, 0]

    def posting_major(self, params: Any, queries: Array, ids: Array, distances: Array, stats: Array) -> Any:
        unfinished = np.zeros(len(queries), np.uint8)
        batch = _search.Batch(self.native, params, queries, ids, distances, stats, unfinished)
        searcher = _search.Searcher(self.native)
        status = (OK, 0, 0, 0)
        while status[0] == OK and batch.next():
            status = batch.step(searcher)
        assert not unfinished.any()
        return status

    def exhaustive(self, query: Array, k: int) -> tuple[Array, Array]:
        """Ids and ranking scores of the k nearest, by (score, id)."""
        scores = twins.settled(twins.measures(query, self.rows, self.metric))
        order = np.lexsort((np.arange(len(scores)), scores))[:k]
        return order * 3, scores[order]


def vectors(rng: np.random.Generator, dtype: str, n: int, dim: int) -> Array:
    """Few values, so that equal distances are common; no zero vectors, which cosine refuses."""
    made = rng.integers(0 if dtype == "uint8" else -3, 4, (n, dim)).astype(dtype)
    made[:, 0] = 1
    return made


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    opened: list[int] = []

    def build(
        metric: Metric = Metric.L2,
        dtype: str = "uint8",
        *,
        n: int = 700,
        dim: int = 12,
        centroids: int = 40,
        id_bytes: int = 4,
        chained: bool = False,
        pages_per_shard: int = 5,
        seed: int = 0,
    ) -> Made:
        rng = np.random.default_rng(seed)
        rows = vectors(rng, dtype, n, dim)
        reps = rng.choice(n, centroids, replace=False)
        postings = centroids * 2 if chained else centroids
        owners: list[list[int]] = [[] for _ in range(postings)]
        for row in range(n):
            for p in rng.choice(postings - 1, rng.integers(1, 4), replace=False):
                owners[p].append(row)
        owners[1], owners[-1] = [], owners[1]

        content, page, offset, length, crc = bytearray(), [], [], [], []
        id_type = np.uint32 if id_bytes == 4 else np.uint64
        for members in owners:
            record = (np.array(members) * 3).astype(id_type).tobytes() + rows[members].tobytes()
            if len(content) % PAGE + len(record) > PAGE:
                content += bytes(-len(content) % PAGE)
            # a list does not cross from one shard into the next
            if len(content) // PAGE % pages_per_shard + -(-len(record) // PAGE) > pages_per_shard:
                content += bytes(-len(content) % (PAGE * pages_per_shard))
            page.append(len(content) // PAGE)
            offset.append(len(content) % PAGE)
            length.append(len(members))
            crc.append(crc32c(record))
            content += record
        content += bytes(-len(content) % PAGE)
        shard = PAGE * pages_per_shard
        for i in range(0, len(content), shard):
            path = tmp_path / f"{seed}.{i // shard}"
            path.write_bytes(content[i : i + shard])
            opened.append(os.open(path, os.O_RDONLY))

        # a ring with chords: everything can be reached
        near = (np.arange(centroids)[:, None] + [1, -1, 7, 11]) % centroids
        upper = np.arange(0, centroids, 8, dtype=np.uint32)
        up = (np.arange(len(upper))[:, None] + [1, 2]) % len(upper)
        levels = [
            (None, np.arange(0, near.size + 1, 4, dtype=np.uint64), near.astype(np.uint32).reshape(-1)),
            (upper, np.arange(0, up.size + 1, 2, dtype=np.uint64), upper[up].reshape(-1)),
        ]
        files = np.array(opened, np.int32)
        native = _search.NativeIndex(
            metric=metric_number(metric),
            dtype=element_number(dtype),
            dim=dim,
            count=n,
            entries=sum(length),
            id_bytes=id_bytes,
            max_norm=float(np.linalg.norm(rows.astype(np.float64), axis=1).max()),
        )
        native.set_centroids(
            metric_number(metric),
            element_number(dtype),
            rows[reps].view(np.uint8).reshape(-1),
            centroids,
            (reps * 3).astype(id_type).view(np.uint8),
            0,
            levels,
        )
        native.set_postings(
            np.arange(0, postings + 1, 2, dtype=np.uint32) if chained else None,
            np.array(page, np.uint32),
            np.array(offset, np.uint16),
            np.array(length, np.uint16),
            None,
            np.array(crc, np.uint32),
            pages_per_shard,
            files,
        )
        return Made(native, rows, metric, tmp_path / f"{seed}.0", files, postings)

    yield build
    for file in opened:
        os.close(file)


def queries_for(index: Made, n: int = 6) -> Array:
    dtype = index.rows.dtype.name
    return vectors(np.random.default_rng(99), "float32" if dtype == "float16" else dtype, n, index.rows.shape[1])


def true_distance(metric: Metric, query: Array, scores: Array) -> Array:
    if metric is Metric.L2:
        return np.sqrt(scores)
    if metric is Metric.IP:
        return -scores
    return scores


def test_statistics_have_the_size_of_the_record() -> None:
    assert _search.stats_bytes() == QUERY_STATS.itemsize


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.value)
@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
@pytest.mark.parametrize("chained", [False, True])
def test_reading_everything_equals_exhaustive_search(
    level: str, make: Any, metric: Metric, dtype: str, chained: bool
) -> None:
    index = make(metric, dtype, chained=chained, id_bytes=8 if chained else 4)
    queries = queries_for(index)
    for k, posting_major in itertools.product((1, 10, 300), (False, True)):
        status, ids, distances, stats = index.search(queries, k, posting_major=posting_major)
        assert status[0] == OK
        for q, query in enumerate(queries):
            expected_ids, scores = index.exhaustive(query, k)
            np.testing.assert_array_equal(ids[q], expected_ids)
            np.testing.assert_allclose(distances[q], true_distance(metric, query, scores), rtol=1e-6, atol=1e-6)
        assert (stats["postings_scored"] == index.postings - 1).all()
        assert stats["postings_read"].sum() == (index.postings - 1) * (1 if posting_major else len(queries))
        assert (stats["total_ns"] > 0).all()


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.value)
def test_more_neighbours_than_vectors_leaves_places_empty(make: Any, metric: Metric) -> None:
    index = make(metric, n=50, centroids=20)
    status, ids, distances, _ = index.search(queries_for(index), 60, max_postings=1)
    assert status[0] == OK
    for row in ids:
        assert sorted(row[:50]) == [3 * i for i in range(50)]
    assert (ids[:, 50:] == -1).all()
    assert (distances[:, 50:] == (-np.inf if metric is Metric.IP else np.inf)).all()


@pytest.mark.parametrize("k", [1, 5, 100, 650])
@pytest.mark.parametrize("chained", [False, True])
def test_few_postings_still_give_k_distinct_sorted_true_hits(make: Any, k: int, chained: bool) -> None:
    index = make(chained=chained)
    queries = queries_for(index)
    status, ids, distances, stats = index.search(queries, k, max_postings=3, navigate=4, epsilon2=0.1)
    assert status[0] == OK
    for q, query in enumerate(queries):
        assert len(set(ids[q].tolist())) == k
        found = twins.distances(query, index.rows[ids[q] // 3], Metric.L2)
        np.testing.assert_allclose(distances[q] ** 2, found, rtol=1e-6)
        assert (np.lexsort((ids[q], found)) == np.arange(k)).all()
    if k == 1:
        assert (stats["postings_read"] <= 3).all()
        assert (stats["pages_read"] >= stats["postings_read"]).all()


def test_whole_pages_and_exact_ranges_give_the_same(make: Any) -> None:
    index = make()
    queries = queries_for(index)
    ranged, paged = index.search(queries, 20), index.search(queries, 20, direct=True)
    np.testing.assert_array_equal(ranged[1], paged[1])
    np.testing.assert_array_equal(ranged[2], paged[2])
    assert (paged[3]["bytes_read"] == PAGE * paged[3]["pages_read"].astype(np.uint64)).all()
    assert (ranged[3]["bytes_read"] < paged[3]["bytes_read"]).all()


@pytest.mark.parametrize("backend", ["uring", "pool", "sync"])
@pytest.mark.parametrize(("in_flight", "depth"), [(1, 1), (1, 64), (6, 1), (6, 5)])
def test_ways_of_reading_give_the_same(make: Any, backend: str, in_flight: int, depth: int) -> None:
    if backend not in backends():
        pytest.skip(f"no {backend} here")
    index = make()
    queries = queries_for(index)
    plain = index.search(queries, 20, max_postings=9, in_flight=1, depth=1, backend="sync")
    found = index.search(queries, 20, max_postings=9, in_flight=in_flight, depth=depth, backend=backend)
    assert found[0] == plain[0] == (OK, 0, 0, 0)
    np.testing.assert_array_equal(found[1], plain[1])
    np.testing.assert_array_equal(found[2], plain[2])
    for name in ("postings_read", "pages_read", "bytes_read", "reads", "distances", "centroid_distances"):
        np.testing.assert_array_equal(found[3][name], plain[3][name], name)


@pytest.mark.parametrize("posting_major", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_damage_is_found_unless_checks_are_off(make: Any, direct: bool, posting_major: bool) -> None:
    index = make()
    queries = queries_for(index)
    with index.path.open("r+b") as file:
        file.seek(3)
        byte = file.read(1)[0]
        file.seek(3)
        file.write(bytes([byte ^ 0x10]))
    how = {"direct": direct, "posting_major": posting_major}
    assert index.search(queries, 5, **how)[0] == (DAMAGED, 0, 0, 0)
    assert index.search(queries, 5, check=False, **how)[0][0] == OK


@pytest.mark.parametrize("posting_major", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_file_that_ends_early_is_reported(make: Any, direct: bool, posting_major: bool) -> None:
    index = make()
    os.truncate(index.path, 10)
    found = index.search(queries_for(index), 5, direct=direct, posting_major=posting_major)
    status, _, exact, posting = found[0]
    assert not exact
    assert status == READ_SHORT
    assert 0 <= posting < index.postings


def test_file_that_cannot_be_read_gives_the_errno(make: Any, tmp_path: Path) -> None:
    index = make()
    write_only = os.open(index.path, os.O_WRONLY)
    try:
        index.files[:] = write_only
        status, errno, _, _ = index.search(queries_for(index), 5)[0]
    finally:
        os.close(write_only)
    assert (status, os.strerror(errno)) == (2, os.strerror(9))
