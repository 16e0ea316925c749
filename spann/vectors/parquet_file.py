"""Parquet files and their columns, opened by pyarrow with no trust in them; imported only when one is wanted."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from spann.errors import InputError
from spann.system import open_regular
from spann.vectors.containers import foreign

READ_BYTES = 1 << 20
"""Of a file read at a time; without, and with its `pre_buffer`, pyarrow holds a whole row group of the column."""


def open_file(path: Path, name: str) -> pq.ParquetFile:
    """The file, to be read in pieces."""
    os.close(open_regular(path, name))
    with foreign(f"{name} is not a Parquet file that can be read"):
        return pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False, page_checksum_verification=True)


def names_of(file: pq.ParquetFile, name: str) -> list[str]:
    """Names of the columns."""
    with foreign(f"{name} has columns that cannot be read"):
        names: list[str] = file.schema_arrow.names
        return names


def type_of(file: pq.ParquetFile, column: str, name: str) -> pa.DataType:
    """Type of the one column of this name."""
    number = names_of(file, name).count(column)
    if number != 1:
        raise InputError(f"{name} has {number} columns {column!r}: there must be one")
    with foreign(f"column {column!r} of {name} has a type that cannot be read"):
        return file.schema_arrow.field(column).type
