"""Runs a target of the fuzzer many times, in a child process. It survives crashes, hangs and memory hunger of the
child.

A target is a module of this directory with

- ``seeds(directory)``: puts small sound inputs into the directory, each an entry of its own;
- ``execute(path) -> str``: gives the program an input. Returns a word for what came of it ("read", "refused"), and lets
  an exception through that the program should not have raised: that is a finding;
- ``mutate(seed, work, rng) -> path``, may be missing: makes in the directory `work`, which it may use as it likes from
  one call to the next, a damaged input of a sound one. Without it `mutate.of_file` does.

Execution number n of seed s is the same each time, so these two reproduce a finding.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzzing import mutate

ROOT = Path(__file__).resolve().parents[2]

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
HUNGER = (4 << 30) if SANITIZED else (512 << 20)
"""Bytes that the process may grow by, beyond its memory for sound inputs. AddressSanitizer is allowed more, because it
touches an eighth of each allocation, used or not."""

_OUT_OF_MEMORY = 77
_REPORT = 500
_NONE_YET = (1 << 64) - 1


@dataclass
class Found:
    """The result of a run: executions, the count of each outcome, and findings by their key. A finding has the number
    of its first execution, its count, and its details."""

    executions: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def add(self, key: str, number: int, details: str) -> bool:
        """Whether it is new."""
        first, times, text = self.findings.get(key, (number, 0, details))
        self.findings[key] = (first, times + 1, text)
        return times == 0


def run(
    target: str,
    seed: int,
    *,
    executions: int | None = None,
    minutes: float | None = None,
    patience: float = 30.0,
    tell: Callable[[str], None] = print,
) -> Found:
    """Fuzzes until so many executions or minutes are over. An execution that takes `patience` seconds is a finding."""
    found, began = Found(), time.monotonic()
    end = None if minutes is None else began + 60 * minutes
    with tempfile.TemporaryDirectory(prefix=f"spann-fuzz-{target}-", dir=_fast_directory()) as name:
        directory = Path(name)
        corpus = directory / "seeds"
        corpus.mkdir()
        _module(target).seeds(corpus)
        first = 0
        while (executions is None or first < executions) and (end is None or time.monotonic() < end):
            first = _watch(target, seed, first, executions, end, patience, directory, found, tell)
    found.executions, found.seconds = first, time.monotonic() - began
    return found


def reproduce(target: str, seed: int, number: int, keep: Path) -> str:
    """Runs one execution in this process, its input kept at `keep`; raises what it raised, returns what came of it."""
    keep.mkdir(parents=True, exist_ok=True)
    corpus, work = keep / "seeds", keep / "input"
    for directory in (corpus, work):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    module = _module(target)
    module.seeds(corpus)
    path = _mutant(module, sorted(corpus.iterdir()), work, seed, number)
    print(f"the input is {path}", flush=True)
    outcome: str = module.execute(path)
    return outcome


def work(target: str, seed: int, first: int, last: int, directory: Path) -> None:
    """The work of the child process: executions `first` to `last` (exclusive). It reports to its parent in lines of
    JSON."""
    module, corpus, mutants = _module(target), sorted((directory / "seeds").iterdir()), directory / "work"
    shutil.rmtree(mutants, ignore_errors=True)
    mutants.mkdir()
    counts: Counter[str] = Counter()
    for path in corpus:  # what sound inputs take is no hunger
        module.execute(path)
    limit = _peak() + HUNGER

    def tell(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    with open(directory / "state", "r+b", buffering=0) as state:
        for number in range(first, last):
            os.pwrite(state.fileno(), number.to_bytes(8, "little"), 0)
            try:
                counts[module.execute(_mutant(module, corpus, mutants, seed, number))] += 1
            except Exception as error:
                counts["finding"] += 1
                tell(finding=_key(error), number=number, details="".join(traceback.format_exception(error))[-4000:])
            if _peak() > limit:
                tell(finding="memory", number=number, details=f"grew by more than {HUNGER >> 20} MiB")
                tell(counts=counts, after=number + 1)
                os._exit(_OUT_OF_MEMORY)
            if number % _REPORT == _REPORT - 1:
                tell(counts=counts, after=number + 1)
                counts.clear()
        tell(counts=counts, after=last)


def _watch(
    target: str,
    seed: int,
    first: int,
    executions: int | None,
    end: float | None,
    patience: float,
    directory: Path,
    found: Found,
    tell: Callable[[str], None],
) -> int:
    """Runs a child from execution `first` on until it ends. Returns the number to continue from."""
    last = 1 << 62 if executions is None else executions
    state = directory / "state"
    state.write_bytes(_NONE_YET.to_bytes(8, "little"))
    command = [sys.executable, str(ROOT / "scripts/fuzz"), target, "--seed", str(seed)]
    command += ["--child", str(directory), "--first", str(first), "--last", str(last)]
    lines: queue.Queue[str | None] = queue.Queue()
    with open(directory / "stderr", "w+b") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
        assert child.stdout is not None
        reader = threading.Thread(target=_pump, args=(child.stdout, lines))
        reader.start()
        number, since, verdict = first - 1, time.monotonic(), ""
        while (line := _next(lines)) is not None:
            if line:
                _note(json.loads(line), target, seed, found, tell)
            now = int.from_bytes(state.read_bytes(), "little")
            if now not in (number, _NONE_YET):
                number, since = now, time.monotonic()
            waits = patience if now != _NONE_YET else 10 * patience  # to begin takes longer
            if not verdict and time.monotonic() - since > waits:
                verdict = "hang"
            if not verdict and end is not None and time.monotonic() > end:
                verdict = "over"
            if verdict:
                child.kill()
        reader.join()
        child.stdout.close()
        code = child.wait()
        now = int.from_bytes(state.read_bytes(), "little")
        number = first if now == _NONE_YET else now
        if verdict == "over":
            return number
        if code not in (0, _OUT_OF_MEMORY):
            errors.seek(0)
            text = errors.read().decode(errors="replace")
            key = "hang" if verdict else f"crash {code}: {_summary(text)}"
            finding = {"finding": key, "number": number, "details": text[-6000:]}
            _note(finding, target, seed, found, tell)
        return number + 1


def _note(what: dict[str, Any], target: str, seed: int, found: Found, tell: Callable[[str], None]) -> None:
    if "counts" in what:
        found.outcomes.update(what["counts"])
    elif found.add(what["finding"], what["number"], what["details"]):
        tell(f"FOUND {what['finding']}\n{what['details']}")
        tell(f"  again: scripts/fuzz {target} --seed {seed} --only {what['number']}")


def _pump(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _next(lines: queue.Queue[str | None]) -> str | None:
    """The child's next line; empty where there is none yet, None once it has ended."""
    try:
        return lines.get(timeout=0.25)
    except queue.Empty:
        return ""


def _mutant(module: Any, corpus: list[Path], directory: Path, seed: int, number: int) -> Path:
    rng = random.Random(f"{seed}/{number}")
    path: Path = getattr(module, "mutate", mutate.of_file)(rng.choice(corpus), directory, rng)
    return path


def _module(target: str) -> Any:
    return importlib.import_module(f"tests.fuzzing.{target}")


def _key(error: BaseException) -> str:
    """The key of a finding: the kind of error, and the last lines of the program that it went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/tests/fuzzing/" not in f.filename]
    return f"{type(error).__name__} at {' < '.join(f'{Path(f.filename).name}:{f.lineno}' for f in frames[:-4:-1])}"


def _summary(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "SUMMARY:" in line or "runtime error:" in line]
    return lines[-1] if lines else "no word"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fast_directory() -> str | None:
    """Files in memory, where the system has a place for them: mutants are many and live for a moment."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
