"""Writing an index directory so that it appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spann.errors import CorruptionError, ExistsError, InputError, MissingError, SpannError, StorageError
from spann.storage import files
from spann.storage.arrays import METADATA, ShardedArray, ShardedWriter, State
from spann.storage.json_text import parse_json, to_json
from spann.storage.layout import CHUNK_BYTES, SHARD_BYTES
from spann.storage.manifest import (
    GROUP,
    INTEGRITY,
    check_attributes,
    check_name,
    checksum_array,
    crc_text,
    groups_of,
    spann_attributes,
    write_root,
)
from spann.types import Array

BUILDING = ".building"
"""Suffix of the directory in which an index is made, beside its final place. The name is spann's own."""

LOCK = ".building.lock"
"""Suffix of the lock file of who is making it. It lies beside that directory, not in it: so it outlives every rename,
and no second process can mistake a directory in the middle of a swap for one that was left behind."""

TEMPORARY = "temporary"
"""Directory inside it for what is no part of the index, and leaves it before that is published."""

DISCARDED = ".discarded"
"""Suffix of that directory from then on. It leaves in one step, so that a process killed meanwhile does not leave a
part of it for the next build to go on from."""

REPLACED = ".replaced"
"""Suffix of the old index during a swap, only where the system cannot exchange two directories in one step."""


