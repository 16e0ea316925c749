"""From a recall that is wanted to the cheapest setting that gives it: measured once, on queries whose answer is known.

Effort has three knobs: how many postings a query may score (`max_postings`), how far they may be (`epsilon2`, by which
easy queries read less than hard ones), and how much error of the codes re-ranking covers (`error_bound`). Recall is
near the product of two shares: of the neighbours that lie in a posting that is scored, and of those that then survive
re-ranking. So the first two knobs are measured together, with the third wide open, as one ladder of effort; the third
is measured at one rung; and the settings that the product promises for each recall, at least cost, are measured again
and kept, with the lower end of a confidence interval. What is between them is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams
from spann.errors import FormatError, InputError
from spann.tune.recall import TIE
from spann.types import Array, Progress, SearchResult

KS = (1, 10, 100, 1000)
"""Neighbours wanted for which settings are measured; for others they are interpolated."""

STAND_INS = (1, 2)
"""For k 1 each query that is a vector of the collection is asked twice: whether it finds its second neighbour is what
one would be told whose first is not there. A neighbour is found or not, so 1000 queries asked once could promise 0.99
only where 0.996 is had; the two answers are all but independent (worth 1.9 times as many queries at recall 0.95 and
above; 1M SIFT, sentence embeddings, clusters). The second is a little harder to find than the nearest, of which vectors
of a collection have more near duplicates than its queries: where queries of SIFT have recall 0.950, 0.976 and 0.994,
its own vectors have 0.955, 0.983 and 0.993, by the two 0.948, 0.979 and 0.993. With a third it is 0.942, 0.976 and
0.992, for settings up to 8 % dearer. (Of the first wave of re-ranking the second has a place more, which only matters
where the error bound is small.) Queries of the user's say themselves how near their nearest are."""

FEW = 200
"""Queries that a calibration has at least. For k up to 10 it asks all, for 100 a fifth, for an average over so many
neighbours varies less, and for 1000 half of this."""

RECALLS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.997)
"""Recalls that settings are kept for, as far as they are reached."""

CONFIDENCE = 1.645
"""Standard errors below the mean: one in twenty calibrations promises more than queries of the kind then have."""

EASIER = 1.05
"""Queries miss so many times what vectors of the collection miss, of which each lies where its cell was made: 1.02 to
1.09 for the same settings (sentence embeddings, clusters, SIFT), though none of those asked for has moved its centroid
(spann/build/refine.py)."""

FILLS = (0.4, 0.55)
"""Shares of `max_postings` that the mean query scores: `epsilon2` is set so. SIFT is 6 % cheaper with 0.55 at recalls
from 0.98 on, clusters 10 % with 0.4 at 0.95; 0.3 and 0.75 are nowhere the cheapest by more than 2 %. Without codes the
last one only."""

FIRST, STEP, MOST = 6, 1.7, 8192
"""`max_postings` of the first rung, from one rung to the next, and at most."""

WIDE = 3.0
BOUNDS = (0.15, 0.4, 0.7, 1.0, 1.5, 2.0, WIDE)
"""`error_bound`s tried."""

CENTROID_COST, POSTING_COST, ROW_COST = 0.05, 1.2, 0.45
"""Microseconds of a centroid's distance, with its share of what is then expected of postings, of a posting scored from
memory, and of a vector scored exactly, with its share of a read from disk: two threads with 8 queries in flight each.
Fitted to 54 settings, an index has 0.03 to 0.13 (1M SIFT, 10M), 1.0 to 1.6 (SIFT, sentence embeddings of 384
dimensions). While a posting cost 2 and a centroid nothing, settings that look at many postings to score a fifth of
them seemed the cheapest, which by these cost up to 1.6 times the least."""

ROUGHLY = 100
"""Queries by which settings are chosen for k up to 10, at least; half as many for larger."""

UNLIKE = 0.2
"""Difference from which on a warning is due. Between 1000 vectors and 200 queries of their kind 0.1 is chance; held-out
SIFT and sentences have 0.06 and 0.04."""

ENOUGH = 0.9985
"""Recall at which the ladder ends."""

NEARLY_ALL = 0.9999

Search = Callable[[Array, int, SearchParams], SearchResult]
Reach = Callable[[int, float], float]
"""From `max_postings` and the share of it that the mean query is to score to `epsilon2`."""


def cost(centroids: float, postings: float, distances: float) -> float:
    """Microseconds of a query, roughly: distances of centroids, postings scored, vectors scored exactly."""
    return CENTROID_COST * centroids + POSTING_COST * postings + ROW_COST * distances


