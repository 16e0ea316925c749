"""Queries as callers have them: arrays of any number type, lists, tensors, one vector alone, or the path of a file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from spann.elements import in_memory, is_bfloat16
from spann.errors import InputError
from spann.types import Array
from spann.vectors.arrays import as_array, is_array_like
from spann.vectors.checks import narrowed, plain
from spann.vectors.opening import gives_arrow, open_queries


def as_queries(queries: Any, dtype: np.dtype[Any], element: str, dim: int, name: str) -> Array:
    """`queries` as an array (nq, dim) of `dtype`, for the index `name` that holds `element`.

    Numbers of other types are converted. Floats become float32. For an index of integers the
    numbers must be whole and in range. Binary queries stay packed where they are. Raises `InputError` for what is no
    array of numbers, and for numbers that the index cannot hold.
    """
    rows = _array(queries)
    if is_bfloat16(rows.dtype):
        rows = in_memory(rows, element)
    if rows.ndim == 1:
        rows = rows[None]
    if dtype == np.float16:  # what is computed with them is float32: rounding would only lose
        dtype = np.dtype(np.float32)
    if rows.ndim != 2:
        raise InputError(f"queries have shape {rows.shape}; {name} needs (queries, {dim})")
    if rows.dtype == dtype or rows.shape[1] not in ((dim, dim // 8) if dtype == np.bool_ else (dim,)):
        return rows  # of another width, which the search refuses
    if dtype == np.bool_:
        return _bits(rows, dim, name)
    if dtype.kind == "f":
        wide = rows.dtype.kind == "f" and rows.dtype.itemsize > dtype.itemsize
        return narrowed(rows, 0, "queries", spread=False) if wide else rows.astype(dtype)
    return _whole(rows, dtype, np.iinfo(dtype).min, np.iinfo(dtype).max, f"{name} holds {element}")


def _array(queries: Any) -> Array:
    if isinstance(queries, np.ndarray) and queries.dtype.kind in "biuf":
        return plain(queries, "queries")
    if is_array_like(queries) and not gives_arrow(queries) and not _are_paths(queries):
        return as_array(queries, "queries")
    with open_queries(queries, name=None if _is_path(queries) else "queries") as source:
        found: Array = source.read(0, source.count)
        return found


def _is_path(queries: Any) -> bool:
    return isinstance(queries, str | os.PathLike)


def _are_paths(queries: Any) -> bool:
    return isinstance(queries, list | tuple) and bool(queries) and all(map(_is_path, queries))


def _whole(rows: Array, dtype: Any, low: int, high: int, what: str) -> Array:
    if rows.dtype != np.bool_:
        wrong = np.argwhere(~((rows >= low) & (rows <= high) & (rows == np.rint(rows))))
        if len(wrong):
            row, place = wrong[0]
            value = f"{rows[row, place]:.9g} at place {place}"
            raise InputError(f"query {row} has {value}; {what}, so queries are whole numbers from {low} to {high}")
    return rows.astype(dtype)


def _bits(rows: Array, dim: int, name: str) -> Array:
    """Packed, 8 bits a number, where the width says so; else 0 and 1."""
    if rows.shape[1] * 8 == dim:
        return _whole(rows, np.uint8, 0, 255, f"{name} holds bits, 8 in a number")
    return _whole(rows, np.bool_, 0, 1, f"{name} holds bits")
