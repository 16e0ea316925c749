"""Asks indexes of many kinds of data for recalls, and sees whether unseen queries get them.

    python benchmarks/promises.py [--families gaussian,copies] [--metrics l2,ip] [--kinds codes] [--seed 1]
        [--rows 4000] [--queries 200] [--seconds 600] [-o FILE]

A family makes vectors, and queries from the same distribution that are not among them. For each family, metric and kind
of index, one index is built with defaults. Kinds are: with codes, with codes and replicas, classic without codes. Each
index is searched for each k of `KS` and each recall of `TARGETS`. A *cell* passes if the recall is at least the target
minus 0.01, with three standard errors allowed; or if the search warned that the target cannot be reached. Prints a line
for each index and each failed cell, then a table. The exit status is 1 if a cell failed. Everything is some 130 indexes
and 2,700 cells, in half an hour of two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import spann
from spann.measuring.promise import cost
from spann.testing import clustered

ROWS, QUERIES = 12_000, 300
KS = (1, 3, 10, 30, 100, 300, 1500)
TARGETS = (0.8, 0.95, 0.99)
METRICS = ("l2", "cosine", "ip")
KINDS = {"codes": {}, "replicas": {"max_replicas": 4}, "classic": {"code_bits": 0}}
SLACK = 0.01

Random = np.random.Generator
Made = tuple[np.ndarray, np.ndarray]
"""Vectors and queries."""


def split(rows: np.ndarray) -> Made:
    return rows[:ROWS], rows[ROWS:]


def gaussian(r: Random) -> Made:
    return split(r.standard_normal((ROWS + QUERIES, 32)))


def clusters(r: Random) -> Made:
    return clustered(ROWS, 64, QUERIES, int(r.integers(1 << 30)))


def low_rank(r: Random) -> Made:
    """Six dimensions of 64, and a little noise."""
    plane = r.standard_normal((6, 64))
    return split(r.standard_normal((ROWS + QUERIES, 6)) @ plane + 0.02 * r.standard_normal((ROWS + QUERIES, 64)))


def cube(r: Random) -> Made:
    return split(r.random((ROWS + QUERIES, 4)))


def lengths(r: Random) -> Made:
    return split(r.standard_normal((ROWS + QUERIES, 64)) * np.exp(r.standard_normal((ROWS + QUERIES, 1))))


def lognormal(r: Random) -> Made:
    return split(np.exp(r.standard_normal((ROWS + QUERIES, 32))))


def copies(r: Random) -> Made:
    """Ten copies of each vector; queries are new."""
    originals = r.standard_normal((ROWS // 10 + QUERIES, 32))
    return r.permutation(np.repeat(originals[: ROWS // 10], 10, axis=0)), originals[ROWS // 10 :]


def repeated(r: Random) -> Made:
    """As texts repeat: the commonest vector a tenth of all, half of the vectors unique; so are queries."""
    originals = r.standard_normal((2 * ROWS, 32))
    common = r.zipf(1.5, ROWS + QUERIES) % ROWS
    rows = np.where(r.random(ROWS + QUERIES) < 0.5, common, ROWS - 1 - np.arange(ROWS + QUERIES))
    return split(originals[rows])


def zipf(r: Random) -> Made:
    """Clusters of their own widths. The largest has a tenth of the vectors, the smallest a few."""
    share = 1 / np.arange(1, 1001)
    member = r.choice(1000, ROWS + QUERIES, p=share / share.sum())
    width = np.exp(0.7 * r.standard_normal(1000))
    centres = 3 * r.standard_normal((1000, 32))
    return split(centres[member] + width[member, None] * r.standard_normal((ROWS + QUERIES, 32)))


def sparse(r: Random) -> Made:
    """A twentieth of 128 numbers are not zero, of popular columns more often."""
    odds = np.minimum(1, 1.3 / np.arange(1, 129) ** 0.7)
    rows = np.where(r.random((ROWS + QUERIES, 128)) < odds, r.exponential(1, (ROWS + QUERIES, 128)), 0)
    rows[np.arange(ROWS + QUERIES), r.integers(128, size=ROWS + QUERIES)] += 0.1  # none is zero
    return split(rows)


def one_hot(r: Random) -> Made:
    """Six columns of a table, of 16 values each."""
    share = 1 / np.arange(1, 17)
    values = r.choice(16, (ROWS + QUERIES, 6), p=share / share.sum())
    return split(np.eye(16)[values].reshape(ROWS + QUERIES, 96))


def bytes_(r: Random) -> Made:
    return clustered(ROWS, 64, QUERIES, int(r.integers(1 << 30)), np.uint8)


def in_order(r: Random) -> Made:
    """Sorted by the first number."""
    rows = r.standard_normal((ROWS + QUERIES, 24)) * np.geomspace(3, 0.3, 24)
    base = rows[:ROWS]
    return base[np.argsort(base[:, 0])], rows[ROWS:]


def drifted(r: Random) -> Made:
    """The mean wanders while rows come; queries are of any time."""
    path = np.cumsum(r.standard_normal((ROWS, 24)), axis=0) * (6 / ROWS**0.5)
    rows = path[np.concatenate([np.arange(ROWS), r.integers(ROWS, size=QUERIES)])]
    return split(rows + r.standard_normal(rows.shape))


def binary(r: Random) -> Made:
    """Bits of 256 directions in 24 dimensions, as hashes have them."""
    bits = r.standard_normal((ROWS + QUERIES, 24)) @ r.standard_normal((24, 256)) > 0
    return split(np.packbits(bits ^ (r.random(bits.shape) < 0.03), axis=1))


def coins(r: Random) -> Made:
    """64 bits, few of them set: distances are whole and small, and tie."""
    return split(np.packbits(r.random((ROWS + QUERIES, 64)) < 0.12, axis=1))


FAMILIES: dict[str, Callable[[Random], Made]] = {
    "gaussian": gaussian,
    "clusters": clusters,
    "low-rank": low_rank,
    "cube": cube,
    "lengths": lengths,
    "lognormal": lognormal,
    "copies": copies,
    "repeated": repeated,
    "zipf": zipf,
    "sparse": sparse,
    "one-hot": one_hot,
    "bytes": bytes_,
    "sorted": in_order,
    "drifted": drifted,
    "binary": binary,
    "coins": coins,
}


def make(family: str, seed: int) -> Made:
    """Vectors and queries, as an index takes them."""
    made = FAMILIES[family](np.random.default_rng([seed, sorted(FAMILIES).index(family)]))
    kind = np.uint8 if made[0].dtype == np.uint8 else np.float32
    base, queries = (np.ascontiguousarray(x, kind) for x in made)
    return base, queries


def metrics_of(family: str) -> tuple[str, ...]:
    return ("hamming",) if family in ("binary", "coins") else METRICS


def kinds_of(metric: str) -> tuple[str, ...]:
    return ("classic",) if metric == "hamming" else tuple(KINDS)


def settings(kind: str, dim: int) -> spann.BuildParams:
    """Those of `kind`; codes have the bits that they have by default, where there are any."""
    bits = {} if kind == "classic" else {"code_bits": 4 if dim < 64 else 2}
    return spann.BuildParams(**bits, **KINDS[kind])


def ranks(base: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """What orders the vectors for each query, (nq, n), the smallest first: float64, exact but for its last digits."""
    if metric == "hamming":
        x, q = (np.unpackbits(a, axis=1).astype(np.float32) for a in (base, queries))
        return (q.sum(1)[:, None] + x.sum(1)[None] - 2 * q @ x.T).astype(np.float64)
    x, q = base.astype(np.float64), queries.astype(np.float64)
    if metric == "ip":
        return -q @ x.T
    if metric == "cosine":
        x, q = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, q))
        return -q @ x.T
    middle = x.mean(0)
    x, q = x - middle, q - middle
    return (q**2).sum(1)[:, None] - 2 * q @ x.T + (x**2).sum(1)[None]


def shares(rank: np.ndarray, kth: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The share of its k neighbours that each query found; what ties with the k-th is one."""
    got = np.take_along_axis(rank, np.maximum(ids, 0), axis=1)
    near = 1e-9 * np.maximum(1, np.abs(kth))
    return ((ids >= 0) & (got <= kth + near)).mean(axis=1)


