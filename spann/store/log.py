"""The write log beside an index: operations that no generation contains yet (docs/FORMAT.md, Log)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from spann._kernels.checksum import crc32c
from spann.elements import stored_dtype
from spann.errors import CorruptionError, ExistsError, FormatError, InputError, MissingError, SpannError, StorageError
from spann.format.log import (
    FRAME_BYTES,
    HEADER_BYTES,
    MARK_OFFSET,
    FileHeader,
    Frame,
    FrameHead,
    encode_mark,
    parse_mark,
)
from spann.store import files
from spann.store.arrays import Problem
from spann.store.places import Directory, Place, as_path, without_links
from spann.store.reader import IndexReader
from spann.store.stored import reading

SUFFIX = ".log"
"""What the name of the directory has after that of the index."""

LOCK = "lock"

LOCK_SECONDS = 30.0
"""How long a writer waits for another."""

_FILE = re.compile(r"[0-9]{10,19}")


class LogRewoundError(Exception):
    """Operations that this process has read were given up by their writer, who could not make them durable. The log is
    to be read anew from its first file."""


class Log:
    """The log of the index at `path`, from file `first` on, as one process reads and writes it. `dtype` and `width` are
    those of stored vectors.

    `poll` returns what is new since the last call. `append`, `rotate` and `remove_before` are for the holder of the
    lock, who has polled since it took it. One thread at a time may use it. Raises `CorruptionError`, `FormatError`,
    `MissingError` and `StorageError`, each naming the file.
    """

    def __init__(self, path: Path, lineage: str, first: int, dtype: np.dtype[Any], width: int) -> None:
        self.path = path
        self.lineage, self.dtype, self.width = lineage, dtype, width
        self._place = log_place(path)
        self._number, self._offset, self._sequence = first, HEADER_BYTES, 0
        self._held = self._broken = False

    @property
    def sequence(self) -> int:
        """The sequence number of the last frame that was read, 0 before any."""
        return max(0, self._sequence - 1)

    @property
    def number(self) -> int:
        """The file in which reading or writing goes on."""
        return self._number

    @property
    def exists(self) -> bool:
        """Whether there is a log: an index that was copied alone has none, and no operations."""
        return files.exists(self._place)

    def bytes(self) -> int:
        """Bytes of all files of the log."""
        return sum(about.st_size for _, about in self._files()) if self.exists else 0

    def poll(self) -> list[Frame]:
        """The frames that were added since the last call, in order."""
        if not self.exists:
            return []
        found: list[Frame] = []
        while True:
            follower = self._header(self._number + 1)
            self._read(found, follower)
            if follower is None:
                return found
            if self._sequence < follower.sequence:
                raise CorruptionError(
                    f"{self._file(self._number)}: frame {self._sequence} is missing or damaged at byte {self._offset}; "
                    f"the next file begins with frame {follower.sequence}"
                )
            if self._sequence > follower.sequence:
                raise LogRewoundError
            self._number, self._offset = self._number + 1, HEADER_BYTES

    @contextmanager
    def locked(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Holds the lock of all writers of the log. Raises `ExistsError` if another holds it for so many seconds."""
        without_links(self.path)  # raises for a path that leads through the link of another user
        if not self.exists:
            raise MissingError(f"{self._place}: the log of the index is missing")
        fd = files.wait_lock(self._place / LOCK, seconds)
        self._held = True
        try:
            yield
        finally:
            self._held = False
            files.close(fd)

    def append(self, operations: Sequence[Frame]) -> list[Frame]:
        """Adds frames, which get the next sequence numbers, and makes them durable together.

        Raises `StorageError` if the system refuses: then they may or may not be in the log."""
        self._check_held()
        if self._broken:
            self.rotate()
        numbered = [Frame(one.kind, self._sequence + at, one.ids, one.vectors) for at, one in enumerate(operations)]
        path, data = self._file(self._number), b"".join(frame.encode() for frame in numbered)
        fd = files.open_again(path, self._offset)  # what a killed writer left behind the last frame goes
        try:
            try:
                files.write_all(fd, data, path, "operations")
                files.sync_file(fd, path)
            except BaseException:
                self._broken = True
                with suppress(OSError):
                    files.system.ftruncate(fd, self._offset)
                raise
            self._offset += len(data)
            self._sequence += len(numbered)
            self._mark(fd, path)
        except StorageError as error:
            raise StorageError(f"{error}; the operations may or may not be in the log") from error
        finally:
            files.close(fd)
        return numbered

    def rotate(self) -> int:
        """Begins a new file, and returns its number. A file without frames stays the last."""
        self._check_held()
        if self._offset == HEADER_BYTES and not self._broken:
            return self._number
        if not self._broken:  # a killed writer may not have made its last frame durable, and more will follow it
            path = self._file(self._number)
            fd = files.open_again(path, self._offset)
            try:
                files.sync_file(fd, path)
            finally:
                files.close(fd)
        following = self._number + 1
        if files.exists(self._file(following)):  # of a rotation that was killed: without a whole header
            files.remove_file(self._file(following))
        _make_file(self._place, FileHeader(self.lineage, following, self._sequence))
        files.sync_dir(self._place)
        self._number, self._offset, self._broken = following, HEADER_BYTES, False
        return following

    def remove_before(self, number: int) -> None:
        """Removes the files before that of `number`."""
        self._check_held()
        for name, _ in self._files():
            if int(name) < number:
                files.remove_file(self._place / name)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the log, read from its beginning, and files in it that do not belong there."""
        try:
            self.poll()
        except SpannError as error:
            yield Problem.of(error, self._place)
        if self.exists:
            for name, about in files.entries(self._place):
                if name != LOCK and not (stat.S_ISREG(about.st_mode) and _FILE.fullmatch(name)):
                    yield Problem("unexpected", as_path(self._place / name), "is not part of the log")

    def _check_held(self) -> None:
        if not self._held:
            raise InputError(f"{self._place}: only the holder of its lock may change the log")

    def _files(self) -> list[tuple[str, Any]]:
        return [(name, about) for name, about in files.entries(self._place) if _FILE.fullmatch(name)]

    def _file(self, number: int) -> Place:
        return self._place / f"{number:010d}"

    def _mark(self, fd: int, path: Place) -> None:
        """Promises what is durable. A mark that is not written promises less, which does no harm."""
        with suppress(StorageError):
            mark = np.frombuffer(encode_mark(self._offset), np.uint8).copy()
            files.write_at(fd, mark, MARK_OFFSET, path, "the mark")

    def _header(self, number: int) -> FileHeader | None:
        """The header of a file; None if the file is missing, or if its writer was killed in the header."""
        path = self._file(number)
        if not files.exists(path):
            return None
        with reading(path) as fd:
            return self._parse_header(fd, path, number, files.file_bytes(fd, path))

    def _parse_header(self, fd: int, path: Place, number: int, size: int) -> FileHeader | None:
        data = np.empty(min(size, HEADER_BYTES), np.uint8)
        files.read_exact(fd, data, 0, path)
        try:
            header = FileHeader.parse(data.tobytes(), str(path))
        except FormatError:
            if size <= HEADER_BYTES and not files.exists(self._file(number + 1)):
                return None  # no frame can be in it
            raise
        if (header.lineage, header.number) != (self.lineage, number):
            raise FormatError(
                f"{path}: file {header.number} of the log of lineage {header.lineage}; expected file {number} of "
                f"{self.lineage}: it belongs to another index"
            )
        return header

    def _read(self, found: list[Frame], follower: FileHeader | None) -> None:
        """Reads frames of the present file: those before `follower`, or all that are whole."""
        path = self._file(self._number)
        with reading(path) as fd:
            size = files.file_bytes(fd, path)
            if size < self._offset:
                raise LogRewoundError if self._sequence else CorruptionError(f"{path}: {size} bytes long, no header")
            if self._sequence == 0:
                header = self._parse_header(fd, path, self._number, size)
                if header is None:
                    raise CorruptionError(f"{path}: the header of the log file is damaged")
                self._sequence = header.sequence
            promised = self._promised(fd, path) if follower is None else 0
            if size < promised:
                raise CorruptionError(f"{path}: {size} bytes long, {promised} were made durable")
            while follower is None or self._sequence < follower.sequence:
                frame = self._frame(fd, path, size)
                if frame is None:
                    if self._offset < promised:
                        raise CorruptionError(
                            f"{path}: frame {self._sequence} at byte {self._offset} is damaged; the file was durable "
                            f"up to byte {promised}"
                        )
                    return
                found.append(frame)
                self._sequence += 1

    def _promised(self, fd: int, path: Place) -> int:
        data = np.empty(HEADER_BYTES - MARK_OFFSET, np.uint8)
        files.read_exact(fd, data, MARK_OFFSET, path)
        return parse_mark(data.tobytes()) or 0

    def _frame(self, fd: int, path: Place, size: int) -> Frame | None:
        """The frame at the present offset; None if it is not whole."""
        if size - self._offset < FRAME_BYTES:
            return None
        data = np.empty(FRAME_BYTES, np.uint8)
        files.read_exact(fd, data, self._offset, path)
        head = FrameHead.parse(data.tobytes())
        if head is None or size - self._offset - FRAME_BYTES < head.body_bytes:
            return None
        where = f"{path}, byte {self._offset}"
        head.check(self._sequence, self.width * self.dtype.itemsize, where)
        body = np.empty(head.body_bytes, np.uint8)
        files.read_exact(fd, body, self._offset + FRAME_BYTES, path)
        if crc32c(body) != head.crc:
            return None
        self._offset += FRAME_BYTES + head.body_bytes
        return head.frame(body.tobytes(), self.dtype, where)


def log_of(reader: IndexReader) -> Log:
    """The log of an index with updates, from the first file that the index does not contain."""
    about = reader.collection
    assert about.updates is not None
    return Log(reader.path, about.updates.lineage, about.updates.log, stored_dtype(about.element), about.width)


def log_place(path: Path) -> Place:
    """The directory of the log of the index that `path` leads to; it need not be there."""
    real = Path(os.path.realpath(path))
    return Directory(real.parent) / (real.name + SUFFIX)


def create_log(path: Path, lineage: str, number: int, sequence: int = 1) -> None:
    """Makes the log of the index at `path`, with an empty file `number`, and makes it durable.

    What a log of another index left there is removed. Raises `ExistsError` for what no log is."""
    place = log_place(path)
    if files.exists(place):
        check_own(place)
        files.remove_tree(place)
    files.make_dir(place)
    _make_file(place, FileHeader(lineage, number, sequence))
    files.sync_dir(place)
    files.sync_dir(place.parent)


def copy_log(log: Log, target: Path) -> None:
    """Makes the log of the index at `target`, with all operations of `log`. The caller holds the lock of `log`, and has
    read nothing of it. Raises as `create_log` does."""
    first = log.number
    frames = log.poll()
    create_log(target, log.lineage, first, log.sequence + 1 - len(frames))
    copy = Log(target, log.lineage, first, log.dtype, log.width)
    with copy.locked():
        copy.poll()
        if frames:
            copy.append(frames)


def check_own(place: Place) -> None:
    """Raises `ExistsError` unless the directory holds nothing but what a log does."""
    about = files.status(place)
    foreign = "" if about is not None and stat.S_ISDIR(about.st_mode) else "is no directory"
    for name, found in files.entries(place) if not foreign else ():
        if not stat.S_ISREG(found.st_mode) or (name != LOCK and not _FILE.fullmatch(name)):
            foreign = f"holds {name!r}, which no log does"
            break
    if foreign:
        raise ExistsError(f"{place}: in the way of the log of the index, and {foreign}; remove or rename it")


def _make_file(place: Place, header: FileHeader) -> None:
    files.write_file(place / f"{header.number:010d}", header.encode(), "the header of a log file")
