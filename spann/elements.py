"""Elements of vectors that numpy has no type for: what stands for them in memory, and what lies on disk.

bfloat16 is the upper half of a float32: in memory it is that float32, on disk a uint16. Every bfloat16 is a float32, so
all computing is as with those; an index that holds them keeps two bytes a value, which the kernels read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.types import ELEMENT_TYPES, Array

STORED_TYPES = (*ELEMENT_TYPES, "bfloat16")
"""Elements that an index can hold, in the order of the native code's enumeration."""

_IN_MEMORY = {"bfloat16": np.dtype(np.float32)}
_ON_DISK = {"bfloat16": np.dtype(np.uint16)}


def memory_dtype(element: str) -> np.dtype[Any]:
    """The type of arrays (n, dim) that hold such elements while they are worked with."""
    return _IN_MEMORY.get(element) or np.dtype(element)


def stored_dtype(element: str) -> np.dtype[Any]:
    """The type of arrays (n, `stored_width`) that hold them on disk."""
    return _ON_DISK.get(element) or np.dtype(element)


def stored_width(element: str, dim: int) -> int:
    """Numbers of `stored_dtype` that a vector of `dim` elements takes."""
    return dim


def stored_bytes(element: str, dim: int) -> int:
    """Bytes of a vector of `dim` elements on disk."""
    return stored_width(element, dim) * stored_dtype(element).itemsize


def pack(vectors: Array, element: str) -> Array:
    """What lies on disk of `vectors` (n, dim) of `memory_dtype`. Of float32 that stand for bfloat16 nothing is lost;
    `rounded` makes such of others."""
    if element == "bfloat16":
        return (np.ascontiguousarray(vectors).view(np.uint32) >> 16).astype(np.uint16)
    return vectors


def unpack(stored: Array, element: str) -> Array:
    """The vectors (n, dim) that lie on disk as `stored`, C-contiguous."""
    if element == "bfloat16":
        wide = stored.astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    return stored


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of `dtype` hold bfloat16: that of ml_dtypes, or two bytes without a name, as which numpy saves and
    loads those."""
    return dtype.name == "bfloat16" or (dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None)


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bfloat16 nearest to each of `values`, ties to even; infinite where it is beyond the largest, 3.39e38."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    with np.errstate(over="ignore"):
        near = (bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), values, near.view(np.float32))
