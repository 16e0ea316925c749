"""Every call to the operating system that storage makes, with errors that say what was being done.

Each takes a path, or a place below a directory that is held open (spann/store/places.py).

This is the one seam for fault injection: replace `system` by an object with the same functions. Whatever reaches the
disk goes through it; only the listing and the removal of a whole tree do not, as nothing depends on their order.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spann._kernels.io import read_many
from spann.errors import CorruptionError, ExistsError, MissingError, SpannError, StorageError
from spann.store.places import Where, reached

system = os

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2

_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system answers that has no hard links, or not one more of this file."""

_COPY_BYTES = 8 << 20

_LOCK_WAIT = 0.001
"""Seconds between two tries for a lock: no longer than making a small batch durable."""


@contextmanager
def explained(path: Where, action: str) -> Iterator[None]:
    """Turns an OSError into a spann error: ``<path>: cannot <action>: <reason>``."""
    try:
        yield
    except SpannError:  # some of them are OSErrors, and explained already
        raise
    except OSError as error:
        raise _explain(error, path, action) from error


def _explain(error: OSError, path: Where, action: str) -> MissingError | ExistsError | StorageError:
    message = f"{path}: cannot {action}: {error.strerror or error}"
    if error.errno == errno.ENOENT:
        return MissingError(message)
    if error.errno == errno.EEXIST:
        return ExistsError(message)
    explained = StorageError(message)
    explained.errno = error.errno
    return explained


def open_new(path: Where) -> int:
    with explained(path, "create"):
        return _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def open_read(path: Where) -> int:
    with explained(path, "open"):
        return _open(path, os.O_RDONLY)


def _open(path: Where, flags: int) -> int:
    follow = 0 if isinstance(path, Path) else os.O_NOFOLLOW
    with reached(path) as (name, at):
        return system.open(name, flags | follow | os.O_CLOEXEC, 0o666, dir_fd=at)


def _open_own(path: Where, flags: int) -> int:
    """Opens a file to write to, which must have no other name: what is written would be in another's file as well."""
    with explained(path, "open for writing"):
        fd = _open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        with explained(path, "open for writing"):
            about = system.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            raise StorageError(f"{path}: not written to: it is not a regular file, or has another name")
    except BaseException:
        close(fd)
        raise
    return fd


def open_again(path: Where, length: int) -> int:
    """Opens an existing file for writing at its end, cut to `length` bytes; `CorruptionError` where it is shorter."""
    fd = _open_own(path, os.O_WRONLY)
    try:
        found = file_bytes(fd, path)
        if found < length:
            raise CorruptionError(f"{path}: {found} bytes long, expected at least {length}")
        with explained(path, "cut"):
            system.ftruncate(fd, length)
            system.lseek(fd, length, os.SEEK_SET)
    except BaseException:
        close(fd)
        raise
    return fd


def append_line(path: Where, line: bytes, what: str) -> None:
    """Adds `line` to the end of the file, created if need be, and makes it durable."""
    fd = _open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        write_all(fd, line, path, what)
        sync_file(fd, path)
    finally:
        close(fd)
    sync_dir(path.parent)


def close(fd: int) -> None:
    """Closes without complaint: every file that was written has been fsynced, so nothing is left to fail."""
    with suppress(OSError):
        system.close(fd)


def write_all(fd: int, data: NDArray[np.uint8] | bytes, path: Where, what: str) -> None:
    """Writes all bytes at the file's position; `what` names them in the `StorageError`."""
    view = memoryview(data) if isinstance(data, bytes) else data.data
    total = len(view)
    while view:
        try:
            view = view[system.write(fd, view) :]
        except OSError as error:
            done = total - len(view)
            raise _explain(error, path, f"write {what} ({done} of {total} bytes written)") from error


def write_at(fd: int, data: NDArray[np.uint8], offset: int, path: Where, what: str) -> None:
    """Writes all bytes from byte `offset` on, wherever the file's position is."""
    view = data.data
    while view:
        try:
            done = system.pwrite(fd, view, offset)
        except OSError as error:
            raise _explain(error, path, f"write {what} at byte {offset}") from error
        view, offset = view[done:], offset + done


def write_file(path: Where, data: bytes, what: str) -> None:
    """Creates the file with these bytes and makes it durable; its directory entry needs `sync_dir`."""
    fd = open_new(path)
    try:
        write_all(fd, data, path, what)
        sync_file(fd, path)
    finally:
        close(fd)


def sync_file(fd: int, path: Where) -> None:
    with explained(path, "make durable (fsync)"):
        system.fsync(fd)


