"""Searches whose number of results is not known before: within limits of distance, or one after the other.

They ask for k neighbours and, where that was not enough, for more: as k grows by a factor, all that was asked before
costs less than the last search. A continuation inside the native search would save that part, at the price of queries
that keep their state between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import MAX_K, QUERY_STATS, Array, RangeResult, SearchResult

Search = Callable[[Array, int], SearchResult]

FIRST, GROWTH = 16, 4
"""Neighbours asked for first, and how many times as many then, if nothing is known."""

GROWTH_MOST = 32
"""The same of a range, at most."""

AHEAD = 1.5
RANGE_BOUND = 1.0
"""Effort of a range: for so many times the vectors that are expected in it, and the least `error_bound`; settings for k
neighbours read the first wave of candidates whatever their bounds, a range only those whose bound is within. With these
the average precision of ranges of 1 to 1000 vectors is 0.953 to 0.986 on SIFT, sentence embeddings and clusters, at 1.4
to 1.75 times the cost of a search for as many neighbours (benchmarks/targets.py): the first 16, which tell how many to
expect, are the difference. With 1 and 0.7 it is 0.93 at 1.1 to 1.4 times."""

SPARE = 4
"""Room for so many times the vectors that are expected in a range: it costs little, for the radius ends the search."""


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


def search_range(
    search: Callable[[Array, int, int], SearchResult], queries: Array, within: Within, count: int
) -> RangeResult:
    """All of `count` vectors that are `within`, of each of `queries` (nq, dim), as far as `search` finds them: given
    queries, k and an expected number, it finds up to k with the effort for so many."""
    most = min(count, MAX_K)
    found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = [
        (np.empty(0, np.int64), np.empty(0, np.float32))
    ] * len(queries)
    stats = np.zeros(len(queries), QUERY_STATS)
    expected = np.full(len(queries), min(FIRST, most))
    pending, spare = np.arange(len(queries)), 1
    while len(pending):
        wide = int(expected[pending].min())
        some = pending[expected[pending] == wide]
        k = min(wide * spare, most)
        result = search(queries[some], k, wide)
        _count(stats, some, result)
        near = within.near(result)
        many = near.sum(axis=1)
        full = many == k
        # Effort for fewer than there are finds some of the rest.
        more = (wide < most) & (full | ((many > wide) & (wide > FIRST)))
        expected[some] = np.minimum(AHEAD * np.where(full, _expected(result, within, k), many), most)
        near &= within.beyond(result)
        for i in np.flatnonzero(~more):
            found[some[i]] = result.ids[i][near[i]], result.distances[i][near[i]]
        pending = np.setdiff1d(pending, some[~more], assume_unique=True)
        spare = SPARE
    limits = np.cumsum([0, *(len(ids) for ids, _ in found)])
    return RangeResult(
        limits.astype(np.int64), np.concatenate([x for x, _ in found]), np.concatenate([x for _, x in found]), stats
    )


def _expected(result: SearchResult, within: Within, k: int) -> NDArray[np.int64]:
    """How many there may be of each query, (nq,), where all k found are within the radius: the number of vectors within
    a distance grows as a power of it, which the distances found tell. Products have no such law."""
    factor = np.full(len(result.ids), float(GROWTH))
    if not within.largest_first and within.radius is not None and k >= GROWTH:
        last = result.distances[:, -1].astype(np.float64)
        before = result.distances[:, k // GROWTH - 1].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            power = np.log(GROWTH) / np.log(last / before)
            factor = np.nan_to_num((within.radius / last) ** power, nan=GROWTH, posinf=GROWTH_MOST)
    # In steps, so that queries go together.
    steps = np.ceil(np.log2(np.clip(factor, 1.5, GROWTH_MOST)) * 2) / 2
    wanted: NDArray[np.int64] = np.ceil(k * 2**steps).astype(np.int64)
    return wanted


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
