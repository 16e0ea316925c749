"""Temporary files of a build: records of one type, appended, then read back in full or in part."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from spann.storage import files
from spann.types import Array


class RecordFile:
    """Records of `dtype` in a new file at `path`. A context manager: leaving it closes the file.

    Methods raise `StorageError` where the system refuses, `CorruptionError` where less comes back than was written.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._path, self._dtype = path, dtype
        self._writing = files.open_new(path)
        try:
            self._reading = files.open_read(path)
        except BaseException:
            files.close(self._writing)
            raise
        self.count = 0

    def append(self, records: Array) -> None:
        """Adds `records` (n,) at the end."""
        data = np.ascontiguousarray(records, self._dtype).view(np.uint8).reshape(-1)
        files.write_all(self._writing, data, self._path, "temporary records of the build")
        self.count += len(records)

    def read(self, start: int, stop: int) -> Array:
        """Records `start` to `stop` (exclusive), (stop - start,). May be called from several threads."""
        records = np.empty(stop - start, self._dtype)
        offset = start * self._dtype.itemsize
        files.read_exact(self._reading, records.view(np.uint8).reshape(-1), offset, self._path)
        return records

    def close(self) -> None:
        """Lets go of the file, which stays where it is."""
        files.close(self._writing)
        files.close(self._reading)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
