"""From a recall that is wanted to the cheapest setting that gives it: measured once, on queries whose answer is known.

Effort has three knobs: how many postings a query may score (`max_postings`), how far they may be (`epsilon2`, by which
easy queries read less than hard ones), and how much error of the codes re-ranking covers (`error_bound`). Recall is
near the product of two shares: of the neighbours that lie in a posting that is scored, and of those that then survive
re-ranking. So the first two knobs are measured together, with the third wide open, as one ladder of effort; the third
is measured at one rung; and the settings that the product promises for each recall, at least cost, are measured again
and kept, with the lower end of a confidence interval. Where two of them are so far apart that what lies between them
is not known, that is measured too (spann/measuring/promise.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams, usual_rerank
from spann.measuring.promise import (
    ENOUGH,
    MOST_RERANK,
    NEARLY_ALL,
    Calibration,
    Point,
    are_near,
    between,
    between_recalls,
    cost,
    neighbours,
    setting,
)
from spann.measuring.recall import TIE
from spann.types import Array, Progress, SearchResult

LADDERS = ((1, 3, 10), (30, 100), (300, 1000))
"""Neighbours wanted for which settings are measured; for others they are interpolated. Of one row, one ladder of
searches tells which postings hold the nearest of each."""

KS = tuple(k for ks in LADDERS for k in ks)

STAND_INS = (1, 2)
"""For k 1 each query that is a vector of the collection is asked twice: whether it finds its second neighbour is what
one would be told whose first is not there. A neighbour is found or not, so 1000 queries asked once could promise 0.99
only where 0.996 is had; the two answers are all but independent (worth 1.9 times as many queries at recall 0.95 and
above; 1M SIFT, sentence embeddings, clusters). The second is a little harder to find than the nearest, because vectors
of a collection have more near duplicates than queries have. Where queries of SIFT have recall 0.950, 0.976 and 0.994,
its own vectors have 0.955, 0.983 and 0.993, by the two 0.948, 0.979 and 0.993. With a third it is 0.942, 0.976 and
0.992, for settings up to 8 % dearer. (Of the first wave of re-ranking the second has a place more, which only matters
where the error bound is small.) Queries of the user's say themselves how near their nearest are
(docs/decisions/0011)."""

FEW = 200
"""Queries that a calibration has at least. For k up to 10 it asks all, for 100 a fifth, for an average over so many
neighbours varies less, and for 1000 half of this."""

RECALLS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997)
"""Recalls that settings are kept for, as far as they are reached."""

CONFIDENCE = 1.645
"""Standard errors below the mean: one in twenty calibrations promises more than queries of the kind then have."""

EASIER = 1.05
"""Real queries miss so many times the neighbours that vectors of the collection miss: 1.02 to 1.09 times for the same
settings (sentence embeddings, clusters, SIFT). Each such vector lies where its cell was made, though none has moved its
centroid (spann/building/stages/refine.py) (docs/decisions/0011)."""

FILLS = (0.4, 0.55)
"""Shares of `max_postings` that the mean query scores: `epsilon2` is set so. SIFT is 6 % cheaper with 0.55 at recalls
from 0.98 on, clusters 10 % with 0.4 at 0.95; 0.3 and 0.75 are nowhere the cheapest by more than 2 %. Without codes the
last one only (docs/decisions/0011)."""

FIRST, STEP, MOST = 6, 1.7, 8192
"""`max_postings` of the first rung, from one rung to the next, and at most."""

WIDE = 3.0
BOUNDS = (0.15, 0.4, 0.7, 1.0, 1.5, 2.0, WIDE)
"""`error_bound`s tried."""

ROUGHLY = 100
"""Queries by which settings are chosen for k up to 10, at least; half as many for larger."""

RARE = 0.02
"""Share of queries that may have begun again with more postings than a setting says, for it to be one."""

LACKING = 0.5
"""Share of the misses of a setting that are left with room for all candidates, at most, where it lacks room."""

TRIES = 4
"""Settings measured for a recall between two that are too far apart, at most."""

Search = Callable[[Array, int, SearchParams], SearchResult]
Reach = Callable[[int, float], float]
"""From `max_postings` and the share of it that the mean query is to score to `epsilon2`."""


@dataclass(frozen=True)
class Asked:
    """Queries whose answers are known.

    - ``vectors`` (nq, dim); ``kth``: for each k of `KS` and of `STAND_INS` that there is, the distance of the k-th
      neighbour, in the unit of results, (nq,), or fewer where the first queries are enough.
    - ``own`` (nq, m): of queries that are vectors of the collection, the ids of these and of their copies, -1 in the
      places left over; neither they nor the distances count them.
    - ``largest_first``: distances are products. ``noise``: their error, beside that which grows with them.
    """

    vectors: Array
    kth: Mapping[int, NDArray[np.float64]]
    own: NDArray[np.int64] | None
    largest_first: bool
    noise: float


def calibrate(
    search: Search,
    asked: Asked,
    *,
    reach: Reach,
    unlike: float,
    postings: int,
    entries: float,
    coded: bool,
    progress: Progress | None = None,
) -> Calibration:
    """Measures settings on the queries `asked`.

    `reach` gives the `epsilon2` for so many postings and a share of them. `unlike` is kept (`Calibration`). The index
    has so many `postings`, with so many `entries` each on average; `coded` says whether they hold codes. Results and
    counters of a search do not depend on threads, so neither does what is found here.
    """
    report = progress or (lambda stage, done, total: None)
    sweep = _Sweep(search, asked, reach, postings, entries)
    curves: dict[int, list[Point]] = {}
    known = [k for k in KS if k in asked.kth]
    for row in LADDERS:
        ks = [k for k in row if k in asked.kth]
        if not ks:
            continue
        sweep.narrow()
        ladders = {fill: _ladder(sweep, ks, fill, coded) for fill in (FILLS if coded else FILLS[-1:])}
        if coded and sweep.widen(ladders[FILLS[-1]]):
            ladders = {fill: _ladder(sweep, ks, fill, coded) for fill in FILLS}
        bounds: dict[float, _Bound] = {}
        for k in reversed(ks):
            points = ladders[FILLS[-1]][k]
            if coded:  # the rungs are measured with too few queries to promise anything
                between_others = k != 1 and k != ks[-1]
                if not between_others:
                    bounds = _bounds(sweep, k, points)
                of_k = {fill: ladder[k] for fill, ladder in ladders.items()}
                points = _promised(sweep, k, of_k, bounds, RECALLS[2:] if between_others else RECALLS)
            curves[k] = _closed(sweep, k, points)
            report("calibrate", len(curves), len(known))
    curves = dict(sorted(curves.items()))
    return Calibration("given" if asked.own is None else "base", len(asked.vectors), unlike, curves)


class _Sweep:
    """Measures settings, each on the queries that are enough for k."""

    def __init__(self, search: Search, asked: Asked, reach: Reach, postings: int, entries: float) -> None:
        self._search, self._asked, self.reach = search, asked, reach
        self.postings, self._entries = postings, entries
        self._room = 1
        self._doubled: set[Point] = set()
        self._measured = cache(self._measure)  # settings of several recalls may be the same
        self._rungs = cache(self._rung)  # and the first rungs of all ladders are

    def measure(self, k: int, max_postings: int, epsilon2: float, error_bound: float) -> Point:
        """The point of a setting."""
        return self._measured(k, max_postings, epsilon2, error_bound, self._room)

    def rung(
        self, ks: tuple[int, ...], max_postings: int, epsilon2: float, rough: bool, owed: bool
    ) -> dict[int, Point]:
        """The points of a setting for each of `ks`, rising, that re-ranks all that may be a neighbour.

        One search tells about all of them, if so few postings hold twice as many vectors as the largest k. A search
        that finds fewer than k vectors begins again with more postings. That is no step of a ladder, unless all are
        `owed`, and it says nothing of smaller k. `rough` asks fewer queries, to choose settings by.
        """
        return self._rungs(ks, max_postings, epsilon2, rough, owed, self._room)

    def narrow(self) -> None:
        """Gives candidates the usual room again."""
        self._room = 1

    def widen(self, ladder: Mapping[int, list[Point]]) -> bool:
        """Gives candidates more room where the last rung of `ladder` lacks it, and says whether it does.

        A rung re-ranks what may be a neighbour, but no more than the usual number of candidates. Where many vectors are
        as near as codes can tell, that number ends a search before the error bound does.
        """
        k, last = max((k, rungs[-1]) for k, rungs in ladder.items() if rungs)
        if last.recall >= ENOUGH:
            return False

        def misses(room: int) -> float:
            self._room = room
            return 1 - self.measure(k, last.max_postings, last.epsilon2, last.error_bound).recall

        usual, rooms = misses(1), [4**i for i in range(1, 8) if 4**i * usual_rerank(k) <= MOST_RERANK]
        least = misses(rooms[-1]) if rooms else usual
        if least > LACKING * usual:
            self._room = 1
            return False
        for room in rooms:
            if misses(room) <= least / LACKING:
                break
        return True

    def _measure(self, k: int, max_postings: int, epsilon2: float, error_bound: float, room: int) -> Point:
        params = setting(k, max_postings, epsilon2, error_bound, room)
        count = len(self._asked.kth[k])
        found = {j: self._found(j, count, params) for j in self._stand_ins(k)}
        shares = [self._share(some, j, last=j > k) for j, some in found.items()]
        return self._point(k, params, room, found[k].stats, shares)

    def _rung(
        self, ks: tuple[int, ...], max_postings: int, epsilon2: float, rough: bool, owed: bool, room: int
    ) -> dict[int, Point]:
        points: dict[int, Point] = {}
        for most in reversed(ks):
            if not owed and max_postings < min(self.postings, math.ceil(2 * most / self._entries)):
                continue
            count = len(self._asked.kth[most])
            if rough:
                count = min(count, max(count // 3, ROUGHLY if most <= 10 else ROUGHLY // 2))
            params = setting(most, max_postings, epsilon2, WIDE, room)
            found = self._found(max(self._stand_ins(most)), count, params)
            doubled = _doubled(found.stats)
            if doubled and not owed:
                continue
            for k in [most] if doubled else [k for k in ks if k <= most]:
                shares = [self._share(found, j, last=j > k) for j in self._stand_ins(k)]
                points[k] = self._point(k, params, room, found.stats, shares)
            if not doubled:
                break
        return points

    def _stand_ins(self, k: int) -> list[int]:
        """The neighbours that are asked for where k are: all up to the first of these, and each of the others alone."""
        if k > 1 or self._asked.own is None:
            return [k]
        return [j for j in STAND_INS if j in self._asked.kth]

    def _point(
        self, k: int, params: SearchParams, room: int, stats: Array, asked: Sequence[NDArray[np.float64]]
    ) -> Point:
        shares = np.mean(asked, axis=0)
        mean, count = float(shares.mean()), len(shares)
        low = _lower(mean, float(shares.var()), count, count * (len(asked) if k == 1 else k))
        point = Point(
            params.max_postings or 0,
            params.epsilon2,
            params.error_bound,
            mean,
            low if self._asked.own is None else max(0.0, 1 - EASIER * (1 - low)),
            float(stats["postings_scored"].mean()),
            float(stats["distances"].mean()),
            float(stats["centroid_distances"].mean()),
            room,
        )
        if _doubled(stats):
            self._doubled.add(point)
        return point

    def is_two(self, point: Point) -> bool:
        """Whether the setting of a point is two, the second for queries that find too few vectors by the first."""
        return point in self._doubled

    def _found(self, k: int, count: int, params: SearchParams) -> SearchResult:
        """Results for the first `count` queries, at least k that are not the query's own; these are at -1."""
        queries, own = self._asked.vectors[:count], self._asked.own
        if own is None:
            return self._search(queries, k, params)
        own = own[:count]
        copies = (own >= 0).sum(axis=1)
        parts = {}
        if self._asked.largest_first:
            # The product of a vector with itself is often not among the largest k: then the query is like any other.
            found = self._search(queries, k, params)
            met = (found.ids[:, :, None] == own[:, None, :]).any(axis=(1, 2))
            parts[0] = np.flatnonzero(~met), _rows(found, ~met)
        else:
            met = np.ones(count, np.bool_)
        candidates = params.rerank or usual_rerank(k)
        for number in np.unique(copies[met]).tolist():
            some = np.flatnonzero(met & (copies == number))
            # As many candidates as a search for k has: each of the query's copies takes the place of another.
            with_copies = params.with_(rerank=candidates + number)
            parts[number] = some, self._search(queries[some], k + number, with_copies)
        ids = np.full((count, k + int(copies.max())), -1, np.int64)
        distances = np.full(ids.shape, np.nan, np.float32)
        stats = np.empty(count, next(iter(parts.values()))[1].stats.dtype)
        for number, (some, found) in parts.items():
            others = found.ids.copy()
            for place in range(number):
                others[found.ids == own[some, place, None]] = -1
            ids[some, : k + number] = others
            distances[some, : k + number] = found.distances
            stats[some] = found.stats
        return SearchResult(ids, distances, stats)

    def _share(self, found: SearchResult, k: int, *, last: bool = False) -> NDArray[np.float64]:
        """The share of its `k` neighbours that each query found; with `last`, whether it found the last of them."""
        sign = -1.0 if self._asked.largest_first else 1.0
        limit = sign * self._asked.kth[k][: len(found.ids), None]
        near = TIE * np.abs(limit) + self._asked.noise
        distances = sign * found.distances.astype(np.float64)
        within = (found.ids >= 0) & (distances <= limit + near)
        if last:
            alone: NDArray[np.float64] = (within & (distances >= limit - near)).max(axis=1).astype(np.float64)
            return alone
        counts: NDArray[np.int64] = within.sum(axis=1)
        shares: NDArray[np.float64] = np.minimum(counts, k) / k
        return shares


