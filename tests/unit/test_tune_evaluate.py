"""The report of a list of settings, on a model whose answers are known."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from spann.config import SearchParams
from spann.errors import InputError
from spann.measuring import evaluate
from spann.measuring.evaluate import PER_QUERY
from spann.measuring.exact import exact_search
from spann.testing import clustered, exact_neighbours
from spann.types import QUERY_STATS, Array, Metric, SearchResult
from spann.vectors import ArraySource, Truth

BASE, QUERIES = clustered(200, 8, 12, 1)


class Model:
    """Finds everything with at least 8 postings, every second neighbour with fewer."""

    metric = Metric.L2

    def __init__(self) -> None:
        self.calls: list[tuple[int, int | None]] = []

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
        assert (in_flight, order) == (3, "query")
        params = params or SearchParams()
        assert params.max_postings is not None
        self.calls.append((len(queries), threads))
        ids, distances = exact_neighbours(BASE, queries, k)
        if params.max_postings < 8:
            ids[:, ::2] = -1
        stats = np.zeros(len(queries), QUERY_STATS)
        stats["postings_read"] = params.max_postings
        stats["bytes_read"] = 4096 * np.arange(1, len(queries) + 1)
        stats["navigate_ns"], stats["score_ns"], stats["rerank_ns"], stats["read_ns"] = 1, 2, 4, 8
        stats["total_ns"] = 1_000_000 * np.arange(1, len(queries) + 1)
        time.sleep(0.001)
        return SearchResult(ids, distances.astype(np.float32), stats)


def known() -> Truth:
    return Truth(*exact_search(ArraySource(BASE), QUERIES, 10, "l2"))


def test_report() -> None:
    model = Model()
    seen: list[tuple[str, int, int]] = []
    settings = [SearchParams(max_postings=4), SearchParams(max_postings=8, epsilon2=0.5, navigate=20)]
    report = evaluate(
        model,
        QUERIES,
        known(),
        10,
        settings,
        [1, 2],
        in_flight=3,
        io="direct",
        progress=lambda *step: seen.append(step),
    )
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    runs = report["runs"]
    assert [run["settings"] for run in runs] == [
        {
            "k": 10,
            "max_postings": n,
            "epsilon2": e,
            "navigate": v,
            "rerank": None,
            "error_bound": 1.0,
            "io": "direct",
            "threads": t,
            "in_flight": 3,
            "order": "query",
        }
        for n, e, v in ((4, None, None), (8, 0.5, 20))
        for t in (1, 2)
    ]
    assert [run["recall"] for run in runs] == [0.5, 0.5, 1.0, 1.0]
    for run in runs:
        assert set(run) == {"settings", "unknown", "recall", "qps", "latency_ms", "per_query"}
        assert 0 < run["qps"] < 12 / 0.001
        assert run["latency_ms"]["mean"] == run["latency_ms"]["p50"] == pytest.approx(6.5)
        assert 11 < run["latency_ms"]["p95"] < run["latency_ms"]["p99"] < 12
    counted = dict(runs[0]["per_query"])
    assert 0 <= counted.pop("cpu_us") < 1e6
    assert counted.pop("compute_us") == pytest.approx(0.007)
    assert counted == dict.fromkeys(PER_QUERY, 0) | {"postings_read": 4, "bytes_read": 6.5 * 4096}
    assert {threads for _, threads in model.calls} == {1, 2}
    assert seen == [("evaluate", done, 4) for done in (1, 2, 3, 4)]


def test_truth_is_checked_before_the_search() -> None:
    model = Model()
    with pytest.raises(InputError, match=r"k 11 is outside 1 to 10, the neighbours of each query in x\.ibin"):
        evaluate(model, QUERIES, known(), 11, [SearchParams()], [1], truth_name="x.ibin")
    with pytest.raises(InputError, match="is for 12 queries and there are 5"):
        evaluate(model, QUERIES[:5], known(), 10, [SearchParams()], [1])
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(model, QUERIES, known(), 10, [], [1])
    assert not model.calls


def test_truth_of_another_metric_is_named() -> None:
    wrong = Truth(*exact_search(ArraySource(BASE), QUERIES, 10, "ip"))
    right = known()
    assert right.distances is not None
    wrong = Truth(right.ids, wrong.distances)
    with pytest.raises(InputError, match=r"x\.ibin was likely made with another metric than l2"):
        evaluate(Model(), QUERIES, wrong, 10, [SearchParams(max_postings=8)], [1], in_flight=3, truth_name="x.ibin")
