"""(centroid, vector) edges on their way from assignment to layout, spilled to disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.temporary import RecordFile
from spann.store.places import Where
from spann.types import Array

EDGE = np.dtype([("centroid", "<u4"), ("sqdist", "<f4"), ("row", "<i8"), ("replica", "u1")])
"""`replica` counts a vector's edges, nearest first; 0 is the one to its primary posting."""


class Candidates:
    """Edges in the order of their vectors, in one file under `directory`; those of a vector follow each other."""

    def __init__(self, directory: Where, state: dict[str, Any] | None = None, sizes: Sizes = DEFAULT_SIZES) -> None:
        self._block_edges = sizes.block_edges
        self._file = RecordFile(directory / "candidates", EDGE, (), state and state["file"])
        self._block_end: list[int] = list(state["block_end"]) if state else []

    def state(self) -> dict[str, Any]:
        """Makes all durable that was appended; what another one goes on from (`RecordFile`)."""
        return {"file": self._file.state(), "block_end": self._block_end}

    def append(self, edges: Array) -> None:
        """Adds all edges (n,), of dtype `EDGE`, of some vectors."""
        self._file.append(edges)
        start = self._block_end[-2] if len(self._block_end) > 1 else 0
        if self._block_end and self._file.count - start <= self._block_edges:
            self._block_end[-1] = self._file.count
        else:
            self._block_end.append(self._file.count)

    def blocks(self) -> Iterator[Array]:
        """All edges in order; the edges of a vector are in one block."""
        start = 0
        for end in self._block_end:
            yield self._file.read(start, end)
            start = end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


class EdgeSpool:
    """Edges in `buckets` files under `directory`, each an ascending range of centroids."""

    def __init__(self, directory: Where, centroids: int, expected_edges: int, sizes: Sizes = DEFAULT_SIZES) -> None:
        self.buckets = max(1, min(centroids, -(-expected_edges * EDGE.itemsize // sizes.bucket_bytes)))
        self._bounds = np.arange(self.buckets + 1, dtype=np.int64) * centroids // self.buckets
        with ExitStack() as undo:
            self._files = [undo.enter_context(RecordFile(directory / f"edges-{i}", EDGE)) for i in range(self.buckets)]
            self._closing = undo.pop_all()

    def append(self, edges: Array) -> None:
        """Adds edges (n,) of dtype `EDGE`, in any order."""
        bucket = np.searchsorted(self._bounds, edges["centroid"], side="right") - 1
        for b, file in enumerate(self._files):
            file.append(edges[bucket == b] if self.buckets > 1 else edges)

    def bucket(self, i: int) -> tuple[int, int, Array]:
        """First and last (exclusive) centroid of bucket `i`, and its edges, in the order they came."""
        return int(self._bounds[i]), int(self._bounds[i + 1]), self._files[i].read(0, self._files[i].count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._closing.close()


def pack_edges(
    centroid: NDArray[np.int64], sqdist: NDArray[np.float32], row: NDArray[np.int64], replica: Array
) -> Array:
    """Edges (n,) of dtype `EDGE` from their columns."""
    edges = np.empty(len(centroid), EDGE)
    edges["centroid"], edges["sqdist"], edges["row"], edges["replica"] = centroid, sqdist, row, replica
    return edges
