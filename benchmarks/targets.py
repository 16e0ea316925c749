"""Asks an index for recalls and sees what it gives: on unseen queries, against the cheapest setting of a sweep.

    python benchmarks/targets.py INDEX DATA [-o targets.json]

DATA has query.u8bin or query.fbin, and truth.ibin with at least 100 neighbours (squared distances); base.u8bin or
base.fbin beside them gives truth for k 1000 and for ranges. Measures

- for k 1, 10, 100 and recalls 0.8 to 0.99: the recall of `target_recall`, and its cost beside that of the cheapest of a
  grid of settings that has at least this recall. Cost is the calibration's own (spann/measuring/promise.py);
- what pruning by `epsilon2` saves of the postings and of all reads, with nothing pinned, against a fixed number at the
  same recall@10 of 0.95;
- how much queries differ in what they read;
- k 1000 at target 0.95;
- ranges: average precision at radii within which the median query has 0 to 1000 vectors, and the cost beside that of a
  search for as many neighbours.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import spann
from spann.building.stages.calibration import Reach
from spann.measuring.exact import exact_search
from spann.measuring.promise import cost as modelled
from spann.measuring.recall import recall_at_k
from spann.search import Engine
from spann.store.reader import IndexReader
from spann.vectors import Truth, open_source, read_truth

TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
FILLS = (0.4, 0.55, 0.75, None)
BOUNDS = (0.15, 0.4, 0.7, 1.0, 1.5, 2.2, 3.0)
SWEPT = {1: 2000, 10: 2000, 100: 500}
"""Queries of the sweep for each k, if there are as many: with few the luckiest of hundreds of settings would be taken
for the cheapest, the more so the fewer neighbours a query has."""


def cost(stats: Any) -> float:
    """Microseconds of a query by the calibration's model."""
    return float(modelled(*(stats[name].mean() for name in ("centroid_distances", "postings_scored", "distances"))))


def first(truth: Truth, count: int) -> Truth:
    return Truth(truth.ids[:count], None if truth.distances is None else truth.distances[:count])


class Measure:
    def __init__(self, index: spann.Index, queries: np.ndarray, truth: Truth) -> None:
        self.index, self.queries, self.truth = index, queries, truth

    def run(self, k: int, count: int | None = None, **how: Any) -> tuple[float, float, Any]:
        """Recall, cost and statistics of a search for the first `count` queries."""
        count = min(count or len(self.queries), len(self.queries))
        found = self.index.search(self.queries[:count], k, order="query", **how)
        recall = recall_at_k(found.ids, found.distances, first(self.truth, count), k, self.index.metric)
        return recall, cost(found.stats), found.stats


def sweep(measure: Measure, reach: Reach, k: int, most: int) -> list[tuple[float, float]]:
    """(recall, cost) of a grid of settings. It ends at the second number of postings whose share 0.4 is enough for
    all."""
    out = []
    enough = 0
    for count in sorted({min(most, round(8 * 1.4**i)) for i in range(17)}):
        for fill, bound in itertools.product(FILLS, BOUNDS):
            epsilon2 = float("inf") if fill is None else reach.at(fill * count, count)
            params = spann.SearchParams(max_postings=count, epsilon2=epsilon2, error_bound=bound)
            out.append(measure.run(k, SWEPT[k], params=params)[:2])
            enough += (fill, bound) == (FILLS[0], BOUNDS[-1]) and out[-1][0] >= TARGETS[-1] + 0.005
        if enough == 2:
            break
    return out


def targets(measure: Measure, reach: Reach, most: int) -> list[dict[str, Any]]:
    out = []
    for k in SWEPT:
        print(f"k {k}: sweep", file=sys.stderr)
        grid = sweep(measure, reach, k, most)
        for target in TARGETS:
            recall, _, stats = measure.run(k, target_recall=target)
            on_swept, spent, _ = measure.run(k, SWEPT[k], target_recall=target)
            # Against what has the recall that was had, so that luck in the queries counts on neither side.
            cheapest = min((c for r, c in grid if r >= min(on_swept, target)), default=float("nan"))
            scored = stats["postings_scored"]
            out.append(
                {
                    "k": k,
                    "target": target,
                    "recall": recall,
                    "cost": spent,
                    "cheapest": cheapest,
                    "postings": float(scored.mean()),
                    "postings_p10_p90": np.percentile(scored, (10, 90)).tolist(),
                    "reads": float(stats["reads"].mean()),
                }
            )
            print(json.dumps(out[-1]), file=sys.stderr)
    return out


