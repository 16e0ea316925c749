"""A collection that changes for days: what searches find and cost beside a new build of the same content.

    python benchmarks/living.py                      # 50,000 clustered vectors, 10 days, a minute
    python benchmarks/living.py --base base.fbin --rows 1000000 --days 100 --pattern drift

Each day deletes a share of the vectors and adds as many new ones, by one of four patterns:

- random: any vectors go, any come;
- window: the oldest go;
- drift: the collection is sorted along its first principal axis, so new days bring new regions;
- skewed: half of the new vectors lie in one small region.

Every day it measures recall with `target_recall`, and on some days it builds an index of the same content anew and
compares both: recall, processor time and reads of a query, bytes on disk. The last line is a summary in JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import spann
from spann.testing import clustered
from spann.vectors import open_source

K = 10
PATTERNS = ("random", "window", "drift", "skewed")
ROUNDS = 3
"""Measurements of each index, one after the other in turns; medians are reported."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", type=Path, help="a file of vectors; at least ROWS (1 + DAYS * SHARE) of them")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=64, help="of vectors that are made, without --base")
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.01, help="of the vectors that go each day, and come")
    parser.add_argument("--pattern", choices=PATTERNS, default="random")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--place", type=Path, help="a directory for the indexes; by default a temporary one")
    parser.add_argument("--compare", default="", help="days with a new build, by default some ten per cent")
    return parser.parse_args(arguments)


