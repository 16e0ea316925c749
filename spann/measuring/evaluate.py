"""What a setting of the search gives and costs: recall, speed, latency and reads."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams
from spann.errors import InputError
from spann.measuring.recall import check_truth, nearer_than_truth, recall_at_k
from spann.types import Array, Metric, Progress, SearchResult
from spann.vectors import Truth

PER_QUERY = (
    *("postings_scored", "postings_read", "pages_read", "exact_pages_read", "reads", "bytes_read"),
    *("estimates", "distances", "centroid_distances"),
)
"""The statistics whose means are reported."""

_COMPUTE = ("navigate_ns", "score_ns", "rerank_ns")

_WARM_UP = 16
"""Queries searched before the clock starts: enough to start the threads and fill the caches of the code, too few to
bring the postings that the measured queries need into memory."""


class Searchable(Protocol):
    """What is evaluated: an open index, or a model of one."""

    @property
    def metric(self) -> Metric: ...

    def search(
        self,
        queries: Array,
        k: int = 10,
        params: SearchParams | None = None,
        *,
        threads: int | None = None,
        in_flight: int | None = None,
        order: str = "auto",
    ) -> SearchResult: ...


def evaluate(
    index: Searchable,
    queries: Array,
    truth: Truth,
    k: int,
    settings: Sequence[SearchParams],
    threads: Sequence[int],
    *,
    in_flight: int | None = None,
    order: str = "query",
    io: str = "auto",
    truth_name: str = "the ground truth",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search all `queries` (nq, dim) with each of `settings` on each number of `threads`, and measure.

    Returns ``{"runs": [...]}``, fit for JSON, a run for each pair in the order given, settings first::

        {"settings": {"k", "max_postings", "epsilon2", "navigate", "rerank", "error_bound", "io", "threads",
                       "in_flight", "order"},    null where the index decides
         "recall": share of the true neighbours found (`recall_at_k`),
         "unknown": results that are nearer than the truth's, and that it does not list (`nearer_than_truth`),
         "qps": queries per second of one search call for the whole batch, wall time,
         "latency_ms": {"mean", "p50", "p95", "p99"},   of single queries among the `in_flight` of their thread
         "per_query": means of the counters of `PER_QUERY`, "cpu_us" (processor time of this process, kernel and other
                      threads included), "compute_us" (navigating, scoring and re-ranking alone)}

    Queries are worked off one by one (`order` "query"), or as one batch ("posting"), which leaves no latencies of
    single ones: then each is that of the batch. An unlimited `epsilon2` is null there, for JSON has no infinity. `io`
    is how the index was opened; it is only reported. Raises `InputError` for a truth that does not fit, before anything
    is searched where that shows by then.
    """
    check_truth(truth, len(queries), k, truth_name)
    if not settings or not threads:
        raise InputError("nothing to evaluate: at least one setting and one number of threads are needed")
    pairs = [(params, count) for params in settings for count in threads]
    runs = []
    for done, (params, count) in enumerate(pairs, 1):
        runs.append(
            _run(
                index,
                queries,
                truth,
                k,
                params,
                threads=count,
                in_flight=in_flight,
                order=order,
                io=io,
                truth_name=truth_name,
            )
        )
        if progress:
            progress("evaluate", done, len(pairs))
    return {"runs": runs}


def _run(
    index: Searchable,
    queries: Array,
    truth: Truth,
    k: int,
    params: SearchParams,
    *,
    threads: int,
    in_flight: int | None,
    order: str,
    io: str,
    truth_name: str,
) -> dict[str, Any]:
    index = getattr(index, "numbered", index)  # the truth has numbers, also of vectors that have names
    index.search(queries[:_WARM_UP], k, params, threads=threads, in_flight=in_flight, order=order)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = index.search(queries, k, params, threads=threads, in_flight=in_flight, order=order)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = costs(result.stats)
    found["per_query"]["cpu_us"] = cpu * 1e6 / len(queries)
    return {
        "settings": {
            "k": k,
            "max_postings": params.max_postings,
            "epsilon2": params.epsilon2 if math.isfinite(params.epsilon2) else None,
            "navigate": params.navigate,
            "rerank": params.rerank,
            "error_bound": params.error_bound,
            "io": io,
            "threads": threads,
            "in_flight": in_flight,
            "order": order,
        },
        "unknown": nearer_than_truth(result.ids, result.distances, truth, k, index.metric, truth_name),
        "recall": recall_at_k(result.ids, result.distances, truth, k, index.metric, truth_name),
        "qps": len(queries) / seconds,
        **found,
    }


def costs(stats: NDArray[np.void]) -> dict[str, dict[str, float]]:
    """Latencies in ms and mean reads of queries, from their records of `QUERY_STATS`: the entries of a run."""
    latency = stats["total_ns"] / 1e6
    p50, p95, p99 = np.percentile(latency, (50, 95, 99)).tolist()
    return {
        "latency_ms": {"mean": float(latency.mean()), "p50": p50, "p95": p95, "p99": p99},
        "per_query": {name: float(stats[name].mean()) for name in PER_QUERY}
        | {"compute_us": sum(float(stats[name].mean()) for name in _COMPUTE) / 1000},
    }
