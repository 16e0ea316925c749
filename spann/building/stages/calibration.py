"""Stage "calibrate": measures on the index itself which settings give which recall (spann/measuring/calibration.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.stages.truth import SAME, Answers
from spann.measuring.calibration import FEW, MOST, Asked, calibrate
from spann.search import Engine
from spann.store.reader import IndexReader
from spann.types import Array, Metric, Progress
from spann.vectors import VectorSource, sample_rows

SEED = 20_241
"""Start of the choice of the vectors that are queries."""

PRUNE_RANK = 16
"""Rank of the posting whose distance `epsilon2` is relative to (ext/c/search/visits.c)."""

COMPARED = 1000
"""Vectors of the collection that queries are compared with."""


IdsOf = Callable[[NDArray[np.int64]], Array]
"""Ids of rows."""


@dataclass(frozen=True)
class Queries:
    """Queries of a calibration. If they are vectors of the collection, `rows` says which, and `ids_of` has the ids of
    rows."""

    vectors: Array
    rows: NDArray[np.int64] | None = None
    ids_of: IdsOf | None = None


def own_rows(count: int, queries: int) -> NDArray[np.int64]:
    """Which of `count` vectors of the collection are the `queries` of its calibration, ascending."""
    return sample_rows(count, min(queries, count), SEED)


def own_queries(vectors: VectorSource, ids_of: IdsOf, count: int) -> Queries:
    """Up to `count` of the `vectors`, all of the collection in any order; `ids_of` has the ids of its rows."""
    rows = own_rows(vectors.count, count)
    # The first of them serve every k, and rows that follow each other may be neighbours.
    rows = rows[np.random.Generator(np.random.PCG64(SEED)).permutation(len(rows))]
    return Queries(vectors.take(rows), rows, ids_of)


def calibrate_index(
    path: Path,
    vectors: VectorSource,
    queries: Queries,
    known: Answers,
    *,
    threads: int,
    memory_budget: int | str,
    progress: Progress,
) -> dict[str, Any] | None:
    """Calibrates the index at `path`, which has the `vectors`, with `queries` and their `known` neighbours.

    `memory_budget` is that of the search. Returns JSON for the attribute `calibration`, or None if there are too few
    vectors."""
    if not known.kth:
        return None
    reader = IndexReader.open(path)
    metric = Metric.parse(reader.attributes["metric"])
    if queries.ids_of is not None and queries.rows is not None and "centroids/ids" in reader.arrays():
        represent = np.isin(queries.ids_of(queries.rows[known.chosen]), reader.read("centroids/ids"))
        known = _without(known, represent)
    asked = queries.vectors[known.chosen]
    own_ids = None if queries.ids_of is None else _ids_of(known.own, queries.ids_of)
    engine = Engine(reader, memory_budget=memory_budget)
    try:
        reach = Reach(engine, asked[:FEW])
        unlike = 0.0
        if own_ids is None:
            some = vectors.take(sample_rows(vectors.count, min(COMPARED, vectors.count), SEED))
            unlike = _difference(reach.nearest, Reach(engine, some).nearest)
        found = calibrate(
            lambda q, k, params: engine.search(q, k, params, threads=threads, order="query"),
            Asked(
                asked,
                known.kth,
                own=own_ids,
                largest_first=metric is Metric.IP,
                noise=SAME if metric is Metric.COSINE else 0.0,
            ),
            reach=reach.of,
            unlike=unlike,
            postings=engine.arrays.own,
            entries=max(1.0, engine.arrays.entries),
            coded=engine.arrays.kind.is_reranked,
            progress=progress,
        )
    finally:
        engine.close()
    return found.to_json()


def _without(known: Answers, represent: NDArray[np.bool_]) -> Answers:
    """What is known of the queries that do not `represent` (chosen,) centroids.

    A query that is a centroid finds its neighbours in the first posting. One in seven is, where postings hold exact
    vectors, and no new query is. If hardly any others are there, all are asked.
    """
    others = ~represent
    if others.sum() < min(FEW, len(others) // 2):
        return known
    kth = {k: distances[others[: len(distances)]] for k, distances in known.kth.items()}
    return replace(known, chosen=known.chosen[others], own=known.own[others], kth=kth)


def _ids_of(rows: NDArray[np.int64], ids_of: IdsOf) -> NDArray[np.int64]:
    """Ids of `rows`, of any shape; -1 stays."""
    ids = np.full(rows.shape, -1, np.int64)
    ids[rows >= 0] = ids_of(rows[rows >= 0]).astype(np.int64)
    return ids


class Reach:
    """How many of the postings that some queries consider are within (1 + epsilon2) times the distance of the 16th
    nearest of these, by what is expected of them; ``nearest`` (nq,) is the distance of the nearest of all."""

    def __init__(self, engine: Engine, queries: Array) -> None:
        self._expected = engine.expected(queries, MOST)
        self.nearest = self._expected.min(axis=1)

    def of(self, max_postings: int, fill: float) -> float:
        """The epsilon2 at which the mean query has `fill` of `max_postings`, but more than the rank that it is relative
        to, below which the rule says nothing; infinity where it never has as many."""
        return self.at(max(fill * max_postings, 1.25 * PRUNE_RANK), max_postings)

    def at(self, wanted: float, max_postings: int) -> float:
        """The epsilon2 at which the mean query has `wanted` postings of the `max_postings` that it considers."""
        considered = self._expected[:, :max_postings]
        rank = np.minimum(PRUNE_RANK, np.isfinite(considered).sum(axis=1))  # empty postings are not among them
        some = min(PRUNE_RANK, considered.shape[1])
        smallest = np.sort(np.partition(considered, some - 1, axis=1)[:, :some], axis=1)
        own = smallest[np.arange(len(smallest)), np.maximum(rank, 1) - 1]
        with np.errstate(invalid="ignore"):  # where all are empty
            ratio = (considered / np.maximum(own, 1e-30)[:, None]).reshape(-1)
        place = round(wanted * len(considered))
        if place >= np.isfinite(ratio).sum():
            return float(np.inf)
        return float(f"{max(np.partition(ratio, place)[place] - 1, 1e-3):.4g}")


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The largest difference between the cumulative distributions of two samples."""
    at = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())
