"""HDF5 datasets as vectors, read by h5py; imported only when one is opened."""

from __future__ import annotations

import itertools
import math
import os
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.system import check_room, open_regular
from spann.types import Array, Metric
from spann.vectors import paging
from spann.vectors.containers import foreign
from spann.vectors.hdf5_chunks import Rows
from spann.vectors.id_list import IdList, check_id_type, find_part
from spann.vectors.sources import VectorSource, check_dim, given_dtype, usable_rows

BASE, QUERIES, NEIGHBORS, DISTANCES = "train", "test", "neighbors", "distances"
"""Datasets in the files of ann-benchmarks: vectors to search, queries, their exact neighbours and the distances."""

_METRICS = {"euclidean": Metric.L2, "angular": Metric.COSINE, "dot": Metric.IP, "ip": Metric.IP}
_METRICS |= {"hamming": Metric.HAMMING}
"""The metric that the attribute `distance` of such a file names."""

LARGEST_CHUNK = 1 << 30
"""Bytes of a decoded chunk."""


def open_hdf5(path: Path, dataset: str, *, max_rows: int | None, name: str, queries: bool = False) -> Hdf5Source:
    """The named 2-D dataset of the file; without a name `BASE`, of `queries` `QUERIES` where both are there, or the
    only 2-D one of the file."""
    file = _open(path, name)
    try:
        source = Hdf5Source(_find(file, dataset, name, queries), max_rows=max_rows, name=name, file=file)
        source.metric = _metric(file, name)
        return source
    except BaseException:
        file.close()
        raise


def _metric(file: h5py.File, name: str) -> Metric | None:
    """What the file says that near means."""
    with foreign(f"{name} has attributes that cannot be read"):
        found = file.attrs.get("distance")
    if found is None:
        return None
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    if text not in _METRICS:
        raise InputError(
            f"{name} says that its distance is {text!r}, which spann has not; it has {', '.join(_METRICS)}"
        )
    return _METRICS[text]


def read_hdf5_truth(path: Path, dataset: str, name: str) -> tuple[Array, Array | None]:
    """The neighbours of queries, (nq, k) integers, and where they are called `NEIGHBORS` and their unit is known, the
    distances, (nq, k) float32."""
    wanted = dataset or NEIGHBORS
    with _open(path, name) as file:
        metric = _metric(file, name)
        known = _datasets(file, 2, name)
        if wanted not in known:
            raise InputError(f"{name} has no 2-D dataset {wanted!r} of neighbours; its 2-D datasets are {known}")
        ids = _whole(file[wanted], f"dataset {wanted!r} of {name}")
        if ids.dtype.kind not in "iu":
            raise InputError(f"dataset {wanted!r} of {name} holds {ids.dtype}: neighbours are integers")
        unit = metric in (Metric.L2, Metric.COSINE) and wanted == NEIGHBORS
        if not unit or DISTANCES not in known:
            return ids, None
        distances = _whole(file[DISTANCES], f"dataset {DISTANCES!r} of {name}")
    if distances.shape != ids.shape or distances.dtype.kind != "f":
        raise InputError(f"{name}: {DISTANCES} are {distances.dtype} {distances.shape}; neighbours are {ids.shape}")
    return ids, distances.astype(np.float32)


def _whole(node: h5py.Dataset, origin: str) -> Array:
    with foreign(f"{origin} cannot be read"):
        check_stored(node, len(node), origin)
        check_room(node.size * node.dtype.itemsize, origin)
        return Rows(node, origin).read(0, len(node))


def read_hdf5_ids(path: Path, dataset: str, name: str) -> IdList:
    """The named 1-D dataset of the file (see `find_part`), of integers."""
    with _open(path, name) as file:
        known = _datasets(file, 1, name)
        with foreign(f"{name} has datasets that cannot be looked at"):
            whole = [key for key in known if file[key].dtype.kind in "iu"]
        wanted = find_part(dataset, whole, name, "dataset")
        if wanted not in known:
            raise InputError(f"{name} has no 1-D dataset {wanted!r}")
        origin = f"dataset {wanted!r} of {name}"
        with foreign(f"{origin} cannot be read"):
            node = file[wanted]
            check_id_type(node.dtype, origin)
            check_stored(node, len(node), origin)
            check_room(node.size * node.dtype.itemsize, origin)
            return IdList(Rows(node, origin).read(0, len(node)), origin)


