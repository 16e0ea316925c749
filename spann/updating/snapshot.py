"""One state of a collection, and searches of it: the index, less what the log took away, and what the log added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from spann.config import SearchParams
from spann.elements import in_memory, pack
from spann.measuring.promise import Calibration
from spann.search import Engine
from spann.search.alive import Alive
from spann.store.names import NameTable
from spann.store.reader import IndexReader
from spann.types import Array, Metric, SearchResult
from spann.updating.fresh import FreshView


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

    def search(self, queries: Array, k: int, params: SearchParams, **how: Any) -> SearchResult:
        """The `k` nearest vectors of each of `queries` (nq, dim); arguments and errors are those of `Engine.search`."""
        found = self.engine.search(queries, k, params, alive=self.alive, **how)
        if self.fresh is not None and len(found):
            self._merge(found, self.fresh, queries, k)
        return found

    def _merge(self, found: SearchResult, fresh: FreshView, queries: Array, k: int) -> None:
        """Puts the fresh vectors among those found that are nearer than the last of these."""
        metric, sign = self.engine.metric, -1 if self.engine.metric is Metric.IP else 1
        alive = int(np.count_nonzero(fresh.alive()))
        for i, query in enumerate(self._typed(queries)):
            ids, distances = fresh.nearest(query, k, metric)
            better = sign * distances <= sign * found.distances[i, -1]
            if better.any():
                ids = np.concatenate([found.ids[i], ids[better]])
                distances = np.concatenate([found.distances[i], distances[better]])
                order = np.lexsort((ids, sign * distances))
                order = order[np.argsort(ids[order] < 0, kind="stable")][:k]
                found.ids[i], found.distances[i] = ids[order], distances[order]
            found.stats["distances"][i] += alive

    def _typed(self, queries: Array) -> Array:
        """Queries as the kernels take them beside stored vectors."""
        rows = in_memory(queries, self.engine.element)
        if self.engine.dtype == np.float16:
            rows = rows.astype(np.float32)
        return np.ascontiguousarray(pack(rows, "bit") if self.engine.element == "bit" else rows)
