"""An open index: search it, look at it. No algorithm inside."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from spann._kernels.io import log_backend
from spann.config import SearchParams, finite, whole
from spann.errors import InputError, RecallWarning
from spann.format.columns import Column
from spann.jobs import JobMethods
from spann.measuring import explain
from spann.measuring.explain import Explanation
from spann.measuring.promise import Calibration, recall_target
from spann.measuring.ranges import FILTER_MARGIN, LEAST, filter_effort, filter_setting, range_effort
from spann.search import (
    RANGE_CANDIDATES,
    Effort,
    Engine,
    Stop,
    Within,
    iterate,
    search_range,
    search_within,
)
from spann.search.decision import SearchDecision
from spann.search.grouped import whole_range, whole_result
from spann.search.matching import NOTHING, Asked, Matches
from spann.store.names import NameTable
from spann.store.reader import IndexReader
from spann.system import given_path
from spann.types import MAX_K, Array, Metric, RangeResult, SearchResult
from spann.updating.description import describe
from spann.updating.living import Living
from spann.updating.methods import UpdateMethods
from spann.updating.snapshot import Snapshot
from spann.vectors import as_queries

if TYPE_CHECKING:
    pass

Queries = Array | Sequence[Any] | str | Path
"""Queries: numbers in an array or in lists, anything that becomes an array, or the path of a file."""

Found = TypeVar("Found", SearchResult, RangeResult)

log = logging.getLogger(__name__)

DEFAULT_TARGET = 0.95
"""Recall that a search aims at by default."""


@dataclass(frozen=True)
class Numbered:
    """An index whose searches return numbers of vectors, whatever names these have (`Index.numbered`)."""

    metric: Metric
    search: Callable[..., SearchResult]


class Index(JobMethods, UpdateMethods):
    """An open index, made by `spann.open` or `spann.build`. Any number of threads may search it at once, also after a
    fork.

    A pickle holds the path and the options. Unpickling opens the index that is then at the path.
    """

    def __init__(self, living: Living, options: Mapping[str, Any], upkeep: Mapping[str, Any] | None = None) -> None:
        self._living, self._options, self._upkeep = living, dict(options), dict(upkeep or {})
        self._doubted: set[str] = set()  # warnings already given
        engine = living.snapshot.engine
        self.path: Path = living.path
        self.dim: int = engine.dim
        self.dtype: np.dtype[Any] = engine.dtype
        self.element: str = engine.element
        self.metric: Metric = engine.metric

    @property
    def _names(self) -> NameTable | None:
        return self._living.snapshot.names

    @property
    def _reader(self) -> IndexReader:
        return self._living.snapshot.reader

    @property
    def _engine(self) -> Engine:
        return self._living.snapshot.engine

    @property
    def count(self) -> int:
        """Vectors of the collection, as this index sees it."""
        return self._living.snapshot.count

    @property
    def calibration(self) -> Calibration | None:
        """The settings that were measured for recalls; None if the index is not calibrated."""
        return self._living.snapshot.calibration

    def search(
        self,
        queries: Queries,
        k: int = 10,
        params: SearchParams | None = None,
        *,
        target_recall: float | None = None,
        radius: float | None = None,
        inner: float | None = None,
        where: Any = None,
        filter: Any = None,
        ids: Any = None,
        bind: Mapping[str, Any] | None = None,
        select: Sequence[str] = (),
        threads: int | None = None,
        in_flight: int | None = None,
        order: str = "auto",
    ) -> SearchResult:
        """Finds the `k` nearest vectors of each query.

        `target_recall`, the wanted share of the true neighbours, decides how much is read (see `params_for`); or
        `params` does. Without either, the target is 0.95 if the index is calibrated.

        `queries` is (nq, dim), or (dim,) for one query: an array, lists, a tensor on the CPU, a column of lists, or the
        path of a file. Numbers take the type of the index: float64 is rounded to float32, and an index of integers
        needs whole numbers. Queries of binary vectors are bool, 0 and 1, or 8 bits in each uint8, (nq, dim / 8).

        Distances are in the metric's own unit: Euclidean for l2 (not squared), 1 - cos for cosine, the inner product
        for ip, bits for hamming. `radius` keeps only vectors at most so far away; under ip, with a product of at least
        `radius`. `inner` keeps only vectors farther than that; under ip, with a smaller product. Fewer than k vectors
        come back only if there are fewer. The places left over have id -1 and distance inf (-inf for ip). No queries,
        (0, dim), have an empty result.

        `where` leaves only vectors whose attributes match: SQL, or an expression of `spann.col`. `filter` says the same
        by a dictionary, as Chroma, Pinecone and LlamaIndex do. `ids` leaves only vectors with these ids. If k vectors
        match, k come back. `bind` gives `$name` in the text a value, or an array with one for each query. The columns
        that `select` names come back as `result.attributes`.

        `threads` defaults to the processors that this process may use. Each works on `in_flight` queries at once, 8 by
        default, so that the disk is busy while it computes. 1 gives the lowest latency, more the highest throughput.
        `order` "query" searches query by query. "posting" reads each posting and page once for all queries that want
        it, with the same results. "auto" decides by the size of the batch.

        If no measured setting reached that recall, the search uses the best it knows. A `RecallWarning` says so, once
        for each index and message.

        Raises `InputError` for unusable queries or parameters, `CorruptionError` if a checksum does not match, and
        `StorageError` if the system refuses a read.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> ids, distances = index.search(np.float32([[7.1], [500.4]]), k=2)
        >>> ids.tolist()
        [[7, 8], [500, 501]]
        >>> index.search(np.float32([[7.1]]), k=3, radius=1.0).ids.tolist()
        [[7, 8, -1]]
        """

        return self._named(
            self._search(
                queries,
                k,
                params,
                target_recall,
                radius,
                inner,
                asked=Asked(where, filter, ids, bind),
                select=select,
                threads=threads,
                in_flight=in_flight,
                order=order,
            )
        )

    @property
    def names(self) -> NameTable | None:
        """The names of the vectors by their numbers, None if ids are integers."""
        return self._names

    @property
    def numbered(self) -> Numbered:
        """The same index to whoever goes by the numbers that it has for its vectors, where these have names: what its
        `search` returns are numbers, the rows of what the index was built of."""
        return Numbered(self.metric, self._search)

    def _named(self, found: Found) -> Found:
        """A result with names instead of numbers, if the vectors have names."""
        if self._names is None:
            return found
        return replace(found, ids=self._names.objects(found.ids))

    def _search(
        self,
        queries: Queries,
        k: int = 10,
        params: SearchParams | None = None,
        target_recall: float | None = None,
        radius: float | None = None,
        inner: float | None = None,
        *,
        asked: Asked = NOTHING,
        select: Sequence[str] = (),
        **how: Any,
    ) -> SearchResult:
        k = whole(k, "k", 1, MAX_K)
        rows, within, now = self._batch(queries), None, self._living.current()
        if radius is not None or inner is not None:
            within = Within.checked(radius, inner, self.metric is Metric.IP)

        def one(some: Array, left: Matches) -> SearchResult:
            """Searches for queries that have the same filter."""
            under = self._under(now, left, params, target_recall)
            if within is not None:
                under["radius"] = within.radius

            def search(some: Array, k: int) -> SearchResult:
                setting = self._setting(k, params, target_recall, filtered=left.filtered)
                return _search_among(now, left)(some, k, setting, **under, **how)

            return search(some, k) if within is None else search_within(search, some, k, within, max(1, left.count))

        groups = now.engine.filters.groups(asked, len(rows), now.count)
        found = whole_result([(some, left, one(rows[some], left)) for some, left in groups], len(rows))
        return replace(found, attributes=_selected(now, select, found.ids)) if select else found

    def _under(
        self, now: Snapshot, left: Matches, params: SearchParams | None, target_recall: float | None
    ) -> dict[str, Any]:
        """How the engine searches among the vectors that a filter leaves."""
        if not left.filtered or params is not None or now.calibration is None:
            return {"alive": left.mask} if left.filtered else {}
        target = DEFAULT_TARGET if target_recall is None else recall_target(target_recall)
        efforts = filter_effort(now.calibration, target, max(1, now.count))
        return {"alive": left.mask, "efforts": efforts, "rank": FILTER_MARGIN}

    @property
    def schema(self) -> dict[str, Column]:
        """The columns of the index, by name."""
        return dict(self._engine.filters.schema)

    def matching(
        self, where: Any = None, *, filter: Any = None, ids: Any = None, bind: Mapping[str, Any] | None = None
    ) -> int:
        """Counts the vectors that a filter leaves. Arguments are those of `search`.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann", attributes={"price": np.arange(1000) % 7})
        >>> index.matching("price < 2")
        286
        """
        now = self._living.current()
        return next(now.engine.filters.groups(Asked(where, filter, ids, bind), 1, now.count))[1].count

    def values(self, ids: Any, select: Sequence[str]) -> dict[str, Array]:
        """The values of the columns `select` for vectors with these `ids`, each in an array of the shape of `ids`,
        masked where there is none.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann", attributes={"price": np.arange(1000) % 7})
        >>> index.values([3, 700], ["price"])["price"].tolist()
        [3, 0]
        """
        return _selected(self._living.current(), select, np.asarray(ids, np.int64))

    async def search_async(self, queries: Queries, k: int = 10, **options: Any) -> SearchResult:
        """Runs `search` on another thread, so that the event loop of a server stays free. Cancelling the task ends the
        thread.

        >>> import asyncio
        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> asyncio.run(index.search_async(np.float32([7.1]), k=2)).ids.tolist()
        [[7, 8]]
        """
        import asyncio  # 4 MB that a search itself does not need

        stop = Stop()
        names = ("where", "filter", "ids", "bind")
        options["asked"] = Asked(**{name: options.pop(name) for name in names if name in options})
        try:
            found = await asyncio.to_thread(self._search, queries, k, stop=stop, **options)
            return self._named(found)
        finally:  # without this, the thread would continue after the task was cancelled
            stop.set()

    def search_range(
        self,
        queries: Queries,
        radius: float,
        *,
        inner: float | None = None,
        params: SearchParams | None = None,
        target_recall: float | None = None,
        where: Any = None,
        filter: Any = None,
        ids: Any = None,
        bind: Mapping[str, Any] | None = None,
        select: Sequence[str] = (),
        threads: int | None = None,
    ) -> RangeResult:
        """Finds all vectors at most `radius` from each query, in the metric's own unit; under ip, with a product of at
        least `radius`. Under l2 it is the Euclidean distance: 0.3 here is 0.09 in faiss and hnswlib, which square it.
        `inner` leaves out vectors that are not farther, such as copies; under ip, those without a smaller product.

        `where`, `filter`, `ids`, `bind` and `select` are those of `search`. A query may find a million vectors. Other
        arguments and errors are those of `search`.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> found = index.search_range(np.float32([[7.1], [0.2]]), radius=2.0)
        >>> ids, distances = found.of(0)
        >>> ids.tolist()
        [7, 8, 6, 9]
        >>> index.search_range(np.float32([[7.1]]), radius=2.0, inner=1.0).ids.tolist()
        [6, 9]
        """
        within = Within.checked(finite(radius, "radius"), inner, self.metric is Metric.IP)
        now = self._living.current()
        setting = self._setting(LEAST, params, target_recall)
        efforts: Sequence[Effort] = ()
        if params is None and self.calibration is not None:
            target = DEFAULT_TARGET if target_recall is None else recall_target(target_recall)
            setting, efforts = range_effort(self.calibration, target, max(1, min(now.count, MAX_K)), setting)

        copies = now.reader.attributes["entries"] / now.engine.count  # each copy takes the place of a candidate

        owed = not efforts and not now.engine.arrays.kind.is_reranked

        def one(some: Array, left: Matches) -> RangeResult:
            """Searches for queries that have the same filter."""
            how: dict[str, Any] = {"radius": within.radius, "threads": threads}
            if left.filtered:
                how["alive"] = left.mask

            def search(some: Array, k: int) -> SearchResult:
                roomy = setting.with_(rerank=max(setting.rerank or 1, math.ceil(RANGE_CANDIDATES * copies * k)))
                return _search_among(now, left)(some, k, roomy, efforts=efforts, **how)

            return search_range(search, some, within, max(1, left.count), owed=owed)

        rows = self._batch(queries)
        groups = now.engine.filters.groups(Asked(where, filter, ids, bind), len(rows), now.count)
        found = whole_range([(some, left, one(rows[some], left)) for some, left in groups], len(rows))
        return self._named(replace(found, attributes=_selected(now, select, found.ids)) if select else found)

    def iterate(
        self,
        query: Queries,
        batch: int = 10,
        *,
        params: SearchParams | None = None,
        target_recall: float | None = None,
        where: Any = None,
        filter: Any = None,
        ids: Any = None,
        bind: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Yields neighbours of one query (dim,), nearest first, as (ids, distances), `batch` at a time. Take as many as
        you want; the last batch may be smaller. A wider search may find a vector that is nearer than some before it.
        `where`, `filter`, `ids` and `bind` are those of `search`.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> for ids, distances in index.iterate(np.float32([7.1]), batch=4):
        ...     print(ids.tolist())
        ...     if distances[-1] > 1.5:
        ...         break
        [7, 8, 6, 9]
        """
        batch = whole(batch, "batch", 1)
        row, now = self._batch(query), self._living.current()
        _, left = next(now.engine.filters.groups(Asked(where, filter, ids, bind), 1, now.count))
        search, under = _search_among(now, left), self._under(now, left, params, target_recall)
        found = iterate(
            lambda some, k: search(
                some, k, self._setting(k, params, target_recall, filtered=left.filtered), threads=1, **under
            ),
            row[0] if row.ndim == 2 and len(row) == 1 else row,
            batch,
            max(1, left.count),
        )
        names = now.names
        return found if names is None else ((names.objects(ids), distances) for ids, distances in found)

    def explain(
        self,
        query: Queries,
        k: int = 10,
        params: SearchParams | None = None,
        *,
        target_recall: float | None = None,
        where: Any = None,
        filter: Any = None,
        ids: Any = None,
        bind: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Explains a search for one query (dim,): postings considered, scored and read; why it stopped; reads and times
        of its stages; and the prediction of the calibration. Prints as a table; `to_json` is for programs.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> print(index.explain(np.float32([7.1]), k=3))  # doctest: +ELLIPSIS
        setting    max_postings 64, error_bound 1, rerank 100, k 3
        navigate   ... centroids scored, ... us
        postings   64 scored, ... of them read from disk; stopped: max_postings reached
        ...
        """
        k, now = whole(k, "k", 1, MAX_K), self._living.current()
        _, left = next(now.engine.filters.groups(Asked(where, filter, ids, bind), 1, now.count))
        setting = self._setting(k, params, target_recall, filtered=left.filtered)
        search, under = _search_among(now, left), self._under(now, left, params, target_recall)
        found = search(self._batch(query)[:1], k, setting, threads=1, in_flight=1, **under)
        arrays = now.engine.arrays
        decided = SearchDecision.of(setting, arrays.kind, k)
        doubts: list[str] = []
        if params is None and self.calibration is not None:
            doubts = self.calibration.doubts(DEFAULT_TARGET if target_recall is None else target_recall, k)
        return explain(
            found.stats[0],
            int((found.ids >= 0).sum()),
            decided,
            len(arrays.length),
            self.calibration,
            doubts,
            logged=now.logged,
        )

    def params_for(self, target_recall: float, k: int = 10) -> SearchParams:
        """The cheapest parameters that found at least `target_recall` of the true `k` neighbours of the calibration's
        queries. The lower end of a confidence interval counts.

        Raises `InputError` if the index has no calibration, or if no setting reached that recall.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index = spann.calibrate("line.spann", line[::3] + np.float32(0.3), base=line)
        >>> index.params_for(0.9, k=10)  # doctest: +ELLIPSIS
        SearchParams(max_postings=..., epsilon2=..., navigate=None, rerank=None, error_bound=...)
        """
        if self.calibration is None:
            raise InputError(
                f"{self.path}: the index is not calibrated, so no target_recall can be given; `spann tune` does that"
            )
        return self.calibration.choose(target_recall, k)

    def _batch(self, queries: Queries) -> Array:
        return as_queries(queries, self.dtype, self.element, self.dim, str(self.path))

    def _setting(
        self, k: int, params: SearchParams | None, target_recall: float | None, *, filtered: bool = False
    ) -> SearchParams:
        if target_recall is not None:
            recall_target(target_recall)
        if target_recall is not None and params is not None:
            raise InputError("params and target_recall were both given; the target decides the params")
        if target_recall is not None and self.calibration is None:
            return self.params_for(target_recall, k)
        if params is not None and not isinstance(params, SearchParams):
            raise InputError(f"params is a {type(params).__name__}; it must be SearchParams")
        if params is not None or self.calibration is None or not isinstance(k, int | np.integer) or k < 1:
            return params or SearchParams()
        target = DEFAULT_TARGET if target_recall is None else recall_target(target_recall)
        setting = self.calibration.choose(target, int(k), best=True)
        for doubt in self.calibration.doubts(target, int(k)):
            if doubt not in self._doubted:
                self._doubted.add(doubt)
                warnings.warn(f"{self.path}: {doubt}", RecallWarning, stacklevel=_outside())
        return filter_setting(setting, target, int(k)) if filtered else setting

    @property
    def open_memory_bytes(self) -> int:
        """Bytes that the open index keeps in memory: centroids, graph, directory, pinned codes, and the log."""
        return self._engine.open_memory_bytes + self._living.memory_bytes

    def info(self) -> dict[str, Any]:
        """Counts, sizes, parameters and the distribution of posting lengths, ready for JSON.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> about = index.info()
        >>> about["count"], about["dim"], about["metric"]
        (1000, 1, 'l2')
        """
        return {
            "path": str(self.path),
            **describe(self._living.snapshot, self._living.memory()),
            "updates": self._living.info(),
        }

    def close(self) -> None:
        """Closes the posting files. Searches under way in other threads end, with `InputError`."""
        self._living.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (self.path, self._options, self._upkeep)

    def _repr_html_(self) -> str:
        import html

        facts = {
            "vectors": f"{self.count:,} of dimension {self.dim}, {self.element}, {self.metric.value}",
            "postings": f"{self._reader.attributes['postings']:,}",
            "memory": f"{self.open_memory_bytes / 1e6:,.1f} MB",
            "calibrated": "no" if self.calibration is None else f"k {', '.join(map(str, self.calibration.curves))}",
        }
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(fact)}</td></tr>" for name, fact in facts.items())
        return f"<table><caption>spann index {html.escape(str(self.path))}</caption>{rows}</table>"

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, count={self.count}, dim={self.dim}, {self.element}, {self.metric.value})"


def open_index(
    path: str | Path,
    *,
    io: str = "auto",
    memory_budget: int | str = "auto",
    check: bool = True,
    refresh: float | None = None,
    maintenance: str = "inline",
) -> Index:
    """Opens the index at `path`. Everything that stays in memory is read and verified now.

    `io` "direct" bypasses the page cache (O_DIRECT), "buffered" uses it. "auto" is direct if searches read more than
    the memory available. `memory_budget` limits the memory of the index, in bytes or as "44MB". Centroids, graph and
    directory are always in memory; then come as many codes as fit. "auto" is half of the memory available, "none" keeps
    no codes. Results do not depend on it. `check=False` skips checksums of reads (docs/BENCHMARKS.md has their cost).

    With `refresh`, in seconds, a search looks for writes of other processes if the last look is so long ago. Without
    it only `Index.refresh` does. `maintenance` says who flushes and optimises after writes: "inline" the writer,
    "background" a thread, "manual" nobody until the log is full (docs/UPDATES.md).

    Raises `MissingError`, `FormatError`, `CorruptionError`, and `InputError` if the budget is too small.

    >>> import numpy as np, spann
    >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
    >>> spann.build(line, "line.spann").close()
    >>> with spann.open("line.spann", memory_budget="1MB") as index:
    ...     print(index)  # doctest: +ELLIPSIS
    Index('/.../line.spann', count=1000, dim=1, float32, l2)
    """
    if refresh is not None and finite(refresh, "refresh") < 0:
        raise InputError(f"refresh is {refresh!r}; it must be at least 0 seconds")
    options = {"io": io, "memory_budget": memory_budget, "check": check}
    return reopen(given_path(path), options, {"refresh": refresh, "maintenance": maintenance})


def _search_among(now: Snapshot, left: Matches) -> Callable[..., SearchResult]:
    """The search among the vectors that a filter leaves, or among all. An index with columns has no updates, so its log
    is empty."""
    return now.engine.search if left.filtered else now.search


def _selected(now: Snapshot, select: Sequence[str], ids: NDArray[np.int64]) -> dict[str, Array]:
    """The values of columns, by id."""
    if isinstance(select, str):
        raise InputError(f"select is {select!r}; it must be a list of names of columns")
    return now.engine.filters.columns.select(select, ids)


def _outside() -> int:
    """The number of calls between this function's caller and the first caller outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "spann":
        frame, level = frame.f_back, level + 1
    return level


def reopen(path: Path, options: dict[str, Any], upkeep: dict[str, Any] | None = None) -> Index:
    index = Index(Living(path, options, **(upkeep or {})), options, upkeep)
    about = index._engine.arrays
    log_backend()
    log.info(
        "%s: opened; %d of %d postings are pinned, %d bytes of memory in all; io is %s",
        *(path, about.pinned_postings, len(about.length), index.open_memory_bytes),
        "direct" if index._engine.direct else "buffered",
    )
    return index
