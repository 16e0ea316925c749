"""The open index: its arrays in memory, its files, and batches of queries through the native search."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _search
from spann._kernels.io import BACKENDS
from spann.config import SearchParams, thread_count, whole
from spann.elements import in_memory, memory_dtype, pack
from spann.errors import CorruptionError, InputError, MissingError, StorageError
from spann.format.postings import PAGE
from spann.search.alive import Alive
from spann.search.budget import MemoryBudget
from spann.search.contract import Resident
from spann.search.decision import SearchDecision
from spann.search.disk import join_pages
from spann.search.matching import Filters
from spann.search.opened import Files, OpenArrays, as_bytes, attach
from spann.search.room import LITTLE_BYTES, SMALLEST_BLOCK, Needs, result_bytes
from spann.search.workers import Stop, StoppedError, Workers
from spann.store.arrays import ShardedArray
from spann.store.reader import IndexReader
from spann.system import available_memory
from spann.types import MAX_K, QUERY_STATS, Array, Metric, SearchResult
from spann.vectors import check_finite, check_lengths

IO_MODES = ("auto", "direct", "buffered")

IN_FLIGHT = 8
"""Queries a thread works on at once, where the batch has as many: enough for the disk to be busy while it computes."""

MAX_IN_FLIGHT = 256

DEPTH = 64
"""Reads a thread has under way at most."""

READ_BYTES = 16 << 20
"""Bytes that these read, about: where postings are large, a thread has fewer under way."""

BRIEF_PAGES = 4096
"""Pages of postings and candidates that the main thread looks at itself, some 10 ms of work: an interrupt waits for it,
but handing it to another thread, and waiting, would be more than a hundredth of it."""

NEAREST_ROWS = 1024
"""Queries whose nearest centroids a thread looks for at a time."""

NO_PRUNING = 1e6
"""An `epsilon2` that prunes nothing, but has what pruning goes by worked out."""

ORDERS = ("auto", "query", "posting")

TIGHT_BATCH_BYTES = 2 << 20
"""Memory of a posting-major batch, beside what is left of it, where a memory budget is given in bytes: buffers of reads
take as much again and more, and the process is to keep within 64 MiB and the budget."""

VISITS = 8
"""To each posting, from which on a search is posting-major: a read then serves several queries. Measured on 1M SIFT
(docs/BENCHMARKS.md) (docs/decisions/0019)."""

LOOK_SECONDS = 0.25
"""Searches ask for the memory available no more often: it takes 0.1 ms."""

FREE_DESCRIPTORS = 64
"""Descriptors that a process should have left once an index is open: for rings, and files of its own."""

LEAST_DESCRIPTORS = 8
"""Descriptors that opening itself takes for a moment. With fewer it is refused."""

_Status = tuple[int, int, int, int]


@dataclass(frozen=True)
class Effort:
    """What a query may score for ``count`` vectors within its radius."""

    count: float
    max_postings: int
    epsilon2: float


@dataclass
class _Output:
    """Queries as bytes, and where their results go."""

    queries: NDArray[np.uint8]
    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    stats: NDArray[np.void]

    @classmethod
    def of(cls, queries: NDArray[np.uint8], k: int) -> _Output:
        n = len(queries)
        return cls(queries, np.empty((n, k), np.int64), np.empty((n, k), np.float32), np.zeros(n, QUERY_STATS))

    def nothing(self, metric: Metric) -> SearchResult:
        """The result of a search that finds nothing."""
        self.ids[:] = -1
        self.distances[:] = -np.inf if metric is Metric.IP else np.inf
        return SearchResult(self.ids, self.distances, self.stats)

    @property
    def raw_stats(self) -> NDArray[np.uint8]:
        return self.stats.view(np.uint8).reshape(len(self.stats), QUERY_STATS.itemsize)

    def part(self, rows: slice | NDArray[np.int64]) -> _Output:
        """Some of the queries: a view of a slice, a copy of a selection."""
        return _Output(self.queries[rows], self.ids[rows], self.distances[rows], self.stats[rows])


class Engine:
    """Searches one index. Any number of threads may search at once. `close`, or dropping it, gives descriptors back."""

    def __init__(
        self, reader: IndexReader, *, io: str = "auto", check: bool = True, memory_budget: int | str = "auto"
    ) -> None:
        """Reads and verifies what stays in memory and opens the files of what does not."""
        if io not in IO_MODES:
            raise InputError(f"io is {io!r}; it must be one of {', '.join(IO_MODES)}")
        budget = MemoryBudget.parse(memory_budget)
        about = reader.collection
        self.path = reader.path
        self.metric, self.element = about.metric, about.element
        self.dtype = memory_dtype(self.element)
        self.dim, self.count = about.dim, about.count
        self.check = check
        self._closed = False
        self.direct, self._files = _open_files(reader, io)
        self._release = weakref.finalize(self, _close_all, self._files)
        self._release.atexit = False  # the system does that, and a search may still be under way
        try:
            resident = Resident.read(reader)
            resident.check()
            self.arrays: OpenArrays = attach(resident, reader, self._files, budget)
            self.filters = Filters(reader, self.arrays)
            self._join = self._measure_disk(reader)
        except BaseException:
            self._release()
            raise
        self._tight: int | None = None
        if budget.limit is not None and not budget.automatic:
            self._tight = TIGHT_BATCH_BYTES + budget.limit - self.open_memory_bytes
        self._available = (-math.inf, 0)
        sizes = reader.collection.record.size(self.arrays.cells.length, self.arrays.cells.primaries)
        largest = max(PAGE, int(sizes.max()))
        self._depth = int(np.clip(READ_BYTES // largest, 1, DEPTH))
        self._thread_bytes = self._depth * 2 * largest
        self._posting_pages = max(1.0, float(sizes.mean()) / PAGE)
        self._own_threads()

    def _own_threads(self) -> None:
        """Makes rings and threads of this process. Those of its parent are useless after a fork."""
        self._process = os.getpid()
        self._local = threading.local()
        self._workers = Workers()

    @property
    def open_memory_bytes(self) -> int:
        """Bytes of all that is kept in memory."""
        return sum(self.arrays.memory.values())

    def search(
        self,
        queries: Array,
        k: int,
        params: SearchParams,
        *,
        radius: float | None = None,
        efforts: Sequence[Effort] = (),
        threads: int | None = None,
        in_flight: int | None = None,
        order: str = "auto",
        stop: Stop | None = None,
        alive: Alive | None = None,
        rank: float = 0.0,
    ) -> SearchResult:
        """Neighbours of `queries` (nq, dim), of the index's dtype; see `Index.search`. What is beyond the `radius` is
        not looked for, but may come; with `efforts`, of rising count and no fewer postings, a query scores what the
        one says that is for as many vectors as it sees within the radius, instead of what `params` say. Another thread
        may `stop` it; then it raises `StoppedError`. `alive` says which vectors count; without it, those that the index
        says do. With a `rank`, the efforts go by that many times the vectors that are nearer than the k-th result."""
        k = whole(k, "k", 1, MAX_K)
        if in_flight is not None:
            in_flight = whole(in_flight, "in_flight", 1, MAX_IN_FLIGHT)
        if order not in ORDERS:
            raise InputError(f"order is {order!r}; it must be one of {', '.join(ORDERS)}")
        threads = thread_count(threads)
        rows = self._checked(queries)
        self._check_open()
        if len(rows) == 0:
            found = _Output.of(rows, k)
            return SearchResult(found.ids, found.distances, found.stats)
        decided = SearchDecision.of(params, self.arrays.kind, k)
        count = self.arrays.own
        postings = min(decided.max_postings, count)
        alive = self.arrays.alive if alive is None else alive
        if alive is not None and alive.count == 0:
            return _Output.of(rows, k).nothing(self.metric)
        native = self._native(decided, postings, math.inf if radius is None else radius, stop or Stop(), alive)
        if alive is not None and alive.is_listed:
            efforts = ()  # all postings with a match are looked at
        rank = rank if efforts else 0.0
        native.set_efforts([(e.count, min(e.max_postings, count), e.epsilon2) for e in efforts], rank)
        most = max([postings, *(min(e.max_postings, count) for e in efforts)])
        order = "query" if efforts else order
        brief = len(rows) * (most * self._posting_pages + k) <= BRIEF_PAGES
        workers = min(threads, len(rows))
        workers, block = self._divide(native, len(rows), k, workers, in_flight or IN_FLIGHT, order)
        found = _Output.of(rows, k)
        if block == 0:
            self._query_major(found, native, workers, brief)
        for start in range(0, len(rows), block) if block else ():
            self._posting_major(found.part(slice(start, start + block)), native, workers, brief)
        return SearchResult(found.ids, found.distances, found.stats)

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"{self.path}: the index is closed")
        if self._process != os.getpid():
            self.arrays.native.forked()
            self._own_threads()

    def expected(self, queries: Array, postings: int) -> NDArray[np.float64]:
        """What pruning goes by: distances, in the space of centroids, at which the nearest vectors of postings are
        expected, of the `postings` nearest to each of `queries`: (nq, `postings`), in the order in which a search
        considers them, those appended left out, the last ones infinite where there are fewer. Without shapes these are
        distances to centroids, and ascend."""
        rows = self._checked(queries)
        self._check_open()
        postings = min(postings, self.arrays.own)
        wish = SearchParams(max_postings=postings, epsilon2=NO_PRUNING)
        out = np.empty((len(rows), postings), np.float32)
        native = self._native(SearchDecision.of(wish, self.arrays.kind, 1), postings, math.inf, Stop())
        brief = len(rows) * postings <= BRIEF_PAGES
        self._on_threads(lambda: self._searcher().expected(native, rows, out), native, 1, brief)
        return np.sqrt(np.maximum(out, 0), dtype=np.float64)

    def nearest_centroids(self, queries: Array, threads: int | None = None) -> NDArray[np.int64]:
        """The number of the centroid nearest to each of `queries`, (nq,), as the graph finds it."""
        rows = self._checked(queries)
        self._check_open()
        decided = SearchDecision.of(SearchParams(max_postings=1), self.arrays.kind, 1)
        native, out = self._native(decided, 1, math.inf, Stop()), np.empty(len(rows), np.uint32)
        starts = iter(range(0, len(rows), NEAREST_ROWS))

        def work() -> _Status:
            status = (0, 0, 0, 0)
            while status[0] == 0 and (start := next(starts, None)) is not None:
                part = slice(start, start + NEAREST_ROWS)
                status = self._searcher().nearest(native, rows[part], out[part])
            return status

        workers = max(1, min(thread_count(threads), -(-len(rows) // NEAREST_ROWS)))
        self._on_threads(work, native, workers, len(rows) <= NEAREST_ROWS)
        return out.astype(np.int64)

    def _native(
        self, decided: SearchDecision, postings: int, radius: float, stop: Stop, alive: Alive | None = None
    ) -> _search.Params:
        return _search.Params(
            k=decided.k,
            max_postings=postings,
            navigate=decided.navigate,
            epsilon2=decided.epsilon2,
            rerank=decided.rerank,
            error_bound=decided.error_bound,
            radius=radius,
            join=self._join,
            in_flight=1,
            depth=self._depth,
            backend=BACKENDS.index("auto"),
            direct=self.direct,
            check=self.check,
            stop=stop,
            live=None if alive is None else alive.native,
        )

    def _divide(
        self, params: _search.Params, queries: int, k: int, workers: int, in_flight: int, order: str
    ) -> tuple[int, int]:
        """Threads, and queries of a posting-major block, 0: query-major. Sets those in flight on each thread."""
        count = self.arrays.own
        unpinned_ids = 8 * self.count if self.arrays.kind.is_reranked and self.arrays.pinned_postings < count else 0
        per_query = _search.Batch.query_bytes(self.arrays.native, params)
        results = result_bytes(queries, k)
        in_flight = min(in_flight, -(-queries // workers))
        many = order == "auto" and queries * params.max_postings >= VISITS * count and not params.efforts
        threads, block = workers, 0
        little = results + workers * (self._thread_bytes + in_flight * per_query) <= LITTLE_BYTES
        if many or order == "posting" or not little:
            needs = Needs(results, per_query, self._thread_bytes, unpinned_ids + 16 * count)
            room = needs.room(self._available_memory())
            tight = room if self._tight is None else min(room, self._tight)
            if order == "posting" or (many and queries >= SMALLEST_BLOCK):
                threads, block = needs.block(tight, workers)
                block = min(queries, max(block, order == "posting"))
                if order == "auto" and (block < SMALLEST_BLOCK or block * params.max_postings < VISITS * count):
                    block = 0
            if block == 0:
                threads, in_flight = needs.query_major(max(tight, min(room, LITTLE_BYTES)), workers, in_flight)
        params.set_in_flight(in_flight)
        return threads, block

    def _available_memory(self) -> int:
        """As it was at most a quarter of a second ago."""
        now = time.monotonic()
        if now - self._available[0] > LOOK_SECONDS:
            self._available = now, available_memory()
        return self._available[1]

    def _query_major(self, out: _Output, params: _search.Params, workers: int, brief: bool) -> None:
        cursor = np.zeros(1, np.int64)

        def work() -> _Status:
            return self._searcher().run(params, out.queries, cursor, out.ids, out.distances, out.raw_stats)

        self._on_threads(work, params, workers, brief)

    def _posting_major(self, out: _Output, params: _search.Params, workers: int, brief: bool) -> None:
        unfinished = np.zeros(len(out.queries), np.uint8)
        batch = _search.Batch(
            self.arrays.native, params, out.queries, out.ids, out.distances, out.raw_stats, unfinished
        )
        while batch.next():
            self._on_threads(lambda: batch.step(self._searcher()), params, workers, brief)
        left = np.flatnonzero(unfinished)
        if len(left):
            rest = out.part(left)
            self._query_major(rest, params, min(workers, len(left)), brief)
            out.ids[left], out.distances[left], out.stats[left] = rest.ids, rest.distances, rest.stats

    def _on_threads(self, work: Callable[[], _Status], params: _search.Params, workers: int, brief: bool) -> None:
        try:
            self._workers.run(lambda: self._raise_for(*work()), workers, params.stop, brief=brief)
        except StoppedError:
            if self._closed:
                raise InputError(f"{self.path}: the index was closed during the search") from None
            raise

    def close(self) -> None:
        """Ends what is under way, which raises `InputError`, and closes the files; so does searching afterwards."""
        if self._process != os.getpid():
            self.arrays.native.forked()
            self._own_threads()
        self._closed = True
        self.arrays.native.close()
        while self.arrays.native.searches:
            time.sleep(0.001)
        self._workers.close()
        self._local = threading.local()
        self._release()

    def _searcher(self) -> _search.Searcher:
        """This thread's own: a ring belongs to the thread that made it."""
        found: _search.Searcher | None = getattr(self._local, "searcher", None)
        if found is None:
            found = self._local.searcher = _search.Searcher(self.arrays.native)
        return found

    def _measure_disk(self, reader: IndexReader) -> int:
        if not len(self._files.exact):
            return 0
        size = reader.layout("vectors/exact").file_bytes(0)
        return join_pages(int(self._files.exact[0]), size, direct=self.direct)

    def _checked(self, queries: Array) -> NDArray[np.uint8]:
        """Queries as the bytes the kernels take: float16 and bfloat16 widened, bits packed; all else must be of the
        index's dtype."""
        queries = in_memory(queries, self.element)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise InputError(f"queries have shape {queries.shape}; {self.path} needs (queries, {self.dim})")
        wide = self.dtype == np.float16 and queries.dtype == np.float32
        if queries.dtype != self.dtype and not wide:
            raise InputError(f"queries are {queries.dtype}; {self.path} holds {self.element} and needs {self.dtype}")
        check_finite(queries, 0, "queries")
        if self.metric is Metric.COSINE or self.dtype.kind == "f":
            check_lengths(queries, 0, "queries", directions=self.metric is Metric.COSINE)
        if self.dtype == np.float16:
            queries = queries.astype(np.float32)
        if self.element == "bit":
            queries = pack(queries, self.element)
        return as_bytes(queries).reshape(len(queries), -1 if len(queries) else 0)

    def _raise_for(self, status: int, system_error: int, exact: int, where: int) -> None:
        if status == _search.OK:
            return
        place = f"page {where} of vectors/exact" if exact else f"posting {self.arrays.cells.posting[where]}"
        if status == _search.STOPPED:
            raise StoppedError
        if status == _search.NO_MEMORY:
            raise MemoryError(f"{self.path}: out of memory in search")
        if status == _search.READ_FAILED:
            raise StorageError(f"{self.path}: reading {place} failed: {os.strerror(system_error)}")
        if status == _search.READ_SHORT:
            array = "vectors/exact" if exact else "postings/pages"
            raise CorruptionError(f"{self.path}: {place} ends early: a file of {array} was cut short")
        if status == _search.DAMAGED:
            raise CorruptionError(
                f"{self.path}: {place} is damaged (its checksum does not match); "
                f"`spann verify {self.path}` lists all damage"
            )
        if status == _search.IO_FAILED:
            asked = os.environ.get("SPANN_IO", "auto")
            raise StorageError(
                f"{self.path}: reading is not possible ({os.strerror(system_error)}); the environment variable "
                f"SPANN_IO is {asked!r} and must be one of {', '.join(BACKENDS)} that this system has"
            )
        if status == _search.NO_SIMD:
            raise InputError("SPANN_SIMD names a level that is unknown or that this processor lacks")
        raise ImportError(f"the native search ended with the unknown status {status}: rebuild the native modules")


