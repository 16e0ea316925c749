"""Shapes of postings: how far the vectors of each posting reach, and in which directions (docs/FORMAT.md, Shapes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _postings
from spann._kernels.codes import code_bytes
from spann._kernels.postings import HEADER, check_native, shape_parts
from spann.config import MAX_DIRECTIONS
from spann.errors import CorruptionError
from spann.types import Array

SHAPES = "shapes"
"""The feature of an index with shapes."""


def shape_record(dim: int, bits: int, directions: int) -> np.dtype[Any]:
    """The type of a posting's shape, without gaps. ``spread`` is the mean squared length of the residuals of its
    vectors. ``rest`` is the part that the directions leave, for each dimension. The codes of the directions follow, as
    if they were entries of the posting, with an offset each."""
    return np.dtype(
        [
            ("header", "<f4", (HEADER,)),
            ("spread", "<f4"),
            ("rest", "<f4"),
            ("offsets", "<f4", (directions,)),
            ("add", "<u2", (directions,)),
            ("scale", "<u2", (directions,)),
            ("codes", "u1", (directions, code_bytes(dim, bits))),
        ]
    )


def shape_bytes(shapes: Array) -> NDArray[np.uint8]:
    """Records of `shape_record` (postings,) as they are stored, (postings, bytes)."""
    return np.ascontiguousarray(shapes).view(np.uint8).reshape(len(shapes), -1)


def directions_of(about: Mapping[str, Any], where: str) -> int:
    """Directions of the shapes of the index with the attributes `about`; 0 if it has no shapes. Raises
    `CorruptionError` for an impossible number."""
    if SHAPES not in about["features"]:
        return 0
    found = about.get("directions")
    if not about.get("code_bits", 0) or type(found) is not int or not 1 <= found <= MAX_DIRECTIONS:
        raise CorruptionError(
            f"{where}: has shapes of {found!r} directions and codes of {about.get('code_bits', 0)} bits; there must be "
            f"codes, and 1 to {MAX_DIRECTIONS} directions"
        )
    return found


def _offsets(record: np.dtype[Any]) -> tuple[int, ...]:
    assert record.fields is not None
    return (*(record.fields[name][1] for name in record.names or () if name != "header"), record.itemsize)


check_native("MAX_DIRECTIONS", MAX_DIRECTIONS, _postings.MAX_DIRECTIONS)
check_native("the order of a shape's parts", _offsets(shape_record(64, 2, 3)), shape_parts(code_bytes(64, 2), 3))
