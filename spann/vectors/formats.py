"""The vector file formats and `open_source`, the one door to every kind of source.

=================================  ==================================================================================
``.fbin .f16bin .u8bin .i8bin``    uint32 n, uint32 d, then n rows of d float32, float16, uint8 or int8
``.bf16bin``                       the same with bfloat16
``.fvecs .bvecs``                  rows of int32 d, then d float32 or uint8
``.npy``                           NumPy's own, 2-D in C order; elements of two bytes without a name are bfloat16
``.h5 .hdf5``                      HDF5 (h5py): dataset "train", or the only 2-D one, or FILE#DATASET
``.parquet``                       Parquet (pyarrow): the list column "vector", "embedding" or "emb", the only one, or
                                   FILE#COLUMN
a directory                        one Zarr array, format 2 or 3; or a data set of VectorDBBench, of which the vectors
                                   to search are meant (`spann.vectors.data_set`)
=================================  ==================================================================================

All numbers are little endian. Sizes are compared with headers before anything is allocated.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spann.elements import is_bfloat16, stored_dtype
from spann.errors import InputError
from spann.types import Array
from spann.vectors import data_set
from spann.vectors.checks import plain
from spann.vectors.containers import CONTAINERS, library_of, split_part
from spann.vectors.files import PREFIX, FileSource, RowFile, is_directory
from spann.vectors.npy import NPY_HEAD, read_npy_header
from spann.vectors.sources import ArraySource, StoredSource, VectorSource, check_dim, usable_rows, vector_dtype

BIN_HEADER = struct.Struct("<II")
"""Head of the .*bin files: rows, elements in a row."""

_BIN_TYPES = {".fbin": "float32", ".f16bin": "float16", ".bf16bin": "bfloat16", ".u8bin": "uint8", ".i8bin": "int8"}
_VECS_TYPES = {".fvecs": "float32", ".bvecs": "uint8"}
_SPARSE = (".spmat", ".csr", ".mtx")
_TRUTH_ONLY = (".ibin", ".ivecs", ".npz")


def open_source(obj: object, *, max_rows: int | None = None, name: str | None = None) -> VectorSource:
    """Open vectors for reading.

    Parameters
    ----------
    obj : str, os.PathLike, zarr.Array, h5py.Dataset, numpy.ndarray, or any object with ``__array__``
        A path to one of the formats above, or a 2-D array of uint8, int8, float16, float32 or
        bfloat16 (of ml_dtypes, or two bytes without a name), one vector a row. Binary vectors, for the metric hamming,
        are uint8 with 8 bits in each (`numpy.packbits`), or bool.
    max_rows : int, optional
        Serve only the first `max_rows` rows, at least 1 and no more than there are. Needed to read a file that holds
        fewer rows than its header says.
    name : str, optional
        What error messages call the source; by default the path, or "array".

    Raises
    ------
    MissingError
        There is no such file.
    InputError
        The vectors cannot be used: unknown extension, damaged header, size that contradicts it, no rows, a dimension
        outside 1 to 32768, an element type that is not supported.
    StorageError
        The operating system refuses to open or read the file.

    Examples
    --------
    >>> import numpy as np
    >>> from spann.vectors import open_source
    >>> np.save("line.npy", np.arange(1000, dtype=np.float32)[:, None])
    >>> with open_source("line.npy", max_rows=500) as source:
    ...     print(source.count, source.dim, source.dtype, source.read(7, 9).tolist())
    500 1 float32 [[7.0], [8.0]]
    """
    if isinstance(obj, str | os.PathLike):
        path = Path(os.fsdecode(obj))
        return _open_path(path, max_rows, str(path) if name is None else name)
    if _is_zarr(obj):
        from spann.vectors.zarr_source import ZarrSource

        return ZarrSource(obj, max_rows=max_rows, name=name)
    if _is_hdf5(obj):
        from spann.vectors.hdf5_source import Hdf5Source

        return Hdf5Source(obj, max_rows=max_rows, name="dataset" if name is None else name)
    name = "array" if name is None else name
    if isinstance(obj, np.ndarray) and not isinstance(obj, np.ma.MaskedArray):
        return _array_source(obj, max_rows, name)
    if not hasattr(obj, "__array__"):
        raise InputError(f"{name} is a {type(obj).__name__}: vectors must be a path, a NumPy array or a Zarr array")
    return _array_source(plain(obj, name), max_rows, name)


def _array_source(array: Array, max_rows: int | None, name: str) -> VectorSource:
    if is_bfloat16(array.dtype) and array.ndim == 2:
        stored = stored_dtype("bfloat16")
        inner = ArraySource(array.view(stored), max_rows=max_rows, name=name, element=stored.name)
        return StoredSource(inner, "bfloat16")
    return ArraySource(array, max_rows=max_rows, name=name)


def open_queries(obj: object, *, max_rows: int | None = None, name: str | None = None) -> VectorSource:
    """`open_source` of queries: of a folder that is a data set (`spann.vectors.data_set`), those it has."""
    if isinstance(obj, str | os.PathLike):
        path = Path(os.fsdecode(obj))
        if data_set.is_data_set(path):
            return data_set.open_queries(path, max_rows=max_rows, name=str(path) if name is None else name)
    return open_source(obj, max_rows=max_rows, name=name)


def _is_zarr(obj: object) -> bool:
    """Whether `obj` is a Zarr node. Asked of the loaded module: importing zarr takes longer than most commands."""
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(obj, zarr.Array | zarr.Group)


def _is_hdf5(obj: object) -> bool:
    h5py = sys.modules.get("h5py")
    return h5py is not None and isinstance(obj, h5py.Dataset)


def _open_path(path: Path, max_rows: int | None, name: str) -> VectorSource:
    file_name, part = split_part(path)
    if file_name.suffix.lower() in CONTAINERS and not is_directory(file_name, name):
        return _open_container(file_name, part, max_rows, name)
    if is_directory(path, name):
        if data_set.is_data_set(path):
            return data_set.open_base(path, max_rows=max_rows, name=name)
        from spann.vectors.zarr_source import open_zarr

        return open_zarr(path, max_rows=max_rows, name=name)
    open_file = _opener(path.suffix.lower(), name)
    file = RowFile(path, name)
    try:
        return open_file(file, max_rows)
    except BaseException:
        file.close()
        raise


def _open_container(path: Path, part: str, max_rows: int | None, name: str) -> VectorSource:
    """A file that holds several tables, of which `part` names one."""
    suffix = path.suffix.lower()
    with library_of(suffix, name):
        if suffix == ".parquet":
            from spann.vectors.parquet_source import open_parquet

            return open_parquet(path, part, max_rows=max_rows, name=name)
        from spann.vectors.hdf5_source import open_hdf5

        return open_hdf5(path, part, max_rows=max_rows, name=name)


def _opener(suffix: str, name: str) -> Callable[[RowFile, int | None], VectorSource]:
    if suffix in _BIN_TYPES:
        return lambda file, max_rows: _open_bin(file, _BIN_TYPES[suffix], max_rows)
    if suffix in _VECS_TYPES:
        return lambda file, max_rows: open_vecs(file, np.dtype(_VECS_TYPES[suffix]), max_rows, check_dim)
    if suffix == ".npy":
        return _open_npy
    if suffix in _TRUTH_ONLY:
        raise InputError(f"{name}: {suffix} files hold neighbour ids, not vectors; {_known()}")
    if suffix in _SPARSE:
        raise InputError(f"{name}: {suffix} files hold sparse vectors, and spann searches dense ones; {_known()}")
    raise InputError(f"{name}: extension {suffix!r} is unknown; {_known()}")


def _known() -> str:
    files = " ".join([*_BIN_TYPES, *_VECS_TYPES, ".npy", *CONTAINERS])
    return f"vectors come from {files} files, Zarr directories and folders of VectorDBBench"


def _open_bin(file: RowFile, element: str, max_rows: int | None) -> VectorSource:
    head = file.head(BIN_HEADER.size)
    if len(head) < BIN_HEADER.size:
        raise InputError(f"{file.name} is {len(head)} bytes, shorter than its {BIN_HEADER.size}-byte header")
    rows, dim = BIN_HEADER.unpack(head)
    return _open_table(file, rows, dim, element, BIN_HEADER.size, max_rows)


def _open_npy(file: RowFile, max_rows: int | None) -> VectorSource:
    head = io.BytesIO(file.head(NPY_HEAD))
    shape, dtype, fortran = read_npy_header(head, file.name)
    if len(shape) != 2:
        raise InputError(f"{file.name} has {len(shape)} dimensions (shape {shape}): vectors must be a 2-D array")
    element = "bfloat16" if is_bfloat16(dtype) else vector_dtype(dtype, file.name).name
    if fortran:
        raise InputError(f"{file.name} is in Fortran order: save it again with np.save(path, np.ascontiguousarray(a))")
    return _open_table(file, *shape, element, head.tell(), max_rows)


def _open_table(file: RowFile, rows: int, dim: int, element: str, offset: int, max_rows: int | None) -> VectorSource:
    """Vectors that follow a header which says how many there are."""
    check_dim(dim, file.name)
    dtype = stored_dtype(element)
    stride = dim * dtype.itemsize
    size, expected = file.size, offset + rows * stride
    if size > expected:
        raise InputError(
            f"{file.name} is {size} bytes where its header ({rows} rows of {dim} {element}) calls for {expected}"
        )
    count = usable_rows(file.name, announced=rows, present=(size - offset) // stride, max_rows=max_rows)
    found = FileSource(file, count, dim, dtype, offset=offset, prefix=0)
    return found if element == dtype.name else StoredSource(found, element)


def open_vecs(
    file: RowFile, dtype: np.dtype[Any], max_rows: int | None, check_width: Callable[[int, str], None]
) -> FileSource:
    """The rows of a .fvecs, .bvecs or .ivecs file; `check_width` refuses bad elements-in-a-row."""
    head = file.head(PREFIX.itemsize)
    if len(head) < PREFIX.itemsize:
        raise InputError(f"{file.name} is {len(head)} bytes, shorter than the {PREFIX.itemsize} bytes before each row")
    dim = int(np.frombuffer(head, PREFIX)[0])
    check_width(dim, file.name)
    present, rest = divmod(file.size, PREFIX.itemsize + dim * dtype.itemsize)
    count = usable_rows(file.name, announced=present + bool(rest), present=present, max_rows=max_rows)
    return FileSource(file, count, dim, dtype, offset=0, prefix=PREFIX.itemsize)
