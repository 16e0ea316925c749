"""Checksums of the exact store by page, the unit in which a search reads it (docs/FORMAT.md, Vectors)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.format.exact import shard_pages
from spann.format.layout import ArrayLayout
from spann.format.postings import PAGE
from spann.store.arrays import ChunkChecksums, ShardedArray
from spann.types import Array

_SCAN_BYTES = 8 << 20


class PageChecksums:
    """CRC-32C of each page of the rows of an array that arrive front to back. Pages are counted through the shards; the
    last one of a shard ends with its rows, without padding."""

    def __init__(self, layout: ArrayLayout) -> None:
        self._layout, self._seen = layout, 0
        self._shards = [ChunkChecksums(shard_pages(layout, shard), PAGE) for shard in range(layout.shards)]

    def begin_with(self, array: ShardedArray, values: NDArray[np.uint32]) -> None:
        """Takes all rows of `array`, the checksums of whose pages are `values` (pages,), as the first."""
        same = array.shard_rows == self._layout.shard_rows
        full = array.rows // array.shard_rows if same else 0
        at = 0
        for shard in self._shards[:full]:
            shard.values[:] = values[at : at + shard.values.size]
            at += shard.values.size
        self._seen = full * self._layout.shard_bytes
        self.read(array, full * array.shard_rows, array.rows)

    def read(self, array: ShardedArray, start: int, stop: int) -> None:
        """Takes the next rows, `start` to `stop` (exclusive) of those on disk."""
        step = max(1, _SCAN_BYTES // array.layout.row_bytes)
        for first in range(start, stop, step):
            self.update(array.read_rows(first, min(first + step, stop)))

    def update(self, rows: Array) -> None:
        """Takes the next rows, (n, *row_shape) of the array's dtype."""
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        while data.size:
            shard, used = divmod(self._seen, self._layout.shard_bytes)
            part, data = np.split(data, [self._layout.shard_bytes - used])
            self._shards[shard].update(part)
            self._seen += part.size

    @property
    def values(self) -> NDArray[np.uint32]:
        """(pages,) uint32, complete once all rows have arrived."""
        return np.concatenate([np.empty(0, np.uint32), *(shard.values for shard in self._shards)])


def page_checksums(array: ShardedArray) -> NDArray[np.uint32]:
    """The checksums that the rows on disk have, (pages,) uint32."""
    found = PageChecksums(array.layout)
    found.read(array, 0, array.rows)
    return found.values
