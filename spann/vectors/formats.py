"""Files that hold rows of numbers and nothing else: .fbin and its kin, .fvecs, .npy."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spann.elements import is_bfloat16, stored_dtype
from spann.errors import InputError
from spann.vectors.files import PREFIX, FileSource, RowFile
from spann.vectors.npy import NPY_HEAD, read_npy_header
from spann.vectors.places import KINDS
from spann.vectors.sources import StoredSource, VectorSource, check_dim, given_dtype, usable_rows

BIN_HEADER = struct.Struct("<II")
"""Head of the .*bin files: rows, elements in a row."""

_BIN_TYPES = {"fbin": "float32", "f16bin": "float16", "bf16bin": "bfloat16", "u8bin": "uint8", "i8bin": "int8"}
_VECS_TYPES = {"fvecs": "float32", "bvecs": "uint8"}
_SPARSE = (".spmat", ".csr", ".mtx")
_TRUTH_ONLY = (".ibin", ".ivecs", ".npz")
_RECIPES = {
    **dict.fromkeys((".pt", ".pth"), "save the tensor by np.save(path, tensor.numpy())"),
    ".safetensors": "save the tensor by np.save(path, tensor)",
    ".json": "write one JSON object a line, as .jsonl",
}
"""Files of others, and how their vectors get here."""


def open_rows(path: Path, kind: str, *, max_rows: int | None, name: str) -> VectorSource:
    """The vectors in a file of one of `spann.vectors.places.ROWS`; `kind` is "" where its extension is unknown."""
    open_file = _opener(kind, path.suffix.lower(), name)
    file = RowFile(path, name)
    try:
        return open_file(file, max_rows)
    except BaseException:
        file.close()
        raise


def _opener(kind: str, suffix: str, name: str) -> Callable[[RowFile, int | None], VectorSource]:
    if kind in _BIN_TYPES:
        return lambda file, max_rows: _open_bin(file, _BIN_TYPES[kind], max_rows)
    if kind in _VECS_TYPES:
        return lambda file, max_rows: open_vecs(file, np.dtype(_VECS_TYPES[kind]), max_rows, check_dim)
    if kind == "npy":
        return _open_npy
    if suffix in _TRUTH_ONLY:
        raise InputError(f"{name}: {suffix} files hold neighbour ids, not vectors; {_known()}")
    if suffix in _SPARSE:
        raise InputError(f"{name}: {suffix} files hold sparse vectors, and spann searches dense ones; {_known()}")
    if suffix in _RECIPES:
        raise InputError(f"{name}: {suffix} files are not read; {_RECIPES[suffix]}")
    raise InputError(f"{name}: extension {suffix!r} is unknown; {_known()}; --format (format=) says what it is")


def _known() -> str:
    return f"vectors come from {' '.join(f'.{kind}' for kind in KINDS)} files, folders of them, and Zarr arrays"


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
    element = "bfloat16" if is_bfloat16(dtype) else given_dtype(dtype, file.name).name
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
