"""Shared by the scripts of the peers: their job, and the measurement of a search.

It needs only the standard library and numpy, because it runs in every environment. A script runs as `python PEER.py
JOB.json`, and writes the file that the job names as `result`. Output of its library does not matter. Job of a build:
`phase`, `base`, `dtype`, `count`, `dim`, `index` (a directory, empty), `settings`, `threads`. Job of a search: also
`queries`, `k`, `open`, `points`, `cold`, `room` (bytes), `ids` (stem of the files of results), `group` (memory cgroup
or null), `counter` (blkio cgroup or null) and `counter_root`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Job = dict[str, Any]
Array = np.ndarray[Any, Any]

_SETTLE = 256
"""Queries at the deepest setting before the memory limit is set, so that every thread has allocated its buffers."""

_COUNTED = 100
"""Queries of the pass that counts reads. It is apart from the timed passes, because counting takes time in the
kernel."""


_PASS_S = 4.0
"""The most seconds that a pass with one thread should take."""

_FEWEST = 100
"""The least number of queries of a timed pass."""

_BATCH_S = 15.0
_BATCH_FEWEST = 400
"""The least number of queries of the pass with all threads, which otherwise takes as many as fill that time."""


class Searcher(Protocol):
    """An open index of a peer."""

    own_batch: bool
    """Whether `batch` on one thread is more than a loop over `one`."""

    memory_bytes: int | None
    """Bytes that the index keeps in memory, by its own account."""

    disk_files: Sequence[Path]
    """Files that a search reads outside the directory of the index."""

    def one(self, query: Array, point: dict[str, Any]) -> Array:
        """Ids (k,) for one query (dim,)."""
        ...

    def batch(self, queries: Array, point: dict[str, Any], threads: int) -> Array:
        """Ids (nq, k) for all queries."""
        ...

    def own_stats(self) -> dict[str, float]:
        """Means per query of the latest `batch`, by the peer's own count."""
        ...


def main(
    build: Callable[[Job], None], open_index: Callable[[Job], Searcher], versions: Callable[[], dict[str, str]]
) -> None:
    """Does the job named on the command line. A failure gives exit status 1, and the error in the result."""
    job: Job = json.loads(Path(sys.argv[1]).read_text())
    out: dict[str, Any] = {"versions": versions() | {"numpy": np.__version__, "python": sys.version.split()[0]}}
    try:
        if job["phase"] == "build":
            start = time.perf_counter()
            build(job)
            out["seconds"] = time.perf_counter() - start
        else:
            out |= _search(job, open_index)
    except Exception as error:
        traceback.print_exc()
        out["error"] = f"{type(error).__name__}: {error}"
    Path(job["result"]).write_text(json.dumps(out))
    # Some libraries wait for their threads at the end, or crash there. The result is already complete.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if "error" in out else 0)


def read_bin(path: str, dtype: str) -> Array:
    """The rows of an .fbin or .u8bin file, mapped."""
    count, dim = np.fromfile(path, np.uint32, 2).tolist()
    return np.memmap(path, np.dtype(dtype), "r", offset=8, shape=(count, dim))


def by_threads(search: Callable[[Array], Array], queries: Array, threads: int) -> Array:
    """Ids of all queries, for libraries without a batch: each thread searches one query at a time."""
    if threads == 1:
        return np.stack([search(query) for query in queries])
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda part: [search(query) for query in part], np.array_split(queries, threads * 8))
        return np.stack([ids for part in parts for ids in part])


def padded(ids: Array, k: int) -> Array:
    """Exactly k ids, -1 if there are fewer."""
    out = np.full(k, -1, np.int64)
    out[: min(k, len(ids))] = ids[:k]
    return out


def _search(job: Job, open_index: Callable[[Job], Searcher]) -> dict[str, Any]:
    queries = np.ascontiguousarray(read_bin(job["queries"], job["dtype"]))
    before = _memory()
    # Joined only now: earlier memory of Python and the libraries stays charged elsewhere. So the group holds the index,
    # the buffers of searches, and the page cache of later reads.
    if job["group"]:
        _lock_code()
        _join(job["group"])
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory starts anew
    start = time.perf_counter()
    searcher = open_index(job)
    out: dict[str, Any] = {"open_s": time.perf_counter() - start, "opened": _grown(before)}
    searcher.batch(queries if not job["cold"] else queries[:_SETTLE], job["points"][-1], job["threads"])
    out |= {"own_memory_bytes": searcher.memory_bytes, "own_batch": searcher.own_batch}
    files = [*(p for p in Path(job["index"]).rglob("*") if p.is_file()), *searcher.disk_files]
    out["index_bytes"] = sum(p.stat().st_size for p in files)
    if job["group"]:
        out["limit"] = _limit(job["group"], job["room"], files)
    if job["cold"]:
        drop_caches()
        evict(files)
        if (held := resident(files)) > out["index_bytes"] // 100 + (1 << 20):
            raise RuntimeError(f"{held >> 20} MiB of the index stay in the page cache; another process holds them")
    out["points"] = [_point(job, searcher, queries, files, i) for i in range(len(job["points"]))]
    grown = [p["memory"]["anonymous"] for p in out["points"]]
    out["memory"] = {
        "baseline": before,
        "anonymous": max(grown) - before["anonymous"],
        "file": max(p["memory"]["file"] for p in out["points"]) - before["file"],
        "peak_rss": _memory()["peak"],
    }
    if job["group"]:
        out["group_peak"] = int(Path(job["group"], "memory.max_usage_in_bytes").read_text())
    return out