def ask(index: spann.Index, queries: np.ndarray, rank: np.ndarray) -> list[dict[str, Any]]:
    """The cells of an index."""
    cells = []
    for k in KS:
        kth = np.partition(rank, k - 1, axis=1)[:, k - 1 : k]
        for target in TARGETS:
            cell: dict[str, Any] = {"k": k, "target": target}
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    found = index.search(queries, k, target_recall=target, order="query")
                except spann.InputError as error:
                    cells.append({**cell, "said": str(error), "passed": True})
                    continue
            share = shares(rank, kth, found.ids)
            error = float(share.std() / len(share) ** 0.5)
            stats = {name: float(found.stats[name].mean()) for name in ("postings_scored", "distances")}
            cell |= {
                "recall": float(share.mean()),
                "error": error,
                "said": str(said[0].message) if said else "",
                "cost": cost(float(found.stats["centroid_distances"].mean()), *stats.values()),
                **stats,
            }
            # An answer is found or not, so all may have been found by chance.
            missing = max(error, (target * (1 - target) / share.size / max(1, min(k, 4))) ** 0.5)
            cell["passed"] = bool(said) or cell["recall"] >= target - SLACK - 3 * missing
            cells.append(cell)
    return cells


def run(family: str, metric: str, kind: str, made: Made, rank: np.ndarray, seed: int) -> dict[str, Any]:
    base, queries = made
    params = settings(kind, base.shape[1]).with_(seed=seed)
    with tempfile.TemporaryDirectory(prefix="promises-") as directory:
        start = time.process_time()
        with spann.build(base, Path(directory) / "i", metric=metric, params=params) as index:
            seconds = time.process_time() - start
            cells = ask(index, queries, rank)
    about = {"family": family, "metric": metric, "kind": kind, "seed": seed, "rows": len(base), "queries": len(queries)}
    return {**about, "build_cpu_s": seconds, "cells": cells}


