"""A list column of files of tables as vectors; imported only when one is opened."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array
from spann.vectors import paging
from spann.vectors.columns import ID, as_rows, element_of, find_vectors, first_width, width_of
from spann.vectors.containers import foreign
from spann.vectors.id_list import IdList
from spann.vectors.names import NameList, type_of_names
from spann.vectors.places import Place
from spann.vectors.sources import VectorSource, check_dim, usable_rows
from spann.vectors.table_ids import read_table_ids
from spann.vectors.tables import TableFile, names_of, open_table, type_of

PIECE_BYTES = 8 << 20
"""Bytes of vectors decoded at a time. A row group may be as large as its file."""

KEPT_PIECES = 16
"""Decoded pieces that are kept: threads that read blocks near each other find them there."""

COLUMN_ROWS = 1 << 16
"""Values of another column that are decoded at a time."""

OPEN_FILES = 32
"""Files of a folder that are open at once."""


@dataclass(frozen=True)
class _Group:
    """A group of rows: the number of its file, its own number there, its first row in the file, and its rows."""

    file: int
    number: int
    first: int
    rows: int


class TableSource(VectorSource):
    """Vectors of a list column, of one file or of several as one after the other, as the files hold them.

    A group is decoded from its beginning, a piece at a time, and `KEPT_PIECES` of them are kept besides what is read:
    whoever goes through the rows in order decodes each once, and a single row here or there costs what lies before it
    in its group.
    """

    def __init__(self, places: Sequence[Place], column: str, *, max_rows: int | None, name: str) -> None:
        self._places, self._lock = places, threading.Lock()
        self._open: OrderedDict[int, TableFile] = OrderedDict()
        try:
            self._begin(column, max_rows, name)
        except BaseException:
            self.close()
            raise

    def _begin(self, column: str, max_rows: int | None, name: str) -> None:
        first = self._file(0)
        self._column = find_vectors(first.schema, column, first.name)
        kind = type_of(first.schema, self._column, first.name)
        dtype, dim = element_of(kind, self._column, name), width_of(kind)
        self._groups: list[_Group] = []
        for number in range(len(self._places)):
            self._groups += self._list(number)
            file = self._file(number)
            find_vectors(file.schema, self._column, file.name)
            other = type_of(file.schema, self._column, file.name)
            if element_of(other, self._column, file.name) != dtype or width_of(other) not in (dim, None):
                raise InputError(f"column {self._column!r} of {file.name} is {other}; in {first.name} it is {kind}")
        self._ends = np.cumsum([group.rows for group in self._groups], dtype=np.int64)
        rows = int(self._ends[-1]) if self._groups else 0
        count = usable_rows(name, announced=rows, present=rows, max_rows=max_rows)
        dim = self._first_width() if dim is None else dim
        check_dim(dim, name)
        super().__init__(name, count, dim, dtype)
        self.columns = tuple(one for one in names_of(first.schema, first.name) if one != self._column)
        self.named = ID in self.columns and type_of_names(type_of(first.schema, ID, first.name)) is not None
        self._step = max(1, PIECE_BYTES // self.row_bytes)
        self._kept: OrderedDict[tuple[int, int], Array] = OrderedDict()
        # The next piece, as group and number, and where it comes from.
        self._at: tuple[int, int] = (-1, 0)
        self._stream: Iterator[Array] = iter(())

    def _list(self, number: int) -> Iterator[_Group]:
        first = 0
        for group, rows in enumerate(self._file(number).rows):
            yield _Group(number, group, first, rows)
            first += rows

    def _file(self, number: int) -> TableFile:
        """The file of that number, opened if it is not open."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        file = self._open[number] = open_table(self._places[number])
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def own_ids(self, column: str | None = None) -> IdList | NameList | None:
        if column is None and ID not in self.columns:
            return None
        return read_table_ids(self._places, column or ID, self.name).first(self.count)

    def own_column(self, name: str) -> tuple[pa.DataType, Iterator[pa.Array]]:
        first = open_table(self._places[0])
        try:
            return type_of(first.schema, name, first.name), self._column_chunks(name)
        finally:
            first.close()

    def _column_chunks(self, name: str) -> Iterator[pa.Array]:
        """The values of another column in order, from files opened for it alone."""
        left, kind = self.count, None
        for place in self._places:
            file = open_table(place)
            try:
                kind = kind or type_of(file.schema, name, file.name)
                if type_of(file.schema, name, file.name) != kind:
                    raise InputError(f"column {name!r} of {file.name} is another type than the {kind} before it")
                for group in range(len(file.rows)):
                    with foreign(f"column {name!r} of {file.name} cannot be read"):
                        for batch in file.batches(group, [name], COLUMN_ROWS):
                            yield batch.column(0)[:left]
                            left -= min(left, len(batch))
            finally:
                file.close()

    def close(self) -> None:
        """Closes the files."""
        while self._open:
            self._open.popitem()[1].close()

    def _first_width(self) -> int:
        group = next(group for group in self._groups if group.rows)
        file = self._file(group.file)
        with foreign(f"row 0 of {file.name} cannot be decoded"):
            return first_width(next(file.batches(group.number, [self._column], 1)).column(0), 0, file.name)

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
        """The group of each row, and the row within it."""
        group = np.searchsorted(self._ends, row, side="right")
        starts = np.concatenate([[0], self._ends])
        return group, row - starts[group]

    def _piece(self, group: int, number: int) -> Array:
        """The rows of a group from `number` times `self._step` on, as many."""
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
                raise InputError(
                    f"row group {one.number} of {self._places[one.file].name} has fewer rows than the file says"
                )
            self._kept[self._at] = piece
            self._at = group, self._at[1] + 1
            while len(self._kept) > KEPT_PIECES:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _decode(self, group: _Group) -> Iterator[Array]:
        """The vectors of a group in order, `self._step` at a time."""
        file = self._file(group.file)
        held, first = np.empty((0, self.dim), self.dtype), group.first
        damaged = f"row group {group.number} of {file.name} cannot be decoded"
        with foreign(damaged):
            batches = file.batches(group.number, [self._column], self._step)
        while True:
            with foreign(damaged):
                batch = next(batches, None)
                if batch is None:
                    break
                rows = self._rows(batch.column(0), first, file.name)
            first += len(rows)
            held = np.concatenate([held, rows]) if len(held) else rows
            for part in paging.pieces(len(held) // self._step * self._step, self._step):
                yield held[part]
            held = held[len(held) // self._step * self._step :]
        if len(held):
            yield held

    def _rows(self, chunk: pa.Array, first: int, name: str) -> Array:
        return as_rows(chunk, self.dim, self.dtype, first, name)