def vectors_of(args: argparse.Namespace, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` vectors, and queries that are none of them."""
    if args.base is None:
        base, queries = clustered(count, args.dim, args.queries, 7, np.uint8)
        return base, queries
    with open_source(args.base) as source:
        if source.count < count + args.queries:
            raise SystemExit(f"{args.base} has {source.count} vectors; {count + args.queries} are needed")
        found = source.read(0, count + args.queries)
    return found[args.queries :], found[: args.queries]


def ordered(vectors: np.ndarray, args: argparse.Namespace, rng: np.random.Generator) -> np.ndarray:
    """The order in which vectors arrive: the first `rows` are there on day 0."""
    n, day = len(vectors), round(args.rows * args.share)
    if args.pattern == "drift":
        some = vectors[rng.choice(n, min(n, 20_000), replace=False)].astype(np.float32)
        _, _, axes = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)
        return np.argsort(vectors.astype(np.float32) @ axes[0], kind="stable")
    order = rng.permutation(n)
    if args.pattern == "skewed":
        late = order[args.rows :]
        near = np.square(vectors[late].astype(np.float32) - vectors[late[0]].astype(np.float32)).sum(axis=1)
        close = late[np.argsort(near, kind="stable")[: len(late) // 2]]
        rest = rng.permutation(np.setdiff1d(late, close))
        mixed = [
            np.concatenate(pair) for pair in zip(_days(close, day - day // 2), _days(rest, day // 2), strict=False)
        ]
        order[args.rows : args.rows + sum(map(len, mixed))] = np.concatenate(mixed)
    return order


def _days(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows) - size + 1, size):
        yield rows[start : start + size]


class Truth:
    """The exact neighbours of all queries among the vectors that are there."""

    def __init__(self, vectors: np.ndarray, queries: np.ndarray) -> None:
        self._x, self._q = vectors.astype(np.float32), queries.astype(np.float32)
        self._norms = np.einsum("ij,ij->i", self._x, self._x)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Ids (queries, K)."""
        best = np.empty((len(self._q), 0), np.int64)
        far = np.empty((len(self._q), 0), np.float32)
        for part in np.array_split(ids, max(1, len(ids) // 50_000)):
            near = self._norms[part] - 2 * (self._q @ self._x[part].T)
            top = np.argpartition(near, min(K, near.shape[1] - 1), axis=1)[:, :K]
            best = np.concatenate([best, part[top]], axis=1)
            far = np.concatenate([far, np.take_along_axis(near, top, axis=1)], axis=1)
            order = np.argsort(far, axis=1, kind="stable")[:, :K]
            best, far = np.take_along_axis(best, order, axis=1), np.take_along_axis(far, order, axis=1)
        return best


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]) / K)


def cost(index: spann.Index, queries: np.ndarray, target: float) -> dict[str, float]:
    """Processor time (us), codes scored, pages and reads of a query, on one thread."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = index.search(queries, K, target_recall=target, threads=1, order="query")
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {
        "cpu_us": used / len(queries) * 1e6,
        **{name: float(found.stats[name].mean()) for name in ("estimates", "distances", "pages_read", "reads")},
    }


def compared(index: spann.Index, fresh: spann.Index, queries: np.ndarray, target: float) -> dict[str, float]:
    """Ratios of the medians of both, measured in turns."""
    turns = [(cost(index, queries, target), cost(fresh, queries, target)) for _ in range(ROUNDS)]
    medians = [{name: float(np.median([turn[i][name] for turn in turns])) for name in turns[0][i]} for i in (0, 1)]
    return {name: medians[0][name] / max(1e-9, medians[1][name]) for name in medians[0]}


def disk(path: Path) -> int:
    log = path.with_name(path.name + ".log")
    return sum(p.stat().st_size for place in (path, log) if place.exists() for p in place.rglob("*") if p.is_file())


def run(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    day_size = round(args.rows * args.share)
    vectors, queries = vectors_of(args, args.rows + args.days * day_size)
    order = ordered(vectors, args, rng)
    there = order[: args.rows].copy()
    truth, path = Truth(vectors, queries), place / "living"
    compare = {int(day) for day in args.compare.split(",")} if args.compare else {
        round(args.days * share) for share in (0, 0.1, 0.25, 0.5, 0.75, 1)
    }  # fmt: skip
    spann.build(vectors[there], path, ids=there).close()
    index = spann.open(path)
    days, spent, written = [], 0.0, 0
    for day in range(args.days + 1):
        if day:
            new = order[args.rows + (day - 1) * day_size :][:day_size]
            at = np.arange(day_size) if args.pattern in ("window", "drift") else rng.choice(len(there), day_size, False)
            begin = time.perf_counter()
            index.delete(there[at])
            index.upsert(new, vectors[new])
            spent += time.perf_counter() - begin
            written += 2 * day_size
            there = np.concatenate([np.delete(there, at), new])
        found = index.search(queries, K, target_recall=args.target)
        line: dict[str, Any] = {"day": day, "recall": recall(found.ids, truth.of(there)), "disk": disk(path)}
        if day in compare:
            with spann.build(vectors[there], place / "fresh", ids=there, overwrite=day > 0) as fresh:
                line |= {f"{name}_ratio": ratio for name, ratio in compared(index, fresh, queries, args.target).items()}
                line["fresh_recall"] = recall(fresh.search(queries, K, target_recall=args.target).ids, truth.of(there))
                line["disk_ratio"] = line["disk"] / disk(place / "fresh")
        days.append(line)
        print(json.dumps({name: round(value, 4) for name, value in line.items()}), flush=True)
    begin = time.perf_counter()
    index.optimize(full=True)
    full = time.perf_counter() - begin
    after = {"recall": recall(index.search(queries, K, target_recall=args.target).ids, truth.of(there))}
    with spann.build(vectors[there], place / "fresh", ids=there, overwrite=True) as fresh:
        after |= {f"{name}_ratio": ratio for name, ratio in compared(index, fresh, queries, args.target).items()}
        after["disk_ratio"] = disk(path) / disk(place / "fresh")
    updates = index.info()["updates"]
    index.close()
    return {
        "pattern": args.pattern,
        "recall_mean": float(np.mean([line["recall"] for line in days])),
        "recall_least": min(line["recall"] for line in days),
        "cpu_ratio_worst": max(line["cpu_us_ratio"] for line in days if "cpu_us_ratio" in line),
        "disk_ratio_worst": max(line["disk_ratio"] for line in days if "disk_ratio" in line),
        "operations_a_second": written / max(spent, 1e-9),
        "after_full": after,
        "full_seconds": full,
        "updates": updates,
        "problems": [str(problem) for problem in spann.verify(path)],
    }


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    place = Path(tempfile.mkdtemp(dir=args.place))
    try:
        print(json.dumps(run(args, place)))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:])
