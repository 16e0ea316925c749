"""Runs spann and its peers on the same base, queries and truth, and reports.

    python -m benchmarks.compare DATA -o OUT.json

DATA holds base.u8bin or base.fbin, query.* and truth.ibin (squared Euclidean distances). Each peer runs in processes
and an environment of its own. Indexes stay in the work directory, and serve again if their settings are the same;
spann's only while its source is the same. Searches always run anew, in rounds that alternate between the peers, so that
a slow spell of the machine falls on all. Writes OUT.json, OUT.md and OUT-*.png. A failure is reported, and makes the
exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.compare import report
from benchmarks.compare.cold import limits
from benchmarks.compare.data import Data
from benchmarks.compare.runner import Failed, Options, build, median, search
from benchmarks.compare.series import PEERS, Series

Result = dict[str, Any]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.json")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--only", default="", metavar="TEXT", help="only series whose names contain it")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="default: WORK/environments")
    parser.add_argument("--work", type=Path, metavar="DIR", help="default: DATA/compare")
    parser.add_argument("--threads", type=int, default=2, help="of builds and of the larger QPS; default: 2")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--memory-limit", type=float, default=16, metavar="MIB",
        help="for the page cache and the rest of a search from disk, beyond the memory of the open index; "
        "default: 16",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, default=7200, metavar="S", help="limit of one build or round; default: 7200"
    )
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--rebuild", action="store_true", help="build every index anew")
    parser.add_argument("--keep-spann", action="store_true", help="use spann's index even if its source has changed")
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    # If ended from outside, it still ends its child and removes the groups.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    data = Data.open(args.data.resolve())
    unknown = [name for name in args.peers.split(",") if name not in PEERS]
    if unknown:
        raise SystemExit(f"unknown peer {unknown[0]}; there are {', '.join(PEERS)}")
    if not 1 <= args.k <= data.true_ids.shape[1]:
        raise SystemExit(f"k must be from 1 to {data.true_ids.shape[1]}, the neighbours in the truth")
    work = (args.work or args.data / "compare").resolve()  # each peer's process has a directory of its own
    options = Options(
        work, (args.environments or work / "environments").resolve(), args.threads, args.k,
        int(args.memory_limit * 2**20), args.timeout, args.rebuild, args.keep_spann,
    )  # fmt: skip
    chosen = [s for name in args.peers.split(",") for s in PEERS[name].series(data) if args.only in s.name]
    out = _head(data, args)
    results: list[Result] = [asdict(s) | {"settings": s.points} for s in chosen]
    for result in results:
        del result["points"]
    indexes = _build_all(chosen, results, data, options)
    if not args.build_only:
        _search_all(chosen, results, indexes, data, options, args.rounds)
    out["series"] = results
    out["load_average"].append(os.getloadavg())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(out, indent=1) + "\n")
    if not args.build_only:
        text = report.markdown(out)
        args.output.with_suffix(".md").write_text(text)
        print(text)
        report.plots(out, args.output.with_suffix(""))
    sys.exit(1 if any("error" in r for r in results) else 0)


def _build_all(chosen: list[Series], results: list[Result], data: Data, options: Options) -> dict[str, Path]:
    """Directories of the indexes, by the name of the series. A failure goes into the result of the series. `--rebuild`
    builds each index once, even if several series share it."""
    indexes: dict[str, Path] = {}
    known: dict[str, tuple[Path, Result] | str] = {}
    for series, result in zip(chosen, results, strict=True):
        key = json.dumps([series.peer, series.build])
        if key not in known:
            _say(f"build {series.name}")
            try:
                known[key] = build(series, data, options)
            except Failed as error:
                known[key] = str(error)
        found = known[key]
        if isinstance(found, str):
            result["error"] = f"build: {found}"
            _say(f"failed: {found}")
        else:
            indexes[series.name], result["build_result"] = found
            result["versions"] = found[1]["versions"]
    for result in results:
        result["build_settings"] = result.pop("build")
        result["build"] = result.pop("build_result", {})
    return indexes


def _search_all(
    chosen: list[Series], results: list[Result], indexes: dict[str, Path], data: Data, options: Options, rounds: int
) -> None:
    done: dict[str, list[Result]] = {}
    for number in range(rounds):
        for series, result in zip(chosen, results, strict=True):
            if "error" in result:
                continue
            _say(f"round {number + 1} of {rounds}: {series.name}")
            try:
                done.setdefault(series.name, []).append(search(series, data, indexes[series.name], options))
            except Failed as error:
                result["error"] = f"search: {error}"
                _say(f"failed: {error}")
    for series, result in zip(chosen, results, strict=True):
        if "error" not in result:
            result |= median(done[series.name])


def _head(data: Data, args: argparse.Namespace) -> Result:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit.stdout.strip() or "unknown",
        "data": {
            "name": data.base.parent.name, "count": data.count, "dim": data.dim, "dtype": data.dtype,
            "queries": len(data.true_ids), "fingerprint": data.fingerprint(),
        },
        "threads": args.threads,
        "k": args.k,
        "rounds": args.rounds,
        "memory_limit_mib": args.memory_limit,
        "machine": {
            "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory": _field("/proc/meminfo", "MemTotal"),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "read_ahead_kib": _read_ahead(data.base),
            "offers": limits(),
        },
        "load_average": [os.getloadavg()],
    }  # fmt: skip


def _field(file: str, name: str) -> str | None:
    lines = Path(file).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def _read_ahead(file: Path) -> int | None:
    device = os.stat(file).st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/read_ahead_kb")
    return int(place.read_text()) if place.exists() else None


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
