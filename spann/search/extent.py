"""Searches whose number of results is not known before: within limits of distance, or one after the other.

They ask for k neighbours and, where that was not enough, for more: as k grows by a factor, all that was asked before
costs less than the last search. How far a range must look is decided within the native search (`Effort`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import MAX_K, QUERY_STATS, Array, RangeResult, SearchResult

Search = Callable[[Array, int], SearchResult]

GROWTH = 4
"""How many times as many are asked for where there were too few."""

RANGE_CANDIDATES = 2
"""Candidates that are kept for each vector a range has room for; those that cannot be within the radius are not."""

ROOM = 4096
"""Vectors that a range may have at first. Who has more is searched again, with room for so many times `GROWTH`."""

FEW = 16
"""The same where so many are owed, at any effort: in an index without codes and calibration."""

ROOM_ROWS = 1 << 20
"""Results that are in memory at once, about."""


@dataclass(frozen=True)
class Within:
    """Which distances count: at most ``radius`` and more than ``inner``; of products (`largest_first`) at least the one
    and less than the other. None is no limit."""

    radius: float | None
    inner: float | None
    largest_first: bool

    @classmethod
    def checked(cls, radius: float | None, inner: float | None, largest_first: bool) -> Within:
        """`InputError` for limits that are not finite, or between which nothing can be."""
        if not all(limit is None or np.isfinite(limit) for limit in (radius, inner)):
            raise InputError(f"radius is {radius!r} and inner {inner!r}; they must be finite")
        if radius is not None and inner is not None and (inner <= radius if largest_first else inner >= radius):
            order = "products from radius up to inner" if largest_first else "distances from inner up to radius"
            raise InputError(f"radius is {radius!r} and inner {inner!r}; nothing can be there, for {order} are wanted")
        return cls(radius, inner, largest_first)

    def near(self, found: SearchResult) -> NDArray[np.bool_]:
        """Which places (nq, k) hold a vector within the radius."""
        if self.radius is None:
            return found.ids >= 0
        key = found.distances
        return (found.ids >= 0) & (key >= self.radius if self.largest_first else key <= self.radius)

    def beyond(self, found: SearchResult) -> NDArray[np.bool_]:
        """Which places (nq, k) are farther than inner."""
        if self.inner is None:
            return np.ones(found.ids.shape, bool)
        return found.distances < self.inner if self.largest_first else found.distances > self.inner


def search_within(search: Search, queries: Array, k: int, within: Within, count: int) -> SearchResult:
    """The `k` nearest of those of `count` vectors that are `within`, as far as `search` finds them; id -1 where there
    are fewer. Only `inner` makes it search more than once."""
    first = search(queries, k)
    shape, worst = first.ids.shape, -np.inf if within.largest_first else np.inf
    out = SearchResult(np.full(shape, -1, np.int64), np.full(shape, worst, np.float32), first.stats.copy())
    pending, found, wide = np.arange(len(queries)), first, k
    while True:
        near = within.near(found)
        fits = near & within.beyond(found)
        done = (fits.sum(axis=1) >= k) | ~near.all(axis=1) | (wide >= min(count, MAX_K))
        places = np.argsort(~fits[done], axis=1, kind="stable")[:, :k]
        here = np.take_along_axis(fits[done], places, axis=1)
        for kept, of in ((out.ids, found.ids), (out.distances, found.distances)):
            kept[pending[done]] = np.where(here, np.take_along_axis(of[done], places, axis=1), kept[pending[done]])
        pending, wide = pending[~done], min(wide * GROWTH, count, MAX_K)
        if not len(pending):
            return out
        found = search(queries[pending], wide)
        _count(out.stats, pending, found)


def _count(stats: NDArray[np.void], queries: NDArray[np.int64], result: SearchResult) -> None:
    """Adds what one more search of `queries` (n,) cost."""
    for name in QUERY_STATS.names or ():
        stats[name][queries] += result.stats[name]


def search_range(search: Search, queries: Array, within: Within, count: int, *, owed: bool) -> RangeResult:
    """All of `count` vectors that are `within`, of each of `queries` (nq, dim), as far as `search` finds them;
    `owed` where it goes on until it has as many as it is asked for."""
    if not len(queries):
        nothing = search(queries, 1)
        return RangeResult(np.zeros(1, np.int64), nothing.ids[:, 0], nothing.distances[:, 0], nothing.stats)
    most = min(count, MAX_K)
    found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = [
        (np.empty(0, np.int64), np.empty(0, np.float32))
    ] * len(queries)
    stats = np.zeros(len(queries), QUERY_STATS)
    pending, room = np.arange(len(queries)), min(FEW if owed else ROOM, most)
    while len(pending):
        full = []
        step = max(1, ROOM_ROWS // room)
        for some in np.split(pending, range(step, len(pending), step)):
            result = search(queries[some], room)
            _count(stats, some, result)
            near = within.near(result)
            more = near.all(axis=1) & (room < most)
            near &= within.beyond(result)
            for i in np.flatnonzero(~more):
                found[some[i]] = result.ids[i][near[i]], result.distances[i][near[i]]
            full.append(some[more])
        pending, room = np.concatenate(full), min(GROWTH * room, most)
    limits = np.cumsum([0, *(len(ids) for ids, _ in found)])
    return RangeResult(
        limits.astype(np.int64), np.concatenate([x for x, _ in found]), np.concatenate([x for _, x in found]), stats
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
