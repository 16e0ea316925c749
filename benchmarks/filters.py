"""Recall and speed of searches under filters, by the share of vectors that match and how matches lie to the query.

    python benchmarks/filters.py DIRECTORY [--rows 50000] [--queries 100] [--target 0.95] [-o filters.json]

Makes clustered vectors with columns, builds an index of them in DIRECTORY (or opens what is there), and asks
for the 10 nearest of each query under filters of these kinds:

- independent: a random number, which says nothing of where a vector lies;
- half space: a projection of the vectors with noise;
- positive: only the vectors nearest to the query;
- negative: none of the vectors nearest to the query.

Each is asked for shares from all vectors to one in 10,000. Recall is against exact search among the matches. Speed is
that of one thread with prepared filters, beside that of the same queries without a filter.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import spann

DIM, CLUSTERS = 64, 200
SHARES = (1.0, 0.5, 0.1, 0.03, 0.01, 1e-3, 1e-4)
K = 10


def data(rows: int, queries: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Vectors, queries and columns."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, DIM)) * 1.5
    base = (centres[rng.integers(CLUSTERS, size=rows + queries)] + rng.normal(size=(rows + queries, DIM))).astype("f4")
    order = rng.normal(size=DIM)
    half = base[:rows] @ order + rng.normal(size=rows) * np.std(base[:rows] @ order)
    columns = {"u": rng.permutation(rows), "h": np.argsort(np.argsort(half))}
    return base[:rows], base[rows:], columns


def ranks(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The rows from near to far, of each query."""
    squares = np.square(base).sum(axis=1)
    return np.argsort(squares - 2 * queries @ base.T, axis=1)


def filters(kind: str, share: float, rows: int, near: np.ndarray) -> list[dict[str, Any]]:
    """What each query filters by."""
    count = max(1, round(share * rows))
    if kind in ("independent", "half space"):
        return [{"where": f"{'u' if kind == 'independent' else 'h'} < {count}"}] * len(near)
    if kind == "positive":
        return [{"ids": some[:count]} for some in near]
    hidden = max(1, round(0.2 * rows))  # a fifth of all, those nearest to the query
    rng = np.random.default_rng(1)
    return [{"ids": rng.choice(some[hidden:], min(count, rows - hidden), replace=False)} for some in near]


def measure(index: spann.Index, queries: np.ndarray, near: np.ndarray, how: list[dict[str, Any]], target: float) -> Any:
    """Recall, seconds of a query and what it looked at, with every filter used once before."""
    found, seconds, postings = 0.0, 0.0, 0
    for query, some, one in zip(queries, near, how, strict=True):
        left = index.matching(**one)
        begin = time.process_time()
        got = index.search(query, K, target_recall=target, threads=1, **one)
        seconds += time.process_time() - begin
        postings += int(got.stats["postings_scored"][0])
        if "ids" in one:
            matches = some[np.isin(some, one["ids"])]
        else:
            column, _, most = one["where"].split()
            matches = some[COLUMNS[column][some] < int(most)]
        assert left == len(matches) == got.matches[0]
        wanted = matches[:K]
        assert (got.ids[0] >= 0).sum() == len(wanted)
        found += np.isin(wanted, got.ids[0]).mean()
    return {"recall": found / len(queries), "us": 1e6 * seconds / len(queries), "postings": postings / len(queries)}


COLUMNS: dict[str, np.ndarray] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    base, queries, columns = data(asked.rows, asked.queries)
    COLUMNS.update(columns)
    path = asked.directory / f"filters-{asked.rows}.spann"
    index = spann.open(path) if path.exists() else spann.build(base, path, attributes=columns)
    near = ranks(base, queries)
    plain = measure(index, queries, near, [{"where": f"u < {asked.rows}"}] * len(queries), asked.target)
    begin = time.process_time()
    for query in queries:
        index.search(query, K, target_recall=asked.target, threads=1)
    unfiltered = 1e6 * (time.process_time() - begin) / len(queries)
    results = [{"kind": "none", "share": 1.0, "unfiltered_us": unfiltered, **plain}]
    print(f"{'kind':12} {'share':>8} {'recall':>7} {'postings':>9} {'us':>8} {'QPS to unfiltered':>18}")
    for kind in ("independent", "half space", "positive", "negative"):
        for share in SHARES:
            one = measure(index, queries, near, filters(kind, share, asked.rows, near), asked.target)
            results.append({"kind": kind, "share": share, **one})
            print(
                f"{kind:12} {share:8g} {one['recall']:7.3f} {one['postings']:9.1f} {one['us']:8.0f} "
                f"{unfiltered / one['us']:18.2f}",
                flush=True,
            )
    if asked.output:
        asked.output.write_text(json.dumps({"rows": asked.rows, "target": asked.target, "results": results}, indent=1))


if __name__ == "__main__":
    main()
