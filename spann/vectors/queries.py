"""Queries as callers have them: arrays of any number type, lists, tensors, one vector alone, or the path of a file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from spann.elements import in_memory, is_bfloat16
from spann.errors import InputError
from spann.types import Array
from spann.vectors.checks import narrowed, plain
from spann.vectors.formats import open_queries


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
    if isinstance(queries, str | os.PathLike):
        with open_queries(queries) as source:
            found: Array = source.read(0, source.count)
            return found
    try:
        if hasattr(queries, "__dlpack__") and not hasattr(queries, "__array__"):
            rows = np.from_dlpack(queries)
        else:
            rows = plain(queries, "queries")
        if rows.dtype == object and rows.ndim == 1 and len(rows):  # a column of lists
            rows = np.stack([np.asarray(row) for row in rows])
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"queries of type {_type(queries)} are no array of numbers: {error}") from error
    if rows.dtype.kind not in "biuf" and not is_bfloat16(rows.dtype):
        raise InputError(
            f"queries of type {_type(queries)} are no array of numbers (their elements are {rows.dtype.name}); "
            "give an array, lists of numbers, or the path of a file"
        )
    return rows


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


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
