"""A column of Parquet files as ids, read by pyarrow; imported only when one is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spann.errors import InputError, StorageError
from spann.types import Array
from spann.vectors.ids import IdList, check_id_type, find_part


def read_parquet_ids(paths: Sequence[Path], column: str, name: str) -> IdList:
    """The named column (see `find_part`) of all `paths`, one after the other; `name` is what errors call them."""
    parts = [_read(path, column) for path in paths]
    if len(parts) == 1:
        return parts[0]
    return IdList(np.concatenate([part.values for part in parts]), f"column {column!r} of {name}")


def read_neighbors(path: Path, column: str, ids: str) -> tuple[Array, Array | None]:
    """The lists of ids in `column`, (rows, longest) int64 with -1 after shorter ones, and the column `ids` if there."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            kind = schema.field(column).type if column in schema.names else None
            if kind is None or not hasattr(kind, "value_type"):
                raise InputError(f"{path} has no list column {column!r}; it has {', '.join(schema.names)}")
            check_id_type(kind.value_type, f"column {column!r} of {path}")
            table = file.read(columns=[column]).column(0)
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a Parquet file that can be read: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    lists = table.combine_chunks().cast(pa.large_list(kind.value_type))
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise InputError(f"column {column!r} of {path} has nulls: every query needs its neighbours")
    lengths = lists.value_lengths().to_numpy()
    found = np.full((len(lengths), int(lengths.max(initial=0))), -1, np.int64)
    found[np.arange(found.shape[1]) < lengths[:, None]] = values.to_numpy()
    return found, _read(path, ids).values if ids in schema.names else None


def _read(path: Path, column: str) -> IdList:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            known = [field.name for field in schema if pa.types.is_integer(field.type)]
            wanted = find_part(column, known, str(path), "column")
            if wanted not in schema.names:
                raise InputError(f"{path} has no column {wanted!r}; it has {', '.join(schema.names)}")
            origin = f"column {wanted!r} of {path}"
            check_id_type(schema.field(wanted).type, origin)
            values = file.read(columns=[wanted]).column(0)
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a Parquet file that can be read: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy()))
        raise InputError(f"row {row} of {origin} is null: every vector needs an id")
    ids: Array = values.to_numpy()
    return IdList(ids, origin)
