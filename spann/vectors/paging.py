"""How much of a memory map is kept resident while rows are picked out of it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

MAX_TOUCHED = 64 << 20
"""Bytes of a map touched before its pages are handed back: bounds the resident memory of picking rows."""


FAULT_WINDOW = 64 << 10
"""Bytes that one page fault maps at most: Linux adds the cached pages around it (fault_around_bytes)."""


def page_bytes(row_bytes: int) -> int:
    """Bytes of whole pages that one row of `row_bytes` can touch, wherever it starts."""
    return (-(-row_bytes // mmap.PAGESIZE) + 1) * mmap.PAGESIZE


def pieces(count: int, step: int) -> Iterator[slice]:
    """Slices of at most `step` that cover `range(count)` in order."""
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def touch_pieces(count: int, row_bytes: int) -> Iterator[slice]:
    """Slices of `range(count)` picked rows, each making at most `MAX_TOUCHED` bytes resident (or being one row)."""
    windows = -(-row_bytes // FAULT_WINDOW) + 1
    return pieces(count, max(1, MAX_TOUCHED // (windows * FAULT_WINDOW)))
