"""Runs each build and search in a process of its own. A failure is a result like any other."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import environments
from benchmarks.compare.cold import Groups, groups
from benchmarks.compare.data import Data
from benchmarks.compare.series import PEERS, Series

_SCRIPTS = Path(__file__).parent / "peers"
_TIMES = ("qps", "qps_1", "qps_single", "cpu_us")
_PR_SET_PDEATHSIG = 1

Result = dict[str, Any]


class Failed(Exception):
    """A child failed. The report shows the message."""


@dataclass(frozen=True)
class Options:
    work: Path
    environments: Path
    threads: int
    k: int
    room: int
    timeout: float
    rebuild: bool
    keep_spann: bool


def build(series: Series, data: Data, options: Options) -> tuple[Path, Result]:
    """The directory of the series' index, and the cost of its build. An index built before with the same settings
    serves again."""
    key = {"data": data.fingerprint(), "peer": series.peer, "settings": series.build}
    if series.peer == "spann" and not options.keep_spann:
        key["source"] = _spann_source()
    name = f"{series.peer}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]}"
    home = options.work / "indexes" / name
    about = home / "about.json"
    if about.exists() and not options.rebuild:
        return home / "index", json.loads(about.read_text()) | {"reused": True}
    if series.peer == "spann":
        _forget_older(home.parent, key)
    shutil.rmtree(home, ignore_errors=True)
    (home / "index").mkdir(parents=True)
    job = {"phase": "build", "settings": series.build, "threads": options.threads, **_about(data, home / "index")}
    result = _child(series, job, home, options)
    result["key"], result["date"] = key, time.strftime("%Y-%m-%d %H:%M")
    about.write_text(json.dumps(result, indent=1) + "\n")
    return home / "index", result


def search(series: Series, data: Data, index: Path, options: Options) -> Result:
    """Runs one round of a series: every point once."""
    # With the number of the process, because another comparison may use the same work directory.
    home = options.work / "searches" / f"{hashlib.sha256(series.name.encode()).hexdigest()[:12]}-{os.getpid()}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    job = {
        "phase": "search",
        "queries": str(data.queries),
        "k": options.k,
        "settings": series.build,
        "open": series.open,
        "points": series.points,
        "threads": options.threads,
        "cold": series.cold,
        "room": options.room,
        "ids": str(home / "ids"),
        **_about(data, index),
    }
    with groups(index) as bounds:
        result = _child(series, job, home, options, bounds if series.cold else Groups())
    for number, point in enumerate(result["points"]):
        point["recall"] = data.recall(np.load(home / f"ids.{number}.npy"), options.k)
    shutil.rmtree(home)
    return result


def median(rounds: list[Result]) -> Result:
    """Merges the results of several rounds: the median of every time, and the last round's value of all else."""
    last = rounds[-1]
    for number, point in enumerate(last["points"]):
        same = [r["points"][number] for r in rounds]
        point["rounds"] = {name: [p[name] for p in same] for name in (*_TIMES, "recall")}
        for name in (*_TIMES, "recall"):
            point[name] = float(np.median(point["rounds"][name]))
        for name in ("latency_ms", "reads", "own"):
            point[name] = {key: float(np.median([p[name][key] for p in same])) for key in point[name]}
    last["memory"]["anonymous"] = int(np.median([r["memory"]["anonymous"] for r in rounds]))
    return last


def _about(data: Data, index: Path) -> Result:
    about = {"base": str(data.base), "dtype": data.dtype, "count": data.count, "dim": data.dim}
    return about | {"index": str(index.resolve())}


def _child(series: Series, job: Result, home: Path, options: Options, bounds: Groups | None = None) -> Result:
    """Runs the peer's script on `job`. Returns its result with wall time, CPU time and peak memory of the process."""
    peer, bounds = PEERS[series.peer], bounds or Groups()
    file, output = home / "job.json", home / "output.txt"
    job |= {"result": str((home / "result.json").resolve()), "group": bounds.memory}
    job |= {"counter": bounds.counter, "counter_root": bounds.counter_root}
    file.write_text(json.dumps(job, indent=1))
    try:
        interpreter = environments.python(peer.environment, options.environments)
    except RuntimeError as error:
        raise Failed(f"no environment: {error}") from None
    # Threads of faiss's OpenMP that spin while they wait would take the processors from the others.
    environ = os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"} | peer.environ
    environ.pop("PYTHONPATH", None)
    if peer.environment is None:
        environ["PYTHONPATH"] = str(_spann_package().parent)
    start = time.perf_counter()
    with open(output, "wb") as log:
        process = subprocess.Popen(
            [interpreter, str(_SCRIPTS / peer.script), str(file)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environ, cwd=home,
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        try:
            status, usage = _wait(process, options.timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
    seconds = time.perf_counter() - start
    try:
        result: Result = json.loads((home / "result.json").read_text())
    except FileNotFoundError:
        result = {"error": f"{_ending(status, bounds.memory)}; {_tail(output)}"}
    if "error" in result:
        raise Failed(result["error"])
    cpu = usage.ru_utime + usage.ru_stime
    result["process"] = {"wall_s": seconds, "cpu_s": cpu, "peak_rss": usage.ru_maxrss * 1024}
    return result


def _wait(process: subprocess.Popen[bytes], timeout: float) -> tuple[int, Any]:
    """Exit status and usage. It polls, because only `wait4` tells the usage, and has no timeout."""
    deadline = time.monotonic() + timeout
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage
        if time.monotonic() > deadline:
            raise Failed(f"not done after {timeout:.0f} s")
        time.sleep(0.02)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ending(status: int, group: str | None) -> str:
    if status >= 0:
        return f"exit status {status} without a result"
    if group and "oom_kill 0" not in Path(group, "memory.oom_control").read_text().splitlines():
        return "took more memory than the limit"
    return f"killed by {signal.Signals(-status).name}"


def _tail(output: Path) -> str:
    return output.read_text(errors="replace").strip()[-300:] or "no output"


def _spann_package() -> Path:
    spec = importlib.util.find_spec("spann")
    if spec is None or spec.origin is None:
        raise Failed("spann is not installed in this interpreter")
    return Path(spec.origin).parent


def _spann_source() -> str:
    """A text that changes with spann's source, because an index of earlier source shows nothing."""
    digest = hashlib.sha256()
    root = _spann_package()
    for file in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".so")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _forget_older(indexes: Path, key: Result) -> None:
    """Removes the indexes that other source of spann built with these settings."""
    for about in indexes.glob("spann-*/about.json"):
        other = json.loads(about.read_text())["key"]
        if {**other, "source": None} == {**key, "source": None}:
            shutil.rmtree(about.parent)
