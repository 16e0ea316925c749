"""Reading many at once, every backend against plain reads: ends of files, failures, interruptions, missing io_uring."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spann._kernels import _io
from spann._kernels.io import (
    ALIGNMENT,
    BACKENDS,
    MAX_DEPTH,
    backends,
    chosen_backend,
    read_many,
    time_reads,
)
from spann.errors import InputError, StorageError

SIZE = 300_001


@pytest.fixture(params=BACKENDS[1:])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in backends():
        pytest.skip(f"this system has no {name}")
    return name


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("io") / "bytes"
    made.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return made


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def check(path: Path, offsets: np.ndarray, lengths: np.ndarray, data: np.ndarray, results: np.ndarray) -> None:
    """Asserts that reads gave what slices of the file are, and nothing where the file has nothing."""
    content = path.read_bytes()
    parts = [content[o : o + n] for o, n in zip(offsets.tolist(), lengths.tolist(), strict=True)]
    assert results.tolist() == [len(part) for part in parts]
    assert data.tobytes() == b"".join(p.ljust(n, b"\0") for p, n in zip(parts, lengths.tolist(), strict=True))


def some_reads(seed: int, n: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Anywhere in the file and a little past its end, of any length from 0."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, SIZE + longest, n), rng.integers(0, longest, n).astype(np.uint32)


@pytest.mark.parametrize("least", [1, 5, 64])
@pytest.mark.parametrize("depth", [1, 3, 32, 300])
def test_random_reads_equal_plain_reads(backend, path, fd, depth, least):
    offsets, lengths = some_reads(depth + least, 300, 20_000)
    check(path, offsets, lengths, *read_many(fd, offsets, lengths, backend=backend, depth=depth, least=least))


@pytest.mark.parametrize("depth", [2, 7, MAX_DEPTH])
def test_thousands_of_reads(backend, path, fd, depth):
    offsets, lengths = some_reads(9, 9_000, 700)
    check(path, offsets, lengths, *read_many(fd, offsets, lengths, backend=backend, depth=depth))


def test_reads_at_the_end_of_a_file_are_short(backend, path, fd):
    offsets = np.array([SIZE - 10, SIZE - 10, SIZE - 1, SIZE, SIZE + 1, 2**40, 0, 0, SIZE - 200_000])
    lengths = np.array([10, 11, 4096, 1, 4096, 9, 0, SIZE + 5, 300_000], np.uint32)
    check(path, offsets, lengths, *read_many(fd, offsets, lengths, backend=backend))


def test_an_empty_list_and_an_empty_file(backend, tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    descriptor = os.open(empty, os.O_RDONLY)
    data, results = read_many(descriptor, np.array([0, 5]), np.array([3, 3]), backend=backend)
    assert results.tolist() == [0, 0]
    assert data.tobytes() == bytes(6)
    data, results = read_many(descriptor, np.array([], np.int64), np.array([], np.uint32), backend=backend)
    assert data.size == results.size == 0
    os.close(descriptor)


@pytest.mark.parametrize("depth", [1, 4, 64])
def test_a_failing_read_leaves_the_others_alone(backend, path, fd, tmp_path, depth):
    directory = os.open(tmp_path, os.O_RDONLY)
    for_writing = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
    offsets, lengths = some_reads(4, 60, 5_000)
    fds = np.full(60, fd, np.int32)
    offsets[23] = -4096
    expected = {0: errno.EBADF, 7: errno.EISDIR, 8: errno.EBADF, 23: errno.EINVAL, 30: errno.EBADF, 59: errno.EISDIR}
    lengths[list(expected)] = 100
    fds[[0, 30]], fds[[7, 59]], fds[8] = -1, directory, for_writing
    data, results = read_many(fds, offsets, lengths, backend=backend, depth=depth)
    assert {i: -int(results[i]) for i in expected} == expected
    good = np.setdiff1d(np.arange(60), list(expected))
    starts = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
    kept = np.concatenate([data[starts[i] : starts[i] + lengths[i]] for i in good])
    check(path, offsets[good], lengths[good], kept, results[good])
    os.close(directory)
    os.close(for_writing)


def test_direct_reads_of_a_file_with_an_odd_end(backend, tmp_path):
    path = tmp_path / "direct"
    path.write_bytes(np.random.default_rng(1).bytes(50 * ALIGNMENT + 700))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} refuses O_DIRECT: {error.strerror}")
    rng = np.random.default_rng(2)
    offsets = rng.integers(0, 53, 200) * ALIGNMENT
    lengths = (rng.integers(0, 5, 200) * ALIGNMENT).astype(np.uint32)
    data, results = read_many(descriptor, offsets, lengths, backend=backend, depth=16)
    assert data.ctypes.data % ALIGNMENT == 0
    check(path, offsets, lengths, data, results)
    timing = time_reads(descriptor, np.arange(51) * ALIGNMENT, ALIGNMENT, backend=backend, depth=8)
    assert (timing.reads, timing.bytes) == (51, path.stat().st_size)
    os.close(descriptor)


def test_reads_that_come_in_pieces(backend):
    """Files of /proc end every read after a page or so. A read that is short before the end of a file is continued."""
    source = Path("/proc/kallsyms")
    if not source.exists() or len(whole := source.read_bytes()[:60_000]) < 60_000:
        pytest.skip("this system has no /proc/kallsyms")
    descriptor = os.open(source, os.O_RDONLY)
    assert len(os.pread(descriptor, 60_000, 0)) < 60_000
    data, results = read_many(descriptor, np.zeros(3, np.int64), np.full(3, 60_000), backend=backend)
    assert results.tolist() == [60_000] * 3
    assert data.tobytes() == whole * 3
    os.close(descriptor)


def test_signals_interrupt_nothing(backend, path, fd):
    offsets, lengths = some_reads(5, 3_000, 3_000)
    taken = []
    before = signal.signal(signal.SIGALRM, lambda *_: taken.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(5):
            check(path, offsets, lengths, *read_many(fd, offsets, lengths, backend=backend, depth=4, least=4))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert taken


def test_several_threads_each_with_its_own(backend, path, fd):
    def work(seed: int) -> None:
        offsets, lengths = some_reads(seed, 400, 4_000)
        check(path, offsets, lengths, *read_many(fd, offsets, lengths, backend=backend, depth=1 + seed * 5))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(18)))


@pytest.mark.parametrize("depth", [1, 2, 16, 100])
def test_timing_reads_everything_once(backend, path, fd, depth):
    offsets = np.arange(0, SIZE, 1000)
    timing = time_reads(fd, offsets, 1000, backend=backend, depth=depth)
    assert (timing.backend, timing.reads, timing.bytes) == (backend, len(offsets), SIZE)
    assert timing.seconds > 0
    assert timing.setup_seconds > 0
    with pytest.raises(StorageError, match="Bad file descriptor"):
        time_reads(-1, offsets, 1000, backend=backend, depth=depth)


def test_the_environment_decides_for_auto_only(backend, monkeypatch, fd):
    monkeypatch.setenv("SPANN_IO", backend)
    assert chosen_backend() == chosen_backend("auto") == backend
    assert time_reads(fd, np.zeros(1), 10).backend == backend
    assert chosen_backend("sync") == "sync"
    for value in ("", "auto"):
        monkeypatch.setenv("SPANN_IO", value)
        assert chosen_backend() == backends()[0]


@pytest.mark.parametrize("value", ["io_uring", "URING", " pool", "0"])
def test_an_unknown_environment_value_is_an_error(monkeypatch, fd, value):
    monkeypatch.setenv("SPANN_IO", value)
    for use in (
        chosen_backend,
        lambda: read_many(fd, np.zeros(1), np.ones(1)),
        lambda: time_reads(fd, np.zeros(1), 1),
    ):
        with pytest.raises(InputError, match=f"SPANN_IO is '{value}'"):
            use()
    assert chosen_backend("pool") == "pool"


def test_invalid_arguments_are_refused(fd):
    one, ones = np.zeros(1, np.int64), np.ones(1, np.uint32)
    with pytest.raises(InputError, match="backend is 'aio'"):
        read_many(fd, one, ones, backend="aio")
    for depth in (0, -1, MAX_DEPTH + 1):
        with pytest.raises(InputError, match="depth is"):
            read_many(fd, one, ones, depth=depth)
    with pytest.raises(InputError, match="least is 0"):
        read_many(fd, one, ones, least=0)
    with pytest.raises(InputError, match="lengths"):
        read_many(fd, one, np.ones(2, np.uint32))
    for offsets, length in ((one[:0], 1), (one - 1, 1), (one, 0), (one, 2**32)):
        with pytest.raises(InputError):
            time_reads(fd, offsets, length)
    assert [_io.open_close(number, 1)[0] for number in (-1, 4)] == [errno.EINVAL] * 2
    assert _io.open_close(3, 0)[0] == errno.EINVAL


# ---- where the system gets in the way: in processes of their own ----

COMPARE = """
import os, sys
import numpy as np
from spann._kernels.io import backends, chosen_backend, read_many
from spann.errors import StorageError

