"""A column of files of tables as ids; imported only when one is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa

from spann.errors import InputError
from spann.system import check_room
from spann.types import Array
from spann.vectors.containers import foreign
from spann.vectors.id_list import NAMES, IdList, check_id_type, find_part
from spann.vectors.names import AT_ONCE, NameList, as_binary, type_of_names
from spann.vectors.places import Place
from spann.vectors.tables import TableFile, names_of, open_table, type_of

READ_ROWS = 1 << 16
"""Rows read at a time."""


def read_table_ids(places: Sequence[Place], column: str, name: str) -> IdList | NameList:
    """The named column (see `find_part`) of all files, one after the other; `name` is what errors call them. Names are
    read when they are wanted, each time anew."""
    wanted, kind, rows = _find(places, column)
    origin = f"column {wanted!r} of {name}"
    if (found := type_of_names(kind)) is not None:
        return NameList(found, rows, lambda: _names(places, wanted, kind), origin)
    parts = [_integers(place, wanted) for place in places]
    return IdList(parts[0] if len(parts) == 1 else np.concatenate(parts), origin)


def _find(places: Sequence[Place], column: str) -> tuple[str, pa.DataType, int]:
    """The column of the ids, its type, and how many there are in all files."""
    wanted, kind, rows = column, None, 0
    for place in places:
        with closing(open_table(place)) as file:
            names = names_of(file.schema, place.name)
            if kind is None:
                wanted = column or _guessed(file)
            if wanted not in names:
                raise InputError(f"{place.name} has no column {wanted!r}; it has {', '.join(names)}")
            own = type_of(file.schema, wanted, place.name)
            if kind is not None and type_of_names(own) != type_of_names(kind):
                raise InputError(f"column {wanted!r} of {place.name} holds {own}; in {places[0].name} it holds {kind}")
            kind = own if kind is None else kind
            rows += sum(file.rows)
    return wanted, kind, rows


def _guessed(file: TableFile) -> str:
    with foreign(f"{file.name} has columns that cannot be read"):
        known = [field.name for field in file.schema if pa.types.is_integer(field.type)]
        named = [one for one in NAMES if one in file.schema.names]
    return named[0] if named and not known else find_part("", known, file.name, "column")


def _names(places: Sequence[Place], column: str, kind: pa.DataType) -> Iterator[pa.Array]:
    for place in places:
        origin, first = f"column {column!r} of {place.name}", 0
        with closing(open_table(place)) as file:
            for group in range(len(file.rows)):
                with foreign(f"{origin} cannot be read"):
                    batches = file.batches(group, [column], AT_ONCE)
                while True:
                    with foreign(f"{origin} cannot be read"):
                        batch = next(batches, None)
                        if batch is None:
                            break
                        chunk = as_binary(batch.column(0), first, origin)
                    first += len(chunk)
                    yield chunk


def read_neighbors(place: Place, column: str, ids: str) -> tuple[Array, Array | None]:
    """The lists of ids in `column`, (rows, longest) int64 with -1 after shorter ones, and the column `ids` if there."""
    name = place.name
    with closing(open_table(place)) as file:
        names = names_of(file.schema, name)
        kind = type_of(file.schema, column, name) if column in names else None
        if kind is None or not hasattr(kind, "value_type"):
            raise InputError(f"{name} has no list column {column!r}; it has {', '.join(names)}")
        check_id_type(kind.value_type, f"column {column!r} of {name}")
        with foreign(f"column {column!r} of {name} cannot be read"):
            lists = _column(file, column).combine_chunks().cast(pa.large_list(kind.value_type))
            values = lists.flatten()
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if lists.null_count or values.null_count:
        raise InputError(f"column {column!r} of {name} has nulls: every query needs its neighbours")
    longest = int(lengths.max(initial=0))
    check_room(8 * longest * len(lengths), f"{len(lengths)} lists of up to {longest} neighbours in {name}")
    found = np.full((len(lengths), longest), -1, np.int64)
    found[np.arange(longest) < lengths[:, None]] = values.to_numpy(zero_copy_only=False)
    return found, _integers(place, ids) if ids in names else None


def _integers(place: Place, column: str) -> Array:
    with closing(open_table(place)) as file:
        origin = f"column {column!r} of {place.name}"
        check_id_type(type_of(file.schema, column, place.name), origin)
        with foreign(f"{origin} cannot be read"):
            values = _column(file, column)
            if values.null_count:
                row = int(np.argmax(values.is_null().to_numpy()))
                raise InputError(f"row {row} of {origin} is null: every vector needs an id")
            return np.asarray(values.to_numpy())


def _column(file: TableFile, column: str) -> pa.ChunkedArray:
    check_room(8 * sum(file.rows), f"column {column!r} of {file.name}")
    chunks = [batch.column(0) for group in range(len(file.rows)) for batch in file.batches(group, [column], READ_ROWS)]
    return pa.chunked_array(chunks, file.schema.field(column).type)
