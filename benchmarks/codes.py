"""Codes compared at equal bytes: our RaBitQ of 1 to 4 bits, faiss's PQ and OPQ, and OSQ, on residuals to centroids.

    python benchmarks/codes.py DATA... -o FILE

DATA is a directory with base.u8bin, query.u8bin and truth.ibin (SIFT, exact neighbours by squared L2), or an .npy file
of vectors whose last 2000 rows are the queries (MiniLM). Vectors go into postings of about 125, a query probes the
nearest ones, all their vectors are ranked by estimate, and the best 15, 20, 30, 50 are re-ranked exactly: recall@10 is
then the share of the true ten that are among them. The ceiling is their share among all vectors probed.

Targets are the figures of the design. Its clustering was another one, so the number of postings probed is chosen for
the nearest ceiling, and a target counts in proportion: target * ceiling here / ceiling there. Prints the table; exit
status 1 if our codes are more than 0.005 below. Takes about 6 minutes and 2 GB of memory with 2 threads.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from spann.quantize import Codes, Quantizer

POSTING = 125
TRAINED = 40
"""Vectors of the sample for each centroid."""

ITERATIONS = 10
PROBES = np.array([32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160])
RERANKED = (15, 20, 30, 50)
K = 10
TOLERANCE = 0.005
SAMPLE = 12_000
BITS = (1, 2, 3, 4)

OSQ_START = {1: 0.798, 2: 1.493}
"""Half the interval of least squared error for a normal distribution, in standard deviations, by bits."""

OSQ_ROUNDS = 6
OSQ_ACROSS = 0.1
"""Weight of the error across the vector; that along it has the rest."""

SIFT_TARGETS = {
    "ceiling": 0.946,
    "RaBitQ 1": (0.657, 0.732, 0.814, 0.881),
    "RaBitQ 2": (0.856, 0.905, 0.937, 0.945),
    "RaBitQ 3": (0.925, 0.940, 0.945, None),
    "RaBitQ 4": (0.944, 0.946, 0.946, None),
    "PQ 16x8": (0.711, 0.784, 0.850, 0.911),
    "PQ 32x8": (0.861, 0.906, 0.936, 0.945),
    "OPQ 32x8": (0.862, 0.905, 0.935, 0.944),
    "OSQ 1": (0.659, 0.732, 0.824, 0.890),
    "OSQ 2": (0.854, 0.900, 0.934, 0.943),
}
MINILM_TARGETS = {
    "ceiling": 0.977,
    "RaBitQ 1": (0.834, 0.888, 0.933, 0.961),
    "RaBitQ 2": (0.944, 0.965, 0.975, 0.977),
    "PQ 48x8": (0.760, 0.819, 0.879, 0.933),
    "PQ 96x8": (0.925, 0.955, 0.971, 0.977),
    "OPQ 96x8": (0.928, 0.957, 0.973, 0.977),
    "OSQ 1": (0.758, 0.817, 0.872, 0.923),
    "OSQ 2": (0.917, 0.951, 0.970, 0.977),
}


@dataclass(frozen=True)
class Data:
    """Vectors in posting order, and what is probed for each query."""

    name: str
    x: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    """(nq, K) places, in posting order, of the true neighbours."""
    centroids: np.ndarray
    lengths: np.ndarray
    probed: np.ndarray
    """(nq, probes) postings, nearest first."""
    sqdist: np.ndarray
    """(nq, probes) squared distances to their centroids."""
    ceiling: float
    targets: dict[str, Any]

    def residuals(self) -> np.ndarray:
        return self.x - np.repeat(self.centroids, self.lengths, 0)


def load(path: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """Name, base, queries (float32), row numbers of the true neighbours, targets."""
    if path.is_dir():
        base, queries = (
            np.fromfile(path / f"{f}.u8bin", np.uint8, offset=8).reshape(-1, 128) for f in ("base", "query")
        )
        nq, k = np.fromfile(path / "truth.ibin", np.uint32, 2).tolist()
        truth = np.fromfile(path / "truth.ibin", np.int32, nq * k, offset=8).reshape(nq, k)
        return "SIFT 128-d", base.astype(np.float32), queries.astype(np.float32), truth[:, :K], SIFT_TARGETS
    vectors = np.load(path).astype(np.float32)
    base, queries = vectors[:-2000], vectors[-2000:]
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return f"MiniLM {base.shape[1]}-d", base, queries, index.search(queries, K)[1], MINILM_TARGETS


def cluster(path: Path) -> Data:
    """K-means, the base in posting order, and the probes whose ceiling is nearest to the design's."""
    name, base, queries, truth, targets = load(path)
    n, dim = base.shape
    k = n // POSTING
    sample = base[np.random.default_rng(0).choice(n, min(n, TRAINED * k), replace=False)]
    kmeans = faiss.Kmeans(dim, k, niter=ITERATIONS, seed=1, max_points_per_centroid=TRAINED, min_points_per_centroid=1)
    kmeans.train(sample)
    home = kmeans.index.search(base, 1)[1][:, 0]
    order = np.argsort(home, kind="stable")
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    sqdist, probed = kmeans.index.search(queries, int(PROBES[-1]))
    rank = np.full((len(queries), k), PROBES[-1], np.int64)
    np.put_along_axis(rank, probed, np.arange(PROBES[-1])[None], 1)
    needed = np.take_along_axis(rank, home[truth], 1)
    ceilings = np.array([(needed < p).mean() for p in PROBES])
    best = int(np.abs(ceilings - targets["ceiling"]).argmin())
    probes = int(PROBES[best])
    return Data(
        name,
        base[order],
        queries,
        place[truth],
        kmeans.centroids,
        np.bincount(home, minlength=k),
        probed[:, :probes],
        sqdist[:, :probes],
        float(ceilings[best]),
        targets,
    )


