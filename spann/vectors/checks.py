"""Values that no distance can be computed from, found before they reach one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.system import reason
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
"""Limit on |v|^2 where direction counts, and on the largest where distances do: below, squares of float32 are subnormal
and both are lost."""


def check_lengths(block: Array, first_row: int, name: str, *, directions: bool) -> float:
    """Refuse vectors in `block` (rows, dim) whose length float32 cannot work with; returns the largest |v|^2.

    `directions` says that only directions count (cosine): then vectors that are zero, or so short that float32 loses
    their direction, are refused as well. Raises `InputError` that names the row of `name`, its value and the limit.
    """
    if directions:
        check_nonzero(block, first_row, name)
    norms = np.einsum("ij,ij->i", block, block, dtype=np.float64)
    if len(norms) == 0:
        return 0.0
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


def plain(values: Any, name: str) -> Array:
    """`values`, given as an array or anything that NumPy makes one of; `InputError` where it cannot, or any of them is
    masked: a value lies there, but none that was meant."""
    if isinstance(values, list | tuple) and any(isinstance(one, np.ma.MaskedArray) for one in values):
        values = np.ma.array(values)
    try:
        found = np.asanyarray(values)
    except Exception as error:  # of any library whose object it is
        raise InputError(f"{name} is a {type(values).__name__} that NumPy cannot convert: {reason(error)}") from error
    if isinstance(found, np.ma.MaskedArray):
        masked = np.argwhere(np.ma.getmaskarray(found))
        if len(masked):
            row = masked[0, 0] if found.ndim else 0
            raise InputError(f"row {row} of {name} is masked: missing values cannot be used")
    return np.asarray(found)


LOST = 0.01
"""Share of the spread of vectors that rounding may take. Beyond it, vectors would differ in other ways than before."""

LARGEST_WHOLE = 1 << 24
"""Whole numbers up to this, of either sign, are float32 as they are."""


def narrowed(block: Array, rows: int | NDArray[np.int64], name: str, *, spread: bool = True) -> NDArray[np.float32]:
    """`block` (n, dim), numbers of any type, as float32; `rows` are their numbers (n,) in `name`, or that of the first.

    Raises `InputError` where a value becomes infinite, a vector becomes all zeros, a whole number is beyond
    `LARGEST_WHOLE`, or rounding moves the vectors by more than `LOST` of their spread, as it does of large numbers
    that differ little. A few vectors may well be near each other by chance: their `spread` is not to be looked at.
    """
    if block.dtype.kind in "iu":
        return _whole(block, rows, name)
    with np.errstate(over="ignore", under="ignore"):
        found = block.astype(np.float32)
    infinite = np.isfinite(block) & np.isinf(found)
    if infinite.any():
        row, column = np.argwhere(infinite)[0].tolist()
        value = block[row, column]
        raise InputError(
            f"row {_number(rows, row)} column {column} of {name} is {value}, beyond float32: scale the vectors"
        )
    vanished = block.any(axis=1) & ~found.any(axis=1)
    if vanished.any():
        row = int(np.argmax(vanished))
        raise InputError(f"row {_number(rows, row)} of {name} is all zeros in float32, and is not: scale the vectors")
    if not spread:
        return found
    with np.errstate(all="ignore"):  # of NaN and infinities, which are refused by whoever takes the vectors
        lost, apart = (float(np.square(part).sum()) for part in (block - found, block - block[:1]))
    if apart > 0 and lost > LOST**2 * apart:
        share = math.sqrt(lost / apart)
        raise InputError(
            f"rounding {name} to float32 moves vectors from row {_number(rows, 0)} on by {share:.0%} of what they "
            "differ by: subtract their mean first"
        )
    return found


def _whole(block: Array, rows: int | NDArray[np.int64], name: str) -> NDArray[np.float32]:
    beyond = (block > LARGEST_WHOLE) | (block < -LARGEST_WHOLE) if block.dtype.kind == "i" else block > LARGEST_WHOLE
    if beyond.any():
        row, column = np.argwhere(beyond)[0].tolist()
        raise InputError(
            f"row {_number(rows, row)} column {column} of {name} is {block[row, column]}; float32 holds whole numbers "
            f"up to {LARGEST_WHOLE} only: scale the vectors"
        )
    return block.astype(np.float32)


def _number(rows: int | NDArray[np.int64], row: int) -> int:
    return int(rows[row]) if isinstance(rows, np.ndarray) else rows + row


def _pieces(block: Array) -> Iterator[slice]:
    row_bytes = block.shape[1] * block.dtype.itemsize
    return paging.pieces(len(block), max(1, _PIECE // row_bytes))