def sync_dir(path: Where) -> None:
    with explained(path, "make durable (fsync)"):
        fd = _open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            system.fsync(fd)
        finally:
            close(fd)


def make_dir(path: Where) -> None:
    with explained(path, "create directory"), reached(path) as (name, at):
        system.mkdir(name, 0o777, dir_fd=at)


def ensure_dir(path: Where) -> None:
    """Makes the directory unless there is one; what goes in there goes by a way without links."""
    with suppress(ExistsError):
        make_dir(path)


def status(path: Where) -> os.stat_result | None:
    """What is there, of a link itself; None where nothing is."""
    with explained(path, "look up"):
        try:
            with reached(path) as (name, at):
                return system.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return None


def exists(path: Where) -> bool:
    if isinstance(path, Path):
        with explained(path, "look up"):
            return path.exists()
    return status(path) is not None


def free_bytes(path: Where) -> int:
    """Bytes that this user may still write to the file system of the directory `path`."""
    with explained(path, "find free space"):
        found = system.statvfs(path if isinstance(path, Path) else path.root.fd)
    return found.f_bavail * found.f_frsize


def file_bytes(fd: int, path: Where) -> int:
    with explained(path, "read size"):
        return system.fstat(fd).st_size


def read_exact(fd: int, out: NDArray[np.uint8], offset: int, path: Where) -> None:
    """Fills the contiguous uint8 array `out` from byte `offset`; a file that ends early is a `CorruptionError`."""
    view = out.data
    while view:
        with explained(path, f"read {len(view)} bytes at {offset}"):
            got = system.preadv(fd, [view], offset)
        if got == 0:
            raise CorruptionError(f"{path}: ends at byte {offset}, {len(view)} bytes too early")
        view, offset = view[got:], offset + got