class IndexWriter:
    """Makes an index at `path`: a context manager in which arrays are written and then published all at once.

    `created_by` names the program and its version; `overwrite` allows an existing index, and nothing else, to be
    replaced. Leaving the context without `publish` removes what was written, unless `keep` is set: then the next one
    finds what is in `temporary`, and only that; one that `resumes` finds all of it, and says with `clear` which arrays
    it goes on with. The constructor touches nothing and raises `ExistsError`, `InputError` or `MissingError` when
    `path` can be seen not to do; entering raises
    `ExistsError` while another process makes the same index, and `StorageError` where the system refuses.
    """

    def __init__(self, path: Path | str, *, created_by: str, overwrite: bool = False, resumes: bool = False) -> None:
        self.path = Path(path).resolve()  # a link to an index stays, and what it leads to is replaced
        self.work = self.path.with_name(self.path.name + BUILDING)
        self._lock_path = self.path.with_name(self.path.name + LOCK)
        self._replaced = self.path.with_name(self.path.name + REPLACED)
        self._discarded = self.path.with_name(self.path.name + DISCARDED)
        self._created_by = created_by
        self._overwrite, self._resumes = overwrite, resumes
        self.temporary = self.work / TEMPORARY
        self.keep = False
        self._writers: dict[str, ShardedWriter] = {}
        self._sealed: tuple[dict[str, str], dict[str, Any]] | None = None
        self._lock: int | None = None
        if not files.exists(self.path.parent):
            raise MissingError(f"{self.path}: its directory {self.path.parent} does not exist")
        self._check_target()

    def __enter__(self) -> Self:
        known = files.exists(self._lock_path)
        self._lock = files.lock(self._lock_path)
        if self._lock is None:
            raise ExistsError(f"{self.path}: another process is building this index (it holds {self._lock_path})")
        try:
            self._recover(known)
            files.ensure_dir(self.work)
            files.ensure_dir(self.temporary)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()
        # Whatever is wrong here comes second to the error on its way out, and the next build clears up.
        with suppress(SpannError):
            if self._lock is not None and not self.keep and files.exists(self.work):
                files.remove_tree(self.work)
        with suppress(SpannError):
            self._release()

    def clear(self, but: Sequence[str] = ()) -> None:
        """Removes what an earlier process left, except in `temporary`, and the arrays named `but`."""
        kept = {self.temporary, *(self.work / name for name in but)}
        above = {parent for path in kept for parent in path.parents}

        def remove(directory: Path) -> None:
            for entry in sorted(directory.iterdir()):
                if entry in above:
                    remove(entry)
                elif entry not in kept:
                    files.remove_tree(entry) if entry.is_dir() else files.remove_file(entry)

        remove(self.work)

    def array_state(self, name: str) -> State:
        """Makes durable what was appended to array `name`; the `state` to create it with in a later process."""
        state = self._writers[name].state()
        for group in [*groups_of([name]), ""]:
            files.sync_dir(self.work / group)
        return state

    @property
    def names(self) -> list[str]:
        """Names of the arrays that were started."""
        return list(self._writers)

    def create_array(
        self,
        name: str,
        rows: int,
        dtype: DTypeLike,
        row_shape: Sequence[int] = (),
        *,
        shard_bytes: int = SHARD_BYTES,
        chunk_bytes: int = CHUNK_BYTES,
        state: State | None = None,
    ) -> ShardedWriter:
        """Starts array `name` ("group/array", at any depth), which the caller fills and finishes before `publish`; with
        a `state`, goes on with one that an earlier process began.

        Raises `InputError` for a name that cannot be used or an array that cannot be stored."""
        self._check_open()
        check_name(name, self._writers)
        return self._create(name, rows, dtype, row_shape, shard_bytes, chunk_bytes, state)

    def extend_array(self, name: str, old: ShardedArray, crcs: NDArray[np.uint32], rows: int = 0) -> ShardedWriter:
        """Starts array `name` with all rows of `old`, whose chunks have the CRC-32C `crcs` (chunks,); the caller adds
        `rows` more and finishes it. Raises as `create_array` and `ShardedWriter.begin_with` do."""
        writer = self.create_array(name, old.rows + rows, old.dtype, old.row_shape)
        writer.begin_with(old, crcs)
        return writer

    def write_array(
        self, name: str, values: Array, *, shard_bytes: int = SHARD_BYTES, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        """Writes a whole array, (rows, ...) of any dtype that can be stored."""
        self._check_open()
        check_name(name, self._writers)
        self._write(name, values, shard_bytes, chunk_bytes)

    def complete(self, attributes: Mapping[str, Any], *, features: Iterable[str] = (), generation: int = 0) -> None:
        """Completes the index with its checksums and metadata: from now on it can be opened at `work`, and no array can
        be added. A second call only changes what it is given. Raises as `publish` does.
        """
        features = list(features)
        self._check_entered()
        check_attributes(attributes, features)
        if self._sealed is None:
            self._sealed = self._seal()
        else:
            files.remove_file(self.work / METADATA)
        integrity, metadata = self._sealed
        root = write_root(attributes, features, generation, self._created_by, integrity, metadata)
        files.write_file(self.work / METADATA, root, "metadata")

    def publish(self, attributes: Mapping[str, Any], *, features: Iterable[str] = (), generation: int = 0) -> None:
        """Completes the index, makes it durable and gives it its name in one step.

        `attributes` is whatever JSON the caller keeps with the index; `generation` counts its changes. Raises
        `InputError` for attributes that cannot be stored and for an array that is not finished, `ExistsError` when the
        place has been taken meanwhile.
        """
        self.complete(attributes, features=features, generation=generation)
        self._check_target()
        files.rename(self.temporary, self._discarded)
        files.sync_dir(self.work)
        try:
            old = self._swap()
        except SpannError:
            files.rename(self._discarded, self.temporary)
            raise
        files.sync_dir(self.path.parent)
        try:
            files.remove_tree(self._discarded)
            if old is not None:
                files.remove_tree(old)
        except StorageError as error:
            raise StorageError(f"{self.path}: the new index is in place, but not all is removed: {error}") from error

    def _seal(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Writes the checksum arrays and the groups; returns the checksums of the former, and the metadata of all."""
        data = dict(self._writers)
        unfinished = [name for name, writer in data.items() if not writer.finished]
        if unfinished:
            raise InputError(f"{self.path}: array {unfinished[0]!r} is not finished")
        integrity = {}
        for name in sorted(data):
            checksums = data[name].checksums.astype("<u4")
            self._write(checksum_array(name), checksums, SHARD_BYTES, CHUNK_BYTES)
            integrity[name] = crc_text(checksums)
        metadata: dict[str, Any] = {name: writer.layout.metadata() for name, writer in self._writers.items()}
        groups = groups_of(metadata)
        metadata.update({group: dict(GROUP) for group in groups})
        for group in groups:
            files.write_file(self.work / group / METADATA, to_json(GROUP), "metadata")
            files.sync_dir(self.work / group)
        return integrity, metadata

    def _write(self, name: str, values: Array, shard_bytes: int, chunk_bytes: int) -> None:
        with self._create(name, len(values), values.dtype, values.shape[1:], shard_bytes, chunk_bytes) as writer:
            writer.append(values)
            writer.finish()

    def _create(
        self,
        name: str,
        rows: int,
        dtype: DTypeLike,
        row_shape: Sequence[int],
        shard_bytes: int,
        chunk_bytes: int,
        state: State | None = None,
    ) -> ShardedWriter:
        self._check_entered()
        for group in groups_of([name]):
            files.ensure_dir(self.work / group)
        path = self.work / name
        writer = ShardedWriter(
            path, dtype, row_shape, rows=rows, shard_bytes=shard_bytes, chunk_bytes=chunk_bytes, state=state
        )
        self._writers[name] = writer
        return writer

    def _check_entered(self) -> None:
        if self._lock is None:
            raise InputError(f"{self.path}: an IndexWriter writes only inside its `with` block")

    def _check_open(self) -> None:
        self._check_entered()
        if self._sealed is not None:
            raise InputError(f"{self.path}: the index is complete, and no array can be added")

    def _check_target(self) -> None:
        """Raises unless `path` is free, or holds an index that may be overwritten."""
        if not files.exists(self.path):
            return
        if not self._overwrite:
            raise ExistsError(f"{self.path}: exists already; choose another path or use --overwrite to replace it")
        foreign = _foreign_content(self.path)
        if foreign:
            raise InputError(f"{self.path}: {foreign}; only a spann index can be overwritten: choose another path")

    def _recover(self, known: bool) -> None:
        """Clears what a killed process left. Called with the lock held, so that nobody can be at work in it.

        `known` says that the lock file was there already. A directory of the same name without one was not left by
        spann, which takes the lock before and drops it after the directory.
        """
        for leftover in (self.work, self._replaced, self._discarded):
            if leftover.exists() and not known:
                raise ExistsError(f"{leftover}: in the way, and not left by an interrupted build; remove or rename it")
        if self._replaced.exists():
            if self.path.exists():
                files.remove_tree(self._replaced)
            else:
                files.rename(self._replaced, self.path)
            self._check_target()
        if self._discarded.exists():
            files.remove_tree(self._discarded)
        if self.work.exists() and not self._resumes:
            self.clear()

    def _swap(self) -> Path | None:
        """Gives the finished directory its name; where the old one is then. Only here do indexes change."""
        self._check_target()
        if not self.path.exists():
            files.rename_new(self.work, self.path)
            return None
        old = self.work
        if not files.exchange(self.work, self.path):
            old = self._replaced
            files.rename(self.path, old)
            try:
                files.rename(self.work, self.path)
            except SpannError:
                files.rename(old, self.path)
                raise
        return old

    def _release(self) -> None:
        """Drops the lock, and removes its file unless something is left for the next build to clear."""
        if self._lock is None:
            return
        fd, self._lock = self._lock, None
        if self.work.exists() or self._replaced.exists() or self._discarded.exists():
            files.close(fd)
        else:
            files.unlock(fd, self._lock_path)


def _foreign_content(path: Path) -> str:
    """Why the thing at `path` is not, or not only, a spann index, in words; empty when it is one, damaged or not."""
    try:
        document = parse_json(files.read_file(path / METADATA), str(path))
        found = {entry.name for entry in path.iterdir()}
    except (MissingError, StorageError, CorruptionError, OSError):
        return "not a spann index"
    if spann_attributes(document) is None:
        return "not a spann index"
    metadata = document.get("consolidated_metadata", {}).get("metadata", {})
    own = {METADATA, INTEGRITY, *(str(name).split("/")[0] for name in metadata)}
    return f"holds {min(found - own)!r}, which is not part of the index" if found - own else ""
