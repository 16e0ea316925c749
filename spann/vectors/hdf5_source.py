"""HDF5 datasets as vectors, read by h5py; imported only when one is opened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError, StorageError
from spann.types import Array
from spann.vectors import paging
from spann.vectors.ids import IdList, check_id_type, find_part
from spann.vectors.sources import VectorSource, check_dim, usable_rows, vector_dtype

BASE_NAME = "train"
"""Dataset of the vectors to search in the files of ann-benchmarks; taken where there are others beside it."""


def open_hdf5(path: Path, dataset: str, *, max_rows: int | None, name: str) -> Hdf5Source:
    """The named 2-D dataset of the file; without a name `BASE_NAME`, or the only 2-D one of the file."""
    file = _open(path, name)
    try:
        return Hdf5Source(_find(file, dataset, name), max_rows=max_rows, name=name, file=file)
    except BaseException:
        file.close()
        raise


def read_hdf5_ids(path: Path, dataset: str, name: str) -> IdList:
    """The named 1-D dataset of the file (see `find_part`), of integers."""
    with _open(path, name) as file:
        known = _datasets(file, 1)
        wanted = find_part(dataset, [key for key in known if file[key].dtype.kind in "iu"], name, "dataset")
        if wanted not in known:
            raise InputError(f"{name} has no 1-D dataset {wanted!r}")
        node, origin = file[wanted], f"dataset {wanted!r} of {name}"
        check_id_type(node.dtype, origin)
        try:
            return IdList(np.asarray(node[()]), origin)
        except OSError as error:
            raise StorageError(f"{origin} cannot be read: {error}") from error


def _open(path: Path, name: str) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{name} is not an HDF5 file that can be read: {' '.join(str(error).split())}") from error


def _datasets(file: h5py.File, ndim: int) -> list[str]:
    """Names of those with `ndim` dimensions, also in groups."""
    nodes: list[tuple[str, Any]] = []
    file.visititems(lambda key, node: nodes.append((key, node)))
    return [key for key, node in nodes if isinstance(node, h5py.Dataset) and node.ndim == ndim]


def _find(file: h5py.File, dataset: str, name: str) -> h5py.Dataset:
    tables = _datasets(file, 2)
    wanted = dataset or (BASE_NAME if BASE_NAME in tables else "")
    if not wanted and len(tables) == 1:
        wanted = tables[0]
    if wanted not in tables:
        known = f"its 2-D datasets are {', '.join(tables)}" if tables else "it has no 2-D dataset"
        problem = (
            f"has no 2-D dataset {wanted!r}" if wanted else f"has several or no datasets and none is {BASE_NAME!r}"
        )
        raise InputError(f"{name} {problem}; {known}: name one as FILE#DATASET")
    return file[wanted]


class Hdf5Source(VectorSource):
    """Vectors of a 2-D HDF5 dataset. h5py serves one thread at a time."""

    def __init__(self, node: h5py.Dataset, *, max_rows: int | None, name: str, file: h5py.File | None = None) -> None:
        if node.ndim != 2:
            raise InputError(f"{name} has {node.ndim} dimensions (shape {node.shape}): vectors must be a 2-D array")
        dtype = vector_dtype(node.dtype, name)
        rows, dim = node.shape
        check_dim(dim, name)
        super().__init__(name, usable_rows(name, announced=rows, present=rows, max_rows=max_rows), dim, dtype)
        self._node, self._file, self._lock = node, file, threading.Lock()

    def close(self) -> None:
        """Closes the file, if this source opened it."""
        if self._file is not None:
            self._file.close()

    def _read(self, start: int, stop: int) -> Array:
        return self._fetch(lambda: self._node[start:stop], f"rows {start} to {stop}")

    def _take(self, rows: NDArray[np.int64]) -> Array:
        # h5py picks rows one by one, at 30 us each: whole stretches are read where rows lie close.
        out = np.empty((len(rows), self.dim), self.dtype)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        step = max(1, paging.MAX_TOUCHED // self.row_bytes)
        at = 0
        while at < len(rows):
            low = int(ascending[at])
            stop = int(np.searchsorted(ascending, low + step))
            if ascending[stop - 1] - low < 64 * (stop - at):
                block = self._read(low, int(ascending[stop - 1]) + 1)
                out[order[at:stop]] = block[ascending[at:stop] - low]
            else:
                for i in range(at, stop):
                    out[order[i]] = self._read(int(ascending[i]), int(ascending[i]) + 1)[0]
            at = stop
        return out

    def _fetch(self, select: Callable[[], Any], what: str) -> Array:
        try:
            with self._lock:
                return np.ascontiguousarray(select())
        except OSError as error:
            raise StorageError(f"{what} of {self.name} cannot be read: {error}") from error
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise InputError(f"{what} of {self.name} cannot be decoded: {' '.join(str(error).split())}") from error
