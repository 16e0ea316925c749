"""The next generation of a published index: every change of an index is made and published here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.workspace import Workspace
from spann.errors import InputError
from spann.format.layout import CHUNK_BYTES
from spann.format.manifest import RESERVED
from spann.store.arrays import ShardedWriter
from spann.store.places import without_links
from spann.store.reader import IndexReader
from spann.types import Array

MOVED = frozenset({"postings/pages", "vectors/exact"})
"""Arrays whose change adds or moves stored rows, in whose order columns lie."""


def refuse_columns(reader: IndexReader) -> None:
    """Raises `InputError` if the index has columns: vectors without values cannot join it."""
    if reader.collection.columns:
        names = ", ".join(repr(column.name) for column in reader.collection.columns)
        raise InputError(
            f"{reader.path}: the index has the columns {names}, and no vector of it can be added, replaced or deleted "
            "yet: build it anew"
        )


class Generation(Workspace):
    """The next generation of the index at `path`, which takes the place of the present one whole or not at all:

        with Generation(path, created_by=program) as following:
            following.resume("append", {"vectors": "..."}, command="spann append ...", files={})
            ids = following.extend("vectors/ids", rows=len(more))
            ids.append(more)
            ids.finish()
            following.rewrite("vectors/live", bits)
            following.publish({"count": count})

    - `old` reads the present generation. No other process can change the index inside the `with` block.
    - `resume` comes before the first array (see `Workspace`). Without it, unfinished work of others stays.
    - Arrays that are neither extended, rewritten nor dropped are links to those of `old`; so are full shards of an
      extended one. Nothing is copied but the last shard of an extended array.
    - Attributes and features stay, but for what `publish` is given. Leaving without `publish` changes nothing.

    The constructor raises `MissingError`, `FormatError` and `CorruptionError` if there is no sound index at `path`.
    Entering raises `ExistsError` while another process changes it.
    """

    def __init__(self, path: Path | str, *, created_by: str, sizes: Sizes = DEFAULT_SIZES) -> None:
        path = without_links(Path(path))
        IndexReader.open(path).close()  # nothing is touched where there is no index
        super().__init__(path, created_by=created_by, overwrite=True, sizes=sizes)
        self._dropped: set[str] = set()

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.old = IndexReader.open(self.path)  # after the lock: it may have been replaced meanwhile
        except BaseException as error:
            super().__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        super().__exit__(kind, error, tb)
        self.old.close()

    def identity(self) -> dict[str, str]:
        about = self.old.attributes
        return {"index": f"generation {about['generation']}, checksum {about['checksum']}"}

    def extend(self, name: str, rows: int, *, chunk_bytes: int = CHUNK_BYTES) -> ShardedWriter:
        """Starts array `name` with all rows of the old one; the caller appends `rows` more and finishes it."""
        return self.writer.extend_array(
            name, self.old.array(name), self.old.checksums(name), rows, chunk_bytes=chunk_bytes
        )

    def rewrite(self, name: str, values: Array) -> None:
        """Writes array `name` as a whole, in place of the old one if there is one."""
        self.writer.write_array(name, values)

    def drop(self, name: str) -> None:
        """Leaves array `name` out of the new generation."""
        self._dropped.add(name)

    def publish(self, changes: Mapping[str, Any], *, features: Iterable[str] | None = None) -> None:
        """Links what is left of the old generation, and gives the new one its name in one step.

        `changes` are the attributes that differ; `features`, if given, replace those of the old generation. Raises as
        `IndexWriter.publish` does."""
        about = self.old.attributes
        if MOVED & {*self.writer.names, *self._dropped}:
            refuse_columns(self.old)
        for name in self.old.arrays():
            if name not in self.writer.names and name not in self._dropped:
                self.extend(name, 0, chunk_bytes=self.old.layout(name).chunk_bytes).finish()
        self.let_go()
        self.writer.publish(
            {name: value for name, value in about.items() if name not in RESERVED} | dict(changes),
            features=about["features"] if features is None else features,
            generation=about["generation"] + 1,
        )

    def copied_bytes(self) -> int:
        """Bytes of the old arrays that extending all of them would write again: the last shard of each."""
        copied = 0
        for name in self.old.arrays():
            layout = self.old.layout(name)
            copied += layout.rows % layout.shard_rows * layout.row_bytes + 4 * layout.chunks
        return copied
