"""spann itself. Settings of a series go to its parameter classes by name, so new ones need no change here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Array, Job, Searcher, main

import spann


def build(job: Job) -> None:
    target = Path(job["index"], "index.spann")
    params = spann.BuildParams(**job["settings"])
    spann.build(job["base"], target, metric="l2", params=params, threads=job["threads"], overwrite=True).close()


class _Opened:
    own_batch = True
    disk_files: Sequence[Path] = ()

    def __init__(self, job: Job) -> None:
        self._k = job["k"]
        self._index = spann.open(Path(job["index"], "index.spann"), **job["open"])
        self.memory_bytes: int | None = self._index.open_memory_bytes
        self._stats: Any = None

    def one(self, query: Array, point: dict[str, Any]) -> Array:
        return self._index.search(query, self._k, spann.SearchParams(**point), threads=1).ids[0]

    def batch(self, queries: Array, point: dict[str, Any], threads: int) -> Array:
        result = self._index.search(queries, self._k, spann.SearchParams(**point), threads=threads)
        self._stats = result.stats
        return result.ids

    def own_stats(self) -> dict[str, float]:
        """Every statistic of spann: postings, pages, bytes, nanoseconds of each stage."""
        return {name: float(np.mean(self._stats[name])) for name in self._stats.dtype.names}


def open_index(job: Job) -> Searcher:
    return _Opened(job)


if __name__ == "__main__":
    main(build, open_index, lambda: {"spann": spann.__version__})
