"""How the comparisons of a graph in memory grow with a collection, at the same recall: a yardstick for scaling.py.

    python benchmarks/hnsw.py DATA [DATA ...] [-o hnsw.json]

DATA is that of `benchmarks.compare`, with uint8 vectors. usearch, in an environment of its own, builds an HNSW graph
over all exact vectors, with 16 links a node. It searches with one thread. Its memory is all vectors, and 128 bytes for
each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from usearch.index import Index

LINKS, BUILD_BEAM = 16, 100
BEAMS = (40, 50, 60, 70, 80, 100, 120, 160)
BLOCK = 200_000
RECALLS = (0.95, 0.98)


def signed(vectors: np.ndarray) -> np.ndarray:
    """The vectors moved by -128, because usearch has no uint8. This changes no distance."""
    return (vectors.astype(np.int16) - 128).astype(np.int8)


def measure(data: Path, threads: int) -> dict[str, Any]:
    """Comparisons and processor time of a query, for each beam and at RECALLS."""
    dim = int(np.fromfile(data / "base.u8bin", np.int32, 2)[1])
    base = np.memmap(data / "base.u8bin", np.uint8, "r", 8).reshape(-1, dim)
    queries = signed(np.fromfile(data / "query.u8bin", np.uint8)[8:].reshape(-1, dim))
    truth = np.fromfile(data / "truth.ibin", np.int32)
    truth = truth[2 : 2 + truth[0] * truth[1]].reshape(truth[:2])[:, :10]
    index = Index(ndim=dim, metric="l2sq", dtype="i8", connectivity=LINKS, expansion_add=BUILD_BEAM)
    began = time.perf_counter()
    for start in range(0, len(base), BLOCK):
        block = signed(base[start : start + BLOCK])
        index.add(np.arange(start, start + len(block)), block, threads=threads)
    out: dict[str, Any] = {"data": data.name, "count": len(base), "build_seconds": time.perf_counter() - began}
    out["points"] = []
    for beam in BEAMS:
        index.expansion_search = beam
        cpu = time.process_time()
        found = index.search(queries, 10, threads=1)
        cpu = time.process_time() - cpu
        hits = [len(np.intersect1d(a, b)) for a, b in zip(found.keys, truth, strict=True)]
        point = {"beam": beam, "recall": float(np.mean(hits)) / 10, "compared": found.computed_distances / len(queries)}
        out["points"].append({**point, "cpu_us": cpu / len(queries) * 1e6})
    out["at"] = {str(recall): at_recall(out["points"], recall) for recall in RECALLS}
    return out


def at_recall(points: list[dict[str, float]], recall: float) -> dict[str, float] | None:
    """Values at a recall, interpolated between the beams around it."""
    for low, high in itertools.pairwise(points):
        if low["recall"] <= recall <= high["recall"]:
            share = (recall - low["recall"]) / (high["recall"] - low["recall"])
            return {name: low[name] + share * (high[name] - low[name]) for name in low}
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2, help="of the build")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    text = json.dumps([measure(data, args.threads) for data in args.data], indent=1)
    if args.output:
        args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
