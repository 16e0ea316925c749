"""Columns that callers give beside the vectors: attributes for filters, and payload that comes back with results.

=================================  =====================================================================================
names                              columns of the vectors' own table: Parquet, Feather, or one in memory
a dictionary                       names, and arrays or lists of values; None is a missing value
a table                            whatever gives Arrow: pyarrow, pandas, polars, DuckDB
=================================  =====================================================================================

Numbers keep their type. NaN is a missing value. Strings and categories become strings, lists of strings become tags,
dates and timestamps keep their meaning; a timestamp without a time zone is taken as UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.errors import InputError
from spann.format.columns import (
    BOOL,
    DATE,
    FILTER,
    LONGEST_NAME,
    MOST_COLUMNS,
    NUMBERS,
    PAYLOAD,
    STRING,
    TAGS,
    TEXT,
    TIMESTAMP,
)
from spann.types import Array
from spann.vectors.containers import foreign
from spann.vectors.sources import VectorSource

GivenColumns = Any
"""Columns as a caller gives them: see the table above."""

PIECE_ROWS = 1 << 16
"""Rows of a column that are looked at together."""

_STORED = {BOOL: pa.uint8(), DATE: pa.int32(), TIMESTAMP: pa.int64()}


@dataclass(frozen=True)
class Values:
    """Some values of a column in the order of its rows: `values` as they are stored, or `texts`; lists, and texts as
    bytes, have their `lengths`. `valid` is where there are any; None: everywhere."""

    rows: int
    values: Array | None = None
    texts: pa.Array | None = None
    lengths: NDArray[np.int64] | None = None
    valid: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class GivenColumn:
    """A column as it was given: its `name`, `kind` and `role`, and how to read its `pieces`, as often as needed."""

    name: str
    kind: str
    role: str
    origin: str
    chunks: Callable[[], Iterator[pa.Array]]

    def pieces(self) -> Iterator[Values]:
        """All values in order. Raises `InputError` for values that cannot be stored, naming their rows."""
        row = 0
        for chunk in self.chunks():
            for start in range(0, len(chunk), PIECE_ROWS):
                piece = chunk.slice(start, PIECE_ROWS)
                with foreign(f"{self.origin}, rows {row} to {row + len(piece) - 1}: the values cannot be stored"):
                    yield self._values(piece, row)
                row += len(piece)

    def _values(self, piece: pa.Array, first: int) -> Values:
        if isinstance(piece, pa.ExtensionArray):
            piece = piece.storage
        if pa.types.is_dictionary(piece.type):
            piece = piece.dictionary_decode()
        if pa.types.is_floating(piece.type):
            piece = pc.if_else(pc.is_nan(piece), pa.scalar(None, piece.type), piece)
        valid = None if piece.null_count == 0 else piece.is_valid().to_numpy(zero_copy_only=False)
        if self.kind in (STRING, TEXT):
            return Values(len(piece), texts=piece.cast(pa.large_string()), valid=valid)
        if self.kind == TAGS:
            return self._tags(piece, valid, first)
        if self.kind == TIMESTAMP:
            piece = piece.cast(pa.timestamp("us", piece.type.tz))
        elif self.kind == DATE:
            piece = piece.cast(pa.date32())
        stored = piece.cast(_STORED[self.kind]) if self.kind in _STORED else piece
        values: Array = stored.fill_null(0).to_numpy(zero_copy_only=False)
        return Values(len(piece), values, valid=valid)

    def _tags(self, piece: pa.Array, valid: NDArray[np.bool_] | None, first: int) -> Values:
        lists = piece.cast(pa.large_list(pa.large_string()))
        words = lists.flatten()
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if words.null_count:
            at = int(np.argmax(words.is_null().to_numpy(zero_copy_only=False)))
            row = first + int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise InputError(f"{self.origin}: the list of row {row} has a null in it, and tags are strings")
        return Values(len(piece), texts=words, lengths=lengths, valid=valid)

    def checksum(self, count: int) -> str:
        """What tells the column from others. Raises `InputError` unless it has `count` values that can be stored."""
        crc, rows = 0, 0
        for piece in self.pieces():
            rows += piece.rows
            if piece.values is not None:
                crc = crc32c(np.ascontiguousarray(piece.values), crc)
            else:
                assert piece.texts is not None
                lengths = pc.binary_length(piece.texts).fill_null(0).to_numpy(zero_copy_only=False)
                crc = crc32c(np.ascontiguousarray(lengths, np.int64), crc)
                crc = crc32c(np.frombuffer("".join(t or "" for t in piece.texts.to_pylist()).encode(), np.uint8), crc)
            for part in (piece.lengths, piece.valid):
                crc = crc if part is None else crc32c(np.ascontiguousarray(part).view(np.uint8), crc)
        if rows != count:
            raise InputError(f"{self.origin} has {rows} values; there are {count} vectors, and each needs one")
        return f"{self.name}: {self.kind} {self.role} {crc:08x}"


def given_columns(
    attributes: GivenColumns | None, payload: GivenColumns | None, source: VectorSource
) -> tuple[GivenColumn, ...]:
    """The columns that come with the vectors of `source`: those for filters, then the payload.

    Raises `InputError` for a column that is not there, is given twice, or has a type that cannot be stored."""
    found = [*_columns(attributes, FILTER, source), *_columns(payload, PAYLOAD, source)]
    if len(found) > MOST_COLUMNS:
        raise InputError(f"{len(found)} columns were given; the limit is {MOST_COLUMNS}")
    for number, column in enumerate(found):
        if any(column.name == other.name for other in found[:number]):
            raise InputError(f"column {column.name!r} is given twice; what is an attribute comes back with results too")
    return tuple(found)


def _columns(given: GivenColumns | None, role: str, source: VectorSource) -> list[GivenColumn]:
    what = "attributes" if role == FILTER else "payload"
    if given is None:
        return []
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        made = [(_name(name, what), _array(values, f"column {name!r} of {what}")) for name, values in given.items()]
        return [_column(name, values, role, f"column {name!r} of {what}") for name, values in made]
    if hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__"):
        with foreign(f"{what} gives no Arrow that can be read"):
            table = given if isinstance(given, pa.Table) else pa.table(given)
        names = table.column_names
        return [
            _column(_name(name, what), table.column(place), role, f"column {name!r} of {what}")
            for place, name in enumerate(names)
        ]
    if not isinstance(given, Iterable):
        raise InputError(f"{what} is a {type(given).__name__}; it must be names, a dictionary of values, or a table")
    return [_own(_name(name, what), role, source) for name in given]


def _name(name: object, what: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME:
        raise InputError(
            f"{name!r} in {what} is no name of a column; it must be text of 1 to {LONGEST_NAME} characters"
        )
    return name


def _array(values: Any, origin: str) -> pa.ChunkedArray:
    if isinstance(values, pa.ChunkedArray):
        return values
    with foreign(f"{origin} cannot be read as values of one type"):
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise InputError(f"{origin} has shape {values.shape}; it must be (vectors,)")
        made = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
        return pa.chunked_array([made] if isinstance(made, pa.Array) else made)


def _column(name: str, values: pa.ChunkedArray, role: str, origin: str) -> GivenColumn:
    return GivenColumn(name, kind_of(values.type, role, origin), role, origin, lambda: iter(values.chunks))


def _own(name: str, role: str, source: VectorSource) -> GivenColumn:
    if name not in source.columns:
        known = f"it has {', '.join(source.columns)}" if source.columns else "it has vectors and nothing else"
        raise InputError(f"{source.name} has no column {name!r}; {known}")
    origin = f"column {name!r} of {source.name}"
    kind, _ = source.own_column(name)
    return GivenColumn(name, kind_of(kind, role, origin), role, origin, lambda: source.own_column(name)[1])


def kind_of(kind: pa.DataType, role: str, origin: str) -> str:
    """The kind of column that values of an Arrow type become."""
    with foreign(f"{origin} has a type that cannot be read"):
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            name = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
            assert name in NUMBERS
            return name
        if pa.types.is_boolean(kind):
            return BOOL
        if _is_string(kind):
            return STRING if role == FILTER else TEXT
        if pa.types.is_date(kind):
            return DATE
        if pa.types.is_timestamp(kind):
            return TIMESTAMP
        if hasattr(kind, "value_type") and _is_string(kind.value_type):
            return TAGS
    remedy = "cast it to a number, boolean, string, date, timestamp, or list of strings"
    if pa.types.is_decimal(kind):
        remedy = "cast it to float64, or to whole numbers of the smallest unit"
    elif pa.types.is_null(kind):
        remedy = "it has no values, so give it a type"
    elif pa.types.is_struct(kind):
        remedy = "give its fields as columns of their own"
    raise InputError(f"{origin} is {kind}, which no column of an index holds: {remedy}")


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view")
