"""Files and directories below a directory that is held open, so that no name of theirs can lead elsewhere.

Who may write to a directory can put a link there, or swap a directory for a link while a command is at work. So what
is written in a shared directory is reached part by part from a descriptor, and no part is followed that is a link.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spann.errors import InputError, MissingError, StorageError

_MOST_LINKS = 40
"""Links that a path may lead through, as for the kernel."""

_HOLD = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """A directory held open; `path` names it in messages. It is let go of with the last reference to it.

    `path` must be free of links, as `without_links` returns it. Raises `MissingError`, or `StorageError` where the
    system refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open("/", _HOLD)
            for part in path.parts[1:]:
                above = self.fd
                try:
                    self.fd = os.open(part, _PASS, dir_fd=above)
                finally:
                    os.close(above)
            passing, self.fd = self.fd, os.open(".", _HOLD, dir_fd=self.fd)
            os.close(passing)
        except FileNotFoundError:
            raise MissingError(f"{path} does not exist") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot open directory: {error.strerror}") from error
        self._finalizer = weakref.finalize(self, os.close, self.fd)

    @classmethod
    def to_read(cls, path: Path) -> Directory:
        """The directory that `path` leads to, through links as well: for who reads what the user has named."""
        self = cls.__new__(cls)
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingError(f"{path} does not exist") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot open directory: {error.strerror}") from error
        self._finalizer = weakref.finalize(self, os.close, self.fd)
        return self

    def close(self) -> None:
        """Lets go of the directory before the last reference does: nothing is reached from it any more."""
        self._finalizer()

    def is_current(self) -> bool:
        """Whether its path still leads to this directory."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except OSError:
            return False

    def __truediv__(self, name: str) -> Place:
        return Place(self, ()) / name


@dataclass(frozen=True)
class Place:
    """Where something is, or may be: `parts` are the names on the way to it from a directory that is held open."""

    root: Directory
    parts: tuple[str, ...]

    def __truediv__(self, name: str) -> Place:
        parts = tuple(name.split("/"))
        if not all(parts) or {".", ".."} & set(parts):
            raise InputError(f"{name!r} is no name of a file below {self}")
        return Place(self.root, (*self.parts, *parts))

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else self.root.path.name

    @property
    def parent(self) -> Place:
        return Place(self.root, self.parts[:-1])

    @property
    def path(self) -> Path:
        """The same as a path, which links may lead elsewhere meanwhile."""
        return self.root.path.joinpath(*self.parts)

    def __str__(self) -> str:
        return str(self.path)


Where = Path | Place
"""A path, which leads wherever it may, or a place, which does not."""


def as_path(where: Where) -> Path:
    """A path to the same, for messages and for those who only read."""
    return where if isinstance(where, Path) else where.path


@contextmanager
def reached(where: Where) -> Iterator[tuple[str, int | None]]:
    """A name and the descriptor that it is relative to, None for a path. OSError where a part on the way is a link."""
    if isinstance(where, Path):
        yield str(where), None
        return
    at = where.root.fd
    try:
        for part in where.parts[:-1]:
            above, at = at, os.open(part, _PASS, dir_fd=at)
            if above != where.root.fd:
                os.close(above)
        yield (where.parts[-1] if where.parts else "."), at
    finally:
        if at != where.root.fd:
            os.close(at)


def without_links(path: Path) -> Path:
    """The absolute path of what `path` leads to, which need not exist.

    A link on the way is followed only where this user or root made it: another user's could lead anywhere. Raises
    `InputError` for one of theirs and for a circle of links, `StorageError` where the system refuses."""
    found, rest, links = Path("/"), list(path.absolute().parts[1:]), 0
    while rest:
        part = rest.pop(0)
        if part == "..":
            found = found.parent
            continue
        step = found / part
        try:
            about = os.lstat(step)
        except FileNotFoundError:
            found = step
            continue
        except (OSError, ValueError) as error:
            raise StorageError(f"{path}: cannot look up: {getattr(error, 'strerror', error)}") from error
        if not stat.S_ISLNK(about.st_mode):
            found = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise InputError(f"{path}: {os.strerror(errno.ELOOP)}")
        if about.st_uid not in (0, os.geteuid()):
            raise InputError(
                f"{path}: {step} is a link that user {about.st_uid} made, and is not followed; give the path itself"
            )
        target = Path(os.readlink(step))
        if target.is_absolute():
            found = Path("/")
        rest = [part for part in target.parts if part != "/"] + rest
    return found
