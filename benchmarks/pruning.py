"""Compares rules that end a query's list of postings: the postings scored for the same recall, rule by rule.

    python benchmarks/pruning.py INDEX DATA

INDEX has codes and no replicas. DATA is that of `benchmarks.compare`, with 100 neighbours in its truth. The last rule
is that of searches, and is searched with. The other rules need no search: the distances of queries from all centroids,
and the posting of each true neighbour, tell what a rule would have scored and found. Learned rules are fitted to every
other query. All rules are judged by the rest.
"""

from __future__ import annotations

import argparse
import bisect
from collections.abc import Callable
from pathlib import Path

import numpy as np

import spann
from spann.format.postings import PAGE, Record, posting_bytes, posting_span
from spann.measuring.recall import recall_at_k
from spann.store.reader import IndexReader
from spann.vectors import Truth, open_source, read_truth

K, SEEN, SEEDS = 10, 1024, 16
TARGETS = (0.9, 0.95, 0.98)
EPSILONS = (0.02, 0.035, 0.05, 0.07, 0.09, 0.11, 0.13, 0.15, 0.18, 0.22)
COUNTS = (24, 32, 40, 50, 60, 70, 80, 90, 100, 120, 150, 200, 260, 330)


def posting_of_ids(reader: IndexReader) -> np.ndarray:
    """The posting that holds each id, (count,)."""
    about = reader.attributes
    page, offset, length, primaries = (
        reader.read(f"postings/directory/{name}") for name in ("page", "offset", "length", "primaries")
    )
    start, _ = posting_span(page, offset, posting_bytes(about, length, primaries))
    pages, header = reader.array("postings/pages"), Record.of(about).header
    width = np.dtype(f"<u{about['id_bytes']}")
    out = np.full(about["count"], -1, np.int64)
    for p in np.flatnonzero(length):
        first, size = int(start[p]) + header, int(length[p]) * width.itemsize
        content = pages.read_rows(first // PAGE, (first + size - 1) // PAGE + 1).reshape(-1)
        out[content[first % PAGE :][:size].view(width).astype(np.int64)] = p
    return out


class Queries:
    """``sqdist`` (nq, SEEN) are squared distances to the nearest centroids. ``rank`` (nq, k) are the places of the
    centroids that hold the true neighbours. ``near`` are the squared distances of these neighbours."""

    def __init__(self, index: Path, data: Path) -> None:
        reader = IndexReader.open(index)
        with open_source(next(data.glob("query.*bin"))) as source:
            x = source.read(0, source.count).astype(np.float32)
        c = reader.read("centroids/vectors").astype(np.float32)
        sqdist = (x**2).sum(1)[:, None] + (c**2).sum(1) - 2 * x @ c.T
        order = np.argsort(sqdist, axis=1)
        self.sqdist = np.take_along_axis(sqdist, order[:, :SEEN], axis=1)
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
        truth = read_truth(data / "truth.ibin")
        assert truth.distances is not None
        self.near = truth.distances
        self.rank = np.take_along_axis(place, posting_of_ids(reader)[truth.ids], axis=1)
        self.test = np.arange(len(x)) % 2 == 1

    def found(self) -> np.ndarray:
        """The number of the true K in each posting, (nq, SEEN)."""
        out = np.zeros(self.sqdist.shape, np.float32)
        for i, ranks in enumerate(self.rank[:, :K]):
            np.add.at(out[i], ranks[ranks < SEEN], 1)
        return out

    def kth(self) -> np.ndarray:
        """Squared distance of the K-th vector found in the first `SEEDS` postings, (nq, 1)."""
        out = np.empty((len(self.near), 1))
        for i, near in enumerate(self.near):
            seen = near[self.rank[i] < SEEDS]
            out[i] = seen[K - 1] if len(seen) >= K else near[-1]
        return out


def curve(score: np.ndarray, found: np.ndarray, test: np.ndarray) -> list[float]:
    """Postings taken for each of `TARGETS`, by the highest scores; the first few are always taken."""
    score, found = score[test], found[test]
    ordered = np.sort(score.ravel())[::-1]
    points = []
    for count in COUNTS:
        keep = score >= ordered[count * len(score)]
        keep[:, :4] = True
        points.append(((found * keep).sum() / (K * len(score)), keep.sum(axis=1).mean()))
    recall, postings = zip(*points, strict=True)
    return [float(np.interp(t, recall, postings)) for t in TARGETS]


def logistic(features: np.ndarray, found: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Scores (nq, SEEN) of a regression on features (nq, SEEN, f), by Newton's method."""
    x, y = features[fit].reshape(-1, features.shape[-1]), np.minimum(found[fit].ravel(), 1)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    mean[0], spread[0] = 0, 1
    x, weights = (x - mean) / spread, np.zeros(x.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * np.eye(len(weights))
        weights += np.linalg.solve(hessian, x.T @ (y - p) - 1e-3 * weights)
    return ((features - mean) / spread) @ weights


def patience(queries: Queries, wait: int) -> tuple[float, float]:
    """(recall, postings) if a query stops `wait` postings after the last that improved the K best."""
    scored, hits = [], []
    for ranks, near in zip(queries.rank[queries.test], queries.near[queries.test], strict=True):
        best: list[float] = []
        last = SEEDS - 1
        for j in np.argsort(ranks, kind="stable"):
            if ranks[j] - last > wait:
                break
            if len(best) < K or near[j] < best[K - 1]:
                bisect.insort(best, float(near[j]))
                last = max(last, int(ranks[j]))
        scored.append(last + 1 + wait)
        hits.append((ranks[:K] <= last + wait).mean())
    return float(np.mean(hits)), float(np.mean(scored))


def used(index: Path, data: Path) -> tuple[list[float], list[float]]:
    """(recalls, postings) of searches that prune by shapes, and re-rank all possible neighbours."""
    points = []
    with (
        spann.open(index, memory_budget=1 << 40) as opened,
        open_source(next(data.glob("query.*bin"))) as source,
    ):
        x, truth = source.read(0, source.count)[1::2], read_truth(data / "truth.ibin")
        assert truth.distances is not None
        odd = Truth(truth.ids[1::2], truth.distances[1::2])
        for epsilon2 in EPSILONS:
            params = spann.SearchParams(max_postings=SEEN, epsilon2=epsilon2, error_bound=3.0)
            found = opened.search(x, K, params)
            recall = recall_at_k(found.ids, found.distances, odd, K, opened.metric)
            points.append((recall, float(found.stats["postings_scored"].mean())))
    recalls, postings = zip(*points, strict=True)
    return list(recalls), list(postings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("data", type=Path)
    args = parser.parse_args()
    queries = Queries(args.index, args.data)
    found, log = queries.found(), np.log(queries.sqdist)
    place = np.arange(SEEN, dtype=np.float32)[None] + 0 * log
    base, rank = log - log[:, 15:16], np.log1p(place)
    slope = (log[:, 63:64] - log[:, 15:16]) + 0 * log
    lead = (log[:, 15:16] - log[:, :1]) + 0 * log
    shape = [np.ones_like(log), base, base**2, rank, rank**2]
    shape += [f * g for f in (slope, lead) for g in (1, base, rank)]
    kth = np.log(queries.kth())
    told = (log[:, 15:16] - kth) + 0 * log
    rules: dict[str, Callable[[], np.ndarray]] = {
        "a fixed number": lambda: -place,
        "ratio to the nearest centroid": lambda: -(log - log[:, :1]),
        "ratio to the 16th nearest": lambda: -base,
        "ratio to the 10th result after 16 postings": lambda: -(log - kth),
        "logistic, distances and ranks": lambda: logistic(np.stack(shape, -1), found, ~queries.test),
        "logistic, and the 10th result": lambda: logistic(
            np.stack([*shape, told, told * base, told * rank, told**2], -1), found, ~queries.test
        ),
    }
    print("| rule | " + " | ".join(f"{t:.2f}" for t in TARGETS) + " |\n|---|" + "---|" * len(TARGETS))
    for name, score in rules.items():
        print(f"| {name} | " + " | ".join(f"{x:.0f}" for x in curve(score(), found, queries.test)) + " |")
    points = sorted(patience(queries, wait) for wait in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128))
    recall, postings = zip(*points, strict=True)
    cells = [f"{np.interp(t, recall, postings):.0f}" for t in TARGETS]
    print(f"| so many postings in a row bring nothing | {' | '.join(cells)} |")
    found_by, taken = used(args.index, args.data)
    cells = [f"{np.interp(t, found_by, taken):.0f}" for t in TARGETS]
    print(f"| ratio to the 16th of what is expected by shapes, searched | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
