"""One bit for each stored row: whether it holds the current vector of its id (docs/FORMAT.md, Updates)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError

Bits = NDArray[np.uint8]


def live_bytes(rows: int) -> int:
    """Bytes of the bits of so many rows."""
    return -(-rows // 8)


def pack_live(live: NDArray[np.bool_]) -> Bits:
    """The bits of rows that are live or not, (n,): row r is bit r % 8 of byte r // 8."""
    return np.packbits(live, bitorder="little")


def unpack_live(bits: Bits, rows: int) -> NDArray[np.bool_]:
    """Whether each of `rows` rows is live, (rows,)."""
    return np.unpackbits(bits, count=rows, bitorder="little").view(np.bool_)


def all_live(rows: int) -> Bits:
    """The bits of so many rows, all of them live."""
    return pack_live(np.ones(rows, np.bool_))


def is_live(bits: Bits, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of the `rows` (n,) is live, (n,)."""
    found: NDArray[np.bool_] = (bits[rows >> 3] >> (rows & 7).astype(np.uint8) & 1).astype(np.bool_)
    return found


def without(bits: Bits, rows: NDArray[np.int64]) -> Bits:
    """A copy of the bits in which `rows` (n,) are not live."""
    kept = bits.copy()
    np.bitwise_and.at(kept, rows >> 3, ~np.left_shift(np.uint8(1), (rows & 7).astype(np.uint8)))
    return kept


def extended(bits: Bits, rows: int, more: int) -> Bits:
    """The bits of `rows` rows, and of `more` live ones behind them."""
    return pack_live(np.concatenate([unpack_live(bits, rows), np.ones(more, np.bool_)]))


def count_live(bits: Bits) -> int:
    """Rows that are live."""
    return sum(int(np.unpackbits(bits[start : start + _BLOCK]).sum()) for start in range(0, len(bits), _BLOCK))


def check_live(bits: Bits, rows: int, live: int, where: str) -> None:
    """Raises `CorruptionError` unless `live` of `rows` rows are live, and the bits after the last row are 0."""
    if rows % 8 and int(bits[-1]) >> rows % 8:
        raise CorruptionError(f"{where}: vectors/live has bits after those of its {rows} rows")
    found = count_live(bits)
    if found != live:
        raise CorruptionError(f"{where}: {found} rows of vectors/live are live; the manifest says {live}")


_BLOCK = 1 << 20
