"""Makes a collection of clusters, like those of recommendation and deduplication, with queries and true neighbours.

    python benchmarks/clustered.py DIR [--rows 200000] [--dim 96] [--seed 0]

Sizes of clusters follow a power law, and their spreads differ by a factor of four. Each spreads in directions of its
own, a quarter of the dimensions. One vector in fifty is far from all clusters, and one in a hundred is nearly a copy of
another. Queries come from the same distribution. Writes base.fbin, query.fbin (4000) and truth.ibin (100 neighbours,
l2).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from spann.measuring.exact import exact_search
from spann.types import Metric
from spann.vectors import ArraySource

CLUSTERS = 400
QUERIES = 4000
NEIGHBOURS = 100


def draw(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors (count, dim) float32."""
    weights = 1 / np.arange(1, CLUSTERS + 1) ** 0.8
    cluster = rng.choice(CLUSTERS, count, p=weights / weights.sum())
    centers = rng.normal(size=(CLUSTERS, dim))
    inner = dim // 4
    spread = rng.uniform(0.2, 0.8, CLUSTERS)
    x = np.empty((count, dim), np.float32)
    for c in range(CLUSTERS):
        rows = np.flatnonzero(cluster == c)
        directions = rng.normal(size=(inner, dim)) / np.sqrt(inner)
        within = rng.normal(size=(len(rows), inner)) @ directions
        x[rows] = centers[c] + spread[c] * within + 0.05 * rng.normal(size=(len(rows), dim))
    far = rng.random(count) < 0.02
    x[far] = 1.5 * rng.normal(size=(int(far.sum()), dim))
    copies = np.flatnonzero(rng.random(count) < 0.01)
    x[copies] = x[rng.integers(0, count, len(copies))] + 0.001 * rng.normal(size=(len(copies), dim))
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    x = draw(args.rows + QUERIES, args.dim, np.random.default_rng(args.seed))
    base, queries = x[:-QUERIES], x[-QUERIES:]
    rows, sqdist = exact_search(ArraySource(base), queries, NEIGHBOURS, Metric.L2)
    args.directory.mkdir(parents=True, exist_ok=True)
    for name, vectors in (("base", base), ("query", queries)):
        header = np.array(vectors.shape, np.uint32).tobytes()
        (args.directory / f"{name}.fbin").write_bytes(header + vectors.astype(np.float32).tobytes())
    header = np.array(rows.shape, np.uint32).tobytes()
    truth = rows.astype(np.int32).tobytes() + sqdist.astype(np.float32).tobytes()
    (args.directory / "truth.ibin").write_bytes(header + truth)


if __name__ == "__main__":
    main()
