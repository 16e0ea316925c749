"""Arrow tables in memory, and streams of them, as vectors; imported only when one is given.

Whatever has `__arrow_c_stream__` counts: pyarrow, pandas, polars, DuckDB and others. Tables in memory stay there, and
streams are kept in a temporary file (`spann.vectors.spool`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array
from spann.vectors.arrays import as_array
from spann.vectors.columns import ID, as_rows, element_of, find_vectors, first_width, is_number, width_of
from spann.vectors.containers import foreign
from spann.vectors.id_list import IdList, check_id_type
from spann.vectors.names import NameList, of_arrays, type_of_names
from spann.vectors.sources import VectorSource, check_dim, usable_rows
from spann.vectors.spool import Block, spooled
from spann.vectors.streams import arrow_blocks, stacked

_IN_MEMORY = ("pyarrow", "pandas", "polars")
"""Packages whose objects have their values in memory."""

GATHERED = 1 << 20
"""Bytes of single vectors that are written at a time."""


class ArrowSource(VectorSource):
    """Vectors of a list column of a table in memory."""

    def __init__(self, table: pa.Table, column: str, *, max_rows: int | None, name: str) -> None:
        table = table if column else _gathered(table, name)
        wanted = find_vectors(table.schema, column, name)
        self._table, self._chunks = table, table[wanted].chunks
        kind = table.schema.field(wanted).type
        dtype = element_of(kind, wanted, name)
        count = usable_rows(name, announced=len(table), present=len(table), max_rows=max_rows)
        first = next(chunk for chunk in self._chunks if len(chunk))
        dim = width_of(kind) or first_width(first, 0, name)
        check_dim(dim, name)
        super().__init__(name, count, dim, dtype)
        self._starts = np.cumsum([0, *map(len, self._chunks)], dtype=np.int64)
        self.columns = tuple(one for one in table.schema.names if one != wanted)
        self.named = ID in self.columns and type_of_names(table.schema.field(ID).type) is not None

    def own_ids(self, column: str | None = None) -> IdList | NameList | None:
        if column is None and ID not in self.columns:
            return None
        if column is not None and column not in self.columns:
            raise InputError(f"{self.name} has no column {column!r}; it has {', '.join(self._table.schema.names)}")
        return ids_of(self._table[column or ID], f"column {column or ID!r} of {self.name}").first(self.count)

    def own_column(self, name: str) -> tuple[pa.DataType, Iterator[pa.Array]]:
        if name not in self.columns:
            raise InputError(f"{self.name} has no column {name!r}; it has {', '.join(self._table.schema.names)}")
        values = self._table[name].slice(0, self.count)
        return values.type, iter(values.chunks)

    def _read(self, start: int, stop: int) -> Array:
        parts = []
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._starts[number]), min(stop, int(self._starts[number + 1]))
            if start < end:
                chunk = self._chunks[number].slice(start - first, end - start)
                parts.append(as_rows(chunk, self.dim, self.dtype, start, self.name))
                start = end
            number += 1
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts or [self._none()]))

    def _none(self) -> Array:
        return np.empty((0, self.dim), self.dtype)

    def _take(self, rows: NDArray[np.int64]) -> Array:
        out = np.empty((len(rows), self.dim), self.dtype)
        where = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(where).tolist():
            mine = np.flatnonzero(where == number)
            chunk = self._chunks[number].take(pa.array(rows[mine] - self._starts[number]))
            out[mine] = as_rows(chunk, self.dim, self.dtype, int(rows[mine[0]]), self.name)
        return out


def _gathered(table: pa.Table, name: str) -> pa.Table:
    """A table that has only columns of numbers as one of lists of these, beside the ids; others as they are."""
    numbers = [field.name for field in table.schema if field.name != ID]
    kinds = [table.schema.field(one).type for one in numbers]
    if len(set(table.schema.names)) < len(table.schema.names) or not numbers or not all(map(is_number, kinds)):
        return table
    for one in numbers:
        if table[one].null_count:
            row = int(np.argmax(table[one].is_null().to_numpy()))
            raise InputError(f"row {row} of column {one!r} of {name} is null: vectors cannot have missing values")
    values = np.stack([table[one].to_numpy() for one in numbers], axis=1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), len(numbers))
    ids = {ID: table[ID]} if ID in table.schema.names else {}
    return pa.table({**ids, "vector": lists})


def ids_given(obj: Any) -> IdList | NameList:
    """Ids given as a column of Arrow, pandas or polars, or as a table that has no other column."""
    with foreign("ids give no Arrow that can be read"):
        table = _in_memory(obj)
    if table is None or len(table.schema) != 1:
        what = "a stream" if table is None else f"a table of {len(table.schema)} columns"
        raise InputError(f"ids are {what}: give one column of it")
    values = table.column(0)
    if pa.types.is_integer(values.type) and not values.null_count:
        return IdList(values.to_numpy())
    return ids_of(values, "ids")


def ids_of(values: pa.ChunkedArray, origin: str) -> IdList | NameList:
    """A column of ids."""
    if (names := of_arrays(values.chunks, values.type, origin, origin)) is not None:
        return names
    check_id_type(values.type, origin)
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy()))
        raise InputError(f"row {row} of {origin} is null: every vector needs an id")
    return IdList(values.to_numpy(), origin)


def open_arrow(obj: Any, column: str, *, max_rows: int | None, name: str, scratch: Path | None) -> VectorSource:
    """The vectors of an object that gives Arrow (`spann.vectors.opening.gives_arrow`)."""
    with foreign(f"{name} gives no Arrow that can be read"):
        if _is_hugging_face(obj):
            obj, column = _hugging_face(obj, column)
        table = _in_memory(obj)
        stream = [] if table is not None else pa.RecordBatchReader.from_stream(obj)
    if table is not None:
        return ArrowSource(table, column, max_rows=max_rows, name=name)
    return spooled(arrow_blocks(stream, column, None, name), max_rows=max_rows, name=name, scratch=scratch)


def batch_blocks(batches: Iterable[Any], column: str, name: str) -> Iterator[Block]:
    """Vectors and ids of whatever batches are: arrays, lists, objects that give Arrow, or single vectors."""
    first, single = 0, list[Array]()
    for batch in batches:
        if any(hasattr(batch, name) for name in ("__arrow_c_stream__", "__arrow_c_array__")):
            with foreign(f"{name} gives no Arrow that can be read"):
                table = _in_memory(batch)
                found = pa.RecordBatchReader.from_stream(batch) if table is None else table.to_batches()
            yield from arrow_blocks(found, column, None, name)
            continue
        vectors = as_array(batch, f"{name} from row {first} on")
        if vectors.ndim not in (1, 2):
            raise InputError(f"{name} gives an array of shape {vectors.shape}; it must be (n, dim), or (dim,) for one")
        first += len(vectors) if vectors.ndim == 2 else 1
        if vectors.ndim == 1:
            single.append(vectors)
            if len(single) * vectors.nbytes < GATHERED:
                continue
        if single:
            yield stacked(single, first - len(single), name), None
            single = []
        if vectors.ndim == 2:
            yield vectors, None
    if single:
        yield stacked(single, first - len(single), name), None


def _in_memory(obj: Any) -> pa.Table | None:
    """A table of what lies in memory; None for a stream. A column alone is called "vector"."""
    if isinstance(obj, pa.RecordBatchReader):
        return None
    if isinstance(obj, pa.Table):
        return obj
    if isinstance(obj, pa.RecordBatch):
        return pa.Table.from_batches([obj])
    if isinstance(obj, pa.ChunkedArray | pa.Array):
        return pa.table({"vector": obj})
    if not hasattr(obj, "__arrow_c_stream__"):
        found = pa.array(obj)
        return pa.Table.from_batches([pa.record_batch(obj)]) if pa.types.is_struct(found.type) else _in_memory(found)
    if type(obj).__module__.partition(".")[0] not in _IN_MEMORY:
        return None
    if hasattr(obj, "columns"):
        return pa.RecordBatchReader.from_stream(obj).read_all()
    return pa.table({"vector": pa.chunked_array(obj)})


def _is_hugging_face(obj: object) -> bool:
    return type(obj).__module__.partition(".")[0] == "datasets" and hasattr(getattr(obj, "source", obj), "with_format")


def _hugging_face(obj: Any, column: str) -> tuple[pa.RecordBatchReader, str]:
    """A stream of a data set, or of the column of one."""
    if hasattr(obj, "source"):
        obj, column = obj.source.select_columns([obj.column_name]), obj.column_name
    tables = obj.with_format("arrow").iter(batch_size=4096)
    first = next(tables)
    batches = (batch for table in _with(first, tables) for batch in table.to_batches())
    return pa.RecordBatchReader.from_batches(first.schema, batches), column


def _with(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