def read_rows(fd: int, rows: NDArray[np.int64], row_bytes: int, path: Where, *, gap_bytes: int) -> NDArray[np.uint8]:
    """The `rows` (n,), ascending, n at least 1, of a file that holds rows of `row_bytes`: (n, row_bytes).

    Those with at most `gap_bytes` between them are one read, of less than 4 GiB, and all reads one native call: with a
    call each, threads spend their time waiting for the interpreter. Raises as `read_exact`."""
    ends = np.append(np.flatnonzero(np.diff(rows) > max(1, gap_bytes // row_bytes)), len(rows) - 1)
    begins = np.append(0, ends[:-1] + 1)
    offset, length = rows[begins] * row_bytes, (rows[ends] + 1 - rows[begins]) * row_bytes
    data = _read_pieces(fd, offset, length, path)
    skipped = rows[begins] - (np.cumsum(length) - length) // row_bytes  # between what is read and before it
    found: NDArray[np.uint8] = data.reshape(-1, row_bytes)[rows - np.repeat(skipped, ends - begins + 1)]
    return found


def _read_pieces(fd: int, offset: NDArray[np.int64], length: NDArray[np.int64], path: Where) -> NDArray[np.uint8]:
    """The bytes of all these reads, one after another."""
    if system.preadv is not os.preadv:  # whoever stands in for the system sees every read
        out, end = np.empty(int(length.sum()), np.uint8), np.cumsum(length)
        for at, start, stop in zip(offset.tolist(), end - length, end, strict=True):
            read_exact(fd, out[start:stop], at, path)
        return out
    data, results = read_many(fd, offset, length.astype(np.uint32))
    for bad in np.flatnonzero(results != length)[:1]:
        at, wanted, got = int(offset[bad]), int(length[bad]), int(results[bad])
        if got < 0:
            raise _explain(OSError(-got, os.strerror(-got)), path, f"read {wanted} bytes at {at}")
        raise CorruptionError(f"{path}: ends at byte {at + got}, {wanted - got} bytes too early")
    return data


def read_file(path: Where) -> bytes:
    fd = open_read(path)
    try:
        data = np.empty(file_bytes(fd, path), dtype=np.uint8)
        read_exact(fd, data, 0, path)
        return data.tobytes()
    finally:
        close(fd)


def will_stream(fd: int) -> None:
    """Advice: larger read-ahead. Advice can be ignored, so where the system has none nothing is lost."""
    if hasattr(system, "posix_fadvise"):
        system.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def forget(fd: int, offset: int, length: int) -> None:
    """Advice: drop these bytes from the page cache, which a scan of everything would otherwise flush."""
    if hasattr(system, "posix_fadvise"):
        system.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def entries(directory: Where) -> list[tuple[str, os.stat_result]]:
    """Names in the directory, sorted, and what they are; links are not followed, and what vanishes is left out."""
    found = []
    with explained(directory, "list"):
        with reached(directory) as (name, at):
            follow = os.O_NOFOLLOW if at is not None else 0
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=at)
        try:
            with os.scandir(fd) as listed:
                for entry in listed:
                    with suppress(FileNotFoundError):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
        finally:
            close(fd)
    return sorted(found, key=lambda each: each[0])


def walk_files(root: Where) -> Iterator[tuple[Where, int]]:
    """Every entry below `root` that is not a directory, with its size in bytes; links are not followed."""
    for name, about in entries(root):
        if stat.S_ISDIR(about.st_mode):
            yield from walk_files(root / name)
        else:
            yield root / name, about.st_size


def link(source: Where, target: Where) -> None:
    """Gives the file `source`, which nobody writes to any more, a second name; where the file system cannot, `target`
    becomes a durable copy."""
    with explained(target, "create"):
        try:
            with reached(source) as (name, at), reached(target) as (other, there):
                system.link(name, other, src_dir_fd=at, dst_dir_fd=there, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    reading, writing = open_read(source), open_new(target)
    try:
        left, at = file_bytes(reading, source), 0
        buffer = np.empty(min(left, _COPY_BYTES), np.uint8)
        while at < left:
            part = buffer[: left - at]
            read_exact(reading, part, at, source)
            write_all(writing, part, target, "a copy")
            at += part.size
        sync_file(writing, target)
    finally:
        close(reading)
        close(writing)


def remove_file(path: Where) -> None:
    with explained(path, "remove"), reached(path) as (name, at):
        system.unlink(name, dir_fd=at)


def remove_tree(path: Where) -> None:
    """Removes a directory with all in it, no link followed."""
    with explained(path, "remove"), reached(path) as (name, at):
        shutil.rmtree(name, dir_fd=at)


def lock(path: Where) -> int | None:
    """Takes the lock file `path`, created if need be; None when another process holds it. The holder unlinks the file
    before it lets go, so a lock won on a file that is no longer at `path` is worth nothing and is tried again."""
    while True:
        try:
            fd = _open_own(path, os.O_RDWR)
        except MissingError:
            try:
                with explained(path, "create lock file"):
                    fd = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except ExistsError:
                continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = status(path)
            if there is not None and os.path.samestat(system.fstat(fd), there):
                return fd
        except BlockingIOError:
            close(fd)
            return None
        except OSError as error:
            close(fd)
            raise error if isinstance(error, SpannError) else _explain(error, path, "lock") from error
        close(fd)


def wait_lock(path: Where, seconds: float) -> int:
    """Takes the lock file `path`, created if need be, and waits up to so many seconds for whoever holds it; raises
    `ExistsError` after that. Closing the descriptor lets go. The file stays."""
    end = time.monotonic() + seconds
    with explained(path, "open lock file"):
        fd = _open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise ExistsError(f"{path}: another process has held this lock for {seconds:g} s") from None
                time.sleep(_LOCK_WAIT)
            except OSError as error:
                raise _explain(error, path, "lock") from error
    except BaseException:
        close(fd)
        raise


def rename_new(source: Where, target: Where) -> None:
    """Renames; `ExistsError` where something is at `target`, even when it appeared a moment ago."""
    with explained(target, "publish"):
        if not _rename_flags(source, target, _RENAME_NOREPLACE):
            if status(target) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            _rename(source, target)


def exchange(source: Where, target: Where) -> bool:
    """Swaps two directories in one step; False where the system cannot do that."""
    with explained(target, "publish"):
        return _rename_flags(source, target, _RENAME_EXCHANGE)


def rename(source: Where, target: Where) -> None:
    with explained(target, f"rename {source.name} to this"):
        _rename(source, target)


def _rename(source: Where, target: Where) -> None:
    with reached(source) as (name, at), reached(target) as (other, there):
        system.rename(name, other, src_dir_fd=at, dst_dir_fd=there)


def _rename_flags(source: Where, target: Where, flags: int) -> bool:
    """renameat2(2), which Python does not wrap; False where the C library, kernel or file system lacks it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    with reached(source) as (name, at), reached(target) as (other, there):
        ends = [
            value
            for name, fd in ((name, at), (other, there))
            for value in (_AT_FDCWD if fd is None else fd, os.fsencode(name))
        ]
        if renameat2(*ends, ctypes.c_uint(flags)) == 0:
            return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code))
