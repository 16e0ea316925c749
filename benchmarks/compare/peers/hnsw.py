"""hnswlib: graph and vectors in memory, the upper bound for an index on disk."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from common import Array, Job, Searcher, main, read_bin

_BLOCK = 100_000


def build(job: Job) -> None:
    base, settings = read_bin(job["base"], job["dtype"]), job["settings"]
    index = hnswlib.Index("l2", job["dim"])
    index.init_index(job["count"], M=settings["m"], ef_construction=settings["ef_construction"])
    for start in range(0, job["count"], _BLOCK):
        block = base[start : start + _BLOCK].astype(np.float32)
        index.add_items(block, np.arange(start, start + len(block)), num_threads=job["threads"])
    index.save_index(f"{job['index']}/index.hnsw")


class _Opened:
    own_batch = True
    disk_files: Sequence[Path] = ()

    def __init__(self, job: Job) -> None:
        self._k = job["k"]
        self._index = hnswlib.Index("l2", job["dim"])
        self._index.load_index(f"{job['index']}/index.hnsw")
        self.memory_bytes: int | None = Path(job["index"], "index.hnsw").stat().st_size

    def one(self, query: Array, point: dict[str, Any]) -> Array:
        return self.batch(query[None], point, 1)[0]

    def batch(self, queries: Array, point: dict[str, Any], threads: int) -> Array:
        self._index.set_ef(point["ef"])
        ids, _ = self._index.knn_query(queries.astype(np.float32), self._k, num_threads=threads)
        return ids

    def own_stats(self) -> dict[str, float]:
        return {}


def open_index(job: Job) -> Searcher:
    return _Opened(job)


if __name__ == "__main__":
    main(build, open_index, lambda: {"hnswlib": version("hnswlib")})
