"""How a finished index gets its name, and what is done about a process that was killed on the way there.

docs/FORMAT.md, section "Publishing", is the normative text. All names beside the index belong to whoever holds its lock
file, but only once that file says so: it does from before the first of them is made. A directory of the same name that
somebody else made is so told apart, and never touched, however often a command was refused or killed.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from spann.errors import CorruptionError, ExistsError, InputError, MissingError, SpannError, StorageError
from spann.format.json_text import parse_json
from spann.format.manifest import crc_text, spann_attributes
from spann.store import files
from spann.store.arrays import METADATA
from spann.store.places import Directory, Place, without_links

BUILDING = ".building"
"""Suffix of the directory in which an index is made, beside its final place."""

LOCK = ".building.lock"
"""Suffix of the lock file of who is making it. It lies beside that directory, not in it. So it outlives every rename,
and no second process mistakes a directory in the middle of a swap for a leftover."""

CLAIM = (
    b"spann makes an index here: this file, and what has its name but for .lock, .discarded or .replaced, are its own\n"
)
"""What a lock file holds once the names beside it were seen to be free."""

TEMPORARY = "temporary"
"""Directory inside it for what is no part of the index, and leaves it before that is published."""

DISCARDED = ".discarded"
"""Suffix of that directory from then on. It leaves in one step, so that a process killed meanwhile does not leave a
part of it for the next build to go on from."""

COMPLETE = "complete"
"""File in there from when the index is complete: the CRC text of its manifest."""

REPLACED = ".replaced"
"""Suffix of the old index during a swap, only where the system cannot exchange two directories in one step."""

_NODE = re.compile(r"[a-z0-9_.]+(/[a-z0-9_.]+)*")
_SHARD = re.compile(r"(.+)/c(/[0-9]+)+")
_SHARDS = re.compile(r"(.+)/c(/[0-9]+)*")
_FLAT = re.compile(r"[a-z0-9-]+")


def lock_file(path: Path) -> Path:
    """The lock file of the index that `path` leads to, whether it is there or not."""
    real = without_links(path)
    return real.with_name(real.name + LOCK)


class Publication:
    """The place of an index and the names beside it. `overwrite` allows an index that is there to be replaced.

    Touches nothing until it is entered, as a context manager that holds the lock. Raises `ExistsError`, `InputError` or
    `MissingError` when `path` can be seen not to do, `ExistsError` on entering while another process holds the lock.
    """

    def __init__(self, path: Path | str, overwrite: bool) -> None:
        self.path = without_links(Path(path))  # a link to an index stays, and what it leads to is replaced
        self._overwrite = overwrite
        try:
            self._parent = parent = Directory(self.path.parent)
        except MissingError:
            raise MissingError(f"{self.path}: its directory {self.path.parent} does not exist") from None
        name = self.path.name
        self.index = parent / name
        self.work = parent / (name + BUILDING)
        self.temporary = self.work / TEMPORARY
        self._lock_file = parent / (name + LOCK)
        self._replaced = parent / (name + REPLACED)
        self._discarded = parent / (name + DISCARDED)
        self._lock: int | None = None
        self._claimed = False
        self._spared = False  # a file that is there in place of the lock file
        try:
            self.check_target()
        except BaseException:
            parent.close()
            raise

    @property
    def entered(self) -> bool:
        return self._lock is not None

    def enter(self) -> None:
        """Takes the lock, sees to what a killed process left, and claims the names."""
        try:
            self._lock = files.lock(self._lock_file)
            if self._lock is None:
                raise ExistsError(
                    f"{self.path}: another process is building this index or changing it (it holds {self._lock_file})"
                )
            found = files.read_file(self._lock_file)
            if not CLAIM.startswith(found):  # a power cut may leave a part of it
                self._spared = True
                raise ExistsError(f"{self._lock_file}: in the way, and no lock file of a build; remove or rename it")
            self._claimed = found == CLAIM
            self._recover()
            self._claim(self._lock)
            self.check_target()
        except BaseException:
            with suppress(SpannError):
                self.leave()
            raise

    def leave(self) -> None:
        """Lets go of the lock, and removes its file unless something is left for the next one to see to."""
        fd, self._lock = self._lock, None
        try:
            left = self._spared or (self._claimed and any(files.exists(place) for place in self._names()))
            if fd is not None and not left:
                files.remove_file(self._lock_file)
        finally:
            if fd is not None:
                files.close(fd)
            self._parent.close()

    def check_target(self) -> None:
        """Raises unless `path` is free, or holds an index that may be overwritten."""
        if not files.exists(self.index):
            return
        if not self._overwrite:
            raise ExistsError(f"{self.path}: exists already; choose another path or use --overwrite to replace it")
        foreign = _foreign_content(self.index)
        before = None
        while foreign and (now := files.status(self.index)) is not None and now.st_ino != before:
            before = now.st_ino  # another process may have put another generation there meanwhile
            foreign = _foreign_content(self.index)
        if foreign:
            raise InputError(f"{self.path}: {foreign}; only a spann index can be overwritten: choose another path")

    def publish(self) -> None:
        """Gives the finished directory its name in one step. `ExistsError` when that has been taken meanwhile."""
        self.check_target()
        told = crc_text(files.read_file(self.work / METADATA))
        if files.exists(self.temporary / COMPLETE):
            files.remove_file(self.temporary / COMPLETE)
        files.write_file(self.temporary / COMPLETE, told.encode(), "what was completed")
        files.sync_dir(self.temporary)
        files.rename(self.temporary, self._discarded)
        files.sync_dir(self.work)
        try:
            old = self._swap()
        except SpannError:
            files.rename(self._discarded, self.temporary)
            raise
        files.sync_dir(self.index.parent)
        try:
            self._discard()
            if old is not None:
                self.remove(old)
        except SpannError as error:
            raise StorageError(f"{self.path}: the new index is in place, but not all is removed: {error}") from error

    def remove(self, place: Place) -> None:
        """Removes a directory beside the index with all in it; `ExistsError` where that is not spann's alone."""
        self._check_own(place)
        files.remove_tree(place)

    def _names(self) -> tuple[Place, ...]:
        return self.work, self._replaced, self._discarded

    def _claim(self, lock: int) -> None:
        if not self._claimed:
            files.write_at(lock, np.frombuffer(CLAIM, np.uint8), 0, self._lock_file, "the lock file")
            files.sync_file(lock, self._lock_file)
            files.sync_dir(self.index.parent)
            self._claimed = True

    def _recover(self) -> None:
        """Ends what a killed process had begun. Called with the lock held, so that nobody can be at work there."""
        for place in self._names():
            self._check_own(place)
        if files.exists(self._replaced):
            if files.exists(self.index):
                files.remove_tree(self._replaced)
            else:
                files.rename(self._replaced, self.index)
        if not files.exists(self._discarded):
            return
        told = _content(self._discarded / COMPLETE)
        published = told == _crc_of(self.index) or told != _crc_of(self.work)
        if published or told is None or files.exists(self.temporary):
            self._discard()
        else:  # killed just before it was published: all that was done is still there
            files.rename(self._discarded, self.temporary)

    def _discard(self) -> None:
        if files.exists(self._discarded / COMPLETE):  # first: a part of it must never be gone on from
            files.remove_file(self._discarded / COMPLETE)
        self.remove(self._discarded)

    def _check_own(self, place: Place) -> None:
        """Raises `ExistsError` unless nothing is there, or a directory with nothing in it but what spann makes."""
        found = files.status(place)
        if found is None:
            return
        why = ""
        if not self._claimed:
            why = "not left by an interrupted build"
        elif not stat.S_ISDIR(found.st_mode):
            why = "not a directory"
        else:
            foreign = _first_foreign(place, _in_discarded if place == self._discarded else _in_leftover)
            if foreign:
                why = f"holds {foreign!r}, which no build leaves there"
        if why:
            raise ExistsError(f"{place}: in the way, and {why}; remove or rename it")

    def _swap(self) -> Place | None:
        """Gives the finished directory its name; where the old one is then. Only here do indexes change."""
        self.check_target()
        if not files.exists(self.index):
            files.rename_new(self.work, self.index)
            return None
        if files.exchange(self.work, self.index):
            return self.work
        files.rename(self.index, self._replaced)
        try:
            files.rename(self.work, self.index)
        except SpannError:
            files.rename(self._replaced, self.index)
            raise
        return self._replaced


