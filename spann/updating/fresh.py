"""Vectors that the log holds and no generation does yet: in memory, and searched exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.distances import measure, score, score_each
from spann.elements import stored_dtype
from spann.format.collection import Collection
from spann.format.log import PUT, Frame
from spann.types import Array, Metric

ALIVE = np.iinfo(np.uint64).max
"""The sequence number at which a vector died that is alive."""

_SMALLEST = 64


@dataclass(frozen=True, eq=False)
class FreshView:
    """Fresh vectors as they were after frame `sequence`: `ids` (n,), stored `vectors` (n, width), and the frames in
    which they `died` (n,). Nothing that comes later changes it."""

    ids: NDArray[np.int64]
    vectors: Array
    died: NDArray[np.uint64]
    sequence: int

    def alive(self) -> NDArray[np.bool_]:
        """Which of the vectors are in the collection, (n,)."""
        found: NDArray[np.bool_] = self.died > np.uint64(self.sequence)
        return found

    def scores(self, queries: Array, metric: Metric) -> NDArray[np.float32]:
        """What ranks the vectors for each of `queries` (m, width): (m, n), infinite for those that have died."""
        found = score_each(queries, self.vectors, metric)
        found[:, ~self.alive()] = np.inf
        return found

    def distances(self, query: Array, places: NDArray[np.int64], metric: Metric) -> NDArray[np.float32]:
        """The distances of `query` to the vectors at `places` (n,), in the unit of the metric."""
        vectors = self.vectors[places]
        exact = score(query, vectors, metric) if metric is Metric.HAMMING else measure(query, vectors, metric)
        if metric is Metric.L2:
            exact = np.sqrt(exact)
        found: NDArray[np.float32] = (-exact if metric is Metric.IP else exact).astype(np.float32)
        return found


class Fresh:
    """The operations of the log, applied one frame after the other. One thread at a time may change it."""

    def __init__(self, dtype: np.dtype[Any], width: int) -> None:
        self._ids = np.empty(_SMALLEST, np.int64)
        self._vectors = np.empty((_SMALLEST, width), dtype)
        self._died = np.empty(_SMALLEST, np.uint64)
        self._n = 0
        self._at: dict[int, int] = {}
        self.sequence = 0
        self.operations = 0
        self.alive = 0
        self.largest_id = -1

    @classmethod
    def of(cls, about: Collection) -> Fresh:
        """For an index that is `about` such, before any operation."""
        return cls(stored_dtype(about.element), about.width)

    @property
    def nbytes(self) -> int:
        """Bytes that the vectors take in memory, about."""
        return int(self._vectors.nbytes + self._ids.nbytes + self._died.nbytes) + 100 * len(self._at)

    @property
    def log_bytes(self) -> int:
        """Bytes of the vectors that were logged."""
        return int(self._n * self._vectors.itemsize * self._vectors.shape[1] + 8 * self.operations)

    def untouched(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `ids` that no frame names yet, each once, ascending."""
        return np.unique([i for i in ids.tolist() if i not in self._at]).astype(np.int64)

    def state(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each of `ids` the place of its vector here; -1 if it was deleted, -2 if no frame names it."""
        return np.array([self._at.get(i, -2) for i in ids.tolist()], np.int64)

    def vectors(self, places: NDArray[np.int64]) -> Array:
        """The stored vectors at these places."""
        return self._vectors[places]

    def apply(self, frame: Frame) -> None:
        """Applies the next frame."""
        n = len(frame.ids)
        if frame.kind == PUT:
            assert frame.vectors is not None
            self._reserve(self._n + n)
            self._ids[self._n : self._n + n] = frame.ids
            self._vectors[self._n : self._n + n] = frame.vectors
            self._died[self._n : self._n + n] = ALIVE
            self.largest_id = max(self.largest_id, int(frame.ids.max()))
        for place, i in enumerate(frame.ids.tolist(), self._n):
            before = self._at.get(i, -1)
            if before >= 0:
                self._died[before] = frame.sequence
                self.alive -= 1
            self._at[i] = place if frame.kind == PUT else -1
        if frame.kind == PUT:
            self._n += n
            self.alive += n
        self.sequence = frame.sequence
        self.operations += n

    def view(self) -> FreshView:
        """What is here now."""
        n = self._n
        return FreshView(self._ids[:n], self._vectors[:n], self._died[:n], self.sequence)

    def survivors(self) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
        """Ids and stored vectors that are in the collection, by id, and all other ids that a frame names."""
        kept = np.array(sorted(i for i, place in self._at.items() if place >= 0), np.int64)
        gone = np.array(sorted(i for i, place in self._at.items() if place < 0), np.int64)
        return kept, self._vectors[self.state(kept)], gone

    def _reserve(self, n: int) -> None:
        if n <= len(self._ids):
            return
        size = max(n, 2 * len(self._ids))
        for name in ("_ids", "_vectors", "_died"):
            old = getattr(self, name)
            new = np.empty((size, *old.shape[1:]), old.dtype)
            new[: self._n] = old[: self._n]
            setattr(self, name, new)
