"""What a calibration has found, and what searches may promise by it: settings for a recall, and where there are none.

A promise is the lower end of a confidence interval for the mean over queries of the kind that was asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from spann.config import SearchParams, usual_rerank, whole
from spann.errors import FormatError, InputError
from spann.search.decision import SearchDecision

CENTROID_COST, POSTING_COST, ROW_COST = 0.05, 1.2, 0.45
"""Microseconds of a centroid's distance, with its share of what is then expected of postings, of a posting scored from
memory, and of a vector scored exactly, with its share of a read from disk: two threads with 8 queries in flight each.
Fitted to 54 settings, an index has 0.03 to 0.13 (1M SIFT, 10M), 1.0 to 1.6 (SIFT, sentence embeddings of 384
dimensions). While a posting cost 2 and a centroid nothing, settings that look at many postings to score a fifth of them
seemed the cheapest, which by these cost up to 1.6 times the least (docs/decisions/0011)."""

UNLIKE = 0.2
"""Difference from which on a warning is due. Between 1000 vectors and 200 queries of their kind 0.1 is chance; held-out
SIFT and sentences have 0.06 and 0.04."""

APART = 4.0
"""Settings are made of two measured ones where the worse misses at most so many times what the better does. Recalls
that settings are kept for are nearer to each other; farther apart there is a cliff between them, whose place is not
known, and the better one is taken."""

LIKE_MOST = 8192
"""Unlimited `max_postings`, where settings are compared."""

MOST_RERANK = 1 << 16
"""Candidates that a setting of a calibration keeps, at most: a megabyte or two for each query under way."""

USUAL = 0.99
"""The largest recall that is asked for in general."""

ENOUGH = 0.9985
"""Recall beyond which no more is wanted."""

NEARLY_ALL = 0.9999


def cost(centroids: float, postings: float, distances: float) -> float:
    """Microseconds of a query, roughly: distances of centroids, postings scored, vectors scored exactly."""
    return CENTROID_COST * centroids + POSTING_COST * postings + ROW_COST * distances


def setting(k: int, max_postings: int, epsilon2: float, error_bound: float, room: int) -> SearchParams:
    """Parameters of a search for `k` neighbours that keeps `room` times the usual number of candidates."""
    params = SearchParams(max_postings=max_postings, epsilon2=epsilon2, error_bound=error_bound)
    return params if room == 1 else params.with_(rerank=min(room * usual_rerank(k), MOST_RERANK))


@dataclass(frozen=True)
class Point:
    """A setting, the recall it had, and what it cost a query.

    - ``recall`` was measured, and ``low`` is the lower end of its confidence interval.
    - ``postings`` were scored, ``distances`` of vectors and of ``centroids`` computed, on average.
    - ``room``: candidates that are kept for re-ranking, as a multiple of the usual number.
    """

    max_postings: int
    epsilon2: float
    error_bound: float
    recall: float
    low: float
    postings: float
    distances: float
    centroids: float = 0.0
    room: int = 1

    @property
    def cost(self) -> float:
        return cost(self.centroids, self.postings, self.distances)

    def params(self, k: int) -> SearchParams:
        """The setting, for `k` neighbours."""
        return setting(k, self.max_postings, self.epsilon2, self.error_bound, self.room)


_COLUMNS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Points of rising recall and cost for each k of `curves`, measured with `queries` queries of `origin`: "base", the
    collection's own vectors, or "given", queries of the user's. `unlike`, 0 to 1, is how far the distances at which the
    nearest vectors of queries are expected are distributed otherwise than those of the collection (the largest
    difference of the two cumulative distributions, Kolmogorov and Smirnov's). `stale`
    says why they no longer hold, if so.
    """

    origin: str
    queries: int
    unlike: float
    curves: Mapping[int, Sequence[Point]]
    stale: str = ""

    @property
    def warning(self) -> str:
        """What is to be said of the queries; empty where they are like the collection."""
        if self.unlike < UNLIKE:
            return ""
        return (
            f"the queries are unlike the collection (their distances from postings differ by {self.unlike:.2f} of 1): "
            "settings hold only for such queries"
        )

    def most(self, k: int) -> float:
        """The largest recall that settings are known for, for `k` neighbours."""
        return min(self.curves[size][-1].low for size in self._around(k))

    def reaches(self, target: float, k: int) -> bool:
        """Whether settings for `target` are known."""
        return target <= self.most(k)

    def doubts(self, target: float, k: int) -> list[str]:
        """Why `target` may not be had for `k` neighbours: a sentence for each.

        Where the best setting may have that recall, but too few queries were asked to promise it, there is no doubt: of
        a few hundred vectors there are no more, and nearly all of them are looked at.
        """
        said = [self.stale] if self.stale else []
        size, best = min(((size, self.curves[size][-1]) for size in self._around(k)), key=lambda found: found[1].recall)
        if best.recall + (best.recall - best.low) < target:
            said.append(
                f"recall {target:g} for k {size} cannot be had: no setting was seen to have more than {best.recall:.3f}"
            )
        return said

    def all_doubts(self) -> list[str]:
        """Those of every k and the largest recall that is usual."""
        return list(dict.fromkeys(doubt for k in self.curves for doubt in self.doubts(USUAL, k)))

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
        """`FormatError` for anything that `to_json` does not make."""
        try:
            names = document["columns"]
            curves = {int(k): [_point(names, row) for row in rows] for k, rows in document["curves"].items()}
            about = document["origin"], document["queries"], float(document["unlike"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(f"calibration is damaged: {type(error).__name__} {error}") from None
        lows = [[point.low for point in points] for points in curves.values()]
        if not lows or not all(lows) or min(curves) < 1 or any(sorted(x) != x for x in lows):
            raise FormatError("calibration is damaged: each k needs points of rising recall")
        if about[0] not in ("base", "given") or not _whole(about[1]):
            raise FormatError(f"calibration is damaged: origin {about[0]!r}, queries {about[1]!r}")
        return cls(*about, dict(sorted(curves.items())), str(document.get("stale", "")))

    def choose(self, target: float, k: int, *, best: bool = False) -> SearchParams:
        """The cheapest setting whose lower confidence bound is at least `target`, for `k` neighbours.

        `InputError` for a target that no setting reached; with `best`, the best there is."""
        target, k = recall_target(target), whole(k, "k", 1)
        most = self.most(k)
        if target > most and not best:
            raise InputError(
                f"target_recall is {target}; the most that settings of this index were seen to reach for k {k} is "
                f"{most:.4f}: give max_postings and error_bound yourself"
            )
        below, above = self._around(k)
        high = _at(self.curves[above], target)
        if below == above:
            return _scaled(high, k, above) if k > above else high.params(k)
        share = (math.log(k) - math.log(below)) / (math.log(above) - math.log(below))
        return between(_at(self.curves[below], target), high, share).params(k)

    def near(self, decided: SearchDecision) -> Point:
        """The measured point whose setting is most like the one `decided`, of the k nearest to its k."""

        def apart(x: float, y: float) -> float:
            return abs(math.log(min(x, LIKE_MOST) / min(y, LIKE_MOST)))

        points = self.curves[min(self.curves, key=lambda known: apart(known, decided.k))]
        least = min(point.error_bound for point in points)
        postings, bound = decided.max_postings, max(decided.error_bound, least)
        return min(points, key=lambda p: apart(p.max_postings, postings) + apart(p.error_bound, bound))


def recall_target(value: Any) -> float:
    """`value`, of Python or numpy, as a recall that can be asked for; else an `InputError`."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < 1:
        raise InputError(f"target_recall is {value!r}; it must be a number between 0 and 1, both excluded")
    return float(value)


def neighbours(points: Sequence[Point], target: float) -> tuple[Point, Point]:
    """The points between which `target` is, the same one twice where it is below the first or beyond the last."""
    after = next((i for i, point in enumerate(points) if point.low >= target), len(points) - 1)
    below = after and points[after].low >= target
    return points[after - 1 if below else after], points[after]


def are_near(low: Point, high: Point) -> bool:
    """Whether settings may be made of the two."""
    return 1 - low.low <= APART * (1 - min(high.low, ENOUGH))


def between_recalls(low: Point, high: Point, target: float) -> Point:
    """What should have `target`, on the way from `low` to `high`: straight in the logarithm of what is missing."""
    missing = [math.log(1 - min(x, NEARLY_ALL)) for x in (low.low, target, high.low)]
    span = missing[0] - missing[2]
    return between(low, high, (missing[0] - missing[1]) / span if span > 0 else 1.0)


def _at(points: Sequence[Point], target: float) -> Point:
    low, high = neighbours(points, target)
    return between_recalls(low, high, target) if are_near(low, high) else high


def between(a: Point, b: Point, share: float) -> Point:
    """`share` of the way from `a` to `b`: settings geometrically, what they gave and cost linearly. Between a setting
    with a limit of distance and a setting without, there is none."""
    if share <= 0 or share >= 1:
        return a if share <= 0 else b

    def geometric(x: float, y: float) -> float:
        if math.isinf(x) or math.isinf(y):
            return math.inf
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
        max(a.room, b.room),
    )


def _scaled(point: Point, k: int, known: int) -> SearchParams:
    """For `k` neighbours, more than the `known` of the point: as many postings more, wherever they are."""
    return point.params(k).with_(max_postings=min(math.ceil(point.max_postings * k / known), 2**31), epsilon2=math.inf)


def _point(names: Sequence[str], row: Sequence[Any]) -> Point:
    given = dict(zip(names, row, strict=True))
    values = {name: math.inf if given[name] is None else float(given[name]) for name in _COLUMNS}
    postings, room = values.pop("max_postings"), values.pop("room")
    if not (1 <= postings <= 2**31 and postings == int(postings)) or values["error_bound"] <= 0:
        raise ValueError(f"max_postings {postings}, error_bound {values['error_bound']}")
    if not (1 <= room <= MOST_RERANK and room == int(room)):
        raise ValueError(f"room {room}")
    if not all(value >= 0 for value in values.values()) or not values["low"] <= 1:
        raise ValueError(f"a point of {row}")
    point = Point(int(postings), **values, room=int(room))
    point.params(1)
    return point


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _row(point: Point) -> list[float | int | None]:
    return [_short(getattr(point, column)) for column in _COLUMNS]


def _short(value: float) -> float | int | None:
    """Four digits, which is more than is known; null is infinity, which JSON has not."""
    if isinstance(value, int):
        return value
    return None if math.isinf(value) else float(f"{value:.4g}") if value < 0.9 else round(value, 5)
