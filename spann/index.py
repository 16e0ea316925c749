"""The public face of an index: build, open, search, look at, verify. No algorithm inside."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from spann._version import __version__
from spann.build import Plan, append_index, build_index, limit_bytes, plan_build
from spann.config import BuildParams, SearchParams, parse_size, thread_count
from spann.search import Engine, verify_index
from spann.storage import IndexReader, Problem
from spann.types import Array, Metric, Progress, SearchResult
from spann.vectors import VectorSource, open_source


class Index:
    """An open index. Any number of threads may search it at once. Made by `open_index` or `build`."""

    def __init__(self, reader: IndexReader, engine: Engine) -> None:
        self._reader, self._engine = reader, engine
        self.path: Path = reader.path
        self.count: int = engine.count
        self.dim: int = engine.dim
        self.dtype: np.dtype[Any] = engine.dtype
        self.metric: Metric = engine.metric

    def search(
        self,
        queries: Array,
        k: int = 10,
        params: SearchParams | None = None,
        *,
        threads: int | None = None,
        in_flight: int | None = None,
        order: str = "auto",
    ) -> SearchResult:
        """The `k` nearest vectors of each query.

        `queries` is (nq, dim), or (dim,) for one query, of the index's dtype. Distances are in the metric's own unit:
        Euclidean for l2, 1 - cos for cosine, the inner product for ip. Fewer than k vectors come back only where the
        index has fewer: then id -1. `threads` defaults to the processors this process may use; each works on
        `in_flight` queries at once (by default 8, where there are as many), so that the disk is busy while it computes:
        1 gives the lowest latency, more the highest throughput. `order` is how a batch is worked off: "query",
        "posting" (each posting and page read once for all queries that want it; same results), or "auto" by the size of
        the batch.

        Raises `InputError` for queries or parameters that cannot be used, `CorruptionError` when a posting's checksum
        does not match, `StorageError` when the system refuses a read.
        """
        rows = np.asarray(queries)
        return self._engine.search(
            rows[None] if rows.ndim == 1 else rows,
            k,
            params or SearchParams(),
            threads=threads,
            in_flight=in_flight,
            order=order,
        )

    @property
    def open_memory_bytes(self) -> int:
        """Bytes that the open index keeps in memory: centroids, graph and directory, and the codes that are pinned."""
        return self._engine.open_memory_bytes

    def info(self) -> dict[str, Any]:
        """Counts, sizes, parameters and the distribution of posting lengths, ready for JSON."""
        about = self._reader.attributes
        arrays = self._engine.arrays
        length = arrays.length.astype(np.int64)
        histogram, edges = np.histogram(length, bins=np.linspace(0, about["posting_bound"] + 1, 17).astype(int))
        return {
            "path": str(self.path),
            "format_version": about["format_version"],
            "created_by": about["created_by"],
            "generation": about["generation"],
            "count": self.count,
            "dim": self.dim,
            "dtype": self.dtype.name,
            "metric": self.metric.value,
            "ids": about["ids"],
            "centroids": about["centroids"],
            "postings": about["postings"],
            "appended_postings": arrays.appended,
            "entries": about["entries"],
            "code_bits": arrays.code_bits,
            "replicas_mean": about["entries"] / max(1, self.count - (0 if arrays.code_bits else about["centroids"])),
            "posting_length": {
                "mean": float(length.mean()),
                "std": float(length.std()),
                "min": int(length.min()),
                "max": int(length.max()),
                "bound": about["posting_bound"],
                "histogram": {"counts": histogram.tolist(), "edges": edges.tolist()},
            },
            "disk_bytes": self._reader.disk_bytes(),
            "open_memory_bytes": self.open_memory_bytes,
            "open_memory_bytes_per_vector": self.open_memory_bytes / self.count,
            "open_memory": dict(arrays.memory),
            "pinned_postings": arrays.pinned_postings,
            "parameters": about["parameters"],
        }

    def close(self) -> None:
        """Closes the posting files. No search may be running."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, count={self.count}, dim={self.dim}, {self.dtype.name}, {self.metric.value})"