def compare(backend, depth, least):
    content, fd = open(sys.argv[1], "rb").read(), os.open(sys.argv[1], os.O_RDONLY)
    rng = np.random.default_rng(depth)
    offsets, lengths = rng.integers(0, len(content), 400), rng.integers(0, 9000, 400)
    data, results = read_many(fd, offsets, lengths, backend=backend, depth=depth, least=least)
    parts = [content[o : o + n] for o, n in zip(offsets, lengths)]
    assert results.tolist() == [len(part) for part in parts]
    assert data.tobytes() == b"".join(p.ljust(n, b"\\0") for p, n in zip(parts, lengths))
"""

REFUSE = """
import ctypes, struct
IO_URING_SETUP, EPERM = 425, 1
program = b"".join(struct.pack("HBBI", *step) for step in (
    (0x20, 0, 0, 0),               # the number of the system call
    (0x15, 0, 1, IO_URING_SETUP),
    (0x06, 0, 0, 0x00050000 | EPERM),
    (0x06, 0, 0, 0x7FFF0000),      # all others are allowed
))
steps = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps)))
libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVS, SECCOMP, MODE_FILTER = 38, 22, 2
if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SECCOMP, MODE_FILTER, filter, 0, 0):
    print("no filter:", os.strerror(ctypes.get_errno()))
    sys.exit()
