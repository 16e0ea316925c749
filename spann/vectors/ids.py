"""Ids of vectors: out of a file, and checked against the vectors that they name.

=================  ====================================================================================================
``.npy``           NumPy's own, 1-D
``.h5 .hdf5``      HDF5 (h5py): the dataset "ids" or "id", or the only 1-D one of integers, or FILE#DATASET
``.parquet``       Parquet (pyarrow): the column "id" or "ids", or the only one of integers, or FILE#COLUMN
a directory        a data set of VectorDBBench (`spann.vectors.data_set`): those of its vectors
=================  ====================================================================================================
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from spann.errors import InputError
from spann.types import Array
from spann.vectors import data_set
from spann.vectors.checks import plain
from spann.vectors.containers import needs_h5py
from spann.vectors.files import RowFile, is_directory
from spann.vectors.id_list import IdList, check_id_type
from spann.vectors.names import NameList, of_values
from spann.vectors.npy import NPY_HEAD, read_npy_header
from spann.vectors.places import TABLES, find, is_uri, kind_of, split_part
from spann.vectors.sources import VectorSource

GivenIds = Any
"""What ids can be given as: an array or a list of integers, of texts, or of `uuid.UUID`; a column of Arrow, pandas or
polars; or the path of a file."""


def as_ids(ids: GivenIds | None) -> IdList | NameList | None:
    """Ids as they were given: a path is read."""
    if ids is None or isinstance(ids, IdList | NameList):
        return ids
    if isinstance(ids, str | os.PathLike):
        return read_ids(ids)
    if any(hasattr(ids, name) for name in ("__arrow_c_stream__", "__arrow_c_array__")):
        from spann.vectors.arrow_source import ids_given

        return ids_given(ids)
    found = ids if isinstance(ids, list | tuple | np.ndarray) else plain(ids, "ids")
    texts = not isinstance(found, np.ndarray) or found.dtype.kind in "OUS"
    if texts and (names := of_values(found, "ids")) is not None:
        return names
    return IdList(plain(found, "ids"))


def ids_for(source: VectorSource, ids: GivenIds | bool | None) -> IdList | NameList | None:
    """The ids of the vectors of `source` as a caller names them: None for its own, False for the numbers of its rows, a
    name for that column of it, else ids, or the path of a file of them."""
    if ids is False:
        return None
    if ids is None or ids is True:
        return source.own_ids()
    if isinstance(ids, str) and ids in source.columns:
        return source.own_ids(ids)
    return as_ids(ids)


def read_ids(path: str | os.PathLike[str]) -> IdList | NameList:
    """The ids in a file of one of the formats above, of one of `ID_TYPES`.

    Raises `MissingError` if there is no such file, `InputError` for another format, a column that is not there, holds
    nulls or something else than such integers; `StorageError` for a failed read.

    >>> import numpy as np
    >>> from spann.vectors import convert, open_source, read_ids
    >>> line = open_source(np.arange(100, dtype=np.float32)[:, None])
    >>> convert(line, "line.parquet", ids=np.arange(100) * 10)
    >>> read_ids("line.parquet#id").values[:3].tolist()
    [0, 10, 20]
    """
    text = os.fsdecode(path)
    file, part = split_part(text)
    kind = kind_of(file)
    if not is_uri(text) and is_directory(Path(file), text):
        if data_set.is_data_set(Path(file)):
            return data_set.read_base_ids(Path(file), text)
        found = find(text)
        kind = found.places[0].kind
        if kind not in TABLES:
            raise InputError(
                f"{text} is a directory: ids come from a file, or a folder of {' and '.join(TABLES)} files"
            )
    if kind == "npy":
        return _read_npy(Path(file))
    if kind == "hdf5":
        with needs_h5py(text):
            from spann.vectors.hdf5_source import read_hdf5_ids

            return read_hdf5_ids(Path(file), part, file)
    if kind not in TABLES:
        raise InputError(
            f"{text}: extension {Path(file).suffix!r} is unknown; ids come from .npy .hdf5 .parquet .feather files"
        )
    from spann.vectors.table_ids import read_table_ids

    return read_table_ids(find(text).places, part, file)


def _read_npy(path: Path) -> IdList:
    file = RowFile(path, str(path))
    try:
        return IdList(_npy_values(file), str(path))
    finally:
        file.close()


def _npy_values(file: RowFile) -> Array:
    # Read, not mapped: whoever cuts the file meanwhile gets an error said here, and ids are sorted as a whole anyway.
    head = io.BytesIO(file.head(NPY_HEAD))
    shape, dtype, _ = read_npy_header(head, file.name)
    if len(shape) != 1:
        raise InputError(f"{file.name} holds {len(shape)}-D {dtype}: ids must be 1-D")
    check_id_type(dtype, file.name)
    size, expected = file.size, head.tell() + shape[0] * dtype.itemsize
    if size != expected:
        raise InputError(f"{file.name} is {size} bytes where its header ({shape[0]} {dtype}) calls for {expected}")
    values = np.empty(shape, dtype)
    if file.fill(values.view(np.uint8), head.tell()) < values.nbytes:
        raise InputError(f"{file.name} became shorter than {size} bytes while it was read")
    return values