def open_index(path: str | Path, *, io: str = "auto", memory_budget: int | str = "auto", check: bool = True) -> Index:
    """Opens the index at `path`; what stays in memory is read and verified now.

    `io` is "direct" (O_DIRECT: the page cache is neither used nor filled), "buffered", or "auto": direct when what
    searches read is larger than the memory available. `memory_budget` limits what is kept in memory, in bytes or as
    "44MB": centroids, graph and directory always, then as many codes as fit; "auto" is half of the memory available,
    "none" keeps only what must be. Results do not depend on it. `check=False` skips the checksum of what is read (docs/
    BENCHMARKS.md has its cost). Raises `MissingError`, `FormatError`, `CorruptionError`, and `InputError` for a budget
    that is too small.
    """
    reader = IndexReader.open(path)
    return Index(reader, Engine(reader, io=io, check=check, memory_budget=memory_budget))


def build(
    vectors: str | Path | Array | VectorSource,
    path: str | Path,
    *,
    metric: Metric | str = "l2",
    ids: Array | None = None,
    params: BuildParams | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> Index:
    """Builds an index of `vectors` (count, dim) at `path` and opens it.

    `vectors` is an array, a memory map or the path of a file (see `spann.vectors.open_source`). `ids` (count,), all
    different and not negative, name the vectors in results; without it an id is the row number. An existing index is
    replaced only with `overwrite`, and only once the new one is complete. `memory_limit`, in bytes or as "1GiB" (by
    default half of the memory available), bounds the resident memory of the process. What cannot fit there or on the
    disk is refused before it starts: see `plan`. A build that was interrupted goes on where the same call finds it, and
    ends with the same bytes; `restart` begins anew. Raises `InputError`, `ExistsError`, `MissingError`, `StorageError`.
    """
    source = vectors if isinstance(vectors, VectorSource) else open_source(vectors)
    try:
        build_index(
            source,
            path,
            Metric.parse(metric),
            params or BuildParams(),
            created_by=f"spann {__version__}",
            ids=None if ids is None else np.asarray(ids),
            threads=threads,
            memory_limit=_limit(memory_limit),
            overwrite=overwrite,
            restart=restart,
            progress=progress,
        )
    finally:
        if source is not vectors:
            source.close()
    return open_index(path)


def append(
    path: str | Path,
    vectors: str | Path | Array | VectorSource,
    *,
    ids: Array | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Index:
    """Adds `vectors` (count, dim) to the index at `path`, in a new generation of it, and opens that.

    They must be of the index's dtype and dimension. `ids` (count,), none of them in the index yet, are needed where it
    was built with ids; elsewhere rows are numbered on. Whoever has the index open goes on searching the generation that
    was opened. Whole or not at all; an append that was interrupted goes on where the same call finds it. The other
    arguments and errors are those of `build`."""
    source = vectors if isinstance(vectors, VectorSource) else open_source(vectors)
    try:
        append_index(
            source,
            path,
            created_by=f"spann {__version__}",
            ids=None if ids is None else np.asarray(ids),
            threads=threads,
            memory_limit=_limit(memory_limit),
            restart=restart,
            progress=progress,
        )
    finally:
        if source is not vectors:
            source.close()
    return open_index(path)


def plan(
    vectors: str | Path | Array | VectorSource,
    *,
    metric: Metric | str = "l2",
    params: BuildParams | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
) -> Plan:
    """What `build` with the same arguments would take, from the counts of `vectors` alone: disk, temporary disk,
    memory, time, and memory of the open index. Raises `InputError` where the memory limit cannot do."""
    source = vectors if isinstance(vectors, VectorSource) else open_source(vectors)
    try:
        return plan_build(
            source,
            Metric.parse(metric),
            params or BuildParams(),
            threads=thread_count(threads),
            limit=limit_bytes(_limit(memory_limit)),
        )
    finally:
        if source is not vectors:
            source.close()


def _limit(value: int | str | None) -> int | None:
    return None if value is None else parse_size(value, "memory_limit")


def verify(path: str | Path, progress: Progress | None = None) -> list[Problem]:
    """Everything that is wrong with the index at `path`, by reading all of it; empty when nothing is.

    Raises `MissingError` when there is no index, `FormatError` when it cannot be read at all.
    """
    reader = IndexReader.open(path)
    return verify_index(reader, None if progress is None else lambda done, total: progress("verify", done, total))
