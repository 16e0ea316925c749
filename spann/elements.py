"""Elements of vectors that numpy has no type for: what stands for them in memory, and what lies on disk.

bfloat16 is the upper half of a float32: in memory it is that float32, on disk a uint16. Every bfloat16 is a float32, so
all computing is as with those; an index that holds them keeps two bytes a value, which the kernels read.

A bit is a bool in memory, and eight of a vector are a byte on disk, the first the highest (the order of
`numpy.packbits`).
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


def memory_dtype(element: str) -> np.dtype[Any]:
    """The type of arrays (n, dim) that hold such elements while they are worked with."""
    return _IN_MEMORY[element] if element in _IN_MEMORY else np.dtype(element)


def stored_dtype(element: str) -> np.dtype[Any]:
    """The type of arrays (n, `stored_width`) that hold them on disk."""
    return _ON_DISK[element] if element in _ON_DISK else np.dtype(element)


def stored_width(element: str, dim: int) -> int:
    """Numbers of `stored_dtype` that a vector of `dim` elements takes: bits come in whole bytes."""
    return dim // 8 if element == "bit" else dim


def stored_bytes(element: str, dim: int) -> int:
    """Bytes of a vector of `dim` elements on disk."""
    return stored_width(element, dim) * stored_dtype(element).itemsize


def pack(vectors: Array, element: str) -> Array:
    """What lies on disk of `vectors` (n, dim) of `memory_dtype`. Of float32 that stand for bfloat16 nothing is lost;
    `rounded` makes such of others."""
    if element == "bfloat16":
        return (np.ascontiguousarray(vectors).view(np.uint32) >> 16).astype(np.uint16)
    return np.packbits(vectors, axis=1) if element == "bit" else vectors


def unpack(stored: Array, element: str) -> Array:
    """The vectors (n, dim) that lie on disk as `stored`, C-contiguous."""
    if element == "bfloat16":
        wide = stored.astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    if element == "bit":
        return np.ascontiguousarray(np.unpackbits(stored, axis=1)).view(np.bool_)
    return stored


def in_memory(vectors: Array, element: str) -> Array:
    """`vectors` (n, width) as a caller gave them, of `memory_dtype` if they are another form of such elements:
    bfloat16, or uint8 that hold bits. All else comes back as it is."""
    if is_bfloat16(vectors.dtype):
        return unpack(vectors.view(stored_dtype("bfloat16")), "bfloat16")
    return unpack(vectors, "bit") if element == "bit" and vectors.dtype == np.uint8 and vectors.ndim == 2 else vectors


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of `dtype` hold bfloat16: that of ml_dtypes, or two bytes without a name, as which numpy saves and
    loads those."""
    return dtype.name == "bfloat16" or (dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None)


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bfloat16 nearest to each of `values`, ties to even; infinite beyond the largest, 3.39e38. NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    with np.errstate(over="ignore"):
        near = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), np.float32(np.nan), near.view(np.float32))
