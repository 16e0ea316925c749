"""The results of groups of queries, each with a filter of its own, become those of all queries in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spann.search.matching import Matches
from spann.types import QUERY_STATS, Array, RangeResult, SearchResult

Rows = NDArray[np.int64]


def whole_result(parts: Sequence[tuple[Rows, Matches, SearchResult]], queries: int) -> SearchResult:
    """The neighbours of all queries. A part has some of them, by number, with what their filter leaves."""
    if len(parts) == 1:
        return replace(parts[0][2], matches=np.full(queries, parts[0][1].count))
    k = parts[0][2].ids.shape[1]
    ids, distances = np.empty((queries, k), np.int64), np.empty((queries, k), np.float32)
    stats, matches = np.empty(queries, QUERY_STATS), np.empty(queries, np.int64)
    for some, left, part in parts:
        ids[some], distances[some], stats[some], matches[some] = part.ids, part.distances, part.stats, left.count
    return SearchResult(ids, distances, stats, matches)


def whole_range(parts: Sequence[tuple[Rows, Matches, RangeResult]], queries: int) -> RangeResult:
    """The same for ranges."""
    if len(parts) == 1:
        return replace(parts[0][2], matches=np.full(queries, parts[0][1].count))
    matches, stats, counts = np.empty(queries, np.int64), np.empty(queries, QUERY_STATS), np.zeros(queries, np.int64)
    ids: list[Array] = [np.empty(0, np.int64)] * queries
    distances: list[Array] = [np.empty(0, np.float32)] * queries
    for some, left, part in parts:
        matches[some], stats[some], counts[some] = left.count, part.stats, np.diff(part.limits)
        for place, query in enumerate(some.tolist()):
            ids[query], distances[query] = part.of(place)
    limits = np.concatenate([[0], np.cumsum(counts)])
    return RangeResult(limits, np.concatenate(ids), np.concatenate(distances), stats, matches)
