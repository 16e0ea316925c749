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
"""Ways of reading: auto, io_uring, threads that block in pread, pread alone. ``auto`` is the best way that works."""

MAX_DEPTH: int = _io.MAX_DEPTH
ALIGNMENT = PAGE
"""Alignment of the buffers made here, as O_DIRECT needs it."""


@dataclass(frozen=True)
class ReadTiming:
    """The result of `time_reads`. ``setup_seconds`` is the time to open and close the backend, apart from
    ``seconds``."""

    backend: str
    reads: int
    bytes: int
    seconds: float
    setup_seconds: float


def backends() -> tuple[str, ...]:
    """The backends that this system has, without auto, best first."""
    return tuple(name for i, name in enumerate(BACKENDS) if i and _io.open_close(i, 1)[0] == 0)


def chosen_backend(backend: str = "auto") -> str:
    """The backend that reads really use. The environment variable SPANN_IO decides for auto.

    Raises `InputError` for an unknown name, here or in SPANN_IO, and `StorageError` for an unavailable backend.
    """
    code, number = _io.open_close(_number(backend), 1)
    _raise_for(code, backend)
    return BACKENDS[number]


@functools.cache
def log_backend() -> None:
    """Logs once that io_uring was wanted and is refused."""
    if os.environ.get("SPANN_IO", "auto") == "auto" and "uring" not in backends():
        log.warning("io_uring is not available, so a pool of threads reads files, which is slower")


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

    Returns the bytes of all reads, one after another, with zeros where nothing was read. Also returns the results (n,):
    bytes read, fewer than asked for only at the end of the file, or the negative errno of the read. It waits for
    `least` reads at a time. The bytes start at a multiple of `ALIGNMENT`. Raises as `chosen_backend`, and `InputError`
    for wrong arrays, `depth` or `least`.
    """
    offsets = np.ascontiguousarray(offsets, np.int64)
    lengths = np.ascontiguousarray(lengths, np.uint32)
    fds = np.ascontiguousarray(np.broadcast_to(np.asarray(fd, np.int32), offsets.shape))
    if offsets.ndim != 1 or lengths.shape != offsets.shape:
        raise InputError(f"{offsets.shape} offsets come with {lengths.shape} lengths; both must be (n,)")
    if least < 1:
        raise InputError(f"least is {least}; it must be at least 1")
    number, depth = _number(backend), _checked_depth(depth)
    size = int(lengths.sum(dtype=np.int64))
    out, results = _aligned(size), np.full(len(offsets), -errno.EINPROGRESS, np.int64)
    if len(offsets):
        _raise_for(_io.read_many(number, depth, least, fds, offsets, lengths, out, results), backend)
    return out[:size], results


def time_reads(
    fd: int, offsets: NDArray[np.int64], length: int, *, backend: str = "auto", depth: int = 32
) -> ReadTiming:
    """Measures the time to read `length` bytes at each of `offsets` (n,) of `fd`, always `depth` reads at once.

    It uses few buffers again and again, aligned to `ALIGNMENT`. Raises as `read_many`, and `StorageError` if a read
    fails.
    """
    offsets = np.ascontiguousarray(offsets, np.int64)
    if offsets.ndim != 1 or len(offsets) == 0 or int(offsets.min()) < 0:
        raise InputError(f"offsets to read at are {offsets.shape}; they must be (n,), n at least 1, and none negative")
    if not 0 < length < 1 << 32:
        raise InputError(f"length is {length} bytes; it must be in [1, 2**32)")
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
        raise InputError(f"depth is {depth}; it must be from 1 to {MAX_DEPTH}")
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
    """At least one zero byte, starting at a multiple of `ALIGNMENT`."""
    space = np.zeros(size + ALIGNMENT, np.uint8)
    skip = -space.ctypes.data % ALIGNMENT
    return space[skip : skip + max(size, 1)]
