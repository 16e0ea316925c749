"""A column of files of tables as ids; imported only when one is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from spann.errors import InputError
from spann.system import check_room
from spann.types import Array
from spann.vectors.containers import foreign
from spann.vectors.id_list import IdList, check_id_type, find_part
from spann.vectors.places import Place
from spann.vectors.tables import TableFile, names_of, open_table, type_of

READ_ROWS = 1 << 16
"""Rows read at a time."""


def read_table_ids(places: Sequence[Place], column: str, name: str) -> IdList:
    """The named column (see `find_part`) of all files, one after the other; `name` is what errors call them."""
    parts = [_read(place, column) for place in places]
    if len(parts) == 1:
        return parts[0]
    return IdList(np.concatenate([part.values for part in parts]), f"column {column!r} of {name}")


def read_neighbors(place: Place, column: str, ids: str) -> tuple[Array, Array | None]:
    """The lists of ids in `column`, (rows, longest) int64 with -1 after shorter ones, and the column `ids` if there."""
    file, name = open_table(place), place.name
    try:
        names = names_of(file.schema, name)
        kind = type_of(file.schema, column, name) if column in names else None
        if kind is None or not hasattr(kind, "value_type"):
            raise InputError(f"{name} has no list column {column!r}; it has {', '.join(names)}")
        check_id_type(kind.value_type, f"column {column!r} of {name}")
        with foreign(f"column {column!r} of {name} cannot be read"):
            lists = _column(file, column).combine_chunks().cast(pa.large_list(kind.value_type))
            values = lists.flatten()
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    finally:
        file.close()
    if lists.null_count or values.null_count:
        raise InputError(f"column {column!r} of {name} has nulls: every query needs its neighbours")
    longest = int(lengths.max(initial=0))
    check_room(8 * longest * len(lengths), f"{len(lengths)} lists of up to {longest} neighbours in {name}")
    found = np.full((len(lengths), longest), -1, np.int64)
    found[np.arange(longest) < lengths[:, None]] = values.to_numpy(zero_copy_only=False)
    return found, _read(place, ids).values if ids in names else None


def _read(place: Place, column: str) -> IdList:
    file, name = open_table(place), place.name
    try:
        with foreign(f"{name} has columns that cannot be read"):
            known = [field.name for field in file.schema if pa.types.is_integer(field.type)]
        names, wanted = names_of(file.schema, name), find_part(column, known, name, "column")
        if wanted not in names:
            raise InputError(f"{name} has no column {wanted!r}; it has {', '.join(names)}")
        origin = f"column {wanted!r} of {name}"
        check_id_type(type_of(file.schema, wanted, name), origin)
        with foreign(f"{origin} cannot be read"):
            values = _column(file, wanted)
            if values.null_count:
                row = int(np.argmax(values.is_null().to_numpy()))
                raise InputError(f"row {row} of {origin} is null: every vector needs an id")
            ids: Array = values.to_numpy()
            return IdList(ids, origin)
    finally:
        file.close()


def _column(file: TableFile, column: str) -> pa.ChunkedArray:
    check_room(8 * sum(file.rows), f"column {column!r} of {file.name}")
    chunks = [batch.column(0) for group in range(len(file.rows)) for batch in file.batches(group, [column], READ_ROWS)]
    return pa.chunked_array(chunks, file.schema.field(column).type)
