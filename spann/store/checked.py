"""Parts of arrays that are read on demand, each compared with its checksums."""

from __future__ import annotations

import numpy as np

from spann._kernels.checksum import crc32c, crc32c_blocks
from spann.errors import CorruptionError
from spann.store.arrays import ShardedArray
from spann.store.reader import IndexReader
from spann.types import Array


class Checked:
    """Reads parts of an array, and compares the chunks that each part touches with their checksums."""

    def __init__(self, reader: IndexReader, name: str) -> None:
        self.array: ShardedArray = reader.array(name)
        self._crcs = reader.checksums(name)

    def read(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` (exclusive). Raises `CorruptionError` if a chunk does not match its checksum."""
        layout = self.array.layout
        first, last = start // layout.chunk_rows, -(-stop // layout.chunk_rows)
        rows = self.array.read_rows(first * layout.chunk_rows, min(last * layout.chunk_rows, layout.rows))
        data = rows.reshape(-1).view(np.uint8)
        found = crc32c_blocks(data, layout.chunk_bytes)
        if data.size % layout.chunk_bytes:  # the last chunk of the array is filled up with zeros
            found[-1] = crc32c(bytes(layout.chunk_bytes - data.size % layout.chunk_bytes), int(found[-1]))
        bad = np.flatnonzero(found != self._crcs[first:last])
        if len(bad):
            row = (first + int(bad[0])) * layout.chunk_rows
            path = self.array.shard_path(row // layout.shard_rows)
            raise CorruptionError(f"{path}: rows from {row} on do not match their checksum")
        return rows[start - first * layout.chunk_rows :][: stop - start]
