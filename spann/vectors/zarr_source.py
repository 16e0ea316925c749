"""Users' Zarr arrays as vectors; imported only when one is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from spann.errors import InputError, StorageError
from spann.types import Array
from spann.vectors import paging
from spann.vectors.sources import VectorSource, check_dim, usable_rows, vector_dtype

_METADATA = ("zarr.json", ".zarray", ".zgroup")


def open_zarr(path: Path, *, max_rows: int | None, name: str) -> ZarrSource:
    """The Zarr array in the directory `path`, format 2 or 3."""
    if not any((path / file).is_file() for file in _METADATA):
        raise InputError(
            f"{name} is a directory but not a Zarr array: it has none of {' '.join(_METADATA)}; nor is it a data set "
            "of VectorDBBench, with files like train.parquet"
        )
    try:
        node = zarr.open(str(path), mode="r")
    except PermissionError as error:
        raise StorageError(f"{name} cannot be opened: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise InputError(f"{name} has Zarr metadata that cannot be read: {' '.join(str(error).split())}") from error
    return ZarrSource(node, max_rows=max_rows, name=name)


class ZarrSource(VectorSource):
    """Vectors of a 2-D Zarr array. Besides the result, a read holds the decoded chunks that it needs."""

    def __init__(self, node: Any, *, max_rows: int | None, name: str | None) -> None:
        name = str(node.store_path) if name is None else name
        if not isinstance(node, zarr.Array):
            raise InputError(f"{name} is a Zarr group: give the path of one array within it")
        if node.ndim != 2:
            raise InputError(f"{name} has {node.ndim} dimensions (shape {node.shape}): vectors must be a 2-D array")
        dtype = vector_dtype(node.dtype, name)
        rows, dim = node.shape
        check_dim(dim, name)
        super().__init__(name, usable_rows(name, announced=rows, present=rows, max_rows=max_rows), dim, dtype)
        self._array = node

    def _read(self, start: int, stop: int) -> Array:
        return self._fetch(lambda: self._array[start:stop], f"rows {start} to {stop}")

    def _take(self, rows: NDArray[np.int64]) -> Array:
        if not len(rows):
            return np.empty((0, self.dim), self.dtype)
        return self._fetch(
            lambda: self._array.get_orthogonal_selection((rows, slice(None))), f"rows {rows.min()} to {rows.max()}"
        )

    def _blocks(self, rows_per_block: int) -> Iterator[tuple[int, Array]]:
        # Blocks smaller than a chunk would decode it once for each block: read a chunk's worth of blocks at a time.
        per_read = -(-self._array.chunks[0] // rows_per_block) * rows_per_block
        for piece in paging.pieces(self.count, per_read):
            read = self._read(piece.start, piece.stop)
            for block in paging.pieces(len(read), rows_per_block):
                yield piece.start + block.start, read[block]

    def _fetch(self, select: Callable[[], Any], what: str) -> Array:
        try:
            return np.ascontiguousarray(select())
        except OSError as error:
            raise StorageError(f"{what} of {self.name} cannot be read: {error}") from error
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise InputError(f"{what} of {self.name} cannot be decoded: {' '.join(str(error).split())}") from error
