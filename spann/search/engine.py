"""The open index: its arrays in memory, its posting files, and batches of queries through the native search."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _search
from spann.centroids import Graph, Level, check_graph
from spann.config import SearchParams, thread_count
from spann.errors import CorruptionError, FormatError, InputError, MissingError, StorageError
from spann.storage import IndexReader, check_directory, record_bytes
from spann.types import ELEMENT_TYPES, MAX_K, QUERY_STATS, Array, Metric, SearchResult
from spann.vectors import check_finite, check_lengths

IO_MODES = ("auto", "direct", "buffered")

QUERIES_PER_TASK = 32
"""Queries a thread takes at a time, at most: fewer let threads finish together, more cost less Python."""

_METRICS = {Metric.L2: 0, Metric.IP: 1, Metric.COSINE: 2}
_NO_MEMORY, _READ_FAILED, _READ_SHORT, _DAMAGED = 1, 2, 3, 4


class Engine:
    """Searches one index. Any number of threads may search at once; `close` only when none does."""

    def __init__(self, reader: IndexReader, *, io: str, check: bool) -> None:
        """Reads and verifies what stays in memory (centroids, graph, directory) and opens the posting files."""
        if io not in IO_MODES:
            raise InputError(f"io is {io!r}; it must be one of {', '.join(IO_MODES)}")
        about = reader.attributes
        self.path = reader.path
        self.metric, self.dtype = Metric.parse(about["metric"]), np.dtype(about["dtype"])
        self.dim, self.count = int(about["dim"]), int(about["count"])
        self.check = check
        self._load(reader, about)
        self._files: NDArray[np.int32] | None = None
        self._pages = reader.array("postings/pages")
        self.direct, self._files = _open_files(
            [self._pages.shard_path(i) for i in range(self._pages.layout.shards)], io, self._pages.stored_bytes
        )

    def _load(self, reader: IndexReader, about: dict[str, Any]) -> None:
        where = str(reader.path)
        vectors, ids = reader.read("centroids/vectors"), reader.read("centroids/ids")
        self.graph = _read_graph(reader, about["graph"])
        check_graph(self.graph, len(vectors), where)
        name = "postings/directory"
        page, offset = reader.read(f"{name}/page"), reader.read(f"{name}/offset")
        length, crc = reader.read(f"{name}/length"), reader.read(f"{name}/crc32c")
        chain = reader.read(f"{name}/chain") if f"{name}/chain" in reader.arrays() else None
        pages = reader.array("postings/pages")
        shapes = vectors.shape == (about["centroids"], self.dim) and vectors.dtype == self.dtype
        if not shapes or ids.shape != (len(vectors),) or ids.itemsize != about["id_bytes"]:
            raise CorruptionError(f"{where}: centroid arrays do not have the shape that the manifest gives")
        record = record_bytes(about)
        check_directory(page, offset, length, crc, chain, len(vectors), record, pages.rows, pages.shard_rows, where)
        arrays = [vectors, ids, page, offset, length, crc, *([] if chain is None else [chain])]
        self.open_memory_bytes = sum(a.nbytes for a in arrays) + self.graph.nbytes
        self.length, self.chain = length, chain
        self._native = _search.NativeIndex(
            _METRICS[self.metric],
            ELEMENT_TYPES.index(self.dtype.name),
            self.dim,
            self.count,
            float(about["max_norm"]),
            _bytes(vectors),
            len(vectors),
            _bytes(ids),
            ids.itemsize,
            self.graph.entry,
            [(level.nodes, level.offsets, level.neighbors) for level in self.graph.levels],
            chain,
            page,
            offset,
            length,
            crc,
            max(1, pages.shard_rows),
        )

    def search(self, queries: Array, k: int, params: SearchParams, threads: int | None) -> SearchResult:
        """Neighbours of `queries` (nq, dim), of the index's dtype; see `Index.search`."""
        rows = self._checked(queries)
        if not isinstance(k, int | np.integer) or not 1 <= k <= MAX_K:
            raise InputError(f"k is {k!r}; it must be a whole number from 1 to {MAX_K}")
        workers = thread_count(threads)
        if self._files is None:
            raise InputError(f"{self.path}: the index is closed")
        n = len(rows)
        ids = np.empty((n, k), np.int64)
        distances = np.empty((n, k), np.float32)
        stats = np.zeros(n, QUERY_STATS)
        raw = stats.view(np.uint8).reshape(n, QUERY_STATS.itemsize)
        files, native = self._files, self._native
        per_task = min(QUERIES_PER_TASK, -(-n // workers))

        def task(start: int) -> None:
            part = slice(start, min(start + per_task, n))
            status = native.search(
                files,
                rows[part],
                k,
                min(params.max_postings, 2**31),
                params.beam,
                params.epsilon2,
                self.direct,
                self.check,
                ids[part],
                distances[part],
                raw[part],
            )
            self._raise_for(*status)

        starts = range(0, n, per_task)
        if workers == 1 or len(starts) == 1:
            for start in starts:
                task(start)
        else:
            with ThreadPoolExecutor(min(workers, len(starts))) as pool:
                futures = [pool.submit(task, start) for start in starts]
                try:
                    for future in futures:
                        future.result()
                finally:
                    for future in futures:
                        future.cancel()
        return SearchResult(ids, distances, stats)

    def close(self) -> None:
        """Closes the posting files; searching afterwards is an `InputError`."""
        files, self._files = self._files, None
        for descriptor in [] if files is None else files.tolist():
            os.close(descriptor)

    def _checked(self, queries: Array) -> NDArray[np.uint8]:
        """Queries as the bytes the kernels take: float16 is widened, all else must be of the index's dtype."""
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(f"queries have shape {queries.shape}; {self.path} needs (queries, {self.dim})")
        if queries.dtype != self.dtype:
            raise InputError(f"queries are {queries.dtype}; {self.path} holds {self.dtype} and needs the same")
        if len(queries) == 0:
            raise InputError("there are no queries: at least 1 is needed")
        check_finite(queries, 0, "queries")
        if self.metric is Metric.COSINE or self.dtype.kind == "f":
            check_lengths(queries, 0, "queries", directions=self.metric is Metric.COSINE)
        if self.dtype == np.float16:
            queries = queries.astype(np.float32)
        return _bytes(queries).reshape(len(queries), -1)

    def _raise_for(self, status: int, system_error: int, posting: int) -> None:
        if status == 0:
            return
        if status == _NO_MEMORY:
            raise MemoryError(f"{self.path}: out of memory in search")
        if status == _READ_FAILED:
            raise StorageError(f"{self.path}: reading posting {posting} failed: {os.strerror(system_error)}")
        if status == _READ_SHORT:
            raise CorruptionError(f"{self.path}: posting {posting} ends early: a file of postings/pages was cut short")
        if status == _DAMAGED:
            raise CorruptionError(
                f"{self.path}: posting {posting} is damaged (its checksum does not match); "
                f"`spann verify {self.path}` lists all damage"
            )
        raise InputError("SPANN_SIMD names a level that is unknown or that this processor lacks")


def _read_graph(reader: IndexReader, about: dict[str, Any]) -> Graph:
    levels = []
    for number in range(about["levels"]):
        name = f"centroids/graph/level{number}"
        nodes = reader.read(f"{name}/nodes") if number else None
        levels.append(Level(nodes, reader.read(f"{name}/offsets"), reader.read(f"{name}/neighbors")))
    if not levels:
        raise FormatError(f"{reader.path}: the navigation graph has no level")
    return Graph(int(about["entry"]), levels)


def _open_files(paths: list[Path], io: str, stored_bytes: int) -> tuple[bool, NDArray[np.int32]]:
    """(direct, descriptors). "auto" is direct where the postings are larger than the memory that could cache them and
    the file system allows it, buffered elsewhere: a page cache that holds the postings beats any disk."""
    direct = io == "direct" or (io == "auto" and stored_bytes > _available_memory())
    try:
        return direct, _open_all(paths, os.O_DIRECT if direct else 0)
    except OSError as error:
        if direct and io == "auto":
            return False, _open_all(paths, 0)
        if isinstance(error, MissingError):
            raise
        raise StorageError(f"{error.filename}: cannot be opened with io={io!r}: {error.strerror}") from error


def _open_all(paths: list[Path], flags: int) -> NDArray[np.int32]:
    with contextlib.ExitStack() as undo:
        opened = []
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
            except FileNotFoundError:
                raise MissingError(f"{path}: missing from the index") from None
            undo.callback(os.close, descriptor)
            if not flags:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            opened.append(descriptor)
        undo.pop_all()
    return np.array(opened, np.int32)


def _available_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise StorageError("/proc/meminfo: has no MemAvailable line; choose io='direct' or io='buffered'")


def _bytes(array: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)


if _search.stats_bytes() != QUERY_STATS.itemsize:
    raise ImportError("spann's native search was built for another record of query statistics; rebuild it")
