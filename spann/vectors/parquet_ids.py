"""A column of Parquet files as ids, read by pyarrow; imported only when one is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from spann.errors import InputError
from spann.system import check_room
from spann.types import Array
from spann.vectors.containers import foreign
from spann.vectors.id_list import IdList, check_id_type, find_part
from spann.vectors.parquet_file import names_of, open_file, type_of


def read_parquet_ids(paths: Sequence[Path], column: str, name: str) -> IdList:
    """The named column (see `find_part`) of all `paths`, one after the other; `name` is what errors call them."""
    parts = [_read(path, column) for path in paths]
    if len(parts) == 1:
        return parts[0]
    return IdList(np.concatenate([part.values for part in parts]), f"column {column!r} of {name}")


def read_neighbors(path: Path, column: str, ids: str) -> tuple[Array, Array | None]:
    """The lists of ids in `column`, (rows, longest) int64 with -1 after shorter ones, and the column `ids` if there."""
    name = str(path)
    with open_file(path, name) as file:
        names = names_of(file, name)
        kind = type_of(file, column, name) if column in names else None
        if kind is None or not hasattr(kind, "value_type"):
            raise InputError(f"{name} has no list column {column!r}; it has {', '.join(names)}")
        check_id_type(kind.value_type, f"column {column!r} of {name}")
        with foreign(f"column {column!r} of {name} cannot be read"):
            check_room(8 * file.metadata.num_rows, f"column {column!r} of {name}")
            lists = file.read(columns=[column]).column(0).combine_chunks().cast(pa.large_list(kind.value_type))
            values = lists.flatten()
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if lists.null_count or values.null_count:
        raise InputError(f"column {column!r} of {name} has nulls: every query needs its neighbours")
    longest = int(lengths.max(initial=0))
    check_room(8 * longest * len(lengths), f"{len(lengths)} lists of up to {longest} neighbours in {name}")
    found = np.full((len(lengths), longest), -1, np.int64)
    found[np.arange(longest) < lengths[:, None]] = values.to_numpy(zero_copy_only=False)
    return found, _read(path, ids).values if ids in names else None


def _read(path: Path, column: str) -> IdList:
    name = str(path)
    with open_file(path, name) as file:
        with foreign(f"{name} has columns that cannot be read"):
            known = [field.name for field in file.schema_arrow if pa.types.is_integer(field.type)]
        names, wanted = names_of(file, name), find_part(column, known, name, "column")
        if wanted not in names:
            raise InputError(f"{name} has no column {wanted!r}; it has {', '.join(names)}")
        origin = f"column {wanted!r} of {name}"
        check_id_type(type_of(file, wanted, name), origin)
        with foreign(f"{origin} cannot be read"):
            check_room(8 * file.metadata.num_rows, origin)
            values = file.read(columns=[wanted]).column(0)
            if values.null_count:
                row = int(np.argmax(values.is_null().to_numpy()))
                raise InputError(f"row {row} of {origin} is null: every vector needs an id")
            ids: Array = values.to_numpy()
            return IdList(ids, origin)
