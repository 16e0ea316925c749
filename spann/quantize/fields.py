"""The fields of a code: which bits of its bytes hold the number of a dimension (docs/FORMAT.md, Quantiser)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHUNK = 32
"""Bytes of a plane that are laid out together."""

Bytes = NDArray[np.uint8]


def planes(bits: int) -> tuple[tuple[int, int], ...]:
    """(bits, shift) of the planes of a code."""
    return ((2, 0), (1, 2)) if bits == 3 else ((bits, 0),)


def places(padded: int, bits: int) -> NDArray[np.int64]:
    """The dimension (padded,) that each field of a plane holds, in order of byte and then of bit."""
    size, each = padded * bits // 8, 8 // bits
    out = np.empty((size, each), np.int64)
    for at in range(0, size, CHUNK):
        n = min(CHUNK, size - at)
        out[at : at + n] = at * each + np.arange(each) * n + np.arange(n)[:, None]
    return out.reshape(-1)


def unpack(codes: Bytes, padded: int, bits: int) -> Bytes:
    """The numbers v (n, padded) of `codes` (n, bytes), from 0 to 2^bits - 1."""
    values, start = np.zeros((len(codes), padded), np.uint8), 0
    for b, shift in planes(bits):
        row = codes[:, start : start + padded * b // 8]
        start += row.shape[1]
        fields = (row[:, :, None] >> np.arange(0, 8, b, dtype=np.uint8) & np.uint8((1 << b) - 1)).reshape(len(row), -1)
        values[:, places(padded, b)] |= fields << np.uint8(shift)
    return values
