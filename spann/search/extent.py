"""Searches whose number of results is not known before: within limits of distance, or one after the other.

They ask for k neighbours and, where that was not enough, for more: as k grows by a factor, all that was asked before
costs less than the last search. How far a range must look is decided within the native search (`Effort`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.config import finite
from spann.errors import InputError
from spann.system import available_memory
from spann.types import MAX_K, QUERY_STATS, Array, RangeResult, SearchResult

Search = Callable[[Array, int], SearchResult]

GROWTH = 4
"""How many times as many are asked for where there were too few."""

RANGE_CANDIDATES = 2
"""Candidates that are kept for each vector a range has room for; those that cannot be within the radius are not."""

ROOM = 4096
"""Vectors that a range may have at first. Who has more is searched again, with room for so many times `GROWTH`."""

FEW = 16
"""The first number of results in an index without codes and calibration, where all results must come at any effort."""

ROOM_ROWS = 1 << 20
"""Results that are in memory at once, about."""


RESULT_BYTES = 12
"""Bytes of a result: its id and its distance."""

LOOK_BYTES = 16 << 20
"""After so many more bytes of results, a range looks at the available memory."""


@dataclass(frozen=True)
class Within:
    """Which distances count: at most ``radius`` and more than ``inner``; of products (`largest_first`) at least the one
    and less than the other. None is no limit."""

    radius: float | None
    inner: float | None
    largest_first: bool

    @classmethod
    def checked(cls, radius: float | None, inner: float | None, largest_first: bool) -> Within:
        """`InputError` for limits that are not finite, or between which nothing can be. They become float32, as
        distances are."""
        radius = None if radius is None else _single(finite(radius, "radius"))
        inner = None if inner is None else _single(finite(inner, "inner"))
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

    def keep(some: NDArray[np.int64], found: SearchResult, wide: int) -> NDArray[np.int64]:
        """Keeps what was found for those of the queries `some` (n,) that need no wider search; returns the others."""
        near = within.near(found)
        fits = near & within.beyond(found)
        done = (fits.sum(axis=1) >= k) | ~near.all(axis=1) | (wide >= min(count, MAX_K))
        places = np.argsort(~fits[done], axis=1, kind="stable")[:, :k]
        here = np.take_along_axis(fits[done], places, axis=1)
        for kept, of in ((out.ids, found.ids), (out.distances, found.distances)):
            kept[some[done]] = np.where(here, np.take_along_axis(of[done], places, axis=1), kept[some[done]])
        left: NDArray[np.int64] = some[~done]
        return left

    wide = k
    pending = keep(np.arange(len(queries)), first, wide)
    while len(pending):
        wide, left = min(wide * GROWTH, count, MAX_K), []
        for some in _groups(pending, wide):
            found = search(queries[some], wide)
            _count(out.stats, some, found)
            left.append(keep(some, found, wide))
        pending = np.concatenate(left)
    return out


def _single(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _groups(queries: NDArray[np.int64], k: int) -> list[NDArray[np.int64]]:
    """Cuts `queries` (n,) into parts, so that `k` results for each query of a part fit in memory."""
    return np.split(queries, range(max(1, ROOM_ROWS // k), len(queries), max(1, ROOM_ROWS // k)))


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
    taken = looked = 0
    pending, room = np.arange(len(queries)), min(FEW if owed else ROOM, most)
    while len(pending):
        full = []
        for some in _groups(pending, room):
            result = search(queries[some], room)
            _count(stats, some, result)
            near = within.near(result)
            more = near.all(axis=1) & (room < most)
            near &= within.beyond(result)
            for i in np.flatnonzero(~more):
                found[some[i]] = result.ids[i][near[i]], result.distances[i][near[i]]
                taken += int(near[i].sum()) * RESULT_BYTES
            if taken > looked + LOOK_BYTES:
                looked = taken
                _check_room(taken, len(queries))
            full.append(some[more])
        pending, room = np.concatenate(full), min(GROWTH * room, most)
    limits = np.cumsum([0, *(len(ids) for ids, _ in found)])
    return RangeResult(
        limits.astype(np.int64), np.concatenate([x for x, _ in found]), np.concatenate([x for _, x in found]), stats
    )


def _check_room(taken: int, queries: int) -> None:
    """`InputError` where there is no memory for results of `taken` bytes once more, in the one array they end in."""
    available = available_memory()
    if taken > available:
        raise InputError(
            f"what was found for some of the {queries} queries takes {taken:,} bytes, which are needed once more, and "
            f"{available:,} bytes of memory are available: search for fewer queries at a time, or within less"
        )


def iterate(search: Search, query: Array, batch: int, count: int) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Ids and distances of the neighbours of `query` (dim,), `batch` at a time and the rest in the end. A vector comes
    once. A wider search may find a vector nearer than some before it."""
    seen, most = np.empty(0, np.int64), min(count, MAX_K)
    k, held = min(batch, most), (np.empty(0, np.int64), np.empty(0, np.float32))
    while True:
        result = search(query[None], k)
        ids, distances = result.ids[0], result.distances[0]
        new = (ids >= 0) & ~np.isin(ids, seen)
        held = np.concatenate([held[0], ids[new]]), np.concatenate([held[1], distances[new]])
        while len(held[0]) >= batch or (k == most and len(held[0])):
            yield held[0][:batch], held[1][:batch]
            held = held[0][batch:], held[1][batch:]
        if k == most:
            return
        seen, k = np.concatenate([seen, ids[new]]), min(k * GROWTH, most)
