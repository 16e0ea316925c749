"""Exact search against the plain model, also where float32 alone would be wrong."""

from __future__ import annotations

import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from spann.errors import InputError
from spann.measuring.exact import exact_search
from spann.testing import clustered, exact_neighbours
from spann.types import ELEMENT_TYPES, Metric
from spann.vectors import ArraySource, open_source


def rows_of(values: np.ndarray) -> ArraySource:
    return ArraySource(values)


METRICS = [metric for metric in Metric if metric is not Metric.HAMMING]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_exact_search_equals_the_model(metric: Metric, dtype: str, threads: int) -> None:
    base, queries = clustered(700, 20, 30, 1, dtype)
    ids, distances = exact_search(rows_of(base), queries, 9, metric, threads=threads, block_rows=64)
    expected, far = exact_neighbours(base, queries, 9, metric)
    assert (ids.dtype, distances.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(distances, far**2 if metric is Metric.L2 else far, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 5, 400])
def test_every_k_up_to_the_count(metric: Metric, k: int) -> None:
    base, queries = clustered(400, 6, 5, 2)
    ids, _ = exact_search(rows_of(base), queries, k, metric, block_rows=50)
    np.testing.assert_array_equal(ids, exact_neighbours(base, queries, k, metric)[0])


@pytest.mark.parametrize("metric", METRICS)
def test_ties_go_to_the_smaller_row(metric: Metric) -> None:
    base = np.repeat(np.array([[3, 4, 0], [3, 4, 1]], np.uint8), 500, axis=0)
    queries = np.array([[3, 4, 1], [3, 4, 0]], np.uint8)
    ids, distances = exact_search(rows_of(base), queries, 20, metric, block_rows=90)
    np.testing.assert_array_equal(ids, [range(500, 520), range(20)])
    assert (distances == distances[:, :1]).all()


@pytest.mark.parametrize(("metric", "dtype"), [*product(METRICS, [*ELEMENT_TYPES, "ties"]), (Metric.HAMMING, "uint8")])
def test_parts_within_what_others_have_are_together_the_whole(metric: Metric, dtype: str) -> None:
    if dtype == "ties":
        base, queries = np.random.default_rng(3).integers(1, 4, (2, 600, 3)).astype(np.uint8)
    else:
        base, queries = clustered(600, 20, 30, 1, dtype)
    expected, far = exact_search(rows_of(base), queries, 9, metric)
    ids, distances = exact_search(rows_of(base[:50]), queries, 9, metric)
    fewer = 0
    for start in range(50, 600, 110):
        part = rows_of(base[start : start + 110])
        more, farther = exact_search(part, queries, 9, metric, within=distances[:, -1], block_rows=40)
        fewer += int((more < 0).sum())
        np.testing.assert_array_equal(np.isinf(farther), more < 0)
        ids, distances = np.hstack((ids, np.where(more < 0, more, start + more))), np.hstack((distances, farther))
        order = np.lexsort((ids, -distances if metric is Metric.IP else distances))[:, :9]
        ids, distances = np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1)
    assert fewer > len(queries)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(distances, far)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_within_the_limit_leaves_places_empty(metric: Metric) -> None:
    base, queries = clustered(300, 4, 5, 2)
    nearer = np.full(5, np.inf if metric is Metric.IP else 0, np.float32)
    ids, distances = exact_search(rows_of(base), queries, 3, metric, within=nearer)
    assert (ids == -1).all()
    assert (distances == (-np.inf if metric is Metric.IP else np.inf)).all()


@pytest.mark.parametrize("within", [np.zeros(4, np.float32), np.zeros(5), np.full(5, np.nan, np.float32)])
def test_a_wrong_within_is_refused(within: np.ndarray) -> None:
    base, queries = clustered(300, 4, 5, 2)
    with pytest.raises(InputError, match="within"):
        exact_search(rows_of(base), queries, 3, Metric.L2, within=within)


def test_ties_of_small_integers_equal_the_model() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 3, (3000, 4)).astype(np.int8)
    queries = rng.integers(0, 3, (40, 4)).astype(np.int8)
    ids, _ = exact_search(rows_of(base), queries, 30, "l2", block_rows=128)
    np.testing.assert_array_equal(ids, exact_neighbours(base, queries, 30)[0])


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e18])
def test_values_whose_squares_leave_float32(scale: float) -> None:
    base, queries = clustered(300, 8, 10, 4)
    base, queries = (base * np.float32(scale)), (queries * np.float32(scale))
    expected = exact_neighbours(base, queries, 6)[0]
    np.testing.assert_array_equal(exact_search(rows_of(base), queries, 6, "l2", block_rows=77)[0], expected)


def test_data_far_from_the_origin() -> None:
    base, queries = clustered(500, 16, 20, 5)
    base, queries = base + np.float32(10_000), queries + np.float32(10_000)
    ids, distances = exact_search(rows_of(base), queries, 10, "l2", block_rows=100)
    expected, far = exact_neighbours(base, queries, 10)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(distances, far**2, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integers_beyond_the_exact_range_of_float32(dtype: str) -> None:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(6)
    base = rng.integers(limits.max - 2, limits.max + 1, (200, 4096)).astype(dtype)
    ids, distances = exact_search(rows_of(base), base[:8], 12, "l2", block_rows=64)
    expected, far = exact_neighbours(base, base[:8], 12)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(distances, np.rint(far**2).astype(np.float32))


def test_near_duplicates_under_cosine_keep_their_digits() -> None:
    base = np.array([[1, 0], [1, 1e-4], [1, 2e-4], [0, 1]], np.float32)
    ids, distances = exact_search(rows_of(base), base[:1], 4, "cosine")
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3]])
    np.testing.assert_allclose(distances, [[0, 5e-9, 2e-8, 1]], rtol=1e-4)


