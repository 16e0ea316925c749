"""Where the output of a job goes: a folder of parts that appear whole, one by one, until `_SUCCESS` says that all are
there.

============================  =========================================================================================
``_job.json``                 what the job is: first of all. Another job is refused the folder
``part-00000.parquet`` ...    one for each part of the input, under its name once it is whole and durable
``_SUCCESS``                  last, once all parts are there: how many, and their rows
============================  =========================================================================================

Programs that read folders of Parquet pass over names that begin with `_` or a dot. While a part is written it lies in
`.part-00000.parquet.tmp`, locked by its writer; a writer that was killed has let go of it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spann.errors import ExistsError, InputError, MissingError
from spann.store import files

JOB, SUCCESS = "_job.json", "_SUCCESS"

_OURS = re.compile(r"part-\d{5,}\.parquet|\.part-\d{5,}\.parquet\.tmp|_job\.json|_SUCCESS|\.[0-9a-f]{16}\.tmp")

Description = Mapping[str, Any]
"""What a job is, ready for JSON: whatever the bytes of its output depend on, and nothing else."""


LAYOUTS = ("wide", "long")
"""A row for each query, with lists; or a row for each neighbour."""


@dataclass(frozen=True)
class Shape:
    """Columns of an output: the one that names a query, and those of its neighbours, `ids` of lists, `one` of single
    ones."""

    key: str = "query"
    ids: str = "ids"
    one: str = "id"
    layout: str = "wide"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"layout is {self.layout!r}; it must be one of {', '.join(LAYOUTS)}")

    @property
    def own(self) -> tuple[str, ...]:
        """Names that no other column may have."""
        return (self.key, self.ids, "distances") if self.layout == "wide" else (self.key, "rank", self.one, "distance")


@dataclass(frozen=True)
class Shard:
    """Which parts this process is to do: every `of`-th, beginning with number `number`, from 1 on."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "3/16", the third of sixteen. `InputError` for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"shard is {text!r}; it must be as 3/16, the third of sixteen, from 1/16 to 16/16")
        return cls(int(found[1]), int(found[2]))

    def has(self, part: int) -> bool:
        return part % self.of == self.number - 1


class OutputFolder:
    """The output of one job of `rows[i]` rows in part i; made by `open`."""

    def __init__(self, path: Path, parts: int) -> None:
        self.path, self.parts = path, parts

    @classmethod
    def open(cls, path: Path, job: Description, parts: int, *, restart: bool = False) -> OutputFolder:
        """The folder at `path`, made if need be, with what the same job has left there. With `restart` whatever a job
        has left there is removed first.

        Raises `ExistsError` for a folder of another job, naming what differs, or one with files of another kind.
        """
        if not files.exists(path.parent):
            raise MissingError(f"{path}: its directory {path.parent} does not exist")
        if files.exists(path) and not path.is_dir():
            raise ExistsError(f"{path} is a file: the parts of the output go to a folder")
        files.ensure_dir(path)
        folder = cls(path, parts)
        names = sorted(os.listdir(path))
        foreign = [name for name in names if not _OURS.fullmatch(name)]
        if foreign or (JOB not in names and any(name.startswith("part-") for name in names)):
            raise ExistsError(
                f"{path} holds {foreign[0] if foreign else 'parts'}, which no job of spann has left there: choose a "
                "folder that is empty or does not exist"
            )
        if restart:
            for name in sorted(names, key=lambda name: name != SUCCESS):
                files.remove_file(path / name)
            files.sync_dir(path)
        text = json.dumps(job, indent=1, sort_keys=True) + "\n"
        if not folder._describe(text):
            folder._compare(json.loads(text))
        return folder

    def _describe(self, text: str) -> bool:
        """Writes what the job is; False where something is there, also when another machine was faster."""
        if files.exists(self.path / JOB):
            return False
        draft = self._draft(text)
        try:
            files.rename_new(draft, self.path / JOB)
        except ExistsError:
            files.remove_file(draft)
            return False
        files.sync_dir(self.path)
        return True

    def _compare(self, job: Description) -> None:
        try:
            there = json.loads(files.read_file(self.path / JOB))
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise ExistsError(f"{self.path / JOB} does not tell what job it is of; choose another folder or --restart")
        for name in sorted({*job, *there}):
            if job.get(name) != there.get(name):
                before, now = (_short(job_.get(name)) for job_ in (there, job))
                raise ExistsError(
                    f"{self.path} holds the output of another job, of which {name} was {before}, not {now}: choose "
                    "another folder, or begin anew with --restart"
                )

    def file(self, part: int) -> Path:
        return self.path / f"part-{part:05}.parquet"

    def missing(self, shard: Shard) -> list[int]:
        """The parts of the shard that are not there yet."""
        return [part for part in range(self.parts) if shard.has(part) and not files.exists(self.file(part))]

    @contextmanager
    def writing(self, part: int) -> Iterator[Path]:
        """A path to write the part to, which gets its name once the block ends without an error.

        Raises `ExistsError` while another process writes the same part."""
        target = self.file(part)
        draft = self.path / f".{target.name}.tmp"
        lock = files.lock(draft)
        if lock is None:
            raise ExistsError(f"{target} is being written by another process")
        try:
            with files.explained(draft, "cut"):
                os.ftruncate(lock, 0)
            yield draft
            fd = files.open_read(draft)
            try:
                files.sync_file(fd, draft)
            finally:
                files.close(fd)
            files.rename(draft, target)
            files.sync_dir(self.path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        finally:
            files.close(lock)

    def finish(self, totals: Mapping[str, Any]) -> bool:
        """Writes `_SUCCESS` if all parts are there, of all shards; whether they are."""
        if any(not files.exists(self.file(part)) for part in range(self.parts)):
            return False
        draft = self._draft(json.dumps({"parts": self.parts, **totals}, sort_keys=True) + "\n")
        files.rename(draft, self.path / SUCCESS)
        files.sync_dir(self.path)
        return True

    def _draft(self, text: str) -> Path:
        path = self.path / f".{secrets.token_hex(8)}.tmp"
        files.write_file(path, text.encode(), "what the job is")
        return path

    def remove(self) -> None:
        """Takes the folder away, once its parts have become something else."""
        files.remove_tree(self.path)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]} ..."
