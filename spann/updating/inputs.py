"""Ids and vectors of an update, checked as a build checks them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.elements import memory_dtype
from spann.errors import InputError
from spann.format.collection import Collection
from spann.types import Array, Metric
from spann.vectors import (
    GivenIds,
    IdList,
    StoredSource,
    VectorSource,
    as_ids,
    check_finite,
    check_lengths,
    for_metric,
    open_source,
)
from spann.vectors.checks import narrowed, plain
from spann.vectors.sources import ArraySource

BLOCK_BYTES = 16 << 20
"""Bytes of vectors that are checked and logged at a time."""

GivenVectors = str | Path | Array | VectorSource
"""What vectors can be given as: the path of a file, an array, or an open source; also one vector alone, and lists."""


def as_id_array(ids: GivenIds | int | Any, name: str = "ids") -> NDArray[np.int64]:
    """Ids (n,) as they were given: a number, a list, an array, or the path of a file. They may repeat."""
    if isinstance(ids, str | os.PathLike | IdList):
        found = as_ids(ids)
        if not isinstance(found, IdList):
            raise InputError(f"{name} are no integers, by which single vectors are changed")
        values, note = found.values, found.note
    else:
        values, note = np.atleast_1d(plain(ids, name)), ""
    if values.size == 0:
        return np.empty(0, np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"{name} are {values.shape} {values.dtype}{note}; they must be (n,) integers")
    for limit, wrong in (("at least 0", values < 0), ("below 2**63", values > np.iinfo(np.int64).max)):
        if wrong.any():
            raise InputError(f"id {values[int(np.argmax(wrong))]} is not {limit}{note}")
    return values.astype(np.int64)


@contextmanager
def given_vectors(vectors: GivenVectors, about: Collection, index: str) -> Iterator[VectorSource]:
    """The source of `vectors` for an index that is `about` such; closed in the end unless it was one."""
    if isinstance(vectors, VectorSource):
        yield _fitting(vectors, about, index)
        return
    with _open(vectors, about) as source:
        yield _fitting(source, about, index)


def _open(vectors: Any, about: Collection) -> VectorSource:
    if isinstance(vectors, str | os.PathLike):
        return open_source(vectors)
    dtype = memory_dtype(about.element)
    if isinstance(vectors, list | tuple):
        vectors = _from_list(plain(vectors, "vectors"), dtype)
    if isinstance(vectors, np.ndarray) and vectors.ndim == 1 and len(vectors):
        vectors = vectors[None]
    if about.element == "bfloat16" and isinstance(vectors, np.ndarray) and _holds_bfloat16(vectors):
        return ArraySource(vectors, name="array", element="bfloat16")
    return open_source(vectors)


def _holds_bfloat16(vectors: Array) -> bool:
    """Whether these are float32 that bfloat16 holds as they are, which `get` returns."""
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        return False
    return not bool((np.ascontiguousarray(vectors).view(np.uint32) & 0xFFFF).any())


def _from_list(rows: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers of a list as the index holds them, if nothing is lost."""
    if rows.dtype.kind not in "biuf":
        raise InputError(f"vectors are lists of {rows.dtype.name}, not of numbers")
    if dtype.kind == "f":
        wide = np.atleast_2d(rows).astype(np.float64)
        return narrowed(wide, 0, "vectors", spread=False).astype(dtype)
    with np.errstate(invalid="ignore"):
        exact = rows.astype(dtype)
    if not bool((exact == rows).all()):
        raise InputError(f"vectors hold numbers that are no {dtype.name}, which the index holds")
    return exact


def _fitting(source: VectorSource, about: Collection, index: str) -> VectorSource:
    source = for_metric(source, about.metric)
    if (source.dim, source.element) != (about.dim, about.element):
        raise InputError(
            f"{source.name} holds {source.element} vectors of dimension {source.dim}; {index} holds {about.element} "
            f"vectors of dimension {about.dim}, and only such can be added"
        )
    return source


def checked_blocks(source: VectorSource, about: Collection) -> Iterator[tuple[int, Array]]:
    """All vectors in order, as (first row, block). Raises `InputError` for a vector without distances."""
    step = max(1, BLOCK_BYTES // source.row_bytes)
    for start, block in source.blocks(step):
        check_finite(block, start, source.name)
        if about.metric is Metric.COSINE or block.dtype.kind == "f":
            check_lengths(block, start, source.name, directions=about.metric is Metric.COSINE)
        yield start, block


def check_all(source: VectorSource, about: Collection) -> None:
    """Checks all vectors before the first is logged."""
    for _ in checked_blocks(source, about):
        pass


__all__ = ["GivenVectors", "StoredSource", "as_id_array", "check_all", "checked_blocks", "given_vectors"]