def _rows(found: SearchResult, chosen: NDArray[np.bool_]) -> SearchResult:
    return SearchResult(found.ids[chosen], found.distances[chosen], found.stats[chosen])


def _doubled(stats: Array) -> bool:
    """Whether more than a few queries began again, farther out, for they had found fewer than k vectors."""
    return bool((stats["restarts"] > 0).mean() > RARE)


def _lower(mean: float, variance: float, count: int, answers: int) -> float:
    """Lower end of the confidence interval of a share, measured as the mean of `count` shares of `answers` in all:
    Wilson's (1927), with as many trials as a share of this variance is worth, and as there are answers where none was
    otherwise. It holds near 1, where the mean minus standard errors does not: if none of 333 answers fails, 8 in a
    thousand still may."""
    trials = count * max(1.0, mean * (1 - mean) / variance) if variance > 0 else float(answers)
    z = CONFIDENCE**2 / trials
    spread = math.sqrt(z * mean * (1 - mean) + z * z / 4)
    return (mean + z / 2 - spread) / (1 + z)


def _ladder(sweep: _Sweep, ks: Sequence[int], fill: float, coded: bool) -> dict[int, list[Point]]:
    """Points of rising effort for each of `ks`. They score the share `fill` of the postings, and re-rank every possible
    neighbour. With codes, others are chosen by them, and measured better."""
    rungs: dict[int, list[Point]] = {k: [] for k in ks}

    def add(points: Mapping[int, Point]) -> None:
        for k, point in points.items():
            if not _ended(rungs[k]):
                rungs[k].append(point)

    wanted = float(FIRST)
    while not all(map(_ended, rungs.values())):
        count = min(round(wanted), sweep.postings)
        add(sweep.rung(tuple(ks), count, sweep.reach(count, fill), coded, False))
        if count >= min(sweep.postings, MOST):
            add(sweep.rung(tuple(ks), count, math.inf, False, True))
            break
        wanted *= STEP
    return rungs


