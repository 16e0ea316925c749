"""Searches whose number of results is not known before: all within a radius, or one after the other.

Both ask for k neighbours and, where that was not enough, for more: as k grows by a factor, all that was asked before
costs less than the last search. A continuation inside the native search would save that part, at the price of queries
that keep their state between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from spann.types import MAX_K, Array, RangeResult, SearchResult

Search = Callable[[Array, int], SearchResult]

FIRST, GROWTH = 16, 4
"""Neighbours asked for first, and how many times as many then."""


def search_range(
    search: Search, queries: Array, radius: float, inner: float | None, largest_first: bool, count: int
) -> RangeResult:
    """All of `count` vectors at most `radius` (and farther than `inner`) from each of `queries` (nq, dim), as far as
    `search` finds them; with `largest_first`, of products, at least `radius` (and less than `inner`)."""
    sign = -1.0 if largest_first else 1.0
    found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = [
        (np.empty(0, np.int64), np.empty(0, np.float32))
    ] * len(queries)
    pending, k = np.arange(len(queries)), min(FIRST, count)
    while len(pending):
        result = search(queries[pending], k)
        key = sign * result.distances
        near = (result.ids >= 0) & (key <= sign * radius)
        more = near.all(axis=1) & (k < min(count, MAX_K))
        if inner is not None:
            near &= key > sign * inner
        for i in np.flatnonzero(~more):
            found[pending[i]] = result.ids[i][near[i]], result.distances[i][near[i]]
        pending, k = pending[more], min(k * GROWTH, count, MAX_K)
    limits = np.cumsum([0, *(len(ids) for ids, _ in found)])
    return RangeResult(
        limits.astype(np.int64), np.concatenate([x for x, _ in found]), np.concatenate([x for _, x in found])
    )


def iterate(search: Search, query: Array, batch: int, count: int) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Ids and distances of the neighbours of `query` (dim,), some `batch` at a time, until there are no more. A
    vector comes once; one that only a wider search finds may be nearer than some before it."""
    seen, k = np.empty(0, np.int64), min(batch, count)
    while True:
        result = search(query[None], k)
        ids, distances = result.ids[0], result.distances[0]
        new = (ids >= 0) & ~np.isin(ids, seen)
        if new.any():
            yield ids[new], distances[new]
        if k >= min(count, MAX_K):
            return
        seen, k = ids[ids >= 0], min(k * GROWTH, count, MAX_K)
