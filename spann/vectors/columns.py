"""Columns of Arrow tables as vectors: which one holds them, and what a part of it is as an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from spann.errors import InputError
from spann.types import Array
from spann.vectors.containers import foreign
from spann.vectors.sources import given_dtype

VECTORS = ("vector", "embedding", "emb", "vectors", "embeddings")
"""Names under which vectors are looked for where there are several list columns."""

ID = "id"
"""Name of the column whose values are ids of the vectors, unless another is named."""


def storage(kind: pa.DataType) -> pa.DataType:
    """The type that values of an extension type have."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    kind = storage(kind)
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether values are numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def find_vectors(schema: pa.Schema, column: str, name: str) -> str:
    """The list column of vectors: the named column, else one of `VECTORS`, else the only list column."""
    with foreign(f"{name} has columns that cannot be read"):
        lists = [field.name for field in schema if is_list(field.type)]
    wanted = column or next((known for known in VECTORS if known in lists), lists[0] if len(lists) == 1 else "")
    if wanted not in lists:
        known = f"its list columns are {', '.join(lists)}" if lists else "it has no list column"
        problem = f"has no list column {wanted!r}" if wanted else f"has several or none, and none is {VECTORS[0]!r}"
        raise InputError(f"{name} {problem}; {known}: name one as FILE#COLUMN")
    return wanted


def element_of(kind: pa.DataType, column: str, name: str) -> np.dtype[Any]:
    """The numpy type of the numbers in a list column."""
    kind = storage(kind)
    with foreign(f"column {column!r} of {name} holds {kind}, which are no vectors"):
        if not pa.types.is_primitive(kind.value_type) or pa.types.is_temporal(kind.value_type):
            raise InputError(f"column {column!r} of {name} holds {kind}: vectors are lists of numbers")
        return given_dtype(kind.value_type.to_pandas_dtype(), name)


def width_of(kind: pa.DataType) -> int | None:
    """How long all lists are, where the type says so."""
    kind = storage(kind)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def first_width(chunk: pa.Array, row: int, name: str) -> int:
    """How long the first list of a column is."""
    length = chunk[:1].value_lengths()[0].as_py() if width_of(chunk.type) is None else width_of(chunk.type)
    if length is None:
        raise InputError(f"row {row} of {name} is null: vectors cannot have missing values")
    return int(length)


def as_rows(chunk: pa.Array, dim: int, dtype: np.dtype[Any], first: int, name: str) -> Array:
    """Lists as an array (rows, dim) of `dtype`; `first` is the number of the first row in `name`.

    Raises `InputError` for a row that is null, of another length, or has a null in it.
    """
    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    if chunk.null_count:
        row = first + int(np.argmax(chunk.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"row {row} of {name} is null: vectors cannot have missing values")
    fixed = width_of(chunk.type)
    lengths = np.full(len(chunk), fixed) if fixed is not None else chunk.value_lengths().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != dim)
    if len(wrong):
        raise InputError(
            f"row {first + wrong[0]} of {name} has {lengths[wrong[0]]} numbers where row 0 has {dim}: all vectors are "
            "of one length"
        )
    values = chunk.flatten()
    if values.null_count:
        row, place = divmod(int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))), dim)
        raise InputError(f"row {first + row} of {name} has a null at place {place}: fill it, or leave the row out")
    found: Array = values.to_numpy(zero_copy_only=False).reshape(len(chunk), dim)
    return found if found.dtype == dtype else found.astype(dtype)
