"""Measures jobs, each in a process of its own: batch search, neighbour graphs, near-duplicates (docs/BATCH.md).

    python benchmarks/jobs.py search INDEX BASE [--queries 10000000 --parts 20 --memory-limit 1GiB --kills 3]
    python benchmarks/jobs.py graph INDEX BASE [-k 15] [--rival hnswlib=ENV/bin/python ...]
    python benchmarks/jobs.py dedup BASE [--near 50000 --copies 100000]

INDEX is an index of the vectors in BASE (uint8 or float32, metric l2). Each prints JSON, or writes it with `-o`.
`search` compares with `index.search` of the same queries in memory, one part at a time. It also kills and resumes the
job, `--kills` times. `graph` compares with libraries in environments of their own, at equal recall. pynndescent runs as
it is, hnswlib with the smallest `ef` that reaches our recall. `dedup` plants near-copies at known radii and copies of
one vector, builds, and counts the pairs found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import spann
from spann.measuring import exact_search
from spann.types import Metric
from spann.vectors import open_source

NOISE = 8

IN_MEMORY = """
import json, sys, time, numpy as np, spann
index, files = sys.argv[1], sys.argv[2:]
import pyarrow.parquet as pq
with spann.open(index) as opened:
    seconds = 0.0
    for file in files:
        column = pq.read_table(file)["vector"].combine_chunks()
        queries = column.flatten().to_numpy().reshape(len(column), -1)
        start = time.perf_counter()
        opened.search(queries, 10)
        seconds += time.perf_counter() - start
print(json.dumps({"seconds": seconds}))
"""

RIVAL = """
import json, sys, time, resource, numpy as np
name, rows, k, sample, ef = sys.argv[1], sys.argv[2], int(sys.argv[3]), np.load(sys.argv[4]), json.loads(sys.argv[5])
vectors = np.load(rows)
truth = np.load(sys.argv[6])
def recall(ids):
    hits = [len((set(found) - {row}) & set(true)) / k for row, found, true in zip(sample, ids, truth)]
    return float(np.mean(hits))
start, cpu = time.perf_counter(), time.process_time()
out = []
def told(ids, **more):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out.append({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "peak_bytes": peak,
                "recall": recall(ids), **more})
if name == "pynndescent":
    import pynndescent
    graph = pynndescent.NNDescent(vectors, n_neighbors=k + 1, n_jobs=2, random_state=1).neighbor_graph[0]
    told(graph[sample])