@dataclass(frozen=True)
class Point:
    """A setting, the recall it had, and what it cost a query: postings scored, vectors scored exactly, distances of
    centroids (not known of older indexes)."""

    max_postings: int
    epsilon2: float
    error_bound: float
    recall: float
    low: float
    postings: float
    distances: float
    centroids: float = 0.0

    @property
    def cost(self) -> float:
        return cost(self.centroids, self.postings, self.distances)

    def params(self) -> SearchParams:
        return SearchParams(max_postings=self.max_postings, epsilon2=self.epsilon2, error_bound=self.error_bound)


_COLUMNS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Points of rising recall and cost for each k of `curves`, measured with `queries` queries of `origin`: "base", the
    collection's own vectors, or "given", queries of the user's. `unlike`, 0 to 1, is how far the distances at which the
    nearest vectors of queries are expected are distributed otherwise than those of the collection (the largest
    difference of the two cumulative distributions, Kolmogorov and Smirnov's).
    """

    origin: str
    queries: int
    unlike: float
    curves: Mapping[int, Sequence[Point]]

    @property
    def warning(self) -> str:
        """What is to be said of the queries; empty where they are like the collection."""
        if self.unlike < UNLIKE:
            return ""
        return (
            f"the queries are unlike the collection (their distances from postings differ by {self.unlike:.2f} of 1): "
            "settings hold only for such queries"
        )

    def reaches(self, target: float, k: int) -> bool:
        """Whether settings for `target` are known."""
        return target <= min(self.curves[size][-1].low for size in self._around(k))

    def _around(self, k: int) -> tuple[int, int]:
        """The sizes, of those that are known, between which settings for `k` are interpolated."""
        known = sorted(self.curves)
        above = next((x for x in known if x >= k), known[-1])
        return max((x for x in known if x <= k), default=above), above

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "origin": self.origin,
            "queries": self.queries,
            "unlike": round(self.unlike, 4),
            "columns": list(_COLUMNS),
            "curves": {str(k): [_row(point) for point in points] for k, points in self.curves.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        """Of what the manifest keeps, a table of numbers (docs/FORMAT.md); `FormatError` where they cannot be."""
        names = document["columns"]

        def point(row: Sequence[Any]) -> Point:
            values: dict[str, Any] = {name: math.inf if x is None else x for name, x in zip(names, row, strict=True)}
            try:
                found = Point(**{column: value for column, value in values.items() if column in _COLUMNS})
            except TypeError:
                raise FormatError(
                    f"the calibration has the columns {', '.join(names)[:200]}; some are missing"
                ) from None
            shares = 0 <= found.recall <= 1 and 0 <= found.low <= 1
            whole = type(found.max_postings) is int and 1 <= found.max_postings < 1 << 32
            settings = found.epsilon2 >= 0 and 0 <= found.error_bound < 1e6
            costs = all(0 <= x < 1e12 for x in (found.postings, found.distances, found.centroids))
            if not (shares and whole and settings and costs):
                raise FormatError("the calibration has a setting that cannot be")
            return found

        curves = {int(k): [point(row) for row in rows] for k, rows in document["curves"].items()}
        return cls(document["origin"], document["queries"], document["unlike"], dict(sorted(curves.items())))

    def choose(self, target: float, k: int, *, best: bool = False) -> SearchParams:
        """The cheapest setting whose lower confidence bound is at least `target`, for `k` neighbours.

        `InputError` for a target that no setting reached; with `best`, the best there is."""
        if not 0 < target < 1:
            raise InputError(f"target_recall is {target!r}; it must be between 0 and 1, both excluded")
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}; it must be a whole number of at least 1")
        if best:
            target = min(target, *(points[-1].low for points in self.curves.values()))
        below, above = self._around(k)
        high = self._at(target, above)
        if below == above:
            return _scaled(high, k / above) if k > above else high.params()
        share = (math.log(k) - math.log(below)) / (math.log(above) - math.log(below))
        return _between(self._at(target, below), high, share).params()

    def near(self, params: SearchParams, k: int) -> Point:
        """The measured point whose setting is most like `params`, of the k nearest to `k`."""

        def apart(x: float, y: float) -> float:
            return abs(math.log(min(x, MOST) / min(y, MOST)))

        points = self.curves[min(self.curves, key=lambda known: apart(known, k))]
        postings, bound = params.max_postings or MOST, max(params.error_bound, BOUNDS[0])
        return min(points, key=lambda p: apart(p.max_postings, postings) + apart(p.error_bound, bound))

    def _at(self, target: float, k: int) -> Point:
        points = self.curves[k]
        if target > points[-1].low:
            raise InputError(
                f"target_recall is {target}; the most that settings of this index were seen to reach for k {k} is "
                f"{points[-1].low:.4f}: give max_postings and error_bound yourself"
            )
        after = next(i for i, p in enumerate(points) if p.low >= target)
        if after == 0:
            return points[0]
        low, high = points[after - 1], points[after]
        missing = [math.log(1 - min(x, NEARLY_ALL)) for x in (low.low, target, high.low)]
        span = missing[0] - missing[2]
        return _between(low, high, (missing[0] - missing[1]) / span if span > 0 else 1.0)


@dataclass(frozen=True)
class Asked:
    """Queries whose answers are known.

    - ``vectors`` (nq, dim); ``kth``: for each k of `KS` and of `STAND_INS` that there is, the distance of the k-th
      neighbour, in the unit of results, (nq,), or fewer where the first queries are enough.
    - ``own`` (nq,): the ids of queries that are vectors of the collection; neither they nor the distances count them.
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

    `reach` gives the `epsilon2` for so many postings and a share of them; `unlike` is kept (`Calibration`); `postings`
    is how many the index has, of `entries` on average, `coded` whether they hold codes. Results and counters of a
    search do not depend on threads, so neither does what is found here.
    """
    report = progress or (lambda stage, done, total: None)
    sweep = _Sweep(search, asked, reach, postings)
    curves = {}
    ks = [k for k in KS if k in asked.kth]
    for number, k in enumerate(ks, 1):
        # A search that finds fewer than k vectors begins again with more postings, which is a setting of its own.
        first = max(FIRST, math.ceil(2 * k / entries))
        ladders = {fill: _ladder(sweep, k, first, fill, coded) for fill in (FILLS if coded else FILLS[-1:])}
        # With codes the rungs are measured with too few queries to promise anything.
        curves[k] = _frontier(_promised(sweep, k, ladders) if coded else ladders[FILLS[-1]])
        report("calibrate", number, len(ks))
    return Calibration("given" if asked.own is None else "base", len(asked.vectors), unlike, curves)


class _Sweep:
    """Measures a setting on the queries that are enough for k."""

    def __init__(self, search: Search, asked: Asked, reach: Reach, postings: int) -> None:
        self._search, self._asked, self.reach, self.postings = search, asked, reach, postings
        self.measure = cache(self._measure)  # the first rungs of all ladders are the same

    def _measure(self, k: int, max_postings: int, epsilon2: float, error_bound: float, *, rough: bool = False) -> Point:
        """The point of a setting; `rough` with fewer queries, where it is to choose settings by."""
        ks = [k]
        if k == 1 and self._asked.own is not None:
            ks = [j for j in STAND_INS if j in self._asked.kth]
        count = len(self._asked.kth[k])
        if rough:
            count = min(count, max(count // (6 if k == 1 else 3) // len(ks), ROUGHLY if k <= 10 else ROUGHLY // 2))
        params = SearchParams(max_postings=max_postings, epsilon2=epsilon2, error_bound=error_bound)
        stats, found = self._search_for(k, count, params)
        recall = found.sum(axis=1) / k
        if len(ks) > 1:
            others = [self._search_for(j, count, params, last=True)[1].any(axis=1) for j in ks[1:]]
            recall = np.mean([recall, *others], axis=0)
        mean = float(recall.mean())
        low = _lower(mean, float(recall.var()), count, count * (len(ks) if k == 1 else k))
        return Point(
            max_postings,
            epsilon2,
            error_bound,
            mean,
            low if self._asked.own is None else max(0.0, 1 - EASIER * (1 - low)),
            float(stats["postings_scored"].mean()),
            float(stats["distances"].mean()),
            float(stats["centroid_distances"].mean()),
        )

    def _search_for(
        self, k: int, count: int, params: SearchParams, *, last: bool = False
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Counters of a search for the `k` neighbours of the first `count` queries, and which of its results are among
        these, at most k of a query (count, k or k + 1); or, with `last`, which are the last of them."""
        asked, sign = self._asked, -1.0 if self._asked.largest_first else 1.0
        found = self._search(asked.vectors[:count], k + (asked.own is not None), params)
        distances = sign * found.distances.astype(np.float64)
        limit = sign * asked.kth[k][:count, None]
        near = TIE * np.abs(limit) + asked.noise
        within = (found.ids >= 0) & (distances <= limit + near)
        if last:
            within &= distances >= limit - near
        if asked.own is not None:
            within &= found.ids != asked.own[:count, None]
        return found.stats, within & (np.cumsum(within, axis=1) <= k)


def _lower(mean: float, variance: float, count: int, answers: int) -> float:
    """Lower end of the confidence interval of a share, measured as the mean of `count` shares of `answers` in all:
    Wilson's (1927), with as many trials as a share of this variance is worth, and as there are answers where none was
    otherwise. Close to 1 it holds where the mean less so many standard errors does not: of 333 answers of which none
    fails, 8 in a thousand may."""
    trials = count * max(1.0, mean * (1 - mean) / variance) if variance > 0 else float(answers)
    z = CONFIDENCE**2 / trials
    spread = math.sqrt(z * mean * (1 - mean) + z * z / 4)
    return (mean + z / 2 - spread) / (1 + z)


def _ladder(sweep: _Sweep, k: int, first: int, fill: float, coded: bool) -> list[Point]:
    """Points of rising effort, from `first` postings on, of which `fill` are scored, re-ranking all that may be a
    neighbour. With codes, others are chosen by them, and measured better."""
    rungs: list[Point] = []
    wanted = float(first)
    while True:
        count = min(round(wanted), sweep.postings)
        rungs.append(sweep.measure(k, count, sweep.reach(count, fill), WIDE, rough=coded))
        if rungs[-1].recall >= ENOUGH:
            return rungs
        if count >= min(sweep.postings, MOST):
            return [*rungs, sweep.measure(k, count, math.inf, WIDE)]
        wanted *= STEP


def _promised(sweep: _Sweep, k: int, ladders: Mapping[float, list[Point]]) -> list[Point]:
    """For each of `RECALLS` the setting that should reach it at least cost, measured, and the last rung."""
    rungs = ladders[FILLS[-1]]
    middle = min(rungs, key=lambda p: abs(p.recall - 0.95))
    # Roughly would not do: what a bound loses may be less than a hundredth, and matters from 0.98 on.
    tried = [sweep.measure(k, middle.max_postings, middle.epsilon2, bound) for bound in BOUNDS]
    most = tried[-1].recall
    survive = {p.error_bound: (p.recall / most if most else 1.0, p.distances) for p in tried}
    out = []
    for target in RECALLS:
        options = []
        for (fill, ladder), (bound, (share, distances)) in product(ladders.items(), survive.items()):
            if target / max(share, 1e-9) <= ladder[-1].recall:
                rung = _reaching(ladder, target / share)
                options.append((cost(rung.centroids, rung.postings, distances), rung.max_postings, fill, bound))
        if options:
            _, postings, fill, bound = min(options)
            out.append(sweep.measure(k, postings, sweep.reach(postings, fill), bound))
    last = rungs[-1]
    return [*out, sweep.measure(k, last.max_postings, last.epsilon2, last.error_bound)]


def _reaching(rungs: list[Point], recall: float) -> Point:
    """Where the ladder reaches `recall`, between its rungs."""
    after = next(i for i, p in enumerate(rungs) if p.recall >= recall)
    if after == 0:
        return rungs[0]
    low, high = rungs[after - 1], rungs[after]
    logs = [math.log(1 - min(x, NEARLY_ALL)) for x in (low.recall, recall, high.recall)]
    return _between(low, high, (logs[0] - logs[1]) / (logs[0] - logs[2]) if logs[0] > logs[2] else 1.0)


def _frontier(points: list[Point]) -> list[Point]:
    """Those that no other one beats in both recall and cost, by rising cost."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.low)):
        if not kept or point.low > kept[-1].low:
            kept.append(point)
    return kept


def _between(a: Point, b: Point, share: float) -> Point:
    """`share` of the way from `a` to `b`: settings geometrically, what they gave and cost linearly."""

    def geometric(x: float, y: float) -> float:
        if math.isinf(x) or math.isinf(y):
            return y if share > 0 else x
        return float(math.exp((1 - share) * math.log(x) + share * math.log(y)))

    def linear(x: float, y: float) -> float:
        return (1 - share) * x + share * y

    return Point(
        math.ceil(geometric(a.max_postings, b.max_postings) - 1e-9),
        geometric(a.epsilon2, b.epsilon2),
        geometric(a.error_bound, b.error_bound),
        linear(a.recall, b.recall),
        linear(a.low, b.low),
        linear(a.postings, b.postings),
        linear(a.distances, b.distances),
        linear(a.centroids, b.centroids),
    )


def _scaled(point: Point, factor: float) -> SearchParams:
    """For more neighbours than were measured: as many postings more, wherever they are."""
    return point.params().with_(max_postings=min(math.ceil(point.max_postings * factor), 2**31), epsilon2=math.inf)


def _row(point: Point) -> list[float | int | None]:
    return [_short(getattr(point, column)) for column in _COLUMNS]


def _short(value: float) -> float | int | None:
    """Four digits, which is more than is known; null is infinity, which JSON has not."""
    if isinstance(value, int):
        return value
    return None if math.isinf(value) else float(f"{value:.4g}") if value < 0.9 else round(value, 5)
