"""Files of an index that is read: regular ones, found through no link, with all of their bytes on disk.

Whoever wrote the index decides what is there. A pipe or a device would be waited for, a link may lead out of it, and a
hole of terabytes costs who made it nothing: all are refused before anything is read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from spann.errors import CorruptionError, MissingError
from spann.store import files
from spann.store.places import Where, reached

SPARSE = 1024
"""Bytes that a file has at most for each that is on disk."""

SMALL = 64 << 20
"""Bytes up to which a hole does no harm."""

DEEPEST = 300
"""Directories, one in another, that can be part of an index: parts of a name, and axes of an array."""

_NOT_REGULAR = {
    errno.ELOOP: "leads through a link, and an index has none",
    errno.ENOTDIR: "leads through what is no directory",
    errno.ENXIO: "is no regular file",
    errno.ENODEV: "is no regular file",
}


def open_stored(path: Where, flags: int = 0) -> int:
    """A descriptor of a regular file; the caller closes it. `flags` are added to those of open(2).

    Raises `MissingError`, `StorageError`, and `CorruptionError` for what is no regular file."""
    safe = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with files.explained(path, "open"):
        try:
            with reached(path) as (name, at):
                fd = int(files.system.open(name, safe | flags, dir_fd=at))
        except OSError as error:
            if error.errno in _NOT_REGULAR:
                raise CorruptionError(f"{path}: {_NOT_REGULAR[error.errno]}") from None
            if error.errno == errno.ENOENT:
                raise MissingError(f"{path}: missing from the index") from None
            raise
    try:
        with files.explained(path, "look up"):
            if not stat.S_ISREG(files.system.fstat(fd).st_mode):
                raise CorruptionError(f"{path}: is no regular file")
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)  # a ring would answer EAGAIN for what is not in the page cache
    except BaseException:
        files.close(fd)
        raise
    return fd


@contextmanager
def reading(path: Where) -> Iterator[int]:
    """`open_stored` for the time of a `with` block."""
    fd = open_stored(path)
    try:
        yield fd
    finally:
        files.close(fd)


def read_stored(path: Where, most: int) -> bytes:
    """The bytes of a file. Raises as `open_stored` does, and `CorruptionError` where there are more than `most`."""
    with reading(path) as fd:
        size = files.file_bytes(fd, path)
        if size > most:
            raise CorruptionError(f"{path}: {size} bytes long, expected at most {most}")
        data = np.empty(size, dtype=np.uint8)
        files.read_exact(fd, data, 0, path)
        return data.tobytes()


def check_stored(fd: int, expected: int, path: Where) -> None:
    """Raises `CorruptionError` unless the file has exactly `expected` bytes, and has them on disk."""
    with files.explained(path, "read size"):
        found = files.system.fstat(fd)
    if found.st_size != expected:
        raise CorruptionError(f"{path}: {found.st_size} bytes long, expected {expected}")
    on_disk = found.st_blocks * 512  # 0 where the file system does not say
    if expected > SMALL and 0 < on_disk < expected // SPARSE:
        raise CorruptionError(f"{path}: {expected} bytes long, of which only {on_disk} are on disk")


def walk(directory: Where, depth: int = 0) -> Iterator[Where]:
    """All below a directory that is none itself, in order, and directories deeper than an index has."""
    with files.explained(directory, "list"):
        with reached(directory) as (name, at):
            fd = files.system.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            with files.system.scandir(fd) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        finally:
            files.close(fd)
    for entry, is_directory in found:
        if is_directory and depth < DEEPEST:
            yield from walk(directory / entry, depth + 1)
        else:
            yield directory / entry
