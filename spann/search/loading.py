"""Reading many whole postings into memory: a block of pages at a time, in the order of the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.format.postings import PAGE, posting_span
from spann.search.contract import Resident
from spann.store.reader import IndexReader

BLOCK_BYTES = 16 << 20
"""Bytes of postings read at a time."""


@dataclass(frozen=True)
class Block:
    """Bytes from disk, and the postings that lie whole in them. Number ``index[i]`` of those asked for begins at
    ``starts[i]``."""

    index: NDArray[np.int64]
    starts: NDArray[np.uint64]
    content: NDArray[np.uint8]


def read_postings(resident: Resident, reader: IndexReader, postings: NDArray[np.int64]) -> Iterator[Block]:
    """The stored `postings` (n,) but for empty ones, some at a time. Their checksums are not compared."""
    pages = reader.array("postings/pages")
    size = resident.collection.record.size(resident.length[postings], resident.primaries[postings])
    start, end = posting_span(resident.page[postings], resident.offset[postings], size)
    order = np.argsort(start, kind="stable")
    order = order[size[order] > 0]
    at = 0
    while at < len(order):
        page = int(start[order[at]]) // PAGE
        stop = max(at + 1, int(np.searchsorted(start[order], page * PAGE + BLOCK_BYTES)))
        run = order[at:stop]
        content = pages.read_rows(page, -(-int(end[run].max()) // PAGE)).reshape(-1)
        yield Block(run, (start[run] - page * PAGE).astype(np.uint64), content)
        at = stop
