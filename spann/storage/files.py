"""Every call to the operating system that storage makes, with errors that say what was being done.

This is the one seam for fault injection: replace `system` by an object with the same functions. Whatever reaches the
disk goes through it; only the removal of a whole tree does not, as nothing depends on its order.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spann._kernels.io import read_many
from spann.errors import CorruptionError, ExistsError, MissingError, SpannError, StorageError

system = os

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2

_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system answers that has no hard links, or not one more of this file."""

_COPY_BYTES = 8 << 20


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turns an OSError into a spann error: ``<path>: cannot <action>: <reason>``."""
    try:
        yield
    except SpannError:  # some of them are OSErrors, and explained already
        raise
    except OSError as error:
        raise _explain(error, path, action) from error


def _explain(error: OSError, path: Path, action: str) -> MissingError | ExistsError | StorageError:
    message = f"{path}: cannot {action}: {error.strerror or error}"
    if error.errno == errno.ENOENT:
        return MissingError(message)
    if error.errno == errno.EEXIST:
        return ExistsError(message)
    explained = StorageError(message)
    explained.errno = error.errno
    return explained


def open_new(path: Path) -> int:
    with explained(path, "create"):
        return system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def open_read(path: Path) -> int:
    with explained(path, "open"):
        return system.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_again(path: Path, length: int) -> int:
    """Opens an existing file for writing at its end, cut to `length` bytes; `CorruptionError` where it is shorter."""
    with explained(path, "open for writing"):
        fd = system.open(path, os.O_WRONLY | os.O_CLOEXEC)
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


def append_line(path: Path, line: bytes, what: str) -> None:
    """Adds `line` to the end of the file, created if need be, and makes it durable."""
    with explained(path, "open for writing"):
        fd = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
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


def write_all(fd: int, data: NDArray[np.uint8] | bytes, path: Path, what: str) -> None:
    """Writes all bytes at the file's position; `what` names them in the `StorageError`."""
    view = memoryview(data) if isinstance(data, bytes) else data.data
    total = len(view)
    while view:
        try:
            view = view[system.write(fd, view) :]
        except OSError as error:
            done = total - len(view)
            raise _explain(error, path, f"write {what} ({done} of {total} bytes written)") from error


def write_at(fd: int, data: NDArray[np.uint8], offset: int, path: Path, what: str) -> None:
    """Writes all bytes from byte `offset` on, wherever the file's position is."""
    view = data.data
    while view:
        try:
            done = system.pwrite(fd, view, offset)
        except OSError as error:
            raise _explain(error, path, f"write {what} at byte {offset}") from error
        view, offset = view[done:], offset + done


def write_file(path: Path, data: bytes, what: str) -> None:
    """Creates the file with these bytes and makes it durable; its directory entry needs `sync_dir`."""
    fd = open_new(path)
    try:
        write_all(fd, data, path, what)
        sync_file(fd, path)
    finally:
        close(fd)


def sync_file(fd: int, path: Path) -> None:
    with explained(path, "make durable (fsync)"):
        system.fsync(fd)


def sync_dir(path: Path) -> None:
    with explained(path, "make durable (fsync)"):
        fd = system.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            system.fsync(fd)
        finally:
            close(fd)


def make_dir(path: Path) -> None:
    with explained(path, "create directory"):
        system.mkdir(path)


def ensure_dir(path: Path) -> None:
    with suppress(ExistsError):
        make_dir(path)


def exists(path: Path) -> bool:
    with explained(path, "look up"):
        return path.exists()


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the file system of the directory `path`."""
    with explained(path, "find free space"):
        found = system.statvfs(path)
    return found.f_bavail * found.f_frsize


def file_bytes(fd: int, path: Path) -> int:
    with explained(path, "read size"):
        return system.fstat(fd).st_size


def read_exact(fd: int, out: NDArray[np.uint8], offset: int, path: Path) -> None:
    """Fills the contiguous uint8 array `out` from byte `offset`; a file that ends early is a `CorruptionError`."""
    view = out.data
    while view:
        with explained(path, f"read {len(view)} bytes at {offset}"):
            got = system.preadv(fd, [view], offset)
        if got == 0:
            raise CorruptionError(f"{path}: ends at byte {offset}, {len(view)} bytes too early")
        view, offset = view[got:], offset + got


def read_rows(fd: int, rows: NDArray[np.int64], row_bytes: int, path: Path, *, gap_bytes: int) -> NDArray[np.uint8]:
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


def _read_pieces(fd: int, offset: NDArray[np.int64], length: NDArray[np.int64], path: Path) -> NDArray[np.uint8]:
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


def read_file(path: Path) -> bytes:
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


def walk_files(root: Path) -> Iterator[tuple[Path, int]]:
    """Every entry below `root` that is not a directory, with its size in bytes; links are not followed."""
    with explained(root, "list"), system.scandir(root) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                yield from walk_files(Path(entry.path))
            else:
                yield Path(entry.path), entry.stat(follow_symlinks=False).st_size


def link(source: Path, target: Path) -> None:
    """Gives the file `source`, which nobody writes to any more, a second name; where the file system cannot, `target`
    becomes a durable copy."""
    with explained(target, "create"):
        try:
            system.link(source, target)
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


def remove_file(path: Path) -> None:
    with explained(path, "remove"):
        system.unlink(path)


def remove_tree(path: Path) -> None:
    with explained(path, "remove"):
        shutil.rmtree(path)


def lock(path: Path) -> int | None:
    """Takes the lock file `path`, created if need be; None when another process holds it. The holder unlinks the file
    before it lets go, so a lock won on a file that is no longer at `path` is worth nothing and is tried again."""
    while True:
        with explained(path, "create lock file"):
            fd = system.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(system.fstat(fd), system.stat(path)):
                return fd
        except BlockingIOError:
            close(fd)
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            close(fd)
            raise _explain(error, path, "lock") from error
        close(fd)


def unlock(fd: int, path: Path) -> None:
    with explained(path, "remove lock file"):
        try:
            system.unlink(path)
        finally:
            close(fd)


def rename_new(source: Path, target: Path) -> None:
    """Renames; `ExistsError` where something is at `target`, even when it appeared a moment ago."""
    with explained(target, "publish"):
        if not _rename_flags(source, target, _RENAME_NOREPLACE):
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            system.rename(source, target)


def exchange(source: Path, target: Path) -> bool:
    """Swaps two directories in one step; False where the system cannot do that."""
    with explained(target, "publish"):
        return _rename_flags(source, target, _RENAME_EXCHANGE)


def rename(source: Path, target: Path) -> None:
    with explained(target, f"rename {source.name} to this"):
        system.rename(source, target)


def _rename_flags(source: Path, target: Path, flags: int) -> bool:
    """renameat2(2), which Python does not wrap; False where the C library, kernel or file system lacks it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code))
