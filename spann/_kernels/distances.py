"""Distances of one query to many rows: the checked door to ext/c/kernels/distance.c.

All functions return what ranks rows, smaller is nearer: the squared distance for l2, -(q . v) for ip, -(q . v) / |v|
for cosine (0 where v is zero), which is the cosine itself where the query has length 1, and the bits that differ for
hamming. Integer results are exact up to
2**24 and rounded once above; results are the same, bit for bit, at every SIMD level. Rows must be finite: values are
not looked at here.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _distance
from spann.elements import stored_dtype
from spann.errors import InputError
from spann.types import MAX_DIM, Array, Metric, element_type

SIMD_LEVELS = ("scalar", "avx2", "avx512")
TILE = 16
"""Columns of the tile of `dot_tile`."""


def metric_number(metric: Metric) -> int:
    """The native number of a metric. That of hamming is l2 of bits."""
    return _distance.METRICS[metric.value]


def element_number(element: str) -> int:
    """The native number of an element type that an index can hold."""
    return _distance.ELEMENTS[element]


def simd_levels() -> tuple[str, ...]:
    """The SIMD levels this processor has, widest last."""
    return SIMD_LEVELS[: _distance.simd_widest() + 1]


def simd_level() -> str:
    """The present SIMD level: the widest, or the level named by the environment variable SPANN_SIMD.

    Raises `InputError` if SPANN_SIMD names a level that is unknown or that this processor lacks.
    """
    level = _distance.simd_level()
    if level < 0:
        asked, available = os.environ.get("SPANN_SIMD", ""), ", ".join(simd_levels())
        raise InputError(f"SPANN_SIMD is {asked!r}; the levels of this processor are {available}")
    return SIMD_LEVELS[level]


def score(query: Array, rows: Array, metric: Metric) -> NDArray[np.float32]:
    """Distance of `query` (dim,) to each of `rows` (n, dim): (n,) float32.

    `rows` are uint8, int8, float16, float32, or uint16 that are bfloat16; `query` has their type, but float32 where
    they are float16 or bfloat16. Under hamming both are uint8, with 8 bits in each. Both are C-contiguous and not
    empty. Raises `InputError` for anything else.
    """
    dtype = _checked(query, rows, metric)
    out = np.empty(len(rows), np.float32)
    if _distance.score(metric_number(metric), dtype, _bytes(query), _bytes(rows), query.size, out) < 0:
        simd_level()
    return out


def score_each(queries: Array, rows: Array, metric: Metric) -> NDArray[np.float32]:
    """As `score`, for each of `queries` (m, dim): (m, n) float32. All are checked together."""
    out = np.empty((len(queries), len(rows)), np.float32)
    if not len(queries):
        return out
    if queries.ndim != 2 or not _is_plain(queries):
        raise InputError(f"queries must be a C-contiguous (m, dim) array, not {_text(queries)}")
    dtype, number, content = _checked(queries[0], rows, metric), metric_number(metric), _bytes(rows)
    for query, found in zip(_bytes(queries), out, strict=True):
        if _distance.score(number, dtype, query, content, queries.shape[1], found) < 0:
            simd_level()
    return out


def gather(query: Array, rows: Array, index: NDArray[np.uint32], metric: Metric) -> NDArray[np.float32]:
    """As `score`, for the rows that `index` (m,) uint32 names, in its order: (m,) float32.

    Raises `InputError`, also where `index` leaves `rows`.
    """
    dtype = _checked(query, rows, metric)
    if index.dtype != np.uint32 or index.ndim != 1 or index.size == 0 or not _is_plain(index):
        raise InputError(f"row numbers must be a contiguous, non-empty (m,) uint32 array, not {_text(index)}")
    if int(index.max()) >= len(rows):
        raise InputError(f"row number {int(index.max())} is outside of {len(rows)} rows")
    out = np.empty(len(index), np.float32)
    if _distance.gather(metric_number(metric), dtype, _bytes(query), _bytes(rows), index, query.size, out) < 0:
        simd_level()
    return out


def measure(query: Array, rows: Array, metric: Metric) -> NDArray[np.float64]:
    """The distances themselves that `score` ranks by, summed in float64: (n,). What results are ordered by.

    1 - cos for cosine, of near copies to their own precision. Raises `InputError` as `score` does, and for hamming,
    whose scores are exact.
    """
    dtype = _checked(query, rows, metric)
    if metric is Metric.HAMMING:
        raise InputError("scores of bits are exact: there is nothing to measure")
    out = np.empty(len(rows), np.float64)
    if _distance.measure(metric_number(metric), dtype, _bytes(query), _bytes(rows), query.size, out) < 0:
        simd_level()
    return out


def dot_tile(rows: NDArray[np.float32], tile: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dot products of `rows` (n, dim) with the 16 columns of `tile` (dim, 16): (n, 16), all float32.

    Each sum runs over the dimensions in order, in float32. Raises `InputError` for other shapes, types or layouts.
    """
    for name, array in (("rows", rows), ("tile", tile)):
        if array.dtype != np.float32 or array.ndim != 2 or array.size == 0 or not _is_plain(array):
            raise InputError(f"{name} must be a C-contiguous, non-empty 2-d float32 array, not {_text(array)}")
    if tile.shape != (rows.shape[1], TILE):
        raise InputError(f"tile is {tile.shape}; rows of {rows.shape[1]} dimensions need {(rows.shape[1], TILE)}")
    out = np.empty((len(rows), TILE), np.float32)
    if _distance.dot_tile(rows, tile, out) < 0:
        simd_level()
    return out


def _checked(query: Array, rows: Array, metric: Metric) -> int:
    """The native number of the rows' element type."""
    dtype = rows.dtype
    element = "bfloat16" if dtype == stored_dtype("bfloat16") else element_type(dtype, "rows").name
    if rows.ndim != 2 or rows.size == 0 or not _is_plain(rows):
        raise InputError(f"rows must be a C-contiguous, non-empty (n, dim) array, not {_text(rows)}")
    if metric is Metric.HAMMING and dtype != np.uint8:
        raise InputError(f"rows are {dtype}; under hamming they must be uint8, 8 bits in each")
    if rows.shape[1] > MAX_DIM:
        raise InputError(f"rows have {rows.shape[1]} dimensions; the limit is {MAX_DIM}")
    wanted = np.dtype(np.float32) if element in ("float16", "bfloat16") else dtype
    if query.dtype != wanted or query.shape != rows.shape[1:] or not _is_plain(query):
        raise InputError(
            f"query must be a contiguous ({rows.shape[1]},) {wanted} array for rows of {dtype}, not {_text(query)}"
        )
    return element_number("bit" if metric is Metric.HAMMING else element)


def _is_plain(array: Array) -> bool:
    return array.flags.c_contiguous and array.flags.aligned


def _text(array: Array) -> str:
    layout = "" if _is_plain(array) else ", strided or unaligned"
    return f"{array.shape} {array.dtype}{layout}"


def _bytes(array: Array) -> NDArray[np.uint8]:
    return array.view(np.uint8)