def _open(path: Path, name: str) -> h5py.File:
    os.close(open_regular(path, name))
    with foreign(f"{name} is not an HDF5 file that can be read"):
        return h5py.File(path, "r")


def _datasets(file: h5py.File, ndim: int, name: str) -> list[str]:
    """Names of those with `ndim` dimensions, also in groups."""
    nodes: list[tuple[str, Any]] = []
    with foreign(f"{name} has groups that cannot be listed"):
        file.visititems(lambda key, node: nodes.append((key, node)))
        return [key for key, node in nodes if isinstance(node, h5py.Dataset) and node.ndim == ndim]


def check_stored(node: h5py.Dataset, rows: int, name: str) -> None:
    """Refuses a dataset whose file lacks some of the first `rows` rows. HDF5 would make up the missing values."""
    if node.is_virtual or node.external:
        raise InputError(f"{name} keeps its values in other files: copy it into one (h5repack)")
    itemsize = node.dtype.itemsize
    if node.chunks is None:
        needed, there = node.size * itemsize, node.id.get_storage_size()
        if there < needed:
            raise InputError(f"{name} has {there} of its {needed} bytes: it was never written whole")
        return
    size = math.prod(node.chunks) * itemsize
    if size > LARGEST_CHUNK:
        raise InputError(f"a chunk of {name} holds {size} bytes; the limit is {LARGEST_CHUNK}")
    across = [range(0, length, step) for length, step in zip(node.shape[1:], node.chunks[1:], strict=True)]
    wide = math.prod(map(len, across))
    if node.id.get_num_chunks() == -(-len(node) // node.chunks[0]) * wide:
        return
    for first in range(0, rows, node.chunks[0]):
        for rest in itertools.product(*across):
            if node.id.get_chunk_info_by_coord((first, *rest)).byte_offset is None:
                last = min(first + node.chunks[0], rows)
                raise InputError(f"{name} has no values for rows {first} to {last}: they were never written")


def _find(file: h5py.File, dataset: str, name: str, queries: bool) -> h5py.Dataset:
    tables = _datasets(file, 2, name)
    usual = QUERIES if queries and QUERIES in tables and BASE in tables else BASE
    wanted = dataset or (usual if usual in tables else "")
    if not wanted and len(tables) == 1:
        wanted = tables[0]
    if wanted not in tables:
        known = f"its 2-D datasets are {', '.join(tables)}" if tables else "it has no 2-D dataset"
        problem = f"has no 2-D dataset {wanted!r}" if wanted else f"has several or no datasets and none is {BASE!r}"
        raise InputError(f"{name} {problem}; {known}: name one as FILE#DATASET")
    with foreign(f"{name} has a dataset {wanted!r} that cannot be opened"):
        return file[wanted]


class Hdf5Source(VectorSource):
    """Vectors of a 2-D HDF5 dataset. h5py serves one thread at a time."""

    def __init__(self, node: h5py.Dataset, *, max_rows: int | None, name: str, file: h5py.File | None = None) -> None:
        if node.ndim != 2:
            raise InputError(f"{name} has {node.ndim} dimensions (shape {node.shape}): vectors must be a 2-D array")
        with foreign(f"{name} has a type that cannot be read"):
            dtype = given_dtype(node.dtype, name)
        rows, dim = node.shape
        check_dim(dim, name)
        super().__init__(name, usable_rows(name, announced=rows, present=rows, max_rows=max_rows), dim, dtype)
        with foreign(f"{name} has chunks that cannot be listed"):
            check_stored(node, self.count, name)
            self._rows = Rows(node, name)
        self._file, self._lock = file, threading.Lock()

    def close(self) -> None:
        """Closes the file, if this source opened it."""
        if self._file is not None:
            self._file.close()

    def _read(self, start: int, stop: int) -> Array:
        with foreign(f"rows {start} to {stop} of {self.name} cannot be decoded"), self._lock:
            return np.ascontiguousarray(self._rows.read(start, stop))

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
