"""Values that no distance can be computed from, found before they reach one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spann.errors import InputError
from spann.types import Array
from spann.vectors import paging

_PIECE = 256 << 10
"""Bytes looked at at a time: a piece and its mask stay in the second-level cache."""


def check_finite(block: Array, first_row: int, name: str) -> None:
    """Refuse NaN and infinities in `block` (rows, dim), rows `first_row` and on of `name`; integers have none.

    Raises `InputError` that names the first such row of `name`, its column and its value.
    """
    if block.dtype.kind != "f":
        return
    for piece in _pieces(block):
        finite = np.isfinite(block[piece])
        if not finite.all():
            at, column = np.argwhere(~finite)[0]
            row = piece.start + at
            value = block[row, column]
            raise InputError(f"row {first_row + row} column {column} of {name} is {value}: every value must be finite")


def check_nonzero(block: Array, first_row: int, name: str) -> None:
    """Refuse rows of only zeros in `block` (rows, dim), rows `first_row` and on of `name`.

    Raises `InputError` that names the first such row of `name`.
    """
    for piece in _pieces(block):
        rows = block[piece]
        # Few rows start with zero in most data, and only those need a look at the rest.
        suspects = np.flatnonzero(rows[:, 0] == 0)
        zero = suspects[~rows[suspects].any(axis=1)]
        if len(zero):
            row = first_row + piece.start + zero[0]
            raise InputError(f"row {row} of {name} is all zeros: it has no direction, which cosine compares")


LARGEST_SQNORM = 1e36
"""Limit on |v|^2: sums of two stay finite in float32 (largest 3.4e38) with room for rounding and differences."""

SMALLEST_SQNORM = 1e-30
"""Limit on |v|^2 where direction counts: below, squares of float32 are subnormal and it is lost."""


def check_lengths(block: Array, first_row: int, name: str, *, directions: bool) -> float:
    """Refuse vectors in `block` (rows, dim) whose length float32 cannot work with; returns the largest |v|^2.

    `directions` says that only directions count (cosine): then vectors that are zero, or so short that float32 loses
    their direction, are refused as well. Raises `InputError` that names the row of `name`, its value and the limit.
    """
    if directions:
        check_nonzero(block, first_row, name)
    norms = np.einsum("ij,ij->i", block, block, dtype=np.float64)
    if float(norms.max()) > LARGEST_SQNORM:
        row = int(np.argmax(norms > LARGEST_SQNORM))
        raise InputError(
            f"row {first_row + row} of {name} has squared length {norms[row]:.3g}; the limit is {LARGEST_SQNORM:.0e}"
        )
    if directions and float(norms.min()) < SMALLEST_SQNORM:
        row = int(np.argmax(norms < SMALLEST_SQNORM))
        raise InputError(
            f"row {first_row + row} of {name} has squared length {norms[row]:.3g}; under cosine it must be at least "
            f"{SMALLEST_SQNORM:.0e}, below which float32 keeps no direction"
        )
    return float(norms.max())


def _pieces(block: Array) -> Iterator[slice]:
    row_bytes = block.shape[1] * block.dtype.itemsize
    return paging.pieces(len(block), max(1, _PIECE // row_bytes))
