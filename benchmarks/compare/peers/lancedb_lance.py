"""LanceDB's engine, through pylance: the same index and search as the lancedb package with less Python around it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from common import Array, Job, Searcher, by_threads, main, padded, read_bin

_BLOCK = 50_000
_NAME = "vectors"


def build(job: Job) -> None:
    base, settings = read_bin(job["base"], job["dtype"]), job["settings"]
    schema = pa.schema([("vector", pa.list_(pa.float32(), job["dim"]))])

    def batches() -> Iterator[Any]:
        for start in range(0, job["count"], _BLOCK):
            rows = pa.array(base[start : start + _BLOCK].astype(np.float32).ravel())
            yield pa.record_batch([pa.FixedSizeListArray.from_arrays(rows, job["dim"])], schema=schema)

    # One fragment, so that an address is a row number.
    data = lance.write_dataset(
        pa.RecordBatchReader.from_batches(schema, batches()), f"{job['index']}/data.lance", max_rows_per_file=2**31
    )
    data.create_index("vector", settings["type"], name=_NAME, metric="l2", **settings["options"])


class _Opened:
    disk_files: Sequence[Path] = ()
    memory_bytes: int | None = None

    def __init__(self, job: Job) -> None:
        self._k, self._clients = job["k"], job["open"]["clients"]
        self.own_batch = not self._clients
        self._data = lance.dataset(
            f"{job['index']}/data.lance",
            index_cache_size_bytes=int(job["open"]["cache_bytes_per_vector"] * job["count"]),
            metadata_cache_size_bytes=4 << 20,
        )
        self._data.prewarm_index(_NAME)

    def one(self, query: Array, point: dict[str, Any]) -> Array:
        return padded(self._ask(query.astype(np.float32), point)["_rowid"].to_numpy(), self._k)

    def batch(self, queries: Array, point: dict[str, Any], threads: int) -> Array:
        if self._clients:
            return by_threads(lambda query: self.one(query, point), queries, threads)
        out = np.full((len(queries), self._k), -1, np.int64)
        table = self._ask(queries.astype(np.float32), point)
        owner, ids = table["query_index"].to_numpy(), table["_rowid"].to_numpy()
        first = np.searchsorted(owner, owner)  # rows of a query are together, nearest first
        out[owner, np.arange(len(owner)) - first] = ids
        return out

    def own_stats(self) -> dict[str, float]:
        return {}

    def _ask(self, query: Array, point: dict[str, Any]) -> Any:
        nearest = {"column": "vector", "q": query, "k": self._k, "nprobes": point["nprobes"]}
        if point.get("refine"):
            nearest["refine_factor"] = point["refine"]
        return self._data.to_table(columns=[], with_row_id=True, nearest=nearest)


def open_index(job: Job) -> Searcher:
    return _Opened(job)


if __name__ == "__main__":
    main(
        build,
        open_index,
        lambda: {"pylance": version("pylance"), "lancedb": version("lancedb"), "cpus": str(os.cpu_count())},
    )