def _point(job: Job, searcher: Searcher, queries: Array, files: list[Path], number: int) -> dict[str, Any]:
    """Measures one setting. If `cold`, each pass starts without pages of the index in the page cache."""
    point, threads, cold = job["points"][number], job["threads"], job["cold"]
    out: dict[str, Any] = {"settings": point}

    def forget() -> None:
        if cold:
            evict(files)

    forget()
    with _counting(job, len(queries[:_COUNTED])) as counts:
        searcher.batch(queries[:_COUNTED], point, 1)
    out["reads"] = counts

    # From the middle of the queries, so that a pass does not start with queries that the pass before has just read.
    latencies, few = [], queries[len(queries) // 2 :][: max(_FEWEST, len(queries) // 4)]
    forget()
    cpu = _cpu()
    begin = time.perf_counter()
    for query in few:
        start = time.perf_counter()
        searcher.one(query, point)
        latencies.append(time.perf_counter() - start)
        if time.perf_counter() - begin > _PASS_S and len(latencies) >= _FEWEST:
            break
    single, spent = len(latencies) / (time.perf_counter() - begin), _cpu() - cpu
    out["latency_ms"] = {
        "mean": float(np.mean(latencies)) * 1e3,
        "p50": float(np.percentile(latencies, 50)) * 1e3,
        "p99": float(np.percentile(latencies, 99)) * 1e3,
    }
    out["qps_1"], out["qps_single"], out["cpu_us"] = single, single, spent / len(latencies) * 1e6
    if searcher.own_batch:
        half = queries[: max(_FEWEST, min(len(queries) // 2, int(single * _PASS_S)))]
        forget()
        cpu, start = _cpu(), time.perf_counter()
        searcher.batch(half, point, 1)
        out["qps_1"] = len(half) / (time.perf_counter() - start)
        out["cpu_us"] = (_cpu() - cpu) / len(half) * 1e6
    forget()
    many = queries[: max(_BATCH_FEWEST, int(out["qps_1"] * threads * _BATCH_S))]
    start = time.perf_counter()
    ids = searcher.batch(many, point, threads)
    out["qps"] = len(many) / (time.perf_counter() - start)
    out["queries"] = len(many)
    out["own"] = searcher.own_stats()
    out["memory"] = _memory()
    np.save(f"{job['ids']}.{number}.npy", np.asarray(ids).astype(np.int64))
    return out


def drop_caches() -> None:
    """Empties the page cache of the machine, if that is allowed."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


def evict(files: list[Path]) -> None:
    """Empties the page cache of these files only. This is exact and quick, and does not disturb other processes."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def resident(files: list[Path]) -> int:
    """Bytes of these files in the page cache. Pages that another process maps cannot be evicted."""
    mincore, page, held = ctypes.CDLL(None, use_errno=True).mincore, mmap.PAGESIZE, 0
    for file in files:
        size = file.stat().st_size
        if size:
            pages = np.zeros(-(-size // page), np.uint8)
            mapped = np.memmap(file, np.uint8, "r")
            if mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)):
                raise OSError(ctypes.get_errno(), f"mincore of {file}")
            held += int((pages & 1).sum()) * page
    return held


def _lock_code() -> None:
    """Locks the program and its libraries in memory, because their pages are page cache too. Without it, the 200 MB of
    LanceDB pushed each other out of the room for the index, and were read again at 600 MB/s."""
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, *rest = line.split()
        if "r" in permissions and len(rest) > 3 and (".so" in rest[3] or "x" in permissions):
            start, end = (int(bound, 16) for bound in span.split("-"))
            libc.mlock(ctypes.c_void_p(start), ctypes.c_size_t(end - start))


def _join(group: str) -> None:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))


def _limit(group: str, room: int, files: list[Path]) -> dict[str, int]:
    """Limits the group to its own memory, and `room` for everything else, mainly the page cache."""
    stat = dict(line.split() for line in Path(group, "memory.stat").read_text().splitlines())
    own = int(stat["rss"]) + int(stat.get("shmem", 0))
    limit = own + room
    for _ in range(50):
        evict(files)
        try:
            Path(group, "memory.limit_in_bytes").write_text(str(limit))
            return {"own": own, "room": room, "limit": limit}
        except OSError:  # busy: pages are still being reclaimed
            time.sleep(0.1)
    raise RuntimeError(f"the memory group does not shrink to {limit} bytes")


@contextlib.contextmanager
def _counting(job: Job, queries: int) -> Iterator[dict[str, float]]:
    """Counts reads and bytes per query of this process within the block. Reads need cgroups that count them."""
    out: dict[str, float] = {}
    group = job["counter"]
    home = None
    if group:
        home = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":blkio:" in line)
        _join(group)
    reads, start = _reads(group), _read_bytes()
    try:
        yield out
    finally:
        out["bytes"] = (_read_bytes() - start) / queries
        if group and home:
            out["reads"] = (_reads(group) - reads) / queries
            _join(f"{job['counter_root']}{home.split(':', 2)[2]}")


def _reads(group: str | None) -> int:
    if not group:
        return 0
    lines = Path(group, "blkio.throttle.io_serviced").read_text().splitlines()
    return sum(int(line.split()[2]) for line in lines if " Read " in line)


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory() -> dict[str, int]:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"anonymous": "RssAnon", "file": "RssFile", "rss": "VmRSS", "peak": "VmHWM"}
    return {name: int(fields[field].split()[0]) * 1024 for name, field in names.items()}


def _grown(before: dict[str, int]) -> dict[str, int]:
    now = _memory()
    return {name: now[name] - before[name] for name in ("anonymous", "file", "rss")}
