"""Where the bytes of posting lists lie, and what a directory must satisfy to be trusted (docs/FORMAT.md, Postings)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError
from spann.types import Array

PAGE = 4096
"""Bytes of a page: postings are placed in, counted in and, with direct I/O, read by pages."""


def record_bytes(about: dict[str, Any]) -> int:
    """Bytes of one entry of a posting: its id and its vector."""
    width: int = np.dtype(about["dtype"]).itemsize
    return int(about["id_bytes"]) + int(about["dim"]) * width


def posting_span(page: Array, offset: Array, length: Array, record: int) -> tuple[Array, Array]:
    """First byte of each posting and first byte after it, (postings,) int64, counted through all pages."""
    start = page.astype(np.int64) * PAGE + offset
    return start, start + length.astype(np.int64) * record


def check_directory(
    page: NDArray[np.uint32],
    offset: NDArray[np.uint16],
    length: NDArray[np.uint16],
    crc: NDArray[np.uint32],
    chain: NDArray[np.uint32] | None,
    centroids: int,
    record: int,
    pages: int,
    pages_per_shard: int,
    where: str,
) -> None:
    """Raises `CorruptionError` unless every posting lies within a shard and every centroid owns postings that exist."""
    postings = len(page)
    if not len(offset) == len(length) == len(crc) == postings:
        raise CorruptionError(f"{where}: the arrays of the posting directory differ in length")
    if chain is None:
        if postings != centroids:
            raise CorruptionError(f"{where}: {postings} postings for {centroids} centroids and no chain array")
    elif len(chain) != centroids + 1 or chain[0] != 0 or chain[-1] != postings or bool(np.any(chain[1:] < chain[:-1])):
        raise CorruptionError(f"{where}: chain does not share {postings} postings among {centroids} centroids")
    start, end = posting_span(page, offset, length, record)
    used = length > 0
    last_page = (end - 1) // PAGE
    inside = (offset < PAGE) & (last_page < pages)
    if pages_per_shard:
        inside &= page.astype(np.int64) // pages_per_shard == last_page // pages_per_shard
    bad = np.flatnonzero(used & ~inside)
    if len(bad):
        p = int(bad[0])
        raise CorruptionError(
            f"{where}: posting {p} would lie at bytes {start[p]} to {end[p]}, outside its shard or the {pages} pages"
        )