def _content(place: Place) -> bytes | None:
    return files.read_file(place) if files.exists(place) else None


def _crc_of(index: Place) -> bytes | None:
    """The CRC text of the manifest, None where there is none."""
    data = _content(index / METADATA) if files.exists(index) else None
    return None if data is None else crc_text(data).encode()


def _foreign_content(index: Place) -> str:
    """Why the thing at `index` is not, or not only, a spann index, in words; empty when it is one, damaged or not."""
    try:
        document = parse_json(files.read_file(index / METADATA), str(index))
    except (MissingError, StorageError, CorruptionError):
        return "not a spann index"
    if spann_attributes(document) is None:
        return "not a spann index"
    nodes: Mapping[str, Any] = document.get("consolidated_metadata", {}).get("metadata", {})
    foreign = _first_foreign(index, lambda name, is_dir: _in_index(name, is_dir, nodes.__contains__))
    return f"holds {foreign!r}, which is not part of the index" if foreign else ""


def _in_index(name: str, is_dir: bool, node: Callable[[str], bool]) -> bool:
    """Whether the file `name` belongs to an index. `node` knows its arrays and groups."""
    if name == METADATA and not is_dir:
        return True
    shard = (_SHARDS if is_dir else _SHARD).fullmatch(name)
    if shard and node(shard[1]):
        return True
    return node(name) if is_dir else name.endswith(f"/{METADATA}") and node(name.removesuffix(f"/{METADATA}"))


def _in_leftover(name: str, is_dir: bool) -> bool:
    """The same of an index that a process was killed with, or a part of one."""
    if name.startswith(f"{TEMPORARY}/"):
        return _in_discarded(name.removeprefix(f"{TEMPORARY}/"), is_dir)
    return _in_index(name, is_dir, lambda node: _NODE.fullmatch(node) is not None)


def _in_discarded(name: str, is_dir: bool) -> bool:
    return not is_dir and _FLAT.fullmatch(name) is not None


def _first_foreign(directory: Place, known: Callable[[str, bool], bool]) -> str:
    """Path below `directory` of the first thing there that `known` does not know, empty where there is none."""
    for name, mode in _below(directory):
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not known(name, stat.S_ISDIR(mode)):
            return name
    return ""


def _below(directory: Place, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Everything below: path relative to `directory`, and mode."""
    for name, about in files.entries(directory):
        yield prefix + name, about.st_mode
        if stat.S_ISDIR(about.st_mode):
            yield from _below(directory / name, f"{prefix}{name}/")
