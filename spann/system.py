"""Questions to the operating system that several modules ask: available memory, and regular files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from spann.control_groups import Group, control_groups
from spann.errors import InputError, MissingError, StorageError

SMALL = 16 << 20
"""Bytes that are taken without asking for available memory; asking takes some 50 us."""


def open_regular(path: Path, name: str) -> int:
    """A descriptor to read the regular file `path`. Anything else there is refused without waiting for it.

    Raises `MissingError`, `InputError` for a pipe, a device or a directory, `StorageError` if the system refuses.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{name} does not exist") from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{name} cannot be opened: {reason(error)}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(f"{name} is not a regular file")
    return fd


def read_small(path: Path, name: str, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes. Raises as `open_regular`, and `InputError` if it is
    larger."""
    with os.fdopen(open_regular(path, name), "rb") as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise StorageError(f"{name} cannot be read: {reason(error)}") from error
    if len(data) > limit:
        raise InputError(f"{name} is over {limit} bytes long, which is the limit")
    return data


def given_path(value: Any, name: str = "path") -> Path:
    """The path that a caller gave, as text or a `Path`. Raises `InputError` for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is {value!r}; it must be a str or a Path")
    text = os.fsdecode(value)
    if not text or "\0" in text:
        raise InputError(f"{name} is {text!r}; it must not be empty, nor hold the null character")
    if os.path.realpath(text) == os.sep:
        raise InputError(f"{name} is {text!r}, the root of all files")
    try:
        os.stat(text)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{text} is a link that leads to itself") from None
    return Path(text)


def reason(error: Exception) -> str:
    """Why the system refuses, on one line. Python refuses some names itself, such as one with a null byte."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())


def available_memory() -> int:
    """Bytes that this process may still take: available in the system, or left by its control groups if that is
    less."""
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")), None)
    if free is None:
        raise StorageError("/proc/meminfo: has no MemAvailable line; give memory_budget and io explicitly")
    return min([free, *_control_group_room()])


def _control_group_room() -> list[int]:
    """Limit minus usage of each memory control group of this process that can be read."""
    room = []
    for group in control_groups("memory"):
        names = ("memory.max", "memory.current")
        limit, usage = names if group.unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        allowed, used = group.text(limit), group.text(usage)
        if allowed.isdigit() and used.isdigit():
            room.append(max(0, int(allowed) - int(used) + _cached(group)))
    return room


def _cached(group: Group) -> int:
    """Bytes of files that a control group has in the page cache. They count as used, but are freed when memory is
    needed."""
    about = dict(line.split(maxsplit=1) for line in group.text("memory.stat").splitlines() if len(line.split()) == 2)
    total = "total_" if "total_inactive_file" in about else ""
    return sum(int(about.get(f"{total}{name}_file", "0")) for name in ("inactive", "active"))


def check_room(size: int, what: str) -> None:
    """Raises `InputError` if `what` needs `size` bytes of memory and fewer are available: the system would kill the
    process."""
    if size > SMALL and size > (room := available_memory()):
        raise InputError(f"{what} takes {size} bytes of memory; {room} are available")
