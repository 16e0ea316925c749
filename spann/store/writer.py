"""Writing an index directory so that it appears whole or not at all."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spann.errors import InputError, SpannError
from spann.format.json_text import to_json
from spann.format.layout import CHUNK_BYTES, SHARD_BYTES
from spann.format.manifest import GROUP, check_attributes, check_name, checksum_array, crc_text, groups_of, write_root
from spann.store import files
from spann.store.arrays import METADATA, ShardedArray, ShardedWriter, State
from spann.store.places import Place
from spann.store.publishing import Publication
from spann.types import Array


class IndexWriter:
    """Makes an index at `path`: a context manager in which arrays are written and then published all at once.

    - `created_by` names the program and its version. `overwrite` allows an existing index to be replaced, and nothing
      else. A shard file has at most `shard_bytes`.
    - Leaving the context without `publish` removes what was written, unless `keep` is set. A later writer that
      `resumes` then finds all of it, and says with `clear` which arrays it needs.
    - The constructor touches nothing. It raises `ExistsError`, `InputError` or `MissingError` if `path` is unusable:
      taken, without a parent directory, or not an index.
    - Entering raises `ExistsError` while another process makes the same index, and `StorageError` if the system
      refuses.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        created_by: str,
        overwrite: bool = False,
        resumes: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._place = Publication(path, overwrite)
        self.path, self.work, self.temporary = self._place.path, self._place.work, self._place.temporary
        self._created_by, self._resumes = created_by, resumes
        self.shard_bytes = shard_bytes
        self.keep = False
        self.published = False
        self._writers: dict[str, ShardedWriter] = {}
        self._sealed: tuple[dict[str, str], dict[str, Any]] | None = None

    def __enter__(self) -> Self:
        self._place.enter()
        try:
            if not self._resumes and files.exists(self.work):
                files.remove_tree(self.work)
            files.ensure_dir(self.work)
            files.ensure_dir(self.temporary)
        except BaseException:
            with suppress(SpannError):
                self._place.leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()
        # An error here must not hide the one on its way out. The next build clears up.
        with suppress(SpannError):
            if self._place.entered and not self.keep and files.exists(self.work):
                self._place.remove(self.work)
        with suppress(SpannError):
            self._place.leave()

    def clear(self, but: Sequence[str] = ()) -> None:
        """Removes what an earlier process left, except in `temporary`, and the arrays named `but`."""
        kept = {self.temporary, *(self.work / name for name in but)}
        above = {self.work / group for group in groups_of(but)}

        def remove(directory: Place) -> None:
            for name, about in files.entries(directory):
                entry = directory / name
                if entry in above:
                    remove(entry)
                elif entry not in kept:
                    files.remove_tree(entry) if stat.S_ISDIR(about.st_mode) else files.remove_file(entry)

        remove(self.work)

    def array_state(self, name: str) -> State:
        """Makes the rows of array `name` durable so far; returns the `state` to resume it with in a later process."""
        state = self._writers[name].state()
        for group in groups_of([name]):
            files.sync_dir(self.work / group)
        files.sync_dir(self.work)
        return state

    @property
    def names(self) -> list[str]:
        """Names of the arrays that were started, here and not by an earlier process."""
        return list(self._writers)

    def create_array(
        self,
        name: str,
        rows: int,
        dtype: DTypeLike,
        row_shape: Sequence[int] = (),
        *,
        shard_bytes: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        state: State | None = None,
    ) -> ShardedWriter:
        """Starts array `name` ("group/array", at any depth), which the caller fills and finishes before `publish`.

        With a `state`, resumes the array that an earlier process began. Raises `InputError` for a name that cannot be
        used or an array that cannot be stored."""
        self._check_open()
        check_name(name, self._writers)
        return self._create(name, rows, dtype, row_shape, shard_bytes=shard_bytes, chunk_bytes=chunk_bytes, state=state)

    def extend_array(
        self,
        name: str,
        old: ShardedArray,
        crcs: NDArray[np.uint32],
        rows: int = 0,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> ShardedWriter:
        """Starts array `name` with all rows of `old`, whose chunks have the CRC-32C `crcs` (chunks,).

        The caller adds `rows` more and finishes it. Raises as `create_array` and `ShardedWriter.begin_with` do."""
        writer = self.create_array(name, old.rows + rows, old.dtype, old.row_shape, chunk_bytes=chunk_bytes)
        writer.begin_with(old, crcs)
        return writer

    def write_array(
        self, name: str, values: Array, *, shard_bytes: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        """Writes a whole array, (rows, ...) of any dtype that can be stored."""
        self._check_open()
        check_name(name, self._writers)
        self._write(name, values, shard_bytes=shard_bytes, chunk_bytes=chunk_bytes)

    def complete(self, attributes: Mapping[str, Any], *, features: Iterable[str] = (), generation: int = 0) -> None:
        """Completes the index with its checksums and metadata. From now on it can be opened at `work`.

        No array can be added then. A second call only changes what it is given. Raises as `publish` does."""
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

        `attributes` is any JSON that the caller keeps with the index; `generation` counts its changes. Raises
        `InputError` for attributes that cannot be stored and for an array that is not finished. Raises `ExistsError`
        if the place was taken meanwhile.
        """
        self.complete(attributes, features=features, generation=generation)
        files.sync_dir(self.work)
        self._place.publish()
        self.published = True

    def _seal(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Writes the checksum arrays and the groups. Returns the CRC text of each array, and the metadata of all."""
        data = dict(self._writers)
        unfinished = [name for name, writer in data.items() if not writer.finished]
        if unfinished:
            raise InputError(f"{self.path}: array {unfinished[0]!r} is not finished")
        integrity = {}
        for name in sorted(data):
            checksums = data[name].checksums.astype("<u4")
            self._write(checksum_array(name), checksums)
            integrity[name] = crc_text(checksums)
        metadata: dict[str, Any] = {name: writer.layout.metadata() for name, writer in self._writers.items()}
        groups = groups_of(metadata)
        metadata.update({group: dict(GROUP) for group in groups})
        for group in groups:
            files.write_file(self.work / group / METADATA, to_json(GROUP), "metadata")
            files.sync_dir(self.work / group)
        return integrity, metadata

    def _write(self, name: str, values: Array, **layout: Any) -> None:
        with self._create(name, len(values), values.dtype, values.shape[1:], **layout) as writer:
            writer.append(values)
            writer.finish()

    def _create(
        self,
        name: str,
        rows: int,
        dtype: DTypeLike,
        row_shape: Sequence[int],
        *,
        shard_bytes: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        state: State | None = None,
    ) -> ShardedWriter:
        self._check_entered()
        for group in groups_of([name]):
            files.ensure_dir(self.work / group)
        path = self.work / name
        writer = ShardedWriter(
            path,
            dtype,
            row_shape,
            rows=rows,
            shard_bytes=shard_bytes or self.shard_bytes,
            chunk_bytes=chunk_bytes,
            state=state,
        )
        self._writers[name] = writer
        return writer

    def _check_entered(self) -> None:
        if not self._place.entered:
            raise InputError(f"{self.path}: an IndexWriter writes only inside its `with` block")

    def _check_open(self) -> None:
        self._check_entered()
        if self._sealed is not None:
            raise InputError(f"{self.path}: the index is complete, and no array can be added")
