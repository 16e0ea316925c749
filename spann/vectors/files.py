"""Reading rows of fixed length out of one file, in bounded memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.io import read_many
from spann.errors import InputError, MissingError, StorageError
from spann.system import open_regular, reason
from spann.types import Array
from spann.vectors import paging
from spann.vectors.sources import VectorSource

PREFIX = np.dtype("<i4")
"""What stands before each row of a .fvecs, .bvecs or .ivecs file: the number of elements in the row."""

_PIECE = 4 << 20
"""Bytes of prefixed rows, or of rows here and there, read at a time: a piece is copied out while it is in cache."""


def look_up(path: Path, name: str) -> os.stat_result | None:
    """What `path` is; None if nothing is there, `StorageError` if the system does not tell, as for a name too long."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{name} cannot be looked up: {reason(error)}") from error


def is_directory(path: Path, name: str) -> bool:
    """Whether `path` is a directory rather than a regular file; refuses all else."""
    found = look_up(path, name)
    if found is None:
        raise MissingError(f"{name} does not exist")
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise InputError(f"{name} is neither a regular file nor a directory")
    return stat.S_ISDIR(found.st_mode)


class RowFile:
    """An open regular file, read at positions. Raises `InputError` if it ends early, and `StorageError` if a read
    fails.

    It is never mapped: another program may cut it at any time, and who touches a map then is ended by the system.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._fd = open_regular(path, name)

    @classmethod
    def opened(cls, fd: int, name: str) -> RowFile:
        """The file of a descriptor, which it closes in the end."""
        file = cls.__new__(cls)
        file.name, file._fd = name, fd
        return file

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._open_fd()).st_size

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or all where the file is shorter."""
        buffer = np.empty(min(size, self.size), np.uint8)
        return buffer[: self.fill(buffer, 0)].tobytes()

    def fill(self, buffer: NDArray[np.uint8], offset: int) -> int:
        """Read from `offset` into the C-contiguous `buffer` until it is full or the file ends: bytes read."""
        target = buffer.reshape(-1).data
        done = 0
        try:
            # One call moves at most 2 GiB and may be cut short by a signal.
            while done < len(target) and (got := os.preadv(self._open_fd(), [target[done:]], offset + done)):
                done += got
        except OSError as error:
            raise StorageError(f"{self.name} cannot be read at byte {offset + done}: {error.strerror}") from error
        return done

    def pick(self, offsets: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """The `size` bytes at each of `offsets`, many reads at once: (len(offsets), size)."""
        raw, got = read_many(self._open_fd(), offsets, np.full(len(offsets), size, np.uint32))
        short = np.flatnonzero(got < size)
        if len(short):
            offset, number = int(offsets[short[0]]), int(got[short[0]])
            if number < 0:
                raise StorageError(f"{self.name} cannot be read at byte {offset}: {os.strerror(-number)}")
            raise InputError(
                f"{self.name} shrank to {self.size} bytes while open: {int(offsets.max()) + size} are needed"
            )
        return raw.reshape(len(offsets), size)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise InputError(f"{self.name} has been closed and cannot be read")
        return self._fd

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


class FileSource(VectorSource):
    """Rows of a file that start at byte `offset` and follow each other, each after `prefix` bytes.

    A prefix is an int32 that repeats `dim`; it is checked in every row that is read. The caller has checked that the
    file holds `count` rows, and leaves `file` to this source to close.
    """

    def __init__(self, file: RowFile, count: int, dim: int, dtype: np.dtype[Any], *, offset: int, prefix: int) -> None:
        super().__init__(file.name, count, dim, dtype)
        self._file = file
        self._offset = offset
        self._prefix = prefix
        self._stride = prefix + self.row_bytes

    def close(self) -> None:
        self._file.close()

    def _read(self, start: int, stop: int) -> Array:
        if not self._prefix:
            return self._vectors(self._rows(start, stop), range(start, stop))
        out = np.empty((stop - start, self.dim), self.dtype)
        for piece in paging.pieces(stop - start, max(1, _PIECE // self._stride)):
            rows = range(start + piece.start, start + piece.stop)
            out[piece] = self._vectors(self._rows(rows.start, rows.stop), rows)
        return out

    def _take(self, rows: NDArray[np.int64]) -> Array:
        out = np.empty((len(rows), self.dim), self.dtype)
        for piece in paging.pieces(len(rows), max(1, _PIECE // self._stride)):
            out[piece] = self._take_piece(rows[piece])
        return out

    def _take_piece(self, rows: NDArray[np.int64]) -> Array:
        start, stop = int(rows.min()), int(rows.max()) + 1
        # Rows that lie close (a sorted sample, say) are read in one sequential sweep where that moves no more bytes
        # than the separate pages.
        if (stop - start) * self._stride <= len(rows) * paging.page_bytes(self._stride):
            return self._vectors(self._rows(start, stop)[rows - start], rows)
        return self._vectors(self._file.pick(self._offset + rows * self._stride, self._stride), rows)

    def _rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of rows `start` to `stop`, prefixes included: (stop - start, stride)."""
        raw = np.empty((stop - start, self._stride), np.uint8)
        got = self._file.fill(raw, self._offset + start * self._stride)
        if got < raw.size:
            row = start + got // self._stride
            raise InputError(f"{self.name} ends within row {row} although it held {self.count} rows when it was opened")
        return raw

    def _vectors(self, raw: NDArray[np.uint8], rows: Sequence[int] | NDArray[np.int64]) -> Array:
        """The vectors in the bytes `raw` of `rows`, without a copy: contiguous where there are no prefixes."""
        if self._prefix:
            dims = raw[:, : self._prefix].view(PREFIX)[:, 0]
            wrong = np.flatnonzero(dims != self.dim)
            if len(wrong):
                at = wrong[0]
                raise InputError(f"row {rows[at]} of {self.name} has {dims[at]} elements where row 0 has {self.dim}")
        return raw[:, self._prefix :].view(self.dtype)
