"""faiss: inverted lists of codes in memory, candidates re-ranked from the raw vectors on disk.

faiss has no re-ranking from disk that bypasses the page cache, so this script does it, as well as the page cache
allows. It asks for the pages of all candidates at once (`POSIX_FADV_WILLNEED`), then reads row by row without
read-ahead. The memory cgroup bounds the page cache.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import Array, Job, Searcher, main, padded, read_bin

_HEADER = 8
_BLOCK = 50_000

_PR_SET_PDEATHSIG = 1

_BATCH = 50
"""Queries that faiss gets at once. It allocates for each list and query of a batch, and that must fit the memory
limit."""


def build(job: Job) -> None:
    base, settings = read_bin(job["base"], job["dtype"]), job["settings"]
    faiss.omp_set_num_threads(job["threads"])
    index = faiss.index_factory(job["dim"], settings["factory"])
    inner = _lists(index)
    inner.cp.niter = settings["iterations"]
    rng = np.random.default_rng(0)
    rows = min(job["count"], settings["training_per_list"] * inner.nlist)
    sample = np.sort(rng.choice(job["count"], rows, replace=False))
    index.train(base[sample].astype(np.float32))
    for start in range(0, job["count"], _BLOCK):
        index.add(base[start : start + _BLOCK].astype(np.float32))
    faiss.write_index(index, f"{job['index']}/index.faiss")


class _Opened:
    own_batch = True

    def __init__(self, job: Job) -> None:
        faiss.omp_set_num_threads(1)
        self._pool: ProcessPoolExecutor | None = None
        self._k, self._dim, self._dtype = job["k"], job["dim"], np.dtype(job["dtype"])
        self._row = self._dim * self._dtype.itemsize
        # Its table for product quantisers takes several times as much memory as the codes, far beyond the budget.
        variables: Any = faiss.cvar
        variables.precomputed_table_max_bytes = 0
        self._index = faiss.read_index(f"{job['index']}/index.faiss")
        self._inner = _lists(self._index)
        if bits := job["open"].get("query_bits"):
            self._inner.qb = bits
        self._coarse = faiss.downcast_index(self._inner.quantizer)
        self._fd = os.open(job["base"], os.O_RDONLY)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        self.disk_files: Sequence[Path] = (Path(job["base"]),)
        code = self._inner.code_size + 8
        self.memory_bytes: int | None = job["count"] * code + self._inner.nlist * self._dim * 4

    def one(self, query: Array, point: dict[str, Any]) -> Array:
        return self._rerank(query.astype(np.float32), self._candidates(query[None], point)[0])

    def batch(self, queries: Array, point: dict[str, Any], threads: int) -> Array:
        blocks = np.array_split(queries, -(-len(queries) // _BATCH))
        if threads == 1:
            return np.concatenate([self.some(block, point) for block in blocks])
        if self._pool is None:
            # Processes, because Python's lock would stop one client while the other asks the system for a row. They are
            # forks, so they share the index's memory. Forked before any thread of OpenMP, which would not survive it.
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(threads, context, initializer=_follow, initargs=(self,))
        return np.concatenate(list(self._pool.map(_some, blocks, [point] * len(blocks))))

    def some(self, queries: Array, point: dict[str, Any]) -> Array:
        """Finds the candidates of all queries at once, then re-ranks one query after the other."""
        candidates = self._candidates(queries, point)
        return np.stack([self._rerank(q.astype(np.float32), c) for q, c in zip(queries, candidates, strict=True)])

    def own_stats(self) -> dict[str, float]:
        return {}

    def _candidates(self, queries: Array, point: dict[str, Any]) -> Array:
        self._inner.nprobe = point["nprobe"]
        if isinstance(self._coarse, faiss.IndexHNSW):
            self._coarse.hnsw.efSearch = max(64, 2 * point["nprobe"])
        return self._index.search(queries.astype(np.float32), point["rerank"])[1]

    def _rerank(self, query: Array, candidates: Array) -> Array:
        ids = np.sort(candidates[candidates >= 0])
        places = (_HEADER + ids * self._row).tolist()
        for place in places:
            os.posix_fadvise(self._fd, place, self._row, os.POSIX_FADV_WILLNEED)
        raw = b"".join([os.pread(self._fd, self._row, place) for place in places])
        rows = np.frombuffer(raw, self._dtype).reshape(-1, self._dim).astype(np.float32)
        return padded(ids[np.argsort(np.square(rows - query).sum(1), kind="stable")], self._k)


def _lists(index: Any) -> Any:
    return faiss.downcast_index(faiss.extract_index_ivf(index))


_followed: _Opened
"""The index that a process of the pool was forked with."""


def _follow(opened: _Opened) -> None:
    global _followed
    _followed = opened
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _some(queries: Array, point: dict[str, Any]) -> Array:
    return _followed.some(queries, point)


def open_index(job: Job) -> Searcher:
    return _Opened(job)


if __name__ == "__main__":
    main(build, open_index, lambda: {"faiss-cpu": version("faiss-cpu"), "faiss options": faiss.get_compile_options()})
