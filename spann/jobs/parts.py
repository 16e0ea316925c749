"""The parts of a job's input: files of vectors, or runs of rows.

Each part has one part of the output, so a killed job resumes with the missing parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.errors import InputError, StorageError
from spann.jobs.own import OwnVectors
from spann.types import Array
from spann.vectors import check_finite, data_set, open_queries
from spann.vectors.places import STREAMS, TABLES, Place, find, is_uri

PART_ROWS = 1 << 17
"""Rows of a part, if the input is one file. A kill undoes less work than that."""

_FINGERPRINT_BYTES = 64 << 10


@dataclass(frozen=True)
class Block:
    """Some rows of a part: vectors (n, dim), an Arrow table of the carried columns, and the keys of the vectors, (n,)
    int64, if they have keys."""

    vectors: Array
    columns: Any = None
    keys: NDArray[np.int64] | None = None


class Part(Protocol):
    """Rows whose answers are one part of the output.

    ``name`` stands in messages; ``rows`` is the number of rows.
    """

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> int: ...

    def fingerprint(self) -> str:
        """A text that other rows would most likely not have."""
        ...

    def schema(self) -> Any:
        """The Arrow schema of the columns that come with blocks; None if there are none."""
        ...

    def blocks(self, rows: int) -> Iterator[Block]:
        """Yields all rows in order, `rows` at a time."""
        ...


@dataclass(frozen=True)
class FilePart:
    """Rows `start` to `stop` (exclusive) of a file of vectors. `columns` of a table are pairs: the name in the file,
    and the name in the output. `part` is the column or the dataset of the vectors, if it was named."""

    place: Place
    part: str
    start: int
    stop: int
    columns: tuple[tuple[str, str], ...] = ()
    whole: bool = True

    @property
    def name(self) -> str:
        return self.place.name if self.whole else f"{self.place.name} from row {self.start} on"

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def fingerprint(self) -> str:
        """Size and checksum of both ends of the file. The end of a Parquet file tells where everything in it lies."""
        if self.place.filesystem is None and Path(self.place.path).is_dir():
            return "directory"
        try:
            with self.place.open() as stream:
                size, ends = stream.size(), []
                for place in (0, max(0, size - _FINGERPRINT_BYTES)):
                    stream.seek(place)
                    ends.append(stream.read(_FINGERPRINT_BYTES))
        except OSError as error:
            raise StorageError(f"{self.place.name} cannot be read: {error.strerror}") from error
        return f"{size} bytes, {crc32c(ends[1], crc32c(ends[0])):08x}"

    def schema(self) -> Any:
        """The Arrow schema of the columns; None if there are none."""
        if not self.columns:
            return None
        import pyarrow as pa

        with _table(self.place) as table:
            return pa.schema([table.schema.field(name).with_name(new) for name, new in self.columns])

    def blocks(self, rows: int) -> Iterator[Block]:
        if self.rows == 0:
            return
        with ExitStack() as stack:
            source = stack.enter_context(_source(self.place, self.part))
            tables = _tables(self.place, self.columns, self.start, self.stop, rows) if self.columns else None
            for start in range(self.start, self.stop, rows):
                vectors = source.read(start, min(start + rows, self.stop))
                check_finite(vectors, start, source.name)
                yield Block(vectors, None if tables is None else next(tables))


@dataclass(frozen=True)
class OwnPart:
    """Rows `start` to `stop` (exclusive) of the collection of an index."""

    collection: OwnVectors
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.collection.path}, vectors from {self.start} on"

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def fingerprint(self) -> str:
        return self.collection.checksum

    def schema(self) -> None:
        return None

    def blocks(self, rows: int) -> Iterator[Block]:
        for start in range(self.start, self.stop, rows):
            ids, vectors = self.collection.read(start, min(start + rows, self.stop))
            yield Block(vectors, keys=ids)


def own_parts(collection: OwnVectors, part_rows: int = PART_ROWS) -> list[OwnPart]:
    """All vectors of a collection, cut every `part_rows` rows."""
    ends = range(part_rows, collection.count + part_rows, part_rows)
    return [OwnPart(collection, end - part_rows, min(end, collection.count)) for end in ends]


def find_parts(
    given: str | Path | Sequence[str | Path],
    columns: Mapping[str, str] | None = None,
    part_rows: int = PART_ROWS,
    form: str | None = None,
    column: str = "",
) -> list[FilePart]:
    """The parts of an input. A folder, a list or a pattern of files has a part for each file. A single file is cut
    every `part_rows` rows, whatever memory there is, unless it can only be read in order. `columns` maps columns that
    come with the vectors to their names in the output. `form` is the kind of the files, if their extension does not
    tell. `column` holds the vectors.

    Raises `MissingError` for a missing file, and `InputError` for a folder without vectors or a missing column.
    """
    wanted = tuple((columns or {}).items())
    if folder := _single(given):
        places: Sequence[Place] = (folder,)
        part, many = column, False
    else:
        found = find(given, form=form)
        places, part, many = found.places, column or found.part, found.many
    if many or places[0].kind in STREAMS:
        return [FilePart(place, part, 0, _count(place, part, wanted), wanted) for place in places]
    count = _count(places[0], part, wanted)
    ends = range(part_rows, count + part_rows, part_rows)
    return [FilePart(places[0], part, end - part_rows, min(end, count), wanted, len(ends) == 1) for end in ends]


def _single(given: str | Path | Sequence[str | Path]) -> Place | None:
    """The folder that is one source rather than a folder of parts: a Zarr array, or a data set of VectorDBBench, whose
    queries are meant."""
    if not isinstance(given, str | os.PathLike) or is_uri(given):
        return None
    path = Path(given)
    if path.is_dir() and data_set.is_data_set(path):
        return Place(str(path / data_set.QUERIES), "parquet")
    zarr = any((path / name).exists() for name in ("zarr.json", ".zarray"))
    return Place(str(path), "") if zarr else None


def _source(place: Place, part: str) -> Any:
    return open_queries(
        place.path, name=place.name, column=part, format=place.kind or None, filesystem=place.filesystem
    )


def _count(place: Place, part: str, columns: tuple[tuple[str, str], ...]) -> int:
    if place.kind in TABLES:
        with _table(place) as table:
            for column, _ in columns:
                if column not in table.schema.names:
                    raise InputError(f"{place.name} has no column {column!r}; it has {', '.join(table.schema.names)}")
            if sum(table.rows) == 0:  # programs that write in parts leave empty files
                return 0
    elif columns:
        wanted = ", ".join(name for name, _ in columns)
        raise InputError(f"{place.name}: columns {wanted} are taken from Parquet and Feather files only")
    with _source(place, part) as source:
        return int(source.count)


def _table(place: Place) -> Any:
    from spann.vectors.tables import open_table

    return closing(open_table(place))


def _tables(place: Place, columns: tuple[tuple[str, str], ...], start: int, stop: int, rows: int) -> Iterator[Any]:
    """Tables of rows `start` to `stop`, `rows` at a time."""
    import pyarrow as pa

    names, new = [name for name, _ in columns], [name for _, name in columns]
    with _table(place) as table:
        held, size, left = [], 0, stop - start
        groups, skip = _groups(table.rows, start, stop)
        for batch in (b for group in groups for b in table.batches(group, names, min(rows, 65_536))):
            if skip >= len(batch):
                skip -= len(batch)
                continue
            some = pa.table(batch).slice(skip)
            skip = 0
            while len(some):
                part = some.slice(0, min(rows, left) - size)
                some = some.slice(len(part))
                held.append(part)
                size += len(part)
                if size == min(rows, left):
                    left -= size
                    yield pa.concat_tables(held).combine_chunks().select(names).rename_columns(new)
                    held, size = [], 0
                    if not left:
                        return


def _groups(counts: Sequence[int], start: int, stop: int) -> tuple[list[int], int]:
    """The groups that hold rows `start` to `stop`, and the rows of the first that come before."""
    groups: list[int] = []
    skip = at = 0
    for number, rows in enumerate(counts):
        if at < stop and at + rows > start:
            skip = skip if groups else start - at
            groups.append(number)
        at += rows
    return groups, skip
