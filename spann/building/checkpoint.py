"""How far unfinished work is, so that the same command resumes it after a kill or a power cut.

A checkpoint is a file of lines. Each is a JSON object after the CRC-32C of its bytes. The first line identifies the
work, the others are marks. A mark says how far a stage is, with count and checksum of its temporary files. They are
made durable before the mark is written, so it never promises what is not on the disk. A line that a power cut left
incomplete ends the file. Stages of a few seconds have no marks: scan, layout, calibrate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from spann._kernels.checksum import crc32c
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.errors import InputError
from spann.store import files
from spann.store.places import Where

FILE = "checkpoint"

Mark = dict[str, Any]


class Checkpoint:
    """The checkpoint in `directory` of the work that `about` (JSON) identifies and that `command` does.

    An existing checkpoint is resumed. If it belongs to other work, raises `InputError` with its command and the first
    difference. `sizes` says how often a mark is due.
    """

    def __init__(
        self, directory: Where, about: dict[str, Any], command: str = "", sizes: Sizes = DEFAULT_SIZES
    ) -> None:
        self._sizes = sizes
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
        """Whether there is a mark to resume from."""
        return bool(self._marks)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that have a mark, in the order of their first."""
        return tuple(self._marks)

    def of(self, stage: str) -> Mark | None:
        """The last mark of the stage."""
        return self._marks.get(stage)

    def part(self, stage: str, name: str) -> Any:
        """The entry `name` of the last mark of the stage; None if there is no mark, or no such entry."""
        mark = self.of(stage)
        return None if mark is None else mark.get(name)

    def reached(self, stage: str, mark: Callable[[], Mark]) -> None:
        """Marks the stage if a mark is due. `mark` returns its content, and makes the files durable that it names."""
        if self._due:
            self._pending[stage] = mark
            self._settle()

    def completed(self, stage: str, mark: Callable[[], Mark], *, instead_of: str = "") -> None:
        """Marks the end of a stage: at once if some stage has a mark, else before the next mark that is due.

        The end of the stage `instead_of` is no longer needed from then on, nor are its files."""
        self._pending.pop(instead_of, None)
        self._pending[stage] = mark
        if self.begun or self._due:
            self._settle()

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._last >= max(self._sizes.mark_seconds, self._took / self._sizes.mark_share)

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
    """Counts the batches of a stage as they are done in order, and marks the count. `state` makes their results
    durable. Without a checkpoint there are no marks."""

    def __init__(
        self, checkpoint: Checkpoint | None = None, stage: str = "", state: Callable[[], Mark] | None = None
    ) -> None:
        self._checkpoint, self._stage, self._state = checkpoint, stage, state or dict
        known = checkpoint.of(stage) if checkpoint else None
        self.done: int = known["batches"] if known else 0

    def add(self) -> None:
        """One more batch is done."""
        self.done += 1
        if self._checkpoint:
            self._checkpoint.reached(self._stage, self._mark)

    def end(self) -> None:
        """All batches are done."""
        if self._checkpoint:
            self._checkpoint.completed(self._stage, self._mark)

    def _mark(self) -> Mark:
        return {"batches": self.done, **self._state()}


def open_checkpoint(
    directory: Where,
    about: dict[str, Any],
    names: Mapping[str, tuple[str, ...]],
    *,
    command: str = "",
    restart: bool,
    sizes: Sizes = DEFAULT_SIZES,
) -> Checkpoint:
    """The checkpoint in `directory`. Of the other files there, only those that its marks name stay.

    `names[stage]` are the names, or patterns of names, of the files of a stage. `restart` removes all files, whatever
    work they belong to."""
    if restart:
        _remove(directory, ())
    checkpoint = Checkpoint(directory, about, command, sizes)
    kept = [name for stage in names if checkpoint.of(stage) for name in names[stage]]
    _remove(directory, (FILE, *kept) if kept else ())
    return checkpoint


def _remove(directory: Where, but: tuple[str, ...]) -> None:
    found = [path for path, _ in files.walk_files(directory) if not any(fnmatchcase(path.name, name) for name in but)]
    # The checkpoint first: a process killed here must not leave a checkpoint that names missing files.
    for path in sorted(found, key=lambda path: path.name != FILE):
        files.remove_file(path)


def _lines(path: Where) -> list[dict[str, Any]]:
    """The lines up to the first that is damaged or incomplete. That one and all after it are removed."""
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
