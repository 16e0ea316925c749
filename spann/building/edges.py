"""(centroid, vector) edges on their way from assignment to layout, spilled to disk."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.temporary import RecordFile, State
from spann.store.places import Where
from spann.types import Array

EDGE = np.dtype([("centroid", "<u4"), ("sqdist", "<f4"), ("row", "<i8"), ("replica", "u1")])
"""`replica` counts a vector's edges, nearest first; 0 is the one to its primary posting."""


class EdgeSpool:
    """Edges in `buckets` files under `directory`, each for an ascending range of centroids.

    With the `state` of an earlier process, it has the edges that were there then."""

    def __init__(
        self,
        directory: Where,
        centroids: int,
        expected_edges: int,
        sizes: Sizes = DEFAULT_SIZES,
        state: list[State] | None = None,
    ) -> None:
        self.buckets = max(1, min(centroids, -(-expected_edges * EDGE.itemsize // sizes.bucket_bytes)))
        self._bounds = np.arange(self.buckets + 1, dtype=np.int64) * centroids // self.buckets
        with ExitStack() as undo:
            self._files = [
                undo.enter_context(RecordFile(directory / f"edges-{i}", EDGE, (), known))
                for i, known in enumerate(state or [None] * self.buckets)
            ]
            self._closing = undo.pop_all()

    def state(self) -> list[State]:
        """Makes all edges durable; returns what another spool resumes from."""
        return [file.state() for file in self._files]

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
