"""One state of a collection, and searches of it: the index, less what the log took away, and what the log added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams
from spann.elements import in_memory, pack
from spann.measuring.promise import Calibration
from spann.search import Engine
from spann.search.alive import Alive
from spann.store.names import NameTable
from spann.store.reader import IndexReader
from spann.types import Array, Metric, SearchResult
from spann.updating.fresh import FreshView

SCORES = 1 << 22
"""Scores of queries and fresh vectors that are in memory at a time."""

SPARE = 8
"""Vectors beyond the k nearest whose distances are worked out to full precision, as scores are rounded."""

ROUNDING = 1e-5
"""Share of the largest score by which scores may be rounded."""


class Version(NamedTuple):
    """How far a collection is: the `generation` of its index, and the `sequence` number of the last frame of its log.
    Later versions of a collection compare as greater."""

    generation: int
    sequence: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state that nothing changes any more: the open index, which of its rows are `alive` (None: all that the index
    says), and `fresh` vectors."""

    reader: IndexReader
    engine: Engine
    count: int
    version: Version
    alive: Alive | None
    fresh: FreshView | None
    calibration: Calibration | None
    names: NameTable | None

    @property
    def logged(self) -> int:
        """Vectors of the log that a query is compared with."""
        return 0 if self.fresh is None else int(np.count_nonzero(self.fresh.alive()))

    def search(self, queries: Array, k: int, params: SearchParams, **how: Any) -> SearchResult:
        """The `k` nearest vectors of each of `queries` (nq, dim); arguments and errors are those of `Engine.search`."""
        found = self.engine.search(queries, k, params, alive=self.alive, **how)
        if self.fresh is not None and len(found):
            self._merge(found, self.fresh, queries, k)
        return found

    def _merge(self, found: SearchResult, fresh: FreshView, queries: Array, k: int) -> None:
        """Puts the fresh vectors among those found that are nearer than the last of these."""
        typed, step = self._typed(queries), max(1, SCORES // len(fresh.ids))
        found.stats["distances"] += int(np.count_nonzero(fresh.alive()))
        for start in range(0, len(typed), step):
            some = typed[start : start + step]
            scores = fresh.scores(some, self.engine.metric)
            near = scores <= self._limits(some, scores, found.distances[start : start + step, -1])[:, None]
            for i in np.flatnonzero(near.any(axis=1)).tolist():
                places = np.flatnonzero(near[i])
                if len(places) > k + SPARE:
                    places = places[np.argpartition(scores[i, places], k + SPARE)[: k + SPARE]]
                self._put(found, start + i, fresh.ids[places], fresh.distances(some[i], places, self.engine.metric))

    def _limits(self, queries: Array, scores: NDArray[np.float32], last: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores (m,) beyond which no vector is nearer than those at the distances `last` (m,)."""
        metric = self.engine.metric
        limit = last.astype(np.float64)
        if metric is Metric.L2:
            limit = np.square(limit)
        elif metric is Metric.IP:
            limit = -limit
        elif metric is Metric.COSINE:
            limit = (limit - 1) * np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
        size = np.abs(np.where(np.isfinite(scores), scores, 0)).max(axis=1, initial=0)
        full = np.isfinite(last)
        limit[full] += ROUNDING * (np.abs(limit[full]) + size[full])
        limit[~full] = np.finfo(np.float32).max
        return np.minimum(limit, np.finfo(np.float32).max).astype(np.float32)

    def _put(self, found: SearchResult, query: int, ids: NDArray[np.int64], distances: NDArray[np.float32]) -> None:
        """Keeps the nearest of what was found for a query, and of these."""
        ids, distances = np.concatenate([found.ids[query], ids]), np.concatenate([found.distances[query], distances])
        key = -distances if self.engine.metric is Metric.IP else distances
        order = np.lexsort((ids, key, ids < 0))[: found.ids.shape[1]]
        found.ids[query], found.distances[query] = ids[order], distances[order]

    def _typed(self, queries: Array) -> Array:
        """Queries as the kernels take them beside stored vectors."""
        rows = in_memory(queries, self.engine.element)
        if self.engine.dtype == np.float16:
            rows = rows.astype(np.float32)
        return np.ascontiguousarray(pack(rows, "bit") if self.engine.element == "bit" else rows)
