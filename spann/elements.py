"""Element types that numpy lacks: their form in memory, and their form on disk.

A bfloat16 is the upper half of a float32. In memory it is that float32, so everything computes as with float32. On disk
it is a uint16, and the kernels read these two bytes.

A bit is a bool in memory. On disk a byte holds eight bits of a vector, the first in the highest place, as
`numpy.packbits` orders them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.types import ELEMENT_TYPES, Array

STORED_TYPES = (*ELEMENT_TYPES, "bfloat16", "bit")
"""Elements that an index can hold."""

_IN_MEMORY: dict[str, np.dtype[Any]] = {"bfloat16": np.dtype(np.float32), "bit": np.dtype(np.bool_)}
_ON_DISK: dict[str, np.dtype[Any]] = {"bfloat16": np.dtype(np.uint16), "bit": np.dtype(np.uint8)}


def element_of(dtype: Any) -> str:
    """The elements of vectors of `dtype`, a type of numpy or the name of an element; what is unknown comes back as its
    name, for whoever refuses it."""
    if isinstance(dtype, str) and dtype in STORED_TYPES:
        return dtype
    try:
        found = np.dtype(dtype)
    except TypeError:
        return str(dtype)
    return "bit" if found == np.bool_ else "bfloat16" if is_bfloat16(found) else found.name


def memory_dtype(element: str) -> np.dtype[Any]:
    """The type of arrays (n, dim) of such elements in memory."""
    return _IN_MEMORY[element] if element in _IN_MEMORY else np.dtype(element)


def stored_dtype(element: str) -> np.dtype[Any]:
    """The type of arrays (n, `stored_width`) of such elements on disk."""
    return _ON_DISK[element] if element in _ON_DISK else np.dtype(element)


def stored_width(element: str, dim: int) -> int:
    """Numbers of `stored_dtype` that a vector of `dim` elements takes: bits come in whole bytes."""
    return dim // 8 if element == "bit" else dim


def stored_bytes(element: str, dim: int) -> int:
    """Bytes of a vector of `dim` elements on disk."""
    return stored_width(element, dim) * stored_dtype(element).itemsize


def pack(vectors: Array, element: str) -> Array:
    """The stored form of `vectors` (n, dim) of `memory_dtype`. float32 values of bfloat16 lose nothing; pass others
    through `rounded` first."""
    if element == "bfloat16":
        return (np.ascontiguousarray(vectors).view(np.uint32) >> 16).astype(np.uint16)
    return np.packbits(vectors, axis=1) if element == "bit" else vectors


def unpack(stored: Array, element: str) -> Array:
    """The vectors (n, dim), C-contiguous, whose stored form is `stored`."""
    if element == "bfloat16":
        wide = stored.astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    if element == "bit":
        return np.ascontiguousarray(np.unpackbits(stored, axis=1)).view(np.bool_)
    return stored


def in_memory(vectors: Array, element: str) -> Array:
    """A caller's `vectors` (n, width) in `memory_dtype`, if they are bfloat16, or bits packed in uint8. All else comes
    back as it is."""
    if is_bfloat16(vectors.dtype):
        return unpack(vectors.view(stored_dtype("bfloat16")), "bfloat16")
    return unpack(vectors, "bit") if element == "bit" and vectors.dtype == np.uint8 and vectors.ndim == 2 else vectors


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of `dtype` hold bfloat16: the type of ml_dtypes, or two bytes without a name, which numpy makes of
    it when it saves and loads."""
    return dtype.name == "bfloat16" or (dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None)


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bfloat16 nearest to each of `values`, ties to even; infinite beyond the largest, 3.39e38. NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    with np.errstate(over="ignore"):
        near = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), np.float32(np.nan), near.view(np.float32))
