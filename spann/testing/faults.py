"""File systems that fail. Put one in place of `spann.store.files.system` to see what a program does then."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


class FaultyDisk:
    """An operating system that fails. From call number `after` of `name` on, counted from 0, every call fails with
    `code`."""

    def __init__(self, name: str, after: int, code: int = errno.ENOSPC) -> None:
        self.name, self.left, self.code = name, after, code
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name != self.name:
            return (lambda fd: None) if name == "fsync" else function

        def call(*args: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                self.failed = True
                raise OSError(self.code, os.strerror(self.code))
            return function(*args, **more)

        return call


class ShortDisk:
    """An operating system that reads and writes at most `most` bytes a call, as real ones may."""

    def __init__(self, most: int) -> None:
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return (lambda fd: None) if name == "fsync" else getattr(os, name)

    def write(self, fd: int, data: Any) -> int:
        return os.write(fd, data[: self._most])

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return os.pwrite(fd, data[: self._most], offset)

    def preadv(self, fd: int, buffers: list[Any], offset: int) -> int:
        return os.preadv(fd, [buffers[0][: self._most]], offset)


class PowerCut(BaseException):
    """The power is gone. From now on nothing that the program does reaches the disk."""


class PowerCutDisk:
    """An operating system whose power is cut: after `after` calls that change something, each raises `PowerCut`.

    `restart` then leaves the disk in a state that a power cut may leave: some changes that were not durable are gone. A
    file written since its last fsync has its content of then, perhaps with a part of the later writes, torn anywhere. A
    new file may be missing if its directory had no fsync since. Renames and removals count as durable, because file
    systems with a journal keep them in order.
    """

    def __init__(self, after: int, seed: int = 0) -> None:
        self.left = after
        self.calls = 0
        self._random = random.Random(seed)
        self._durable: dict[str, bytes] = {}  # changed files, with their content at the last fsync
        self._new: set[str] = set()  # files made in a directory without an fsync since

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _change(self) -> None:
        self.calls += 1
        self.left -= 1
        if self.left < 0:
            raise PowerCut

    def open(self, path: Any, flags: int, *mode: int, dir_fd: int | None = None) -> int:
        name = _full(path, dir_fd)
        made = bool(flags & os.O_CREAT) and not os.path.exists(name)
        if made:
            self._change()
        fd = os.open(path, flags, *mode, dir_fd=dir_fd)
        if made:
            self._new.add(name)
            self._durable[name] = b""
        return fd

    def mkdir(self, path: Any, *mode: int, dir_fd: int | None = None) -> None:
        self._change()
        os.mkdir(path, *mode, dir_fd=dir_fd)
        self._new.add(_full(path, dir_fd))

    def link(self, source: Any, target: Any, *, dst_dir_fd: int | None = None, **more: Any) -> None:
        self._change()
        os.link(source, target, dst_dir_fd=dst_dir_fd, **more)
        self._new.add(_full(target, dst_dir_fd))

    def write(self, fd: int, data: Any) -> int:
        self._before(fd)
        return os.write(fd, data)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        self._before(fd)
        return os.pwrite(fd, data, offset)

    def ftruncate(self, fd: int, length: int) -> None:
        self._before(fd)
        os.ftruncate(fd, length)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._change()
        os.unlink(path, dir_fd=dir_fd)
        self._durable.pop(_full(path, dir_fd), None)
        self._new.discard(_full(path, dir_fd))

    def fsync(self, fd: int) -> None:
        self._change()
        name = _name(fd)
        self._durable.pop(name, None)
        self._new -= {path for path in self._new if os.path.dirname(path) == name}

    def _before(self, fd: int) -> None:
        name = _name(fd)
        if name not in self._durable:
            self._durable[name] = Path(name).read_bytes()
        self._change()

    def restart(self) -> None:
        """Puts the disk in a state that the cut may have left."""
        for name, durable in self._durable.items():
            path = Path(name)
            if not path.exists():
                continue
            now = path.read_bytes()
            if self._random.random() < 0.5:
                torn = self._random.randrange(len(now) + 1)
                path.write_bytes(now[:torn] + durable[torn:])
            else:
                path.write_bytes(durable)
        for name in sorted(self._new):
            if self._random.random() < 0.5 and os.path.lexists(name) and not os.path.isdir(name):
                os.unlink(name)


def _name(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _full(path: Any, dir_fd: int | None) -> str:
    return os.path.abspath(path if dir_fd is None else os.path.join(_name(dir_fd), path))


_CHANGES = ("mkdir", "link", "write", "pwrite", "ftruncate", "unlink", "rmdir", "rename", "replace", "fsync")


def die_at(change: int) -> Callable[[], int]:
    """Ends this process as `kill -9` does, at its call number `change` (from 0) that changes files.

    Use it in a process of its own, because it replaces functions of the module `os`. fsync does nothing from then on.
    Returns a function that tells the number of changes so far."""
    count = 0

    def at(function: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal count
            if counts(*args):
                if count == change:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            return None if function is fsync else function(*args, **more)

        return call

    fsync = os.fsync
    for name in _CHANGES:
        setattr(os, name, at(getattr(os, name), lambda *args: True))
    os.open = at(os.open, lambda path, flags, *mode: bool(flags & os.O_CREAT))
    return lambda: count