def test_one_vector_of_one_dimension() -> None:
    ids, distances = exact_search(rows_of(np.array([[7]], np.uint8)), np.array([[4]], np.uint8), 1, "l2")
    assert (ids.tolist(), distances.tolist()) == ([[0]], [[9.0]])


def test_reads_files_in_bounded_memory(tmp_path: Path) -> None:
    base, queries = clustered(60_000, 32, 20, 7)
    np.save(tmp_path / "base.npy", base)
    expected = exact_search(rows_of(base), queries, 5, "l2")
    with open_source(tmp_path / "base.npy") as source:
        tracemalloc.start()
        try:
            found = exact_search(source, queries, 5, "l2", threads=2, block_rows=1000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    np.testing.assert_array_equal(found[0], expected[0])
    assert peak < base.nbytes / 2


def test_memory_of_a_thread_when_every_row_is_a_candidate() -> None:
    """As in the first block, whose keys used to be merged at once: 190 MB."""
    base, queries = clustered(4096, 8, 512, 1, "float32")
    exact_search(rows_of(base[:64]), queries[:2], 1, Metric.L2, threads=1)  # whatever is made once
    tracemalloc.start()
    ids, _ = exact_search(rows_of(base), queries, 100, Metric.L2, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    np.testing.assert_array_equal(ids, exact_neighbours(base, queries, 100, Metric.L2)[0])


def test_progress_ends_at_the_count() -> None:
    base, queries = clustered(100, 4, 2)
    seen: list[tuple[str, int, int]] = []
    exact_search(rows_of(base), queries, 3, "l2", block_rows=40, progress=lambda *step: seen.append(step))
    assert seen == [("neighbours", 40, 100), ("neighbours", 80, 100), ("neighbours", 100, 100)]


def test_a_second_pass_reports_itself() -> None:
    seen: list[str] = []
    base = np.zeros((200, 2), np.float32)
    exact_search(rows_of(base), base[:1], 3, "l2", progress=lambda stage, *_: seen.append(stage))
    assert seen == ["neighbours", "ties"]


def test_bad_input_is_refused() -> None:
    base, queries = clustered(50, 4, 3)
    source = rows_of(base)
    bad = base.copy()
    bad[37, 2] = np.nan
    zero = base.copy()
    zero[41] = 0
    cases = [
        (lambda: exact_search(source, queries, 51, "l2"), "k 51 is outside 1 to 50, the number of vectors in array"),
        (lambda: exact_search(source, queries, 0, "l2"), "k 0 is outside"),
        (lambda: exact_search(source, queries[:, :3], 1, "l2"), "queries have dimension 3 and array has 4"),
        (lambda: exact_search(source, queries.astype(np.uint8), 1, "l2"), "queries are uint8 and array is float32"),
        (lambda: exact_search(source, queries[:0], 1, "l2"), r"shape \(0, 4\)"),
        (lambda: exact_search(source, queries, 1, "jaccard"), "metric 'jaccard' is unknown"),
        (
            lambda: exact_search(source, queries, 1, "l2", threads=0),
            "threads is 0; it must be a whole number from 1 to 1024",
        ),
        (lambda: exact_search(rows_of(bad), queries, 1, "l2", block_rows=20), "row 37 column 2 of array is nan"),
        (lambda: exact_search(source, bad[30:], 1, "l2"), "row 7 column 2 of the queries is nan"),
        (lambda: exact_search(rows_of(zero), queries, 1, "cosine", block_rows=20), "row 41 of array is all zeros"),
        (lambda: exact_search(source, zero[40:], 1, "cosine"), "row 1 of the queries is all zeros"),
        (lambda: exact_search(rows_of(base * np.float32(1e30)), queries, 1, "l2"), "beyond float32"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()


def test_the_model_by_hand() -> None:
    base = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
    ids, distances = exact_neighbours(base, np.array([[3, 4]], np.float32), 3)
    assert (ids.tolist(), distances.tolist()) == ([[1, 0, 2]], [[0, 5, 5]])
    ids, distances = exact_neighbours(base, np.array([[1, 0]], np.float32), 2, "ip")
    assert (ids.tolist(), distances.tolist()) == ([[2, 1]], [[6, 3]])


@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
def test_clustered_data_is_the_same_for_a_seed(dtype: str) -> None:
    base, queries = clustered(300, 12, 20, 8, dtype)
    assert base.shape == (300, 12)
    assert queries.shape == (20, 12)
    assert base.dtype == queries.dtype == np.dtype(dtype)
    again, _ = clustered(300, 12, 20, 8, dtype)
    np.testing.assert_array_equal(base, again)
    assert not np.array_equal(base, clustered(300, 12, 20, 9, dtype)[0])
    if dtype in ("uint8", "int8"):
        assert np.ptp(base.astype(int)) > 150
