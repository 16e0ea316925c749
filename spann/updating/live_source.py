"""The vectors of a collection as a source for a build: the live rows of an index, then vectors that were logged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.elements import memory_dtype, unpack
from spann.format.live import unpack_live
from spann.format.updates import LIVE
from spann.jobs.own import OwnVectors
from spann.store.reader import IndexReader
from spann.types import Array
from spann.vectors import VectorSource

IDS_READ = 1 << 20
"""Rows whose ids are read at a time."""


class LiveSource(VectorSource):
    """The live rows of the index that `reader` has open, in their order, but for the ids `without` (ascending). Then
    come `vectors` (n, width), in stored form, with the ids `more`. Keeps 16 bytes for each vector."""

    def __init__(
        self, reader: IndexReader, without: NDArray[np.int64], more: NDArray[np.int64], vectors: Array
    ) -> None:
        about = reader.collection
        self._own, self._element, self._vectors = OwnVectors(reader), about.element, vectors
        live = np.ones(about.count, np.bool_)
        if about.updates is not None:
            live = unpack_live(reader.read(LIVE), about.count)
        ids = self._own.ids()
        if len(without):
            live &= ~np.isin(ids, without)
        self._rows = np.flatnonzero(live)
        self.ids: NDArray[np.int64] = np.concatenate([ids[self._rows], more])
        super().__init__(
            f"the vectors of {reader.path}", len(self.ids), about.dim, memory_dtype(about.element), about.element
        )

    def _read(self, start: int, stop: int) -> Array:
        own = len(self._rows)
        rows = self._rows[start : min(stop, own)]
        parts = []
        if len(rows):
            first = int(rows[0])
            parts.append(self._own.read(first, int(rows[-1]) + 1)[1][rows - first])
        if stop > own:
            parts.append(unpack(self._vectors[max(start, own) - own : stop - own], self._element))
        return np.ascontiguousarray(np.concatenate(parts)) if parts else np.empty((0, self.dim), self.dtype)

    def _take(self, rows: NDArray[np.int64]) -> Array:
        own = len(self._rows)
        out = np.empty((len(rows), self.dim), self.dtype)
        old = np.flatnonzero(rows < own)
        if len(old):
            known, back = np.unique(self._rows[rows[old]], return_inverse=True)
            out[old] = self._own.take(known)[back]
        new = rows >= own
        out[new] = unpack(self._vectors[rows[new] - own], self._element)
        return out