else:
    import hnswlib
    index = hnswlib.Index("l2", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=100, random_seed=1)
    index.set_num_threads(2)
    index.add_items(vectors)
    built, built_cpu = time.perf_counter() - start, time.process_time() - cpu
    for one in ef:
        index.set_ef(one)
        start, cpu = time.perf_counter() - built, time.process_time() - built_cpu
        parts = np.array_split(vectors, len(vectors) // 50_000 + 1)
        ids = np.concatenate([index.knn_query(part, k + 1)[0] for part in parts])
        told(ids[sample], ef=one, build_seconds=built)
        if out[-1]["recall"] >= float(sys.argv[7]):
            break
print(json.dumps(out))
"""


def run(*args: object, python: str = sys.executable) -> tuple[str, dict[str, float]]:
    """Runs a command of `python`. Returns its standard output, and its time and memory."""
    start = time.perf_counter()
    with subprocess.Popen([python, *map(str, args)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{args[:3]} ended with {process.returncode}")
    return text, {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def write_queries(base: Path, folder: Path, count: int, parts: int) -> list[Path]:
    """Writes rows of the base, each moved a little, as Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files, rng = [], np.random.default_rng(7)
    with open_source(base) as source:
        for number in range(parts):
            rows = np.sort(rng.integers(0, source.count, count // parts))
            vectors = source.take(rows)
            moved = vectors.astype(np.float32) + rng.integers(-NOISE, NOISE + 1, vectors.shape)
            if vectors.dtype.kind in "iu":
                moved = np.clip(moved, np.iinfo(vectors.dtype).min, np.iinfo(vectors.dtype).max)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(moved.astype(vectors.dtype).reshape(-1)), source.dim)
            files.append(folder / f"queries-{number:03}.parquet")
            pq.write_table(pa.table({"id": np.arange(len(rows)), "vector": lists}), files[-1], row_group_size=65_536)
    return files


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def measure_search(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=args.scratch) as place:
        parts = Path(place) / "queries"
        parts.mkdir()
        files = write_queries(args.base, parts, args.queries, args.parts)
        command = ("-m", "spann.cli", "search", args.index, parts, "-k", 10, "--query-id", "id", "-q", "--json")
        command += ("--memory-limit", args.memory_limit)
        text, job = run(*command, "-o", f"{place}/out/")
        job |= {"queries_per_second": json.loads(text)["rate"]}
        few = Path(place) / "few"
        few.mkdir()
        for file in files[: max(1, len(files) // 10)]:
            (few / file.name).symlink_to(file)
        command_few = (*command[:4], few, *command[5:])
        _, tenth = run(*command_few, "-o", f"{place}/few-out/")
        text, whole = run("-c", IN_MEMORY, args.index, *files)
        memory = args.queries / json.loads(text)["seconds"]
        chance, times = random.Random(3), []
        for _ in range(args.kills):
            begun = subprocess.Popen(
                [sys.executable, *map(str, command), "-o", f"{place}/killed/"], stdout=subprocess.DEVNULL
            )
            time.sleep(chance.uniform(0.2, 0.8) * job["seconds"] / (args.kills + 1))
            begun.send_signal(signal.SIGKILL)
            begun.wait()
            times.append(len(list((Path(place) / "killed").glob("part-*"))))
        same = None
        if args.kills:
            run(*command, "-o", f"{place}/killed/")
            same = digest(Path(place) / "killed") == digest(Path(place) / "out")
    return {
        "queries": args.queries,
        "parts": args.parts,
        "memory_limit": args.memory_limit,
        "job": job,
        "job_of_a_tenth": tenth,
        "peak_ratio": job["peak_bytes"] / tenth["peak_bytes"],
        "in_memory": {**whole, "queries_per_second": memory},
        "throughput_ratio": job["queries_per_second"] / memory,
        "parts_at_each_kill": times,
        "same_bytes_after_kills": same,
    }


def truth_of(base: Path, k: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Some rows, and the rows of their k nearest others."""
    with open_source(base) as source:
        sample = np.sort(np.random.default_rng(1).choice(source.count, count, replace=False))
        ids, _ = exact_search(source, source.take(sample), k + 1, Metric.L2, threads=2)
    own = ids == sample[:, None]
    own[~own.any(axis=1), -1] = True
    return sample, ids[~own].reshape(count, k)


def measure_graph(args: argparse.Namespace) -> dict[str, Any]:
    from scipy.sparse import load_npz

    sample, truth = truth_of(args.base, args.k, args.sample)
    with tempfile.TemporaryDirectory(dir=args.scratch) as place:
        target = ("--target-recall", args.target_recall) if args.target_recall else ()
        _, ours = run(
            *("-m", "spann.cli", "knn-graph", args.index, "-k", args.k, "-o", f"{place}/g.npz", "-q", "--json"),
            *("--memory-limit", args.memory_limit, *target),
        )
        graph = load_npz(f"{place}/g.npz")
        found = [set(graph.indices[graph.indptr[row] : graph.indptr[row + 1]].tolist()) for row in sample]
        recall = float(np.mean([len(a & set(b.tolist())) / args.k for a, b in zip(found, truth, strict=True)]))
        out: dict[str, Any] = {"vectors": graph.shape[0], "k": args.k, "spann": {**ours, "recall": recall}}
        with open_source(args.base) as source:
            np.save(f"{place}/base.npy", source.read(0, source.count).astype(np.float32))
        np.save(f"{place}/sample.npy", sample)
        np.save(f"{place}/truth.npy", truth)
        for rival in args.rival:
            name, _, python = rival.partition("=")
            ef = json.dumps([24, 32, 48, 64, 96, 128])
            files = f"{place}/base.npy", args.k, f"{place}/sample.npy", ef, f"{place}/truth.npy"
            text, _ = run("-c", RIVAL, name, *files, recall, python=python)
            out[name] = json.loads(text)
    return out


def measure_dedup(args: argparse.Namespace) -> dict[str, Any]:
    """Plants copies of one vector, then near-copies of others at distance 4 to 12."""
    rng = np.random.default_rng(5)
    with open_source(args.base) as source:
        base = source.read(0, args.rows or source.count).astype(np.float32)
    spread = rng.permutation(len(base))
    copies, near, of = spread[: args.copies], spread[args.copies :][: args.near], spread[args.copies :][args.near :]
    of = of[: args.near]
    base[copies] = base[copies[0]]
    step = rng.standard_normal((args.near, base.shape[1])).astype(np.float32)
    length = rng.uniform(4, 12, args.near).astype(np.float32)
    base[near] = base[of] + step / np.linalg.norm(step, axis=1)[:, None] * length[:, None]
    radius = 12.5
    with tempfile.TemporaryDirectory(dir=args.scratch) as place:
        np.save(f"{place}/base.npy", base)
        _, built = run("-m", "spann.cli", "build", f"{place}/base.npy", f"{place}/i", "-q", "--seed", 1)
        text, ours = run(
            *("-m", "spann.cli", "dedup", f"{place}/i", "--radius", radius, "-o", f"{place}/g.parquet", "-q", "--json"),
            *("--memory-limit", args.memory_limit),
        )
        import pyarrow.parquet as pq

        group = pq.read_table(f"{place}/g.parquet")["group"].to_numpy()
        distance = pq.read_table(f"{place}/g.parquet")["distance"].to_numpy(zero_copy_only=False)
    together = group[near] == group[of]
    true = np.linalg.norm(base[near] - base[of], axis=1)
    grouped = np.flatnonzero(~np.isnan(distance))
    return {
        "vectors": len(base),
        "radius": radius,
        "build": built,
        "dedup": ours,
        "recall": float(together[true <= radius].mean()),
        "nearest_beyond_radius": int((distance[grouped] > np.float32(radius)).sum()),
        "copies_together": bool((group[copies] == group[copies[0]]).all()),
        "report": json.loads(text),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--scratch", type=Path, help="directory for temporary files of some GB")
    jobs = parser.add_subparsers(required=True)
    search = jobs.add_parser("search")
    search.add_argument("index", type=Path)
    search.add_argument("base", type=Path)
    search.add_argument("--queries", type=int, default=10_000_000)
    search.add_argument("--parts", type=int, default=20)
    search.add_argument("--memory-limit", default="1GiB")
    search.add_argument("--kills", type=int, default=3)
    search.set_defaults(measure=measure_search)
    graph = jobs.add_parser("graph")
    graph.add_argument("index", type=Path)
    graph.add_argument("base", type=Path)
    graph.add_argument("-k", type=int, default=15)
    graph.add_argument("--sample", type=int, default=1000)
    graph.add_argument("--target-recall", type=float)
    graph.add_argument("--memory-limit", default="1GiB")
    graph.add_argument("--rival", action="append", default=[])
    graph.set_defaults(measure=measure_graph)
    dedup = jobs.add_parser("dedup")
    dedup.add_argument("base", type=Path)
    dedup.add_argument("--rows", type=int)
    dedup.add_argument("--near", type=int, default=50_000)
    dedup.add_argument("--copies", type=int, default=100_000)
    dedup.add_argument("--memory-limit", default="1GiB")
    dedup.set_defaults(measure=measure_dedup)
    args = parser.parse_args()
    text = json.dumps({"version": spann.__version__, **args.measure(args)}, indent=1)
    if args.output:
        args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