def _ended(rungs: Sequence[Point]) -> bool:
    return bool(rungs) and rungs[-1].recall >= ENOUGH


@dataclass(frozen=True)
class _Bound:
    """The effect of an `error_bound`: the share of neighbours that survive re-ranking, and vectors scored exactly for
    each neighbour wanted."""

    share: float
    distances: float


def _bounds(sweep: _Sweep, k: int, rungs: Sequence[Point]) -> dict[float, _Bound]:
    """What each of `BOUNDS` loses and costs, at the rung nearest to recall 0.95."""
    middle = min(rungs, key=lambda p: abs(p.recall - 0.95))
    # Roughly would not do: what a bound loses may be less than a hundredth, and matters from 0.98 on.
    tried = [sweep.measure(k, middle.max_postings, middle.epsilon2, bound) for bound in BOUNDS]
    most = tried[-1].recall
    return {p.error_bound: _Bound(p.recall / most if most else 1.0, p.distances / k) for p in tried}


def _promised(
    sweep: _Sweep,
    k: int,
    ladders: Mapping[float, list[Point]],
    bounds: Mapping[float, _Bound],
    recalls: Sequence[float],
) -> list[Point]:
    """For each of `recalls` the setting that should reach it at least cost, measured, and the last rung. `bounds` may
    be those of the next larger k: a setting is no worse measured for being chosen a little off."""
    out = []
    for target in recalls:
        options = []
        for (fill, ladder), (bound, kept) in product(ladders.items(), bounds.items()):
            if target / max(kept.share, 1e-9) <= ladder[-1].recall:
                rung = _reaching(ladder, target / kept.share)
                spent = cost(rung.centroids, rung.postings, kept.distances * k)
                options.append((spent, rung.max_postings, fill, bound))
        if options:
            _, postings, fill, bound = min(options)
            found = sweep.measure(k, postings, sweep.reach(postings, fill), bound)
            if not sweep.is_two(found):
                out.append(found)
    last = ladders[FILLS[-1]][-1]
    return [*out, sweep.measure(k, last.max_postings, last.epsilon2, last.error_bound)]


