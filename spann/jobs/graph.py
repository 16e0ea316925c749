"""Graphs of nearest neighbours in scipy's form, made of neighbours in the order of the index."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.format.updates import IDS
from spann.store.reader import IndexReader
from spann.types import Array
from spann.vectors.sinks import write_whole

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MODES = ("distance", "connectivity", "arrays")
"""Modes of `Index.knn_graph`: a CSR matrix of distances or of ones, or neighbours and distances as arrays."""

SCATTER_BYTES = 64 << 20
"""Bytes of neighbours that are put in the order of rows at a time, when they come from parts."""

Neighbours = Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Array]]
"""Ids (n,), ids of neighbours (n, k) and their distances (n, k), some vectors at a time."""


class RowOrder:
    """Finds the row of an id, in the collection as it was given."""

    def __init__(self, reader: IndexReader) -> None:
        self.ids: NDArray[np.int64] | None = None
        """The id of each row; None if ids are rows."""
        if reader.collection.updates is not None:  # the rows of vectors that change are in the order of ids
            self.ids = np.sort(reader.read(IDS).astype(np.int64))
        elif reader.attributes["ids"] == "user":
            self.ids = reader.read("vectors/ids").astype(np.int64)
        if self.ids is not None:
            self._order = np.argsort(self.ids, kind="stable")
            self._sorted = self.ids[self._order]

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of `ids`, of any shape; -1 for -1."""
        if self.ids is None:
            return ids
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._order) - 1)
        found: NDArray[np.int64] = np.where(ids < 0, -1, self._order[at])
        return found


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")


def gather(found: Neighbours, count: int, k: int, order: RowOrder) -> tuple[NDArray[np.int64], Array]:
    """Rows of neighbours (count, k) and their distances, in the order of the rows; -1 if there are fewer."""
    rows, distances = np.full((count, k), -1, np.int64), np.full((count, k), np.inf, np.float32)
    for ids, near, far in found:
        at = order.rows(ids)
        rows[at], distances[at] = order.rows(near), far
    return rows, distances


def as_csr(rows: NDArray[np.int64], distances: Array, mode: str) -> csr_matrix:
    """The graph (n, n) of the arrays that `gather` returns. A neighbour at distance 0 is an entry of the matrix,
    too."""
    try:
        from scipy.sparse import csr_matrix
    except ModuleNotFoundError as error:
        raise InputError("a graph needs scipy: pip install 'spann-index[neighbors]'; or mode 'arrays'") from error
    found = rows >= 0
    limits = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
    values = distances[found] if mode == "distance" else np.ones(int(limits[-1]), np.float32)
    return csr_matrix((values, rows[found], limits), shape=(len(rows), len(rows)))


def write_csr(path: Path, found: Callable[[], Neighbours], count: int, k: int, order: RowOrder) -> None:
    """Writes the graph for `scipy.sparse.load_npz`, with an array `ids` if rows have ids. It passes over `found`
    several times, each time for as many rows as fit. So memory grows by 8 bytes a row only."""
    step = max(1, SCATTER_BYTES // (12 * k))
    counts = np.zeros(count + 1, np.int64)
    for ids, near, _ in found():
        counts[order.rows(ids) + 1] = (near >= 0).sum(axis=1)
    limits = np.cumsum(counts)
    index_type = "<i4" if max(count, int(limits[-1])) < 1 << 31 else "<i8"

    def blocks(which: str) -> Iterator[Array]:
        for start in range(0, count, step):
            size = min(step, count - start)
            values: Array = np.full((size, k), -1, np.int64) if which == "indices" else np.empty((size, k), np.float32)
            there = np.zeros((size, k), bool)
            for ids, near, far in found():
                at = order.rows(ids) - start
                here = (at >= 0) & (at < size)
                values[at[here]] = order.rows(near[here]) if which == "indices" else far[here]
                there[at[here]] = near[here] >= 0
            yield values[there].astype(index_type if which == "indices" else "<f4")

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            total = int(limits[-1])
            _member(archive, "indices", index_type, (total,), blocks("indices"))
            _member(archive, "indptr", index_type, (count + 1,), iter([limits.astype(index_type)]))
            _member(archive, "format", "|S3", (), iter([np.array(b"csr")]))
            _member(archive, "shape", "<i8", (2,), iter([np.array([count, count], "<i8")]))
            _member(archive, "data", "<f4", (total,), blocks("data"))
            if order.ids is not None:
                _member(archive, "ids", "<i8", (count,), iter([order.ids.astype("<i8")]))

    write_whole(path, write)


def _member(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], blocks: Iterator[Array]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for block in blocks:
            member.write(block.tobytes())
