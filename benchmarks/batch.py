"""Measures posting-major against query-major search of one large batch, from disk (direct I/O).

    python benchmarks/batch.py INDEX BASE [--queries 100000] [-o batch.json]

INDEX is an index of the vectors in BASE. The queries are random rows of BASE, with every element moved by up to
`--noise`, so that no query is a vector of the collection. Both orders search the same batch in turn, with
`--memory-budget` for codes. Answers must be the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import spann
from spann.vectors import open_source, sample_rows


def queries_near(base: Path, count: int, noise: int, seed: int = 7) -> np.ndarray:
    """Queries (count, dim) of the base's type: its rows, moved a little."""
    with open_source(base) as source:
        rows = source.take(sample_rows(source.count, count, seed))
    moved = rows.astype(np.float32) + np.random.default_rng(seed).integers(-noise, noise + 1, rows.shape)
    if rows.dtype.kind in "iu":
        limits = np.iinfo(rows.dtype)
        moved = np.clip(moved, limits.min, limits.max)
    return moved.astype(rows.dtype)


def measure(index: spann.Index, queries: np.ndarray, params: spann.SearchParams, order: str, threads: int) -> Any:
    """Searches the whole batch once. Returns (result, figures)."""
    start = time.perf_counter()
    result = index.search(queries, 10, params, threads=threads, order=order)
    seconds = time.perf_counter() - start
    stats = result.stats
    return result, {
        "order": order,
        "seconds": seconds,
        "qps": len(queries) / seconds,
        "reads_per_query": float(stats["reads"].mean()),
        "kib_per_query": float(stats["bytes_read"].mean()) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--noise", type=int, default=8)
    parser.add_argument("--memory-budget", default="auto")
    parser.add_argument("--max-postings", type=int, default=192)
    parser.add_argument("--error-bound", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    queries = queries_near(args.base, args.queries, args.noise)
    params = spann.SearchParams(max_postings=args.max_postings, error_bound=args.error_bound)
    runs, answers = [], {}
    with spann.open(args.index, io="direct", memory_budget=args.memory_budget) as index:
        memory = index.open_memory_bytes
        for _ in range(args.rounds):
            for order in ("query", "posting"):
                answers[order], figures = measure(index, queries, params, order, args.threads)
                runs.append(figures)
                print(f"{order:>8} {figures['qps']:8.0f} QPS", file=sys.stderr)
    same = bool((answers["query"].ids == answers["posting"].ids).all())
    qps = {o: float(np.median([r["qps"] for r in runs if r["order"] == o])) for o in ("query", "posting")}
    out = {
        "queries": len(queries),
        "max_postings": args.max_postings,
        "error_bound": args.error_bound,
        "memory_budget": args.memory_budget,
        "open_memory_bytes": memory,
        "threads": args.threads,
        "same_answers": same,
        "median_qps": qps,
        "ratio": qps["posting"] / qps["query"],
        "runs": runs,
    }
    text = json.dumps(out, indent=1)
    if args.output:
        args.output.write_text(text + "\n")
    print(text)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
