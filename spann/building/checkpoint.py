"""What an unfinished build has done so far, so that the same command goes on from there after a kill or a power cut.

A checkpoint is a file of lines, each a JSON object after the CRC-32C of its bytes: first what the build is of, then
marks. A mark says how far a stage is, with count and checksum of its temporary files, which are made durable before it
is written; so it never promises what is not on the disk. A line cut short by a power cut ends the file. Not marked are
the stages that take a few seconds, or seconds that do not grow with the collection: scan, balance, layout, calibrate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from spann._kernels.checksum import crc32c
from spann.errors import InputError
from spann.store import files
from spann.store.places import Where

MARK_SECONDS = 1.0
"""Between two marks, at least, and before the first: a build that is over sooner begins again more quickly than it goes
on. A mark takes 10 ms where the disk is fast (1M SIFT, 14 of them in 24 s)."""

MARK_SHARE = 0.05
"""Of the time, at most, that marks take where it is slow: the next is due so much later."""

FILE = "checkpoint"

Mark = dict[str, Any]


class Checkpoint:
    """The checkpoint in `directory` of the work that `about` (JSON) identifies and that `command` does.

    One that is there is gone on with: `InputError` where it is of other work, naming its command and what differs.
    """

    def __init__(self, directory: Where, about: dict[str, Any], command: str = "") -> None:
        self._path = directory / FILE
        self._about: dict[str, Any] = json.loads(json.dumps(about))
        self._command = command
        self._marks: dict[str, Mark] = {}
        self._pending: dict[str, Callable[[], Mark]] = {}
        self._last, self._took = time.monotonic(), 0.0
        self._written = 0
        lines = _lines(self._path)
        if lines:
            self._check(lines[0], directory)
            for line in lines[1:]:
                self._marks[line["stage"]] = line["mark"]
            self._written = len(lines)

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self._marks)

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that are marked, in the order in which they were first."""
        return tuple(self._marks)

    def of(self, stage: str) -> Mark | None:
        """The last mark of the stage."""
        return self._marks.get(stage)

    def part(self, stage: str, name: str) -> Any:
        """What the last mark of the stage says of `name`; None where there is no mark, or it is older than the name."""
        mark = self.of(stage)
        return None if mark is None else mark.get(name)

    def reached(self, stage: str, mark: Callable[[], Mark]) -> None:
        """Marks the stage, if a mark is due; `mark` makes what it speaks of durable."""
        if self._due:
            self._pending[stage] = mark
            self._settle()

    def completed(self, stage: str, mark: Callable[[], Mark], *, instead_of: str = "") -> None:
        """Marks the end of a stage at once where an earlier one is marked, else before the next mark that is due. The
        end of the stage `instead_of` is of no use from then on, nor its files."""
        self._pending.pop(instead_of, None)
        self._pending[stage] = mark
        if self.begun or self._due:
            self._settle()

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._last >= max(MARK_SECONDS, self._took / MARK_SHARE)

    def _settle(self) -> None:
        begin = time.monotonic()
        pending, self._pending = self._pending, {}
        for stage, mark in pending.items():
            self._write(stage, mark())
        self._last = time.monotonic()
        self._took = self._last - begin

    def _write(self, stage: str, mark: Mark) -> None:
        if self._written == 0:
            self._append({"about": self._about, "command": self._command})
            building = self._path.parent.parent
            for directory in (building, building.parent):  # which hold the temporary directory and it
                files.sync_dir(directory)
        files.sync_dir(self._path.parent)  # files may be new that the mark speaks of
        self._append({"stage": stage, "mark": mark})
        self._marks[stage] = mark

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, sort_keys=True).encode()
        files.append_line(self._path, b"%08x %s\n" % (crc32c(text), text), "the checkpoint")
        self._written += 1

    def _check(self, first: dict[str, Any], directory: Where) -> None:
        found = first.get("about", {})
        for name in [*self._about, *found]:
            if found.get(name) != self._about.get(name):
                raise InputError(
                    f"{directory.parent}: holds what an unfinished `{first.get('command')}` has done, whose {name} is "
                    f"{found.get(name)}, not {self._about.get(name)}; finish that first with the same command, or give "
                    "it up with --restart (restart=True)"
                )


class Batches:
    """Batches of a stage that were done one after the other, and marks of how many: `state` makes durable what they
    made. Without a checkpoint there are no marks."""

    def __init__(
        self, checkpoint: Checkpoint | None = None, stage: str = "", state: Callable[[], Mark] | None = None
    ) -> None:
        self._checkpoint, self._stage, self._state = checkpoint, stage, state or dict
        known = checkpoint.of(stage) if checkpoint else None
        self.done: int = known["batches"] if known else 0

    def add(self) -> None:
        """One more was done."""
        self.done += 1
        if self._checkpoint:
            self._checkpoint.reached(self._stage, self._mark)

    def end(self) -> None:
        """All were."""
        if self._checkpoint:
            self._checkpoint.completed(self._stage, self._mark)

    def _mark(self) -> Mark:
        return {"batches": self.done, **self._state()}


def open_checkpoint(
    directory: Where, about: dict[str, Any], names: Mapping[str, tuple[str, ...]], *, command: str = "", restart: bool
) -> Checkpoint:
    """The checkpoint in `directory`, and all other files removed from there but those, `names[stage]`, that its marks
    speak of. `restart` removes these too, of whatever build they are."""
    if restart:
        _remove(directory, ())
    checkpoint = Checkpoint(directory, about, command)
    kept = [name for stage in names if checkpoint.of(stage) for name in names[stage]]
    _remove(directory, (FILE, *kept) if kept else ())
    return checkpoint


def _remove(directory: Where, but: tuple[str, ...]) -> None:
    found = [path for path, _ in files.walk_files(directory) if path.name not in but]
    # The checkpoint first: a process killed meanwhile must not leave one that speaks of files that are no more.
    for path in sorted(found, key=lambda path: path.name != FILE):
        files.remove_file(path)


def _lines(path: Where) -> list[dict[str, Any]]:
    """The lines up to the first that is damaged or cut short, which is removed with all after it."""
    if not files.exists(path):
        return []
    content, good, lines = files.read_file(path), 0, []
    for line in content.splitlines(keepends=True):
        crc, _, text = line.partition(b" ")
        if not line.endswith(b"\n") or crc != b"%08x" % crc32c(text[:-1]):
            break
        lines.append(json.loads(text))
        good += len(line)
    files.close(files.open_again(path, good))
    return lines
