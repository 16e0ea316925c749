"""Measures how builds and searches grow: time, memory and disk against the prediction, and resuming after a kill.

    python benchmarks/scaling.py DATA [DATA ...] [--memory-limit 1GiB] [-o scaling.json]

Each DATA is a directory with base.u8bin or base.fbin, query.* and truth.ibin (squared distances), as for
`benchmarks.compare`. They may be larger and smaller parts of one collection. Every build is a process of its own. One
more build is killed (SIGKILL) after half of the time of the undisturbed build, and given again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import spann
from spann.measuring import evaluate
from spann.vectors import open_source, read_truth

TARGETS = (0.95, 0.98)
ASKED = (0.88, 0.91, 0.935, 0.955, 0.97, 0.985, 0.992)
"""Recalls that the calibrated index is asked for. Costs are interpolated between them."""


def tree_bytes(path: Path) -> int:
    """Bytes of all files below `path` at this moment. Files may vanish meanwhile."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total


def run_build(
    base: Path, index: Path, limit: str | None, threads: int, kill_after: float | None = None
) -> dict[str, Any]:
    """Runs one build in a process of its own. Returns its seconds, also of each stage, and the peaks of resident memory
    and of temporary files."""
    command = [sys.executable, "-m", "spann.cli", "build", str(base), str(index), "--progress", "json", "--json"]
    command += ["--threads", str(threads), *(["--memory-limit", limit] if limit else [])]
    start, stages, peak, temporary = time.perf_counter(), {}, 0, 0
    log = index.with_name(index.name + ".log")
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max([peak, *(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM"))])
            except FileNotFoundError:
                pass
            temporary = max(temporary, tree_bytes(index.with_name(index.name + ".building") / "temporary"))
            if kill_after is not None and time.perf_counter() - start > kill_after:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    text = log.read_text()
    for line in text.splitlines():
        if line.startswith("{") and (told := json.loads(line))["done"] == told["total"]:
            stages[told["stage"]] = round(stages.get(told["stage"], 0) + told["seconds"], 3)
    log.unlink()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{base}: the build failed: {text.splitlines()[-1]}")
    return {
        "seconds": seconds,
        "stages": stages,
        "peak_rss": peak * 1024,
        "temporary_bytes": temporary,
        "killed": process.returncode != 0,
    }


def at_recall(points: list[dict[str, float]], target: float) -> dict[str, float] | None:
    """The costs at a recall, interpolated between the two settings around it."""
    for low, high in itertools.pairwise(points):
        if low["recall"] <= target <= high["recall"] and low["recall"] < high["recall"]:
            share = (target - low["recall"]) / (high["recall"] - low["recall"])
            return {name: low[name] + share * (high[name] - low[name]) for name in low}
    return None


def search(data: Path, base: Path, index: Path, threads: int) -> dict[str, Any]:
    """Searches from disk with all codes in memory. Returns the costs at the target recalls."""
    points = []
    with (
        spann.open(index, io="direct", memory_budget=1 << 40) as opened,
        open_source(data / f"query{base.suffix}") as source,
    ):
        queries, truth = source.read(0, source.count), read_truth(data / "truth.ibin")
        settings = [opened.params_for(recall, 10) for recall in ASKED]
        report = evaluate(opened, queries, truth, k=10, settings=settings, threads=[threads])
        for run in report["runs"]:
            cost = run["per_query"]
            names = ("pages_read", "reads", "estimates", "centroid_distances", "compute_us", "cpu_us")
            points.append({"recall": run["recall"], "qps": run["qps"], **{name: cost[name] for name in names}})
        info = opened.info()
    return {
        "at": {str(target): at_recall(points, target) for target in TARGETS},
        "points": points,
        "disk_bytes": info["disk_bytes"],
        "open_memory_bytes": info["open_memory_bytes"],
        "open_memory_bytes_per_vector": info["open_memory_bytes_per_vector"],
        "centroids": info["centroids"],
    }


def measure(data: Path, work: Path, limit: str | None, threads: int, resume: bool) -> dict[str, Any]:
    """All figures of the collection in `data`."""
    base = next(path for path in (data / "base.u8bin", data / "base.fbin") if path.exists())
    planned = spann.plan(base, memory_limit=limit, threads=threads)
    index = work / "scaling.spann"
    out: dict[str, Any] = {"data": data.name, "count": planned.count, "dim": planned.dim, "plan": asdict(planned)}
    print(f"{data.name}: build", file=sys.stderr)
    out["build"] = run_build(base, index, limit, threads)
    out["search"] = search(data, base, index, threads)
    if resume:
        shutil.rmtree(index)
        half = out["build"]["seconds"] / 2
        print(f"{data.name}: killed after {half:.0f} s", file=sys.stderr)
        first = run_build(base, index, limit, threads, kill_after=half)
        second = run_build(base, index, limit, threads)
        out["resume"] = {"killed": first["killed"], "seconds": second["seconds"], "stages": second["stages"]}
    shutil.rmtree(index)
    predicted, found = out["plan"], out["build"]
    out["predicted_over_measured"] = {
        "disk": predicted["disk_bytes"] / out["search"]["disk_bytes"],
        "temporary": predicted["temporary_bytes"] / found["temporary_bytes"],
        "memory": predicted["memory_bytes"] / found["peak_rss"],
        "open_memory": predicted["open_memory_bytes"] / out["search"]["open_memory_bytes"],
        "seconds": predicted["seconds"] / found["seconds"],
    }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--memory-limit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="default: the directory of the first DATA")
    parser.add_argument("--no-resume", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    work = args.work or args.data[0]
    results = [measure(data, work, args.memory_limit, args.threads, not args.no_resume) for data in args.data]
    text = json.dumps({"memory_limit": args.memory_limit, "threads": args.threads, "results": results}, indent=1)
    if args.output:
        args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
