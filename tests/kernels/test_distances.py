"""Distances at every SIMD level against their numpy twins, bit for bit, and the door's checks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spann._kernels.distances import SIMD_LEVELS, dot_tile, gather, measure, score, score_each, simd_level, simd_levels
from spann.elements import STORED_TYPES, memory_dtype, pack, unpack
from spann.errors import InputError
from spann.types import MAX_DIM, Array, Metric
from tests.kernels import twins

DIMS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 384, 960, 4096)
RANGES = {"uint8": (0, 255), "int8": (-128, 127)}
OF_NUMBERS = [metric for metric in Metric if metric is not Metric.HAMMING]
METRICS = pytest.mark.parametrize("metric", OF_NUMBERS, ids=lambda m: m.value)
NUMBERS = [element for element in STORED_TYPES if element != "bit"]
DTYPES = pytest.mark.parametrize("dtype", NUMBERS)


def make(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype in RANGES:
        low, high = RANGES[dtype]
        return rng.integers(low, high, shape, endpoint=True).astype(dtype)
    values = rng.standard_normal(shape).astype(memory_dtype(dtype))
    return pack(values, dtype)


def make_pair(dtype: str, n: int, dim: int, seed: int = 0) -> tuple[Array, Array]:
    """A query and rows of `dtype`, the query of float32 where rows are float16 or bfloat16."""
    rng = np.random.default_rng([seed, dim])
    return make(rng, query_type(dtype), (dim,)), make(rng, dtype, (n, dim))


def query_type(dtype: str) -> str:
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def assert_same_bits(found: Array, expected: Array) -> None:
    """Equal bit for bit; zeros may differ in sign."""
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal((found + np.float32(0)).view(np.uint32), (expected + np.float32(0)).view(np.uint32))


@METRICS
@DTYPES
@pytest.mark.parametrize("dim", DIMS)
def test_score_and_gather_equal_their_twin(level: str, dtype: str, metric: Metric, dim: int) -> None:
    query, rows = make_pair(dtype, 5, dim)
    expected = twins.distances(query, rows, metric)
    index = np.array([4, 0, 0, 3, 1, 2, 4, 4, 2], np.uint32)
    for n in range(1, 6):
        assert_same_bits(score(query, rows[:n], metric), expected[:n])
    for m in range(1, 10):
        assert_same_bits(gather(query, rows, index[:m], metric), expected[index[:m]])


@METRICS
@DTYPES
@pytest.mark.parametrize("dim", DIMS)
def test_measures_equal_their_twin(level: str, dtype: str, metric: Metric, dim: int) -> None:
    query, rows = make_pair(dtype, 5, dim)
    rows[0], rows[1] = rows[2], 0
    np.testing.assert_array_equal(measure(query, rows, metric), twins.measures(query, rows, metric))


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_cosine_measures_near_copies_to_their_own_precision(level: str, noise: float) -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal(100).astype(np.float32)
    rows = (query + noise * rng.standard_normal((20, 100))).astype(np.float32)
    rows[0] = 3 * query.astype(np.float64)
    unit = [x.astype(np.longdouble) / np.sqrt(np.square(x.astype(np.longdouble)).sum()) for x in (query, *rows)]
    true = [np.square(x - unit[0]).sum() / 2 for x in unit[1:]]
    np.testing.assert_allclose(measure(query, rows, Metric.COSINE), true, rtol=1e-7)
    assert measure(query, 4 * query[None], Metric.COSINE)[0] == 0


@METRICS
@DTYPES
@pytest.mark.parametrize("dim", DIMS)
def test_twin_is_near_the_true_value(dtype: str, metric: Metric, dim: int) -> None:
    query, rows = make_pair(dtype, 7, dim)
    q, v = query.astype(np.float64), unpack(rows, dtype).astype(np.float64)
    if metric is Metric.L2:
        terms, scale = (q - v) ** 2, np.ones(7)
    else:
        terms, scale = -q * v, np.linalg.norm(v, axis=1) if metric is Metric.COSINE else np.ones(7)
    # dim / 16 + 4 + 15 additions, and some roundings of products, quotients and square roots
    bound = (dim / 16 + 25) * 2.0**-24 * np.abs(terms).sum(1) / scale
    assert (np.abs(twins.distances(query, rows, metric) - terms.sum(1) / scale) <= bound).all()


@METRICS
@pytest.mark.parametrize("dtype", list(RANGES))
@pytest.mark.parametrize("dim", [1, 33, 128, MAX_DIM - 1, MAX_DIM])
def test_integer_extremes_are_exact(level: str, dtype: str, metric: Metric, dim: int) -> None:
    low, high = RANGES[dtype]
    rows = np.empty((4, dim), dtype)
    rows[:2] = [[low], [high]]
    rows[2, ::2], rows[2, 1::2] = low, high
    rows[3, ::2], rows[3, 1::2] = high, low
    for query in rows:
        assert_same_bits(score(query, rows, metric), twins.distances(query, rows, metric))


@METRICS
def test_float16_subnormals_and_largest_are_exact(level: str, metric: Metric) -> None:
    finite = np.arange(0x7C00, dtype=np.uint16)
    rows = np.concatenate([finite, finite | 0x8000]).view(np.float16).reshape(-1, 31)
    for dim, query_value in ((31, 1.0), (1, 3.0), (16, 2.0**-14)):
        part = np.ascontiguousarray(rows.reshape(-1)[: rows.size // dim * dim].reshape(-1, dim))
        query = np.full(dim, query_value, np.float32)
        assert_same_bits(score(query, part, metric), twins.distances(query, part, metric))


@METRICS
@pytest.mark.parametrize("dim", [1, 15, 16, 31, 100])
def test_bfloat16_scores_as_the_same_values_in_float32(level: str, metric: Metric, dim: int) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[np.abs(unpack(every, "bfloat16")) < 1e15]
    assert len(finite) > 30_000
    rows = np.random.default_rng(dim).permutation(finite)[: len(finite) // dim * dim].reshape(-1, dim)
    query = np.random.default_rng(dim).standard_normal(dim).astype(np.float32)
    assert_same_bits(score(query, rows, metric), score(query, unpack(rows, "bfloat16"), metric))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 500, MAX_DIM // 8])
def test_hamming_equals_its_twin(level: str, size: int, guarded: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    rng = np.random.default_rng(size)
    query, rows = guarded(rng.integers(0, 256, size, np.uint8)), guarded(rng.integers(0, 256, (6, size), np.uint8))
    rows[4], rows[5] = query, ~query
    expected = twins.distances(query, rows, Metric.HAMMING)
    assert expected[4:].tolist() == [0, 8 * size]
    flipped = np.unpackbits(query) != np.unpackbits(rows, axis=1)
    np.testing.assert_array_equal(expected, flipped.sum(axis=1))
    for n in range(1, 7):
        assert_same_bits(score(query, rows[:n], Metric.HAMMING), expected[:n])
    index = np.array([5, 0, 0, 3, 1, 2, 4, 4, 2], np.uint32)
    for m in range(1, 10):
        assert_same_bits(gather(query, rows, index[:m], Metric.HAMMING), expected[index[:m]])


def test_hamming_is_of_bytes() -> None:
    with pytest.raises(InputError, match=r"rows are float32; under hamming they must be uint8"):
        score(ROWS[0], ROWS, Metric.HAMMING)


@DTYPES
@pytest.mark.parametrize("dim", [1, 16, 100])
def test_zero_rows_have_cosine_distance_zero(level: str, dtype: str, dim: int) -> None:
    query, rows = make_pair(dtype, 3, dim)
    rows[1] = 0
    assert score(query, rows, Metric.COSINE)[1] == 0
    assert score(np.zeros_like(query), rows, Metric.COSINE).tolist() == [0, 0, 0]


@METRICS
@DTYPES
def test_no_byte_outside_of_rows_and_query_is_read(
    level: str, dtype: str, metric: Metric, guarded: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    for dim in (*range(1, 70), 95, 100, 127, 128, 129, 191, 384):
        query, rows = make_pair(dtype, 3, dim)
        query, rows = guarded(query), guarded(rows)
        expected = twins.distances(query, rows, metric)
        assert_same_bits(score(query, rows, metric), expected)
        index = np.array([2, 1, 2, 0, 2], np.uint32)
        assert_same_bits(gather(query, rows, guarded(index), metric), expected[index])


@METRICS
@DTYPES
@pytest.mark.parametrize("shift", [1, 3, 5])
def test_rows_may_start_anywhere(level: str, dtype: str, metric: Metric, shift: int) -> None:
    for dim in (1, 17, 33, 100, 128):
        query, rows = make_pair(dtype, 6, dim + 1)
        cut = rows.reshape(-1)[shift : shift + 4 * dim].reshape(4, dim)
        assert_same_bits(score(query[1:], cut, metric), twins.distances(query[1:], cut, metric))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_levels_agree_bit_for_bit(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(NUMBERS))
    metric = data.draw(st.sampled_from(OF_NUMBERS))
    n, dim = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 300))
    query, rows = make_pair(dtype, n, dim, data.draw(st.integers(0, 2**32 - 1)))
    expected = twins.distances(query, rows, metric)
    for level in simd_levels():
        with mock.patch.dict(os.environ, SPANN_SIMD=level):
            assert_same_bits(score(query, rows, metric), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("dim", [1, 2, 17, 128, 385])
def test_dot_tile_equals_its_twin(
    level: str, n: int, dim: int, guarded: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    rng = np.random.default_rng([n, dim])
    rows, tile = guarded(make(rng, "float32", (n, dim))), guarded(make(rng, "float32", (dim, 16)))
    assert_same_bits(dot_tile(rows, tile), twins.dot_tile(rows, tile))


def test_level_follows_the_environment(level: str) -> None:
    assert simd_level() == level


def test_level_is_the_widest_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in (None, ""):
        if setting is None:
            monkeypatch.delenv("SPANN_SIMD", raising=False)
        else:
            monkeypatch.setenv("SPANN_SIMD", setting)
        assert simd_level() == simd_levels()[-1]


@pytest.mark.parametrize("asked", ["sse9", "AVX2", *SIMD_LEVELS])
def test_a_level_that_the_processor_lacks_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if asked in simd_levels():
        pytest.skip(f"this processor has {asked}")
    monkeypatch.setenv("SPANN_SIMD", asked)
    one = np.ones((1, 1), np.float32)
    calls: list[Callable[[], object]] = [
        simd_level,
        lambda: score(one[0], one, Metric.L2),
        lambda: gather(one[0], one, np.zeros(1, np.uint32), Metric.L2),
        lambda: dot_tile(one, np.ones((1, 16), np.float32)),
    ]
    for call in calls:
        with pytest.raises(InputError, match=f"'{asked}'.*scalar"):
            call()


ROWS = np.ones((4, 8), np.float32)
INDEX = np.array([0, 3], np.uint32)


def unaligned(array: Array) -> Array:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


@pytest.mark.parametrize(
    ("query", "rows", "message"),
    [
        (ROWS[0], ROWS.astype(np.float64), "float64"),
        (ROWS[0], ROWS.astype(">f4"), ">f4"),
        (ROWS[0], ROWS[:0], r"non-empty.*\(0, 8\)"),
        (ROWS[0, :0], ROWS[:, :0], r"non-empty.*\(4, 0\)"),
        (ROWS[0], ROWS[0], r"\(n, dim\).*\(8,\)"),
        (ROWS[0], ROWS[::2], "strided"),
        (ROWS[0], np.asfortranarray(ROWS), "strided"),
        (ROWS[0], unaligned(ROWS), "unaligned"),
        (np.ones(16, np.float32)[::2], ROWS, "strided"),
        (ROWS[0, :7], ROWS, r"\(8,\).*\(7,\)"),
        (ROWS[:1], ROWS, r"\(1, 8\)"),
        (ROWS[0].astype(np.float16), ROWS, "float16"),
        (ROWS[0].astype(np.float16), ROWS.astype(np.float16), "float32.*float16"),
        (ROWS[0].astype(np.int8), ROWS.astype(np.uint8), "uint8.*int8"),
        (np.ones(MAX_DIM + 1, np.uint8), np.ones((1, MAX_DIM + 1), np.uint8), f"limit is {MAX_DIM}"),
    ],
)
def test_unusable_rows_and_queries_are_refused(query: Array, rows: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(query, rows, Metric.L2)
    with pytest.raises(InputError, match=message):
        gather(query, rows, INDEX, Metric.L2)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (INDEX.astype(np.int64), "int64"),
        (INDEX[:0], "non-empty"),
        (INDEX[None], "2"),
        (np.zeros(4, np.uint32)[::2], "strided"),
        (np.array([1, 4], np.uint32), "row number 4 is outside of 4 rows"),
    ],
)
def test_unusable_row_numbers_are_refused(index: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gather(ROWS[0], ROWS, index, Metric.L2)


@pytest.mark.parametrize(
    ("rows", "tile", "message"),
    [
        (ROWS.astype(np.float64), np.ones((8, 16), np.float32), "rows.*float64"),
        (ROWS[:0], np.ones((8, 16), np.float32), "rows.*non-empty"),
        (ROWS, np.ones((16, 8), np.float32).T, "tile.*strided"),
        (ROWS, np.ones((8, 15), np.float32), r"\(8, 15\).*\(8, 16\)"),
        (ROWS, np.ones((7, 16), np.float32), r"\(7, 16\).*\(8, 16\)"),
    ],
)
def test_unusable_tiles_are_refused(rows: Array, tile: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dot_tile(rows, tile)


def test_read_only_arrays_are_taken() -> None:
    rows = ROWS.copy()
    rows.flags.writeable = False
    assert score(rows[0], rows, Metric.IP).tolist() == [-8.0] * 4


@pytest.mark.parametrize("metric", list(Metric), ids=lambda m: m.value)
def test_scores_of_many_queries_are_those_of_each(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (40, 24)).astype(np.uint8)
    queries = rng.integers(0, 256, (7, 24)).astype(np.uint8)
    found = score_each(queries, rows, metric)
    for query, scores in zip(queries, found, strict=True):
        assert_same_bits(scores, score(query, rows, metric))
    assert score_each(queries[:0], rows, metric).shape == (0, 40)
    with pytest.raises(InputError, match="must be a C-contiguous"):
        score_each(queries[:, ::2], rows, metric)