def saved(measure: Measure, target: float = 0.95) -> dict[str, float]:
    """Postings and reads that pruning saves, against a fixed number of postings at the same recall."""
    recall, _, stats = measure.run(10, target_recall=target)
    params = measure.index.params_for(target, 10)
    points = []
    for count in sorted({round(params.max_postings * x) for x in np.geomspace(0.25, 1.2, 14)}):
        got, _, fixed = measure.run(10, params=params.with_(max_postings=count, epsilon2=float("inf")))
        points.append((got, float(fixed["postings_scored"].mean()), float(fixed["reads"].mean())))
    recalls = [p[0] for p in points]
    return {
        "recall": recall,
        "postings": float(stats["postings_scored"].mean()),
        "postings_fixed": float(np.interp(recall, recalls, [p[1] for p in points])),
        "reads": float(stats["reads"].mean()),
        "reads_fixed": float(np.interp(recall, recalls, [p[2] for p in points])),
    }


def ranges(measure: Measure, base: Path, count: int) -> list[dict[str, Any]]:
    """Average precision and cost of ranges, and k 1000."""
    queries = measure.queries[:count]
    with open_source(base) as source:
        rows, distances = exact_search(source, queries, 2000, measure.index.metric)
    if measure.index.metric is spann.Metric.L2:
        distances = np.sqrt(distances)
    out = []
    found = measure.index.search(queries, 1000, target_recall=0.95, order="query")
    truth = Truth(rows.astype(np.int64), distances if measure.index.metric is not spann.Metric.L2 else distances**2)
    out.append(
        {
            "k": 1000,
            "recall": recall_at_k(found.ids, found.distances, truth, 1000, measure.index.metric),
            "missing": int((found.ids < 0).sum()),
        }
    )
    for rank in (1, 10, 100, 1000):
        radius = float(np.median(distances[:, rank - 1]))
        got = measure.index.search_range(queries, radius, target_recall=0.95)
        true = distances <= radius
        usable = true.sum(axis=1) < distances.shape[1]
        precision = []
        for i in np.flatnonzero(usable):
            wanted = set(rows[i][true[i]].tolist())
            if wanted:
                precision.append(len(wanted & set(got.of(int(i))[0].tolist())) / len(wanted))
        some = np.flatnonzero(usable & true.any(axis=1))
        out.append(
            {
                "radius": radius,
                "median_results": rank,
                "mean_results": float(true[some].sum(axis=1).mean()),
                "queries": len(precision),
                "average_precision": float(np.mean(precision)),
                "cost": cost(got.stats[some]),
                "cost_as_many": as_many(measure.index, queries[some], true[some].sum(axis=1)),
            }
        )
    return out


def as_many(index: spann.Index, queries: np.ndarray, counts: np.ndarray) -> float:
    """Cost of searches for the `counts` nearest of each query, to the nearest quarter."""
    k = np.maximum(1, np.round(2.0 ** (np.round(np.log2(counts) * 4) / 4)).astype(int))
    spent = [
        cost(index.search(queries[k == n], int(n), target_recall=0.95, order="query").stats) * int((k == n).sum())
        for n in np.unique(k)
    ]
    return float(sum(spent) / len(queries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    suffix = next(s for s in (".u8bin", ".fbin") if (args.data / f"query{s}").exists())
    with open_source(args.data / f"query{suffix}") as source:
        queries = source.read(0, source.count).copy()
    truth = read_truth(args.data / "truth.ibin")
    with spann.open(args.index, memory_budget="none") as index:
        pruning = saved(Measure(index, queries, truth))
        print(json.dumps(pruning), file=sys.stderr)
    with spann.open(args.index, memory_budget=1 << 40) as index:
        measure = Measure(index, queries, truth)
        with contextlib.closing(Engine(IndexReader.open(args.index), memory_budget=1 << 40)) as engine:
            reach = Reach(engine, queries[:200])
        out: dict[str, Any] = {"index": index.info()["created_by"], "count": len(index), "dim": index.dim}
        out["saved"] = pruning
        out["ranges"] = ranges(measure, args.data / f"base{suffix}", 300)
        print(json.dumps(out["ranges"]), file=sys.stderr)
        out["targets"] = targets(measure, reach, min(1500, index.info()["postings"]))
    text = json.dumps(out, indent=1)
    if args.output:
        args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
