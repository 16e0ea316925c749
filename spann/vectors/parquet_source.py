"""A column of Parquet files as vectors, read by pyarrow; imported only when one is opened."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array
from spann.vectors import paging
from spann.vectors.checks import narrowed
from spann.vectors.containers import foreign
from spann.vectors.id_list import IdList
from spann.vectors.parquet_file import open_file, type_of
from spann.vectors.parquet_ids import read_parquet_ids
from spann.vectors.sources import VectorSource, check_dim, usable_rows, vector_dtype

COLUMNS = ("vector", "embedding", "emb")
"""Names under which vectors are looked for where there are several list columns."""

PIECE_BYTES = 8 << 20
"""Of vectors decoded at a time: a row group may be as large as its file."""

KEPT_PIECES = 16
"""Decoded pieces that are kept: threads that read blocks near each other find them there."""

MANY = 64
"""Rows of which it is looked at whether float32 can tell them apart."""

LARGEST_GROUP = 1 << 40
"""Rows of a row group: sums of so many groups as there can be stay in 64 bits."""


def open_parquet(path: Path, column: str, *, max_rows: int | None, name: str) -> ParquetSource:
    """The named list column of the file; without a name one of `COLUMNS`, or the only one."""
    file = open_file(path, name)
    try:
        return ParquetSource([(name, file)], _find(file, column, name), max_rows=max_rows, name=name)
    except BaseException:
        file.close()
        raise


def open_parts(paths: Sequence[Path], column: str, ids: str, *, max_rows: int | None, name: str) -> ParquetSource:
    """The list columns `column` of all files as one source, with its ids in the columns `ids`; float64 is narrowed."""
    with ExitStack() as undo:
        files = [(str(path), undo.enter_context(closing(open_file(path, str(path))))) for path in paths]
        for part, file in files:
            _find(file, column, part)
        source = _Named(files, column, max_rows=max_rows, name=name, narrow=True)
        source.paths, source.ids = paths, ids
        undo.pop_all()
    return source


def _find(file: pq.ParquetFile, column: str, name: str) -> str:
    with foreign(f"{name} has columns that cannot be read"):
        lists = [field.name for field in file.schema_arrow if _is_list(field.type)]
    wanted = column or next((known for known in COLUMNS if known in lists), lists[0] if len(lists) == 1 else "")
    if wanted not in lists:
        known = f"its list columns are {', '.join(lists)}" if lists else "it has no list column"
        problem = f"has no list column {wanted!r}" if wanted else f"has several or none, and none is {COLUMNS[0]!r}"
        raise InputError(f"{name} {problem}; {known}: name one as FILE#COLUMN")
    return wanted


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


@dataclass(frozen=True)
class _Group:
    """A row group: the file called `name` and the number of the group there, its first row in it, and its rows."""

    name: str
    file: pq.ParquetFile
    number: int
    first: int
    rows: int


class ParquetSource(VectorSource):
    """Vectors of a list or fixed-size-list column, of one file or of several as one after the other.

    A row group is decoded from its beginning, a piece at a time, and `KEPT_PIECES` of them are kept besides what is
    read: whoever goes through the rows in order decodes each once, and a single row here or there costs what lies
    before it in its row group. With `narrow`, float64 becomes float32.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, pq.ParquetFile]],
        column: str,
        *,
        max_rows: int | None,
        name: str,
        narrow: bool = False,
    ) -> None:
        kind = type_of(files[0][1], column, files[0][0])
        dtype = _element(kind, column, name, narrow)
        self._files, self._column, self._lock = [file for _, file in files], column, threading.Lock()
        self._groups = [group for file_name, file in files for group in _groups(file_name, file)]
        self._ends = np.cumsum([group.rows for group in self._groups], dtype=np.int64)
        rows = int(self._ends[-1]) if self._groups else 0
        count = usable_rows(name, announced=rows, present=rows, max_rows=max_rows)
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_length()
        check_dim(dim, name)
        super().__init__(name, count, dim, dtype)
        for file_name, file in files:
            self._check_kind(type_of(file, column, file_name), kind.value_type, file_name)
        self._step = max(1, PIECE_BYTES // self.row_bytes)
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        # The next piece, as group and number, and where it comes from.
        self._at: tuple[int, int] = (-1, 0)
        self._stream: Iterator[Array] = iter(())

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()

    def _first_length(self) -> int:
        first = next(group for group in self._groups if group.rows)
        with foreign(f"row 0 of {first.name} cannot be decoded"):
            batch = next(first.file.iter_batches(batch_size=1, row_groups=[first.number], columns=[self._column]))
            length = batch.column(0).value_lengths()[0].as_py()
        if length is None:
            raise InputError(f"row 0 of {first.name} is null: vectors cannot have missing values")
        return int(length)

    def _check_kind(self, kind: pa.DataType, element: pa.DataType, name: str) -> None:
        """The other files hold what the first does."""
        if kind.value_type != element or (pa.types.is_fixed_size_list(kind) and kind.list_size != self.dim):
            raise InputError(f"column {self._column!r} of {name} is {kind}; the first file has {self.dim} {element}")

    def _read(self, start: int, stop: int) -> Array:
        out = np.empty((stop - start, self.dim), self.dtype)
        at = start
        # Locked as a whole: readers that take turns piece by piece would start each other's row group anew.
        with self._lock:
            while at < stop:
                group, within = self._place(at)
                number, skipped = divmod(within, self._step)
                part = self._piece(group, number)[skipped:][: stop - at]
                out[at - start : at - start + len(part)] = part
                at += len(part)
        return out

    def _take(self, rows: NDArray[np.int64]) -> Array:
        out = np.empty((len(rows), self.dim), self.dtype)
        group, within = self._place(rows)
        number, place = np.divmod(within, self._step)
        order = np.lexsort((number, group))
        ends = np.flatnonzero(np.diff(group[order]) | np.diff(number[order])) + 1
        with self._lock:
            for run in np.split(order, ends) if len(rows) else ():
                out[run] = self._piece(int(group[run[0]]), int(number[run[0]]))[place[run]]
        return out

    def _place(self, row: Any) -> tuple[Any, Any]:
        """The row group of each row, and the row within it."""
        group = np.searchsorted(self._ends, row, side="right")
        starts = np.concatenate([[0], self._ends])
        return group, row - starts[group]

    def _piece(self, group: int, number: int) -> Array:
        """The rows of a row group from `number` times `self._step` on, as many."""
        key = group, number
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if self._at[0] != group or self._at[1] > number:
            self._at, self._stream = (group, 0), self._decode(self._groups[group])
        while key not in self._kept:
            piece, one = next(self._stream, None), self._groups[group]
            if piece is None or len(piece) < min(self._step, one.rows - self._at[1] * self._step):
                self._at = (-1, 0)
                raise InputError(f"row group {one.number} of {one.name} has fewer rows than the file says")
            self._kept[self._at] = piece
            self._at = group, self._at[1] + 1
            while len(self._kept) > KEPT_PIECES:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _decode(self, group: _Group) -> Iterator[Array]:
        """The vectors of a row group in order, `self._step` at a time."""
        held, first, where = np.empty((0, self.dim), self.dtype), group.first, f"{group.number} of {group.name}"
        damaged = f"row group {where} cannot be decoded"
        with foreign(damaged):
            batches = group.file.iter_batches(self._step, row_groups=[group.number], columns=[self._column])
        while True:
            with foreign(damaged):
                batch = next(batches, None)
                if batch is None:
                    break
                rows = self._rows(batch.column(0), first, group.name)
            first += len(rows)
            held = np.concatenate([held, rows]) if len(held) else rows
            for part in paging.pieces(len(held) // self._step * self._step, self._step):
                yield held[part]
            held = held[len(held) // self._step * self._step :]
        if len(held):
            yield held

    def _rows(self, chunk: Any, first: int, name: str) -> Array:
        lengths = chunk.value_lengths() if not pa.types.is_fixed_size_list(chunk.type) else None
        if chunk.null_count or (lengths is not None and (lengths.to_numpy(zero_copy_only=False) != self.dim).any()):
            wrong = chunk.is_null().to_numpy(zero_copy_only=False)
            if lengths is not None and not wrong.any():
                wrong = lengths.to_numpy(zero_copy_only=False) != self.dim
            raise InputError(
                f"row {first + int(np.argmax(wrong))} of {name} is null or has not the length of row 0, {self.dim}"
            )
        values = chunk.flatten()
        if values.null_count:
            raise InputError(f"vectors of {name} from row {first} on have elements that are null")
        table: Array = values.to_numpy(zero_copy_only=False).reshape(len(chunk), self.dim)
        if table.dtype == self.dtype:
            return table
        return narrowed(table, first, name, spread=len(table) >= MANY)


class _Named(ParquetSource):
    """Files that have a column of ids."""

    paths: Sequence[Path]
    ids: str

    def own_ids(self) -> IdList:
        return read_parquet_ids(self.paths, self.ids, self.name).first(self.count)


def _element(kind: pa.DataType, column: str, name: str, narrow: bool) -> np.dtype[Any]:
    """The type of the elements of a list column; with `narrow` float32 for float64."""
    with foreign(f"column {column!r} of {name} holds {kind}, which are no vectors"):
        if not pa.types.is_primitive(kind.value_type):
            raise InputError(f"column {column!r} of {name} holds {kind}: vectors are lists of numbers")
        element = np.dtype(kind.value_type.to_pandas_dtype())
        return np.dtype(np.float32) if narrow and element == np.float64 else vector_dtype(element, name)


def _groups(name: str, file: pq.ParquetFile) -> Iterator[_Group]:
    first = 0
    for number in range(file.num_row_groups):
        with foreign(f"row group {number} of {name} cannot be read"):
            rows = file.metadata.row_group(number).num_rows
        if not 0 <= rows <= LARGEST_GROUP:
            raise InputError(f"row group {number} of {name} has {rows} rows; it must be from 0 to {LARGEST_GROUP}")
        yield _Group(name, file, number, first, rows)
        first += rows
