"""The output folder of a job: parts appear whole, one by one, and `_SUCCESS` appears last.

============================  =========================================================================================
``_job.json``                 first: the description of the job. Another job is refused the folder
``part-00000.parquet`` ...    one for each part of the input; it gets this name once it is whole and durable
``_SUCCESS``                  last, once all parts are there: the number of parts and of rows
============================  =========================================================================================

Programs that read folders of Parquet skip names that begin with `_` or a dot. A part is written as
`.part-00000.parquet.tmp`, locked by its writer. A killed writer no longer holds the lock.
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
from spann.store.names import NameTable

JOB, SUCCESS = "_job.json", "_SUCCESS"

_OURS = re.compile(r"part-\d{5,}\.parquet|\.part-\d{5,}\.parquet\.tmp|_job\.json|_SUCCESS|\.[0-9a-f]{16}\.tmp")

Description = Mapping[str, Any]
"""A job's description, ready for JSON: everything that the bytes of its output depend on, and nothing else."""


LAYOUTS = ("wide", "long")
""""wide" has a row for each query, with lists; "long" has a row for each neighbour."""


@dataclass(frozen=True)
class Shape:
    """Columns of an output: `key` names the query; its neighbours are in `ids` as lists, in `one` as single ids."""

    key: str = "query"
    ids: str = "ids"
    one: str = "id"
    layout: str = "wide"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"layout is {self.layout!r}; it must be one of {', '.join(LAYOUTS)}")

    @property
    def own(self) -> tuple[str, ...]:
        """Names that carried columns may not have."""
        return (self.key, self.ids, "distances") if self.layout == "wide" else (self.key, "rank", self.one, "distance")


@dataclass(frozen=True)
class Labels:
    """Names of the vectors that are searched for (`keys`) and of those that are found, if they have names."""

    keys: NameTable | None = None
    ids: NameTable | None = None


NO_LABELS = Labels()


@dataclass(frozen=True)
class Shard:
    """The parts that this process makes: every `of`-th, beginning with part `number`, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parses "3/16", the third of sixteen. Raises `InputError` for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"shard is {text!r}; it must look like 3/16, the third of sixteen, from 1/16 to 16/16")
        return cls(int(found[1]), int(found[2]))

    def has(self, part: int) -> bool:
        return part % self.of == self.number - 1


class OutputFolder:
    """The output of one job, opened by `open`."""

    def __init__(self, path: Path, parts: int) -> None:
        self.path, self.parts = path, parts

    @classmethod
    def open(cls, path: Path, job: Description, parts: int, *, restart: bool = False) -> OutputFolder:
        """Opens or makes the folder at `path`. Parts that the same job left there stay. With `restart`, the output of
        any job there is removed first.

        Raises `ExistsError` for the folder of another job, and names the difference, or if there are files of another
        kind.
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
                f"{path} holds {foreign[0] if foreign else 'parts'}, which is not the output of a spann job: choose an "
                "empty folder or a new one"
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
        """Writes the description of the job. Returns False if one exists, also if another machine was faster."""
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
            raise ExistsError(f"{self.path / JOB} does not describe a job; choose another folder or --restart")
        for name in sorted({*job, *there}):
            if job.get(name) != there.get(name):
                before, now = (_short(job_.get(name)) for job_ in (there, job))
                raise ExistsError(
                    f"{self.path} holds the output of another job: its {name} was {before}, not {now}. Choose "
                    "another folder, or begin anew with --restart"
                )

    def file(self, part: int) -> Path:
        return self.path / f"part-{part:05}.parquet"

    def missing(self, shard: Shard) -> list[int]:
        """The parts of the shard that are still missing."""
        return [part for part in range(self.parts) if shard.has(part) and not files.exists(self.file(part))]

    @contextmanager
    def writing(self, part: int) -> Iterator[Path]:
        """Yields a path to write the part to. The part gets its own name when the block ends without an error.

        Raises `ExistsError` if another process is writing the same part."""
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
        """Writes `_SUCCESS` if the parts of all shards are there. Returns whether they are."""
        if any(not files.exists(self.file(part)) for part in range(self.parts)):
            return False
        draft = self._draft(json.dumps({"parts": self.parts, **totals}, sort_keys=True) + "\n")
        files.rename(draft, self.path / SUCCESS)
        files.sync_dir(self.path)
        return True

    def _draft(self, text: str) -> Path:
        path = self.path / f".{secrets.token_hex(8)}.tmp"
        files.write_file(path, text.encode(), "the description of the job")
        return path

    def remove(self) -> None:
        """Removes the folder, after its parts were merged."""
        files.remove_tree(self.path)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]} ..."