def recalls(data: Data, estimates: Callable[[int, np.ndarray, np.ndarray], np.ndarray]) -> list[float]:
    """Recall for each of RERANKED; estimates(query, starts, lengths) ranks the vectors of its probed postings."""
    ends = np.cumsum(data.lengths)
    hits = np.zeros(len(RERANKED))
    for i, postings in enumerate(data.probed):
        starts, lengths = ends[postings] - data.lengths[postings], data.lengths[postings]
        score = estimates(i, starts, lengths)
        best = np.argpartition(score, RERANKED[-1])[: RERANKED[-1]]
        best = best[np.argsort(score[best], kind="stable")]
        before = np.cumsum(lengths) - lengths
        posting = np.searchsorted(before, best, "right") - 1
        found = np.isin(starts[posting] + best - before[posting], data.truth[i])
        hits += [found[:m].sum() for m in RERANKED]
    return [round(float(h), 4) for h in hits / data.truth.size]


def rabitq(data: Data, bits: int) -> dict[str, Any]:
    start = time.perf_counter()
    quantizer = Quantizer.make(data.x.shape[1], bits, "l2", data.x.mean(0), seed=1)
    codes = quantizer.encode(data.x, data.centroids, data.lengths)
    seconds = time.perf_counter() - start
    spent: list[float] = []

    def estimates(i: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        query, headers, base = quantizer.prepare(data.queries[i]), codes.headers[data.probed[i]], data.sqdist[i]
        start = time.perf_counter()
        out = query.estimate(codes.codes, codes.add, codes.scale, headers, base, starts, lengths)
        spent.append((time.perf_counter() - start) / len(out))
        return out

    return {
        "bytes": quantizer.code_bytes,
        "recall": recalls(data, estimates),
        "encode_us_per_vector": round(seconds / len(data.x) * 1e6, 2),
        "estimate_ns_per_code": round(float(np.median(spent)) * 1e9, 2),
        **shares(data, quantizer, codes),
    }


def shares(data: Data, quantizer: Quantizer, codes: Codes) -> dict[str, float]:
    """Standard errors that rounding adds, as shares of the bound's E S |q - c|: of the query, and of A to 16 bits."""
    noise = np.array([quantizer.prepare(q).noise for q in data.queries[:200]])
    a_step, s_low, s_step, error = codes.headers[data.probed[:200], 1:].transpose(2, 0, 1)
    bound = error * np.sqrt(data.sqdist[:200])
    some = bound > 0  # not where a posting's vectors all equal its centroid
    scale = s_low + s_step * 32768
    return {
        "query_rounding": round(float(np.median((noise[:, None] / np.where(some, bound, 1))[some])), 4),
        "add_rounding": round(float(np.median((a_step / np.sqrt(12) / np.where(some, bound * scale, 1))[some])), 5),
    }


def product(data: Data, pieces: int, rotate: bool) -> dict[str, Any]:
    """PQ of `pieces` bytes, ranked by the distance to the decoded vector."""
    start = time.perf_counter()
    residuals = data.residuals()
    sample = residuals[np.random.default_rng(1).choice(len(residuals), min(len(residuals), SAMPLE), replace=False)]
    dim = residuals.shape[1]
    codec = faiss.IndexPQ(dim, pieces, 8)
    codec.pq.cp.niter = 15
    if rotate:
        opq = faiss.OPQMatrix(dim, pieces)
        opq.niter, opq.niter_pq_0, opq.max_train_points = 5, 10, 10_000
        codec = faiss.IndexPreTransform(opq, codec)
    codec.train(sample)
    seconds = time.perf_counter() - start
    for i in range(0, len(residuals), 100_000):
        part = residuals[i : i + 100_000]
        part[:] = codec.sa_decode(codec.sa_encode(part))
    decoded = residuals
    decoded += np.repeat(data.centroids, data.lengths, 0)

    def estimates(i: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        v = np.concatenate([decoded[s : s + n] for s, n in zip(starts, lengths, strict=True)])
        return np.einsum("ij,ij->i", v, v) - 2 * (v @ data.queries[i])

    return {"bytes": pieces, "recall": recalls(data, estimates), "train_s": round(seconds, 1)}


def scalar(data: Data, bits: int) -> dict[str, Any]:
    """Optimised scalar quantisation, the codes of Lucene and Elasticsearch: every vector has an interval of its own,
    fitted in turn with the levels by least squares, in which errors along the vector weigh nine times as much.

    Queries are not quantised here, which favours it."""
    levels, residuals = (1 << bits) - 1, data.residuals()
    add = np.empty(len(residuals), np.float32)
    centroid = np.repeat(np.arange(len(data.lengths)), data.lengths)
    for i in range(0, len(residuals), 100_000):
        x = residuals[i : i + 100_000]
        sqnorm = np.einsum("ij,ij->i", x, x)
        x_hat = _interval_fit(x, np.maximum(sqnorm, 1e-20), levels, OSQ_START[bits])
        add[i : i + 100_000] = sqnorm + 2 * np.einsum("ij,ij->i", data.centroids[centroid[i : i + 100_000]], x_hat)
        x[:] = x_hat

    def estimates(i: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        rows = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        return np.repeat(data.sqdist[i], lengths) + add[rows] - 2 * (residuals[rows] @ data.queries[i])

    return {"bytes": data.x.shape[1] * bits // 8, "recall": recalls(data, estimates)}


def _interval_fit(x: np.ndarray, sqnorm: np.ndarray, levels: int, start: float) -> np.ndarray:
    mean, spread = x.mean(1), x.std(1)
    a, b = np.maximum(mean - start * spread, x.min(1)), np.minimum(mean + start * spread, x.max(1))
    best, best_loss = np.zeros_like(x), np.full(len(x), np.inf)
    for _ in range(OSQ_ROUNDS):
        step = np.maximum((b - a) / levels, 1e-20)
        t = np.clip(np.rint((x - a[:, None]) / step[:, None]), 0, levels) / levels
        x_hat = a[:, None] * (1 - t) + b[:, None] * t
        error = x - x_hat
        along = np.einsum("ij,ij->i", x, error)
        loss = (1 - OSQ_ACROSS) * along**2 / sqnorm + OSQ_ACROSS * np.einsum("ij,ij->i", error, error)
        better = loss < best_loss
        best[better], best_loss[better] = x_hat[better], loss[better]
        xu, xt = np.einsum("ij,ij->i", x, 1 - t), np.einsum("ij,ij->i", x, t)
        weight = (1 - OSQ_ACROSS) / sqnorm
        m00 = weight * xu * xu + OSQ_ACROSS * np.einsum("ij,ij->i", 1 - t, 1 - t)
        m01 = weight * xu * xt + OSQ_ACROSS * np.einsum("ij,ij->i", 1 - t, t)
        m11 = weight * xt * xt + OSQ_ACROSS * np.einsum("ij,ij->i", t, t)
        det = m00 * m11 - m01 * m01
        sound = np.abs(det) > 1e-12 * np.maximum(m00 * m11, 1e-30)
        a = np.where(sound, (xu * m11 - xt * m01) / np.where(sound, det, 1), a)
        b = np.where(sound, (xt * m00 - xu * m01) / np.where(sound, det, 1), b)
    return best


def measure(path: Path) -> dict[str, Any]:
    start = time.perf_counter()
    data = cluster(path)
    out: dict[str, Any] = {"name": data.name, "count": len(data.x), "postings": len(data.lengths)}
    out |= {"probed": data.probed.shape[1], "ceiling": round(data.ceiling, 4), "targets": data.targets}
    pieces = data.x.shape[1] // 8
    methods: dict[str, Callable[[], dict[str, Any]]] = {f"RaBitQ {b}": functools.partial(rabitq, data, b) for b in BITS}
    for name, count in (("PQ", pieces), ("PQ", 2 * pieces), ("OPQ", 2 * pieces)):
        methods[f"{name} {count}x8"] = functools.partial(product, data, count, name == "OPQ")
    methods |= {f"OSQ {b}": functools.partial(scalar, data, b) for b in (1, 2)}
    out["methods"] = {}
    for name, method in methods.items():
        print(f"{data.name}: {time.perf_counter() - start:.0f} s, {name} next", file=sys.stderr)
        out["methods"][name] = method()
    out["seconds"] = round(time.perf_counter() - start, 1)
    return out


def report(out: dict[str, Any]) -> int:
    """Prints one data set's table; how many of our figures are below their target."""
    targets, missed = out["targets"], 0
    ratio = out["ceiling"] / targets["ceiling"]
    print(f"\n{out['name']}: {out['count']} vectors, {out['postings']} postings, {out['probed']} probed, ", end="")
    print(f"ceiling {out['ceiling']:.3f} (design {targets['ceiling']})\n")
    print("| code | bytes | " + " | ".join(f"{m}" for m in RERANKED) + " | design, same ceiling |")
    print("|---|---|" + "---|" * (len(RERANKED) + 1))
    for name, method in out["methods"].items():
        wanted = [None if t is None else t * ratio for t in targets.get(name, [None] * len(RERANKED))]
        cells = []
        for found, target in zip(method["recall"], wanted, strict=True):
            bad = name.startswith("RaBitQ") and target is not None and found < target - TOLERANCE
            missed += bad
            cells.append(f"{found:.3f}{' **below**' if bad else ''}")
        design = " / ".join("-" if t is None else f"{t:.3f}" for t in wanted)
        print(f"| {name} | {method['bytes']} | {' | '.join(cells)} | {design} |")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    out: dict[str, Any] = {"commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d")}
    out["machine"] = {"cores": os.cpu_count(), "python": platform.python_version(), "faiss": faiss.__version__}
    out["data"] = [measure(path) for path in args.data]
    args.output.write_text(json.dumps(out, indent=1) + "\n")
    sys.exit(1 if sum([report(d) for d in out["data"]]) else 0)


if __name__ == "__main__":
    main()
