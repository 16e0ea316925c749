"""The parts of a job's input: files of vectors, or runs of rows.

Each part has one part of the output, so a killed job resumes with the missing parts.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.errors import InputError, MissingError, StorageError
from spann.jobs.own import OwnVectors
from spann.types import Array
from spann.vectors import check_finite, data_set, open_queries
from spann.vectors.containers import library_of

PART_ROWS = 1 << 17
"""Rows of a part, if the input is one file. A kill undoes less work than that."""

_FINGERPRINT_BYTES = 64 << 10
_HIDDEN = ("_", ".")
"""First characters of file names that hold no data, such as `_SUCCESS`."""


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
    """Rows `start` to `stop` (exclusive) of a file of vectors. `columns` of a Parquet file are pairs: the name in the
    file, and the name in the output."""

    path: Path
    start: int
    stop: int
    columns: tuple[tuple[str, str], ...] = ()
    whole: bool = True

    @property
    def name(self) -> str:
        return str(self.path) if self.whole else f"{self.path} from row {self.start} on"

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def fingerprint(self) -> str:
        """Size and checksum of both ends of the file. The end of a Parquet file tells where everything in it lies."""
        file = self.path if self.path.exists() else Path(str(self.path).rpartition("#")[0])
        if file.is_dir():
            return "directory"
        try:
            with file.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                ends = []
                for place in (0, max(0, size - _FINGERPRINT_BYTES)):
                    stream.seek(place)
                    ends.append(stream.read(_FINGERPRINT_BYTES))
        except OSError as error:
            raise StorageError(f"{file} cannot be read: {error.strerror}") from error
        return f"{size} bytes, {crc32c(ends[1], crc32c(ends[0])):08x}"

    def schema(self) -> Any:
        """The Arrow schema of the columns; None if there are none."""
        if not self.columns:
            return None
        import pyarrow as pa

        with _parquet(self.path, self.columns) as file:
            return pa.schema([file.schema_arrow.field(name).with_name(new) for name, new in self.columns])

    def blocks(self, rows: int) -> Iterator[Block]:
        if self.rows == 0:
            return
        with ExitStack() as stack:
            source = stack.enter_context(open_queries(self.path))
            tables = _tables(self.path, self.columns, self.start, self.stop, rows) if self.columns else None
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
    given: str | Path | Sequence[str | Path], columns: Mapping[str, str] | None = None, part_rows: int = PART_ROWS
) -> list[FilePart]:
    """The parts of an input. A folder, a list or a pattern of files has a part for each file. A single file is cut
    every `part_rows` rows, whatever memory there is. `columns` maps columns that come with the vectors to their names
    in the output.

    Raises `MissingError` for a missing file, and `InputError` for a folder without vectors or a missing column.
    """
    wanted = tuple((columns or {}).items())
    paths = _paths(given)
    if paths is None:
        path = Path(os.fspath(given))  # type: ignore[arg-type]
        count = _count(path, wanted)
        ends = range(part_rows, count + part_rows, part_rows)
        return [FilePart(path, end - part_rows, min(end, count), wanted, len(ends) == 1) for end in ends]
    return [FilePart(path, 0, _count(path, wanted), wanted) for path in paths]


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path] | None:
    """The files, one for each part; None for a single source, to be cut."""
    if not isinstance(given, str | os.PathLike):
        if not given:
            raise InputError("there are no files of vectors: the list of them is empty")
        return [Path(os.fspath(one)) for one in given]
    path = Path(os.fspath(given))
    if path.is_dir():
        single = any((path / name).exists() for name in ("zarr.json", ".zarray", data_set.QUERIES))
        return None if single else _files_in(path)
    if not path.exists() and any(mark in str(given) for mark in "*?["):
        found = [Path(one) for one in sorted(glob.glob(str(given), recursive=True))]
        if not found:
            raise MissingError(f"no file matches {given}")
        return found
    return None


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder, ordered by name. All must be of one kind."""
    try:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not any(part.startswith(_HIDDEN) for part in path.relative_to(folder).parts)
        )
    except OSError as error:
        raise StorageError(f"{folder} cannot be listed: {error.strerror}") from error
    kinds = {path.suffix.lower() for path in files}
    if not files:
        raise InputError(f"{folder} has no files; a folder of queries needs at least one file of vectors")
    if len(kinds) > 1:
        raise InputError(
            f"{folder} has files of several kinds, {files[0].name} and "
            f"{next(path.name for path in files if path.suffix.lower() != files[0].suffix.lower())}: choose one "
            f"kind, for example {folder}/*{files[0].suffix}"
        )
    return files


def _count(path: Path, columns: tuple[tuple[str, str], ...]) -> int:
    if columns:
        with _parquet(path, columns) as file:
            known = file.schema_arrow.names
            for column, _ in columns:
                if column not in known:
                    raise InputError(f"{path} has no column {column!r}; it has {', '.join(known)}")
    if path.suffix.lower() == ".parquet":
        with _parquet(path, columns) as file:
            if file.metadata.num_rows == 0:  # programs that write in parts leave empty files
                return 0
    with open_queries(path) as source:
        return source.count


def _parquet(path: Path, columns: tuple[tuple[str, str], ...]) -> Any:
    with library_of(".parquet", str(path)):
        import pyarrow as pa
        import pyarrow.parquet as pq

    file = path if path.exists() else Path(str(path).rpartition("#")[0])
    if file.is_dir():
        file = file / data_set.QUERIES
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        wanted = ", ".join(name for name, _ in columns)
        what = f"columns {wanted} come from Parquet files, and this" if columns else "this"
        raise InputError(f"{path}: {what} is not a readable Parquet file") from error


def _tables(path: Path, columns: tuple[tuple[str, str], ...], start: int, stop: int, rows: int) -> Iterator[Any]:
    """Tables of rows `start` to `stop`, `rows` at a time."""
    import pyarrow as pa

    names, new = [name for name, _ in columns], [name for _, name in columns]
    with _parquet(path, columns) as file:
        groups, skip = _groups(file, start, stop)
        held, size, left = [], 0, stop - start
        for batch in file.iter_batches(min(rows, 65_536), row_groups=groups, columns=names):
            if skip >= len(batch):
                skip -= len(batch)
                continue
            table = pa.table(batch).slice(skip)
            skip = 0
            while len(table):
                part = table.slice(0, min(rows, left) - size)
                table = table.slice(len(part))
                held.append(part)
                size += len(part)
                if size == min(rows, left):
                    left -= size
                    yield pa.concat_tables(held).combine_chunks().select(names).rename_columns(new)
                    held, size = [], 0
                    if not left:
                        return


def _groups(file: Any, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows `start` to `stop`, and the rows of the first that come before."""
    groups: list[int] = []
    skip = at = 0
    for number in range(file.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if at < stop and at + rows > start:
            skip = skip if groups else start - at
            groups.append(number)
        at += rows
    return groups, skip