def _reaching(rungs: list[Point], recall: float) -> Point:
    """Where the ladder reaches `recall`, between its rungs."""
    after = next(i for i, p in enumerate(rungs) if p.recall >= recall)
    if after == 0:
        return rungs[0]
    low, high = rungs[after - 1], rungs[after]
    logs = [math.log(1 - min(x, NEARLY_ALL)) for x in (low.recall, recall, high.recall)]
    return between(low, high, (logs[0] - logs[1]) / (logs[0] - logs[2]) if logs[0] > logs[2] else 1.0)


def _closed(sweep: _Sweep, k: int, points: list[Point]) -> list[Point]:
    """The points of a curve, with some more between those that are too far apart to make settings of for a recall."""
    curve = _frontier(points)
    for target in RECALLS:
        for _ in range(TRIES):
            low, high = neighbours(curve, target)
            if are_near(low, high):
                break
            tried = between_recalls(low, high, target)
            epsilon2 = tried.epsilon2
            if math.isinf(epsilon2) and not math.isinf(high.epsilon2):
                epsilon2 = sweep.reach(tried.max_postings, FILLS[-1])
            found = sweep.measure(k, tried.max_postings, epsilon2, tried.error_bound)
            grown = _frontier([*curve, found])
            if grown == curve or sweep.is_two(found):
                break
            curve = grown
    return curve


def _frontier(points: Iterable[Point]) -> list[Point]:
    """Those that no other one beats in both recall and cost, by rising cost."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.low)):
        if not kept or point.low > kept[-1].low:
            kept.append(point)
    return kept
