"""Files of tables, opened by pyarrow with no trust in them; imported only when one is wanted.

A table has groups of rows, each decoded from its beginning, some rows at a time: row groups of Parquet, record batches
of Feather (Arrow IPC). ORC, CSV and JSON lines do not say where a row lies; they are read once, in order
(`spann.vectors.streams`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from spann.errors import InputError
from spann.system import check_room
from spann.vectors.containers import foreign
from spann.vectors.places import Place

READ_BYTES = 1 << 20
"""Bytes of a file read at a time. Without this limit, or with `pre_buffer`, pyarrow holds a whole row group of the
column."""

LARGEST_GROUP = 1 << 40
"""Rows of a group: sums of so many groups as there can be stay in 64 bits."""


class TableFile(ABC):
    """An open file of a table: its `name` in messages, its `schema`, and the `rows` of each group."""

    def __init__(self, name: str, schema: pa.Schema, rows: list[int]) -> None:
        for number, count in enumerate(rows):
            if not 0 <= count <= LARGEST_GROUP:
                raise InputError(f"row group {number} of {name} has {count} rows; it must be from 0 to {LARGEST_GROUP}")
        self.name, self.schema, self.rows = name, schema, rows

    @abstractmethod
    def batches(self, group: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a group in order, about `rows` at a time. Raises whatever pyarrow does."""

    @abstractmethod
    def close(self) -> None:
        """Closes the file."""


class ParquetTable(TableFile):
    """A Parquet file; a row group is decoded page by page, never whole."""

    def __init__(self, place: Place) -> None:
        self._stream = place.open()
        try:
            with foreign(f"{place.name} is not a Parquet file that can be read"):
                self._file = pq.ParquetFile(
                    self._stream, buffer_size=READ_BYTES, pre_buffer=False, page_checksum_verification=True
                )
            with foreign(f"{place.name} has columns that cannot be read"):
                schema = self._file.schema_arrow
                rows = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
            super().__init__(place.name, schema, rows)
        except BaseException:
            self._stream.close()
            raise

    def batches(self, group: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        return iter(self._file.iter_batches(rows, row_groups=[group], columns=columns))

    def close(self) -> None:
        self._file.close()
        self._stream.close()


class ArrowTable(TableFile):
    """A file of Arrow IPC, as Feather is; a record batch of the wanted columns is decoded at once."""

    def __init__(self, place: Place) -> None:
        self._stream, self._name = place.open(), place.name
        try:
            with foreign(f"{place.name} is not a Feather (Arrow IPC) file that can be read"):
                reader = ipc.open_file(self._stream)
                schema, self._size = reader.schema, self._stream.size() // max(1, reader.num_record_batches)
                rows = self._counts(schema, reader.num_record_batches)
            super().__init__(place.name, schema, rows)
        except BaseException:
            self._stream.close()
            raise

    def _counts(self, schema: pa.Schema, batches: int) -> list[int]:
        """Rows of each batch, read with the column that takes least."""
        if not batches:
            return []
        flat = [number for number, field in enumerate(schema) if pa.types.is_primitive(field.type)]
        reader = self._reader(flat[:1] or [0])
        return [reader.get_batch(number).num_rows for number in range(batches)]

    def _reader(self, fields: list[int]) -> Any:
        return ipc.open_file(self._stream, options=ipc.IpcReadOptions(included_fields=fields, use_threads=False))

    def batches(self, group: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        check_room(self._size, f"record batch {group} of {self._name}")
        batch = self._reader([self.schema.get_field_index(name) for name in columns]).get_batch(group)
        batch.validate(full=True)
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows).select(columns)

    def close(self) -> None:
        self._stream.close()


def open_table(place: Place) -> TableFile:
    """The table in a file; its kind is that of the place."""
    return ParquetTable(place) if place.kind == "parquet" else ArrowTable(place)


def names_of(schema: pa.Schema, name: str) -> list[str]:
    """Names of the columns."""
    with foreign(f"{name} has columns that cannot be read"):
        names: list[str] = schema.names
        return names


def type_of(schema: pa.Schema, column: str, name: str) -> pa.DataType:
    """Type of the one column of this name."""
    number = names_of(schema, name).count(column)
    if number > 1:
        raise InputError(f"{name} has {number} columns {column!r}: there must be one")
    if number == 0:
        raise InputError(f"{name} has no column {column!r}; it has {', '.join(schema.names)}")
    with foreign(f"column {column!r} of {name} has a type that cannot be read"):
        return schema.field(column).type