def is_of(done: dict[str, Any], family: str, metric: str, kind: str, seed: int) -> bool:
    """Whether a run of the results file is this one, at the sizes asked for."""
    about = {"family": family, "metric": metric, "kind": kind, "seed": seed, "rows": ROWS, "queries": QUERIES}
    return all(done[name] == value for name, value in about.items())


def save(runs: list[dict[str, Any]], path: Path) -> None:
    """Replaces the results file in one step, so that a kill loses at most the index being built."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(runs, indent=1) + "\n")
    draft.replace(path)


def table(runs: list[dict[str, Any]]) -> str:
    """For each family and metric: cells, those where the search said so, those that failed, the largest shortfall."""
    lines = [f"{'family':10} {'metric':8} {'cells':>5} {'said':>5} {'failed':>6} {'worst':>7} {'cost 0.95':>9}"]
    for (family, metric), some in itertools.groupby(runs, lambda x: (x["family"], x["metric"])):
        cells = [cell for x in some for cell in x["cells"]]
        worst = min((c["recall"] - c["target"] for c in cells if "recall" in c and not c["said"]), default=0.0)
        spent = [c["cost"] for c in cells if c["target"] == 0.95 and "cost" in c]
        failed = sum(not c["passed"] for c in cells)
        said = sum(bool(c["said"]) for c in cells)
        lines.append(
            f"{family:10} {metric:8} {len(cells):5} {said:5} {failed:6} {worst:+7.3f} {np.mean(spent or [0]):9.0f}"
        )
    return "\n".join(lines)


def main() -> int:
    global ROWS, QUERIES
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--metrics", default=",".join((*METRICS, "hamming")))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which no other index is built")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    ROWS, QUERIES, end = args.rows, args.queries, time.monotonic() + args.seconds
    runs = json.loads(args.output.read_text()) if args.output and args.output.exists() else []
    for family in args.families.split(","):
        made = make(family, args.seed)
        for metric in (m for m in metrics_of(family) if m in args.metrics.split(",")):
            due = [x for x in kinds_of(metric) if x in args.kinds.split(",")]
            due = [x for x in due if not any(is_of(done, family, metric, x, args.seed) for done in runs)]
            rank = ranks(*made, metric) if due else None
            for kind in due:
                if time.monotonic() > end:
                    continue
                runs.append(run(family, metric, kind, made, rank, args.seed))
                failed = [cell for cell in runs[-1]["cells"] if not cell["passed"]]
                print(f"{family} {metric} {kind}: {len(failed)} of {len(runs[-1]['cells'])} failed", flush=True)
                for cell in failed:
                    print(f"  k {cell['k']}, target {cell['target']}: {cell['recall']:.3f}", flush=True)
                if args.output:
                    save(runs, args.output)
    runs.sort(key=lambda done: [list(FAMILIES).index(done["family"]), done["metric"], done["kind"]])
    print(table(runs))
    return any(not cell["passed"] for x in runs for cell in x["cells"])


if __name__ == "__main__":
    sys.exit(main())
