"""Many reads of files at once: the checked door to ext/c/io/io.h, for tests and for measuring a disk."""

from __future__ import annotations

import errno
import functools
import logging
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _io
from spann._kernels.postings import PAGE
from spann.errors import InputError, StorageError

log = logging.getLogger(__name__)

_NUMBERS = {"auto": _io.AUTO, "uring": _io.URING, "pool": _io.POOL, "sync": _io.SYNC}

BACKENDS = tuple(sorted(_NUMBERS, key=lambda name: _NUMBERS[name]))
"""Ways of reading: auto, io_uring, threads that block in pread, pread alone. ``auto`` is the best that works here."""

MAX_DEPTH: int = _io.MAX_DEPTH
ALIGNMENT = PAGE
"""Of buffers made here, so that descriptors opened O_DIRECT can be read from."""


@dataclass(frozen=True)
class ReadTiming:
    """What `time_reads` measured. ``setup_seconds`` is opening and closing the backend, not part of ``seconds``."""

    backend: str
    reads: int
    bytes: int
    seconds: float
    setup_seconds: float


def backends() -> tuple[str, ...]:
    """The backends that this system has, without auto, best first."""
    return tuple(name for i, name in enumerate(BACKENDS) if i and _io.open_close(i, 1)[0] == 0)


def chosen_backend(backend: str = "auto") -> str:
    """What reads asked for with `backend` are done with: the environment variable SPANN_IO decides for auto.

    Raises `InputError` for a name that is unknown, here or in SPANN_IO, `StorageError` for a backend that is not to be
    had.
    """
    code, number = _io.open_close(_number(backend), 1)
    _raise_for(code, backend)
    return BACKENDS[number]


@functools.cache
def log_backend() -> None:
    """Tells once, in the log, where io_uring was wanted and is refused."""
    if os.environ.get("SPANN_IO", "auto") == "auto" and "uring" not in backends():
        log.warning("io_uring is not to be had here, so files are read by a pool of threads, which is slower")


def read_many(
    fd: int | NDArray[np.int32],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.uint32],
    *,
    backend: str = "auto",
    depth: int = 32,
    least: int = 1,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads ``lengths[i]`` bytes at ``offsets[i]`` of `fd` (one, or one of each read), `depth` reads at once.

    Returns the bytes of all reads one after another, zeros where nothing was read, and the results (n,): bytes read,
    fewer than asked for only where the file ends, or the negative errno of that read. `least` reads are waited for at a
    time. The bytes start at a multiple of `ALIGNMENT`. Raises as `chosen_backend`, and `InputError` for arrays, a
    `depth` or a `least` that cannot be.
    """
    offsets = np.ascontiguousarray(offsets, np.int64)
    lengths = np.ascontiguousarray(lengths, np.uint32)
    fds = np.ascontiguousarray(np.broadcast_to(np.asarray(fd, np.int32), offsets.shape))
    if offsets.ndim != 1 or lengths.shape != offsets.shape:
        raise InputError(f"{offsets.shape} offsets come with {lengths.shape} lengths; both must be (n,)")
    if least < 1:
        raise InputError(f"reads to wait for at a time are {least}; it must be at least 1")
    number, depth = _number(backend), _checked_depth(depth)
    size = int(lengths.sum(dtype=np.int64))
    out, results = _aligned(size), np.full(len(offsets), -errno.EINPROGRESS, np.int64)
    if len(offsets):
        _raise_for(_io.read_many(number, depth, least, fds, offsets, lengths, out, results), backend)
    return out[:size], results


def time_reads(
    fd: int, offsets: NDArray[np.int64], length: int, *, backend: str = "auto", depth: int = 32
) -> ReadTiming:
    """Time it takes to read `length` bytes at each of `offsets` (n,) of `fd`, always `depth` of them at once.

    Buffers are few, aligned to `ALIGNMENT`, and used again and again. Raises as `read_many`, and `StorageError` if a
    read fails.
    """
    offsets = np.ascontiguousarray(offsets, np.int64)
    if offsets.ndim != 1 or len(offsets) == 0 or int(offsets.min()) < 0:
        raise InputError(f"offsets to read at are {offsets.shape}; they must be (n,), n at least 1, and none negative")
    if not 0 < length < 1 << 32:
        raise InputError(f"reads are of {length} bytes; it must be in [1, 2**32)")
    number, depth = _number(backend), min(_checked_depth(depth), len(offsets))
    code, chosen, total, seconds, setup = _io.time_reads(number, depth, fd, offsets, length, _aligned(depth * length))
    if chosen < 0:
        _raise_for(code, backend)
    if code:
        raise StorageError(f"reading descriptor {fd} failed: {os.strerror(code)}")
    return ReadTiming(BACKENDS[chosen], len(offsets), total, seconds, setup)


def _number(backend: str) -> int:
    if backend not in BACKENDS:
        raise InputError(f"read backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    return BACKENDS.index(backend)


def _checked_depth(depth: int) -> int:
    if not 1 <= depth <= MAX_DEPTH:
        raise InputError(f"reads at once are {depth}; it must be from 1 to {MAX_DEPTH}")
    return depth


def _raise_for(code: int, backend: str) -> None:
    if code == 0:
        return
    if code == errno.ENOMEM:
        raise MemoryError("out of memory in reading")
    asked = os.environ.get("SPANN_IO", "") if backend == "auto" else ""
    if asked not in ("", *BACKENDS):
        raise InputError(f"SPANN_IO is {asked!r}; it must be one of {', '.join(BACKENDS)}")
    raise StorageError(f"reading with backend {asked or backend} is not possible: {os.strerror(code)}")


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zeros that start at a multiple of `ALIGNMENT`, at least one."""
    space = np.zeros(size + ALIGNMENT, np.uint8)
    skip = -space.ctypes.data % ALIGNMENT
    return space[skip : skip + max(size, 1)]
