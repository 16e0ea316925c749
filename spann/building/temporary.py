"""Temporary files of a build: records of one shape, written and read back in full or in part."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.errors import CorruptionError
from spann.store import files
from spann.store.places import Where
from spann.types import Array

GAP_BYTES = 512
"""Records with no more than this between them are read together."""

TAKEN_BYTES = 16 << 20
"""Bytes that are read at a time to pick records out of."""

_WHAT = "temporary records of the build"


State = dict[str, int]
"""The state of a `RecordFile`: `count` and `crc` (CRC-32C) of its records."""


class RecordFile:
    """Records of `dtype` and `shape` in a new file at `path`. A context manager: leaving it closes the file.

    Pass the `state` saved by an earlier process to reopen the file with exactly those records. Methods raise
    `StorageError` if the system refuses, and `CorruptionError` if fewer bytes come back than were written, or other
    records than those of the state. Several threads may `read` and `take` at once.
    """

    def __init__(
        self, path: Where, dtype: np.dtype[Any], shape: Sequence[int] = (), state: State | None = None
    ) -> None:
        self.path = path
        self.dtype, self._shape = dtype, tuple(shape)
        self._bytes = dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))
        self.count = 0 if state is None else state["count"]
        self._crc: int | None = 0  # of all records, as long as they were written front to back
        self._writing = files.open_new(path) if state is None else files.open_again(path, self.count * self._bytes)
        self._reading = -1
        try:
            self._reading = files.open_read(path)
            if state is not None:
                self._crc = self._content_crc()
                if self._crc != state["crc"]:
                    raise CorruptionError(f"{path}: its first {self.count} records are not those that were written")
        except BaseException:
            self.close()
            raise

    def state(self) -> State:
        """Makes all records durable; returns the `state` to reopen the file with."""
        files.sync_file(self._writing, self.path)
        if self._crc is None:
            self._crc = self._content_crc()
        return {"count": self.count, "crc": self._crc}

    def _content_crc(self) -> int:
        crc, step = 0, max(1, TAKEN_BYTES // self._bytes)
        for start in range(0, self.count, step):
            crc = crc32c(self.read(start, min(start + step, self.count)), crc)
        return crc

    def append(self, records: Array) -> None:
        """Adds `records` (n, ...) at the end."""
        self.put(self.count, records)

    def put(self, start: int, records: Array) -> None:
        """Writes `records` (n, ...) from number `start` on. Records between the end and `start` are undefined."""
        data = np.ascontiguousarray(records, self.dtype).view(np.uint8).reshape(-1)
        files.write_at(self._writing, data, start * self._bytes, self.path, _WHAT)
        self._crc = crc32c(data, self._crc) if start == self.count and self._crc is not None else None
        self.count = max(self.count, start + len(records))

    def read(self, start: int, stop: int) -> Array:
        """Records `start` to `stop` (exclusive), (stop - start, ...)."""
        records = np.empty((stop - start, *self._shape), self.dtype)
        files.read_exact(self._reading, records.view(np.uint8).reshape(-1), start * self._bytes, self.path)
        return records

    def take(self, numbers: NDArray[np.int64]) -> Array:
        """The records of these numbers (n,), in any order, repeats allowed. Neighbours share a read."""
        records = np.empty((len(numbers), *self._shape), self.dtype)
        order = np.argsort(numbers, kind="stable")
        step = max(1, TAKEN_BYTES // (self._bytes + GAP_BYTES))
        for start in range(0, len(order), step):
            part = order[start : start + step]
            found = files.read_rows(self._reading, numbers[part], self._bytes, self.path, gap_bytes=GAP_BYTES)
            records[part] = found.view(self.dtype).reshape(-1, *self._shape)
        return records

    def close(self) -> None:
        """Closes the file, which stays in its place. A second call does nothing."""
        for fd in (self._writing, self._reading):
            if fd >= 0:
                files.close(fd)
        self._writing = self._reading = -1

    def remove(self) -> None:
        """Closes the file and gives its space back."""
        self.close()
        files.remove_file(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
