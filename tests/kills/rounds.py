"""Commands that are killed (`kill -9`) and given again: each must end as if nothing had happened.

A round prepares a directory and gives a command. Its process is killed at some call that changes files, or after some
time, perhaps more than once. Then the command is given undisturbed. The processes are forks of this one, which saves
starting an interpreter for each; so nothing here may start a thread.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import faiss  # noqa: F401  (before any fork: it takes longer to import than a command runs)
import numpy as np

import spann
from spann import config
from spann.building import checkpoint
from spann.building.stages import partition
from spann.cli.app import cli
from spann.testing import clustered, die_at

BUILD = ("--code-bits", "2", "--posting-size", "30", "--quiet")
LEFT = b"killed"


@dataclass(frozen=True)
class Command:
    """What is given (`argv`), where `before` was given undisturbed; `result` is what must come out the same."""

    name: str
    argv: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    result: str = "i"


_MADE = ("build", "base.npy", "i", *BUILD)
_DELETE = ("delete", "i", "3", "4", "500")
_UPSERT = ("upsert", "i", "more.npy", "--ids", "ids.npy")
COMMANDS = {
    command.name: command
    for command in (
        Command("build", _MADE),
        Command("overwrite", (*_MADE, "--overwrite"), (("build", "other.npy", "i", *BUILD),)),
        Command("append", ("append", "i", "more.npy", "--quiet"), (_MADE,)),
        Command("tune", ("tune", "i", "queries.npy", "--count", "200", "--quiet"), (_MADE,)),
        Command("delete", _DELETE, (_MADE,)),
        Command("upsert", _UPSERT, (_MADE,)),
        Command("flush", ("flush", "i", "--quiet"), (_MADE, _UPSERT, _DELETE)),
        Command("optimize", ("optimize", "i", "--purge", "--quiet"), (_MADE, _DELETE, ("flush", "i", "--quiet"))),
        Command("search", ("search", "i", "queries.npy", "-k", "5", "-o", "near.npz"), (_MADE,), "near.npz"),
        Command("convert", ("convert", "base.npy", "base.fbin"), (), "base.fbin"),
        Command("truth", ("truth", "base.npy", "queries.npy", "-k", "5", "-o", "truth.ibin"), (), "truth.ibin"),
    )
}


@dataclass
class Outcome:
    """The result of rounds: kills that hit the command before its end, and faults."""

    rounds: int = 0
    kills: int = 0
    faults: list[str] = field(default_factory=list)


def prepare(place: Path, count: int = 1200) -> None:
    """Makes the inputs of all commands in the directory `place`."""
    place.mkdir()
    base, queries = clustered(count, 12, 220, 5)
    np.save(place / "base.npy", base[: count * 2 // 3])
    np.save(place / "more.npy", base[count * 2 // 3 :])
    np.save(place / "other.npy", base[: count // 3] + np.float32(1))
    np.save(place / "queries.npy", queries)
    np.save(place / "ids.npy", np.arange(count - count * 2 // 3) * 3)


def content(path: Path) -> dict[str, bytes]:
    """All files at or below `path`, by path relative to it."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def start(place: Path, argv: tuple[str, ...], change: int = -1, marks: bool = True) -> int:
    """Starts a process that gives the command in `place`, and dies at change number `change`; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.chdir(place)
        os.setpgid(0, 0)
        with open("said", "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        config.DEFAULT_CALIBRATION = config.FEWEST_CALIBRATION = 0
        partition.REGION_BYTES = 1 << 13
        if marks:
            checkpoint.MARK_SECONDS, checkpoint.MARK_SHARE = 0.0, float("inf")
        counted = die_at(change)
        try:
            cli.main(list(argv))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 98
        Path("changes").write_text(str(counted()))
    finally:
        os._exit(code)


def finish(child: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def given(place: Path, argv: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and output of a command that is left alone."""
    code = finish(start(place, argv))
    said = (place / "said").read_text()
    return code, said


class Rounds:
    """Rounds of one command below the directory `work`, which is made."""

    def __init__(self, command: Command, work: Path) -> None:
        self.command, self._work = command, work
        work.mkdir()
        self._start, place = work / "start", work / "place"
        prepare(self._start)
        for argv in command.before:
            self._must(given(self._start, argv))
        shutil.copytree(self._start, place)
        began = time.monotonic()
        self._must(given(place, command.argv))
        self.seconds = time.monotonic() - began
        self.changes = int((place / "changes").read_text())
        self._names = self._files(place)
        self._expected = content(place / command.result)
        if command.result == "i" and spann.verify(place / "i"):
            raise RuntimeError("undisturbed, the command makes a damaged index")
        self._old = content(self._start / command.result)
        shutil.rmtree(place)

    def one(self, kill: Callable[[Path], int], times: int, outcome: Outcome) -> None:
        """A round with up to `times` kills: `kill` gives the command and ends it, and returns how it ended."""
        place = self._work / "place"
        shutil.copytree(self._start, place)
        outcome.rounds += 1
        ends = []
        for _ in range(times):
            ends.append(kill(place))
            outcome.kills += ends[-1] == -signal.SIGKILL
            if ends[-1] not in (0, -signal.SIGKILL):
                outcome.faults.append(f"{self.command.name}: ended with {ends}: {(place / 'said').read_text()}")
            found = content(place / self.command.result)
            if found not in (self._old, self._expected):
                outcome.faults.append(f"{self.command.name}: neither old nor new after {ends}")
        code, said = given(place, self.command.argv)
        if code != 0:
            outcome.faults.append(f"{self.command.name}: after {ends} ended with {code}: {said}")
        if content(place / self.command.result) != self._expected:
            outcome.faults.append(f"{self.command.name}: after {ends} another result: {said}")
        if self._files(place) != self._names:
            outcome.faults.append(f"{self.command.name}: after {ends} files left: {self._files(place)}")
        shutil.rmtree(place)

    def at_change(self, change: int, marks: bool = True) -> Callable[[Path], int]:
        """Kills at the change of this number."""
        return lambda place: finish(start(place, self.command.argv, change, marks))

    def at_random(self, rng: random.Random) -> Callable[[Path], int]:
        """Kills at a random change or after a random time."""

        def kill(place: Path) -> int:
            marks = rng.random() < 0.7
            if rng.random() < 0.5:
                return finish(start(place, self.command.argv, rng.randrange(self.changes), marks))
            child = start(place, self.command.argv, marks=marks)
            time.sleep(rng.random() * self.seconds)
            os.kill(child, signal.SIGKILL)
            return finish(child)

        return kill

    def _must(self, ended: tuple[int, str]) -> None:
        if ended[0] != 0:
            raise RuntimeError(f"undisturbed, the command ends with {ended[0]}: {ended[1]}")

    @staticmethod
    def _files(place: Path) -> list[str]:
        return sorted(set(os.listdir(place)) - {"said", "changes"})
