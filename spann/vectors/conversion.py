"""Vectors from one file format to another, block by block; every value is kept, or refused by row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spann.elements import memory_dtype, pack, rounded, stored_dtype
from spann.errors import InputError
from spann.format.names import typed
from spann.types import ELEMENT_TYPES, Array, Progress
from spann.vectors.formats import BIN_HEADER
from spann.vectors.ids import GivenIds, ids_for
from spann.vectors.names import NameList
from spann.vectors.sinks import check_path, write_whole
from spann.vectors.sources import VectorSource

TYPES: dict[str, tuple[str, ...]] = {
    ".fbin": ("float32",),
    ".f16bin": ("float16",),
    ".bf16bin": ("bfloat16",),
    ".u8bin": ("uint8",),
    ".i8bin": ("int8",),
    ".fvecs": ("float32",),
    ".bvecs": ("uint8",),
    ".npy": (*ELEMENT_TYPES, "bfloat16"),
    ".parquet": ELEMENT_TYPES,
}
"""What can be written, and the element types it can hold; the first one unless another is asked for."""

WITH_IDS = (".parquet",)
"""Those of them that can hold ids beside the vectors."""

Named = NDArray[np.int64] | NameList | None

BLOCK_BYTES = 8 << 20


def convert(
    source: VectorSource,
    path: str | os.PathLike[str],
    dtype: str | None = None,
    progress: Progress | None = None,
    *,
    ids: GivenIds | bool | None = None,
) -> None:
    """Writes all vectors of `source` to `path` in the format of its extension, replacing what was there.

    `ids` (count,), an array or the path of a file, go into a column `id`, which only ``.parquet`` has;
    those that come with the vectors do so by themselves.

    Elements become `dtype`, by default their own type where the format has it, else the format's; for bfloat16 that is
    float32 where it has that. float32 may lose digits as float16 and bfloat16, but nothing becomes infinite; a value
    that an integer type cannot hold is refused by its row, and so is a vector that would become zero. Raises
    `InputError`, `MissingError`, and `StorageError`, after which nothing is at `path` that was not.

    >>> import numpy as np
    >>> from spann.vectors import convert, open_source
    >>> convert(open_source(np.arange(100, dtype=np.float32)[:, None]), "line.u8bin")
    >>> with open_source("line.u8bin") as source:
    ...     print(source.count, source.dtype)
    100 uint8
    """
    path = Path(path)
    check_path(path, TYPES)
    known = TYPES[path.suffix.lower()]
    own = [element for element in (source.element, source.dtype.name) if element in known]
    wanted = dtype or (own[0] if own else known[0])
    if wanted not in known:
        raise InputError(f"{path}: {path.suffix} cannot hold {wanted}; it holds {', '.join(known)}")
    names = ids_for(source, ids) if path.suffix.lower() in WITH_IDS or ids is not None else None
    if names is not None and path.suffix.lower() not in WITH_IDS:
        raise InputError(f"{path}: {path.suffix} cannot hold ids; {' '.join(WITH_IDS)} can")
    named: Named = None if names is None else names.of(source.count, source.name)
    write = _WRITERS[path.suffix.lower()]
    write_whole(path, lambda file: write(file, source, _blocks(source, wanted, progress), named))


def _blocks(source: VectorSource, element: str, progress: Progress | None) -> Iterator[Array]:
    """All vectors as they are to lie in the file."""
    for start, block in source.blocks(max(1, BLOCK_BYTES // source.row_bytes)):
        same = element == source.element
        yield pack(block if same else _as_type(block, element, start, source.name), element)
        if progress:
            progress("convert", start + len(block), source.count)


def _as_type(block: Array, element: str, first: int, name: str) -> Array:
    dtype = memory_dtype(element)
    with np.errstate(over="ignore", invalid="ignore"):
        values = block.astype(dtype)
        if element == "bfloat16":
            values = rounded(values)
    wrong = np.isfinite(block) & ~np.isfinite(values) if dtype.kind == "f" else values.astype(np.float64) != block
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        value = block[row, column]
        raise InputError(f"row {first + row} column {column} of {name} is {value}, which {element} cannot hold")
    vanished = block.any(axis=1) & ~values.any(axis=1)
    if vanished.any():
        row = int(np.argmax(vanished))
        raise InputError(f"row {first + row} of {name} is all zeros as {element}, and is not: scale the vectors")
    return values


def _write_bin(file: BinaryIO, source: VectorSource, blocks: Iterator[Array], ids: Named) -> None:
    if source.count >= 1 << 32:
        raise InputError(f"{source.name} has {source.count} vectors; the header of .*bin files counts to {2**32 - 1}")
    file.write(BIN_HEADER.pack(source.count, source.dim))
    for block in blocks:
        file.write(np.ascontiguousarray(block).data)


def _write_vecs(file: BinaryIO, source: VectorSource, blocks: Iterator[Array], ids: Named) -> None:
    for block in blocks:
        rows = np.empty((len(block), 4 + source.dim * block.itemsize), np.uint8)
        rows[:, :4] = np.array([source.dim], "<i4").view(np.uint8)
        rows[:, 4:] = np.ascontiguousarray(block).view(np.uint8).reshape(len(block), -1)
        file.write(rows.data)


def _write_npy(file: BinaryIO, source: VectorSource, blocks: Iterator[Array], ids: Named) -> None:
    for number, block in enumerate(blocks):
        if number == 0:
            # As numpy writes what ml_dtypes calls bfloat16; uint16 are never vectors.
            halves = block.dtype == stored_dtype("bfloat16")
            descr = "<V2" if halves else np.lib.format.dtype_to_descr(block.dtype)
            header = {
                "descr": descr,
                "fortran_order": False,
                "shape": (source.count, source.dim),
            }
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(block).data)


def _write_parquet(file: BinaryIO, source: VectorSource, blocks: Iterator[Array], ids: Named) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    writer, done = None, 0
    names = _Taken(ids) if isinstance(ids, NameList) else None
    try:
        for block in blocks:
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), source.dim)
            named: dict[str, Any] = {}
            if names is not None:
                named = {"id": names.take(len(block))}
            elif isinstance(ids, np.ndarray):
                named = {"id": ids[done : done + len(block)]}
            table = pa.table({**named, "vector": column})
            done += len(block)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


class _Taken:
    """Names in order, as many at a time as are wanted."""

    def __init__(self, names: NameList) -> None:
        self._kind, self._coming, self._held = names.kind, names.chunks(), list[Any]()

    def take(self, count: int) -> Any:
        import pyarrow as pa

        while sum(map(len, self._held)) < count:
            self._held.append(next(self._coming))
        every = pa.concat_arrays(self._held)
        self._held = [every[count:]]
        return typed(every[:count], self._kind)


_WRITERS = {
    **dict.fromkeys((".fbin", ".f16bin", ".bf16bin", ".u8bin", ".i8bin"), _write_bin),
    **dict.fromkeys((".fvecs", ".bvecs"), _write_vecs),
    ".npy": _write_npy,
    ".parquet": _write_parquet,
}