"""

# Every system call that waits or reads is refused, cut short or let through in turn; with SHIM=never, submitting is
# always refused.
SHIM = r"""
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Thread_local unsigned turn;

long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    const char *mode = getenv("SHIM");
    if (number == SYS_io_uring_enter && mode && strcmp(mode, "never") == 0 && a[1]) {
        errno = EAGAIN;
        return -1;
    }
    if (number == SYS_io_uring_enter) switch (turn++ % 5) {
        case 0: errno = EINTR; return -1;
        case 1: if (a[1]) { errno = EAGAIN; return -1; } break;
        case 2: if (a[1]) { errno = EBUSY; return -1; } break;
        case 3: if (a[1] > 1) return real(number, a[0], 1L, 0L, a[3], a[4], a[5]);
        }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

ssize_t pread(int fd, void *buffer, size_t n, off_t offset) {
    ssize_t (*real)(int, void *, size_t, off_t) = (ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    switch (turn++ % 3) {
    case 0: errno = EINTR; return -1;
    case 1: return real(fd, buffer, n > 1 ? n / 2 : n, offset);
    }
    return real(fd, buffer, n, offset);
}
"""


def child(script: str, path: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMPARE + script, str(path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_io_uring_the_pool_reads(path):
    script = """
assert backends() == ("pool", "sync"), backends()
assert chosen_backend() == "pool"
compare("auto", 8, 1)
for value, ask in (("uring", "auto"), ("", "uring")):
    os.environ["SPANN_IO"] = value
    try:
        chosen_backend(ask)
    except StorageError as error:
        assert "uring is not possible: Operation not permitted" in str(error), error
    else:
        raise AssertionError("io_uring is refused and yet there")
print("done")
"""
    said = child(REFUSE + script, path, SPANN_IO="")
    if said.startswith("no filter"):
        pytest.skip(said)
    assert said == "done"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that puts `SHIM` before the C library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    place = tmp_path_factory.mktemp("shim")
    (place / "shim.c").write_text(SHIM)
    command = [compiler, "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", place / "shim.so", place / "shim.c", "-ldl"]
    subprocess.run(command, check=True)
    before = os.environ.get("LD_PRELOAD")
    return {"LD_PRELOAD": ":".join([*([before] if before else []), str(place / "shim.so")])}


def test_calls_that_are_interrupted_refused_or_cut_short(backend, path, shim):
    script = f"""
for depth, least in ((1, 1), (4, 3), (32, 1), (64, 64), (1000, 2)):
    compare("{backend}", depth, least)
print("done")
"""
    assert child(script, path, **shim) == "done"


def test_a_kernel_that_never_takes_a_read_is_an_error_and_no_hang(path, shim):
    if "uring" not in backends():
        pytest.skip("this system has no uring")
    script = """
try:
    compare("uring", 4, 1)
except StorageError as error:
    print(error)
"""
    assert child(script, path, SHIM="never", **shim).endswith("Resource temporarily unavailable")
