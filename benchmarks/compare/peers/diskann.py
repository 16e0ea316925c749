"""DiskANN (diskannpy): a graph on disk, product quantisation in memory, direct asynchronous reads of its own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diskannpy
import numpy as np
from common import Array, Job, Searcher, main


def build(job: Job) -> None:
    settings = job["settings"]
    diskannpy.build_disk_index(
        job["base"],
        distance_metric="l2",
        index_directory=job["index"],
        complexity=settings["complexity"],
        graph_degree=settings["graph_degree"],
        # It takes floor(budget / count) bytes of code for each vector, so give a little more, against rounding.
        search_memory_maximum=(settings["pq_bytes"] + 0.01) * job["count"] / 2**30,
        build_memory_maximum=settings["build_memory_gib"],
        num_threads=job["threads"],
        vector_dtype=np.dtype(job["dtype"]).type,
    )
    codes = Path(job["index"], "ann_pq_compressed.bin")
    _, width = np.fromfile(codes, np.uint32, 2).tolist()
    if width != settings["pq_bytes"]:
        raise RuntimeError(f"codes of {width} bytes instead of {settings['pq_bytes']}")
    Path(job["index"], "ann_mem.index.data").unlink()  # a copy of the vectors that no search reads


class _Opened:
    own_batch = True
    disk_files: Sequence[Path] = ()

    def __init__(self, job: Job) -> None:
        self._k, self._beam = job["k"], job["open"]["beam_width"]
        cached = job["open"]["cached_nodes"]
        self._index = diskannpy.StaticDiskIndex(
            job["index"], num_threads=job["threads"], num_nodes_to_cache=cached, cache_mechanism=1 if cached else 0
        )
        node = job["dim"] * np.dtype(job["dtype"]).itemsize + 4 * (job["settings"]["graph_degree"] + 1)
        codes = sum(Path(job["index"], f"ann_pq_{name}.bin").stat().st_size for name in ("compressed", "pivots"))
        self.memory_bytes: int | None = codes + cached * node

    def one(self, query: Array, point: dict[str, Any]) -> Array:
        return self._index.search(query, self._k, point["complexity"], self._beam).identifiers

    def batch(self, queries: Array, point: dict[str, Any], threads: int) -> Array:
        return self._index.batch_search(queries, self._k, point["complexity"], threads, self._beam).identifiers

    def own_stats(self) -> dict[str, float]:
        return {}


def open_index(job: Job) -> Searcher:
    return _Opened(job)


if __name__ == "__main__":
    main(build, open_index, lambda: {"diskannpy": version("diskannpy")})