def _open_files(reader: IndexReader, io: str) -> tuple[bool, Files]:
    """(direct, descriptors). "auto" is direct where what searches read is larger than the memory that could cache it
    and the file system allows it, buffered elsewhere: a page cache that holds all of it beats any disk."""
    arrays = [reader.array(name) for name in reader.collection.kind.read_arrays]
    direct = io == "direct" or (io == "auto" and sum(array.stored_bytes for array in arrays) > available_memory())
    _allow_descriptors(sum(array.layout.shards for array in arrays), str(reader.path))
    try:
        return direct, _open_arrays(arrays, os.O_DIRECT if direct else 0)
    except OSError as error:
        if direct and io == "auto":
            return False, _open_arrays(arrays, 0)
        if isinstance(error, MissingError):
            raise
        raise StorageError(f"with io={io!r}: {error}") from error


def _open_arrays(arrays: list[ShardedArray], flags: int) -> Files:
    with contextlib.ExitStack() as undo:
        opened: list[NDArray[np.int32]] = []
        for array in arrays:
            shards = [_open(array, shard, flags, undo) for shard in range(array.layout.shards)]
            opened.append(np.array(shards, np.int32))
        undo.pop_all()
    return Files(opened[0], opened[1] if len(opened) > 1 else np.empty(0, np.int32))


def _allow_descriptors(count: int, name: str) -> None:
    """Raises the process's limit on descriptors where `count` more are needed, as far as it may."""
    needed = len(os.listdir("/proc/self/fd")) + count + FREE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    raised = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    if raised > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    if raised < needed - FREE_DESCRIPTORS + LEAST_DESCRIPTORS:
        raise StorageError(
            f"{name}: the index has {count} shard files, which stay open, and this process has "
            f"{needed - FREE_DESCRIPTORS - count} open already; it may open {raised} (`ulimit -Hn`)"
        )


def _open(array: ShardedArray, shard: int, flags: int, undo: contextlib.ExitStack) -> int:
    descriptor = array.open_shard(shard, flags)
    undo.callback(os.close, descriptor)
    if not flags:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    return descriptor


def _close_all(files: Files) -> None:
    for descriptor in [*files.postings.tolist(), *files.exact.tolist()]:
        os.close(descriptor)


if _search.stats_bytes() != QUERY_STATS.itemsize:
    raise ImportError("spann's native search was built for another record of query statistics; rebuild it")
