"""Vectors that come once, in order, kept in a temporary file so that any of them can be read again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from spann.errors import InputError, StorageError
from spann.system import reason
from spann.types import Array
from spann.vectors.files import FileSource, RowFile
from spann.vectors.id_list import IdList
from spann.vectors.sources import VectorSource, check_dim, usable_rows

Block = tuple[Array, Array | None]
"""Vectors (n, dim) and their ids (n,), or None."""


class SpooledSource(FileSource):
    """Rows in a file without a name, which goes when it is closed, or the process ends."""

    def __init__(self, file: RowFile, count: int, dim: int, dtype: np.dtype[Any], ids: Array | None) -> None:
        super().__init__(file, count, dim, dtype, offset=0, prefix=0)
        self._ids = ids
        self.columns = () if ids is None else ("id",)

    def own_ids(self, column: str | None = None) -> IdList | None:
        if self._ids is None or column not in (None, "id"):
            return super().own_ids(column)
        return IdList(self._ids[: self.count], f"column 'id' of {self.name}")


def spooled(blocks: Iterable[Block], *, max_rows: int | None, name: str, scratch: Path | None) -> VectorSource:
    """All vectors of `blocks`, kept in a file in the directory `scratch`, by default that of temporary files.

    Raises `InputError` where a block has another dimension or type than the first, or there is none; `StorageError`
    where the disk cannot hold them.
    """
    directory = Path(tempfile.gettempdir()) if scratch is None else scratch
    try:
        fd, place = tempfile.mkstemp(prefix=".spann-", dir=directory)
        os.unlink(place)
    except OSError as error:
        raise StorageError(f"{directory}: vectors of {name} cannot be kept there: {reason(error)}") from error
    file = RowFile.opened(fd, name)
    try:
        return _fill(file, fd, blocks, max_rows, directory)
    except BaseException:
        file.close()
        raise


def _fill(file: RowFile, fd: int, blocks: Iterable[Block], max_rows: int | None, directory: Path) -> VectorSource:
    name, count, first = file.name, 0, None
    ids: list[Array] = []
    for vectors, own in blocks:
        if first is None:
            check_dim(vectors.shape[1], name)
            first = vectors[:0]
        if vectors.shape[1] != first.shape[1] or vectors.dtype != first.dtype:
            raise InputError(
                f"row {count} of {name} has {vectors.shape[1]} {vectors.dtype} where row 0 has {first.shape[1]} "
                f"{first.dtype}: all vectors are of one kind"
            )
        if own is not None:
            ids.append(own)
        try:
            write_all(fd, np.ascontiguousarray(vectors))
        except OSError as error:
            raise StorageError(f"{directory}: vectors of {name} cannot be kept there: {reason(error)}") from error
        count += len(vectors)
        if max_rows is not None and count >= max_rows:
            break
    if first is None:
        usable_rows(name, announced=0, present=0, max_rows=max_rows)
        raise InputError(f"{name} holds no vectors")
    rows = usable_rows(name, announced=count, present=count, max_rows=max_rows)
    return SpooledSource(file, rows, first.shape[1], first.dtype, np.concatenate(ids) if ids else None)


def write_all(fd: int, values: Array) -> None:
    """Writes all bytes of a contiguous array at the end of a file."""
    left = values.reshape(-1).view(np.uint8).data
    while left:
        left = left[os.write(fd, left[: 1 << 30]) :]
