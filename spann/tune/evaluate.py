"""What a setting of the search gives and costs: recall, speed, latency and reads."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams
from spann.errors import InputError
from spann.tune.recall import check_truth, recall_at_k
from spann.types import Array, Metric, Progress, SearchResult
from spann.vectors import Truth

PER_QUERY = ("postings_read", "pages_read", "bytes_read", "distances")
"""The statistics whose means are reported."""

_WARM_UP = 16
"""Queries searched before the clock starts: enough to start the threads and fill the caches of the code, too few to
bring the postings that the measured queries need into memory."""


class Searchable(Protocol):
    """What is evaluated: an open index, or a model of one."""

    @property
    def metric(self) -> Metric: ...

    def search(
        self, queries: Array, k: int = 10, params: SearchParams | None = None, *, threads: int | None = None
    ) -> SearchResult: ...


def evaluate(
    index: Searchable,
    queries: Array,
    truth: Truth,
    k: int,
    settings: Sequence[SearchParams],
    threads: Sequence[int],
    *,
    io: str = "auto",
    truth_name: str = "the ground truth",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search all `queries` (nq, dim) with each of `settings` on each number of `threads`, and measure.

    Returns ``{"runs": [...]}``, fit for JSON, a run for each pair in the order given, settings first::

        {"settings": {"k", "max_postings", "epsilon2", "navigate", "io", "threads"},
         "recall": share of the true neighbours found (`recall_at_k`),
         "qps": queries per second of one search call for the whole batch, wall time,
         "latency_ms": {"mean", "p50", "p95", "p99"},   of single queries, on a thread that works on one at a time
         "per_query": {"postings_read", "pages_read", "bytes_read", "distances"}}   means

    An unlimited `epsilon2` is null there, for JSON has no infinity. `io` is how the index was opened; it is only
    reported. Raises `InputError` for a truth that does not fit, before anything is searched where that shows by then.
    """
    check_truth(truth, len(queries), k, truth_name)
    if not settings or not threads:
        raise InputError("nothing to evaluate: at least one setting and one number of threads are needed")
    pairs = [(params, count) for params in settings for count in threads]
    runs = []
    for done, (params, count) in enumerate(pairs, 1):
        runs.append(_run(index, queries, truth, k, params, count, io, truth_name))
        if progress:
            progress("evaluate", done, len(pairs))
    return {"runs": runs}


def _run(
    index: Searchable,
    queries: Array,
    truth: Truth,
    k: int,
    params: SearchParams,
    threads: int,
    io: str,
    truth_name: str,
) -> dict[str, Any]:
    index.search(queries[:_WARM_UP], k, params, threads=threads)
    start = time.perf_counter()
    result = index.search(queries, k, params, threads=threads)
    seconds = time.perf_counter() - start
    return {
        "settings": {
            "k": k,
            "max_postings": params.max_postings,
            "epsilon2": params.epsilon2 if math.isfinite(params.epsilon2) else None,
            "navigate": params.navigate,
            "io": io,
            "threads": threads,
        },
        "recall": recall_at_k(result.ids, result.distances, truth, k, index.metric, truth_name),
        "qps": len(queries) / seconds,
        **costs(result.stats),
    }


def costs(stats: NDArray[np.void]) -> dict[str, dict[str, float]]:
    """Latencies in ms and mean reads of queries, from their records of `QUERY_STATS`: the entries of a run."""
    latency = stats["total_ns"] / 1e6
    p50, p95, p99 = np.percentile(latency, (50, 95, 99)).tolist()
    return {
        "latency_ms": {"mean": float(latency.mean()), "p50": p50, "p95": p95, "p99": p99},
        "per_query": {name: float(stats[name].mean()) for name in PER_QUERY},
    }
