"""Stage "truth": how far the nearest vectors of a calibration's queries are, part by part of the collection.

What is found in a part is kept in a file, so that a build goes on behind it. The parts' answers together are the whole
one's: `exact_search` is exact, and orders equal distances by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.checkpoint import Checkpoint, Mark
from spann.building.sizes import Sizes
from spann.building.temporary import RecordFile
from spann.measuring.calibration import FEW, KS, STAND_INS
from spann.measuring.exact import exact_search
from spann.store.places import Where
from spann.types import Array, Metric, Progress
from spann.vectors import VectorSource

FILE = "truth"

MOST_PARTS = 8
"""What is found in each of them is kept."""

FOUND = np.dtype([("row", np.int64), ("distance", np.float32)])
"""A neighbour, of the parts' rows and in the unit of truth files."""

MOST_COPIES = 512
"""Copies of a query that are left out of its answers, itself among them. Of vectors that have more, queries are none:
whoever asks for such a vector finds it, and new ones are not like it."""

USUAL_COPIES = 64
"""The same where half of the queries have no more. A search for each number of copies made such a build take twice as
long with 512 (text repeated by Zipf's law), and no promise was better kept."""

SAME = 1e-12
"""1 - cos of vectors of one direction, at most."""


@dataclass(frozen=True)
class Answers:
    """What is known of the queries of a calibration.

    - ``chosen``: which of the queries are asked, for all k.
    - ``own`` (chosen, m): the rows of vectors that are copies of each, itself among them, -1 in the places left over;
      m is 0 where queries are not of the collection.
    - ``kth``: for each k, distances of the k-th neighbours that are no copies, in the unit of results, of as many of
      the chosen as that k takes.
    """

    chosen: NDArray[np.int64]
    own: NDArray[np.int64]
    kth: dict[int, NDArray[np.float64]]


def answers(
    vectors: VectorSource,
    queries: Array,
    own: NDArray[np.int64] | None,
    metric: Metric,
    *,
    threads: int,
    temporary: Where,
    checkpoint: Checkpoint | None,
    progress: Progress,
    part_rows: int = Sizes.truth_rows,
) -> Answers:
    """The exact distances of neighbours of `queries`, for each k of the calibration that there are vectors for, and
    those that stand in for k 1.

    `own` (nq,) are the rows of `vectors` that the queries are, where they are of these. A query that is asked later is
    no copy of another there, and neither it nor its copies are among its neighbours: a new query is no copy, and what
    is found because it is one says nothing of those. Where nearly all have too many copies, all are asked as they are,
    with copies among their neighbours. The file is made in the directory `temporary`, or continued if the `checkpoint`
    knows it.
    """
    known = checkpoint.of("truth") if checkpoint else None
    if known and known["answers"]:
        return _of_mark(known["answers"])
    state = known and known["found"]
    if known and known["parts"] != [part_rows, MOST_PARTS]:  # what was found there is cut off
        state = {"count": 0, "crc": 0}
    with RecordFile(temporary / FILE, FOUND, (), state) as file:
        parts = _Parts(vectors, metric, threads, file, checkpoint, progress, part_rows=part_rows)
        found = _answers(parts, vectors, queries, own, metric)
        if checkpoint:
            checkpoint.completed("truth", lambda: _mark(file, found, part_rows))
    return found


def _answers(
    parts: _Parts, vectors: VectorSource, queries: Array, own: NDArray[np.int64] | None, metric: Metric
) -> Answers:
    # Few neighbours of many queries, and many of few: two passes over all vectors. A third, for the 100 of a fifth of
    # the queries, takes longer than to look for those of all (10M SIFT: 23 s instead of 19).
    few = sorted({*STAND_INS, *(k for k in KS if k <= 100)})
    copies, same = np.empty((len(queries), 0), np.int64), 0
    if own is not None:
        copies, same = own[:, None], 1
    few = [k for k in few if k + same <= vectors.count]
    if not few:
        return Answers(np.arange(len(queries)), copies, {})
    rows, distances = parts.nearest(queries, few[-1] + same)
    chosen = np.arange(len(queries))
    if own is not None:
        while True:
            copies = _copies(vectors, queries, own, rows, distances, metric)
            found = (copies >= 0).sum(axis=1)
            most, limit = int(found.max()), min(MOST_COPIES, vectors.count - few[-1])
            if 2 * (found <= USUAL_COPIES).sum() >= len(found):  # the others are not asked
                most, limit = min(most, USUAL_COPIES), min(limit, USUAL_COPIES)
            if most <= same or same >= limit:
                break
            # There are copies, so lists must be longer; by how much shows only once all of them are in these.
            same = min(limit, most if most <= max(USUAL_COPIES, rows.shape[1] // 2) else 4 * rows.shape[1])
            rows, distances = parts.nearest(queries, few[-1] + same)
        # Under ip, copies of a query need not be among its nearest. Then they do no harm.
        first = np.unique(queries, axis=0, return_index=True)[1]
        first = first[np.unique(copies[first, 0], return_index=True)[1]]
        new = np.sort(first[(copies[first] >= 0).sum(axis=1) <= same])
        if len(new) >= min(FEW, len(queries) // 2):
            chosen = new
        else:
            copies, same = own[:, None], 1
    copies = copies[chosen]
    copies = copies[:, : int((copies >= 0).sum(axis=1).max(initial=0))]
    kth: dict[int, NDArray[np.float64]] = {}
    for k in few:
        enough = len(chosen) if k <= 10 else min(len(chosen), max(len(queries) // 5, FEW))
        kth[k] = _kth(rows[chosen], distances[chosen], copies, k, metric)[:enough]
    many = [k for k in KS if k > 100 and k + same <= vectors.count]
    if many:
        some = chosen[: FEW // 2]
        rows, distances = parts.nearest(queries[some], many[-1] + same)
        kth |= {k: _kth(rows, distances, copies[: len(some)], k, metric) for k in many}
    return Answers(chosen, copies, kth)


def _copies(
    vectors: VectorSource,
    queries: Array,
    own: NDArray[np.int64],
    rows: NDArray[np.int64],
    distances: NDArray[np.float32],
    metric: Metric,
) -> NDArray[np.int64]:
    """The copies of each query under the metric, among its neighbours (nq, m), ascending, with -1 behind them.
    `queries` are the rows `own` of the vectors, and a query is always a copy of itself."""
    if metric is Metric.IP:  # any product can be that of a vector with itself
        squares = np.square(queries, dtype=np.float64).sum(axis=1)
        alike = np.abs(distances - squares[:, None]) <= 1e-5 * squares[:, None]
        query, place = np.nonzero(alike & (rows >= 0))
        if len(query):
            wanted, at = np.unique(rows[query, place], return_inverse=True)
            alike[query, place] = (vectors.take(wanted)[at] == queries[query]).all(axis=1)
    else:
        alike = np.asarray(distances <= (SAME if metric is Metric.COSINE else 0))
    alike &= rows != own[:, None]
    width = int(alike.sum(axis=1).max()) + 1
    nothing = np.iinfo(np.int64).max
    listed = np.sort(np.where(alike, rows, nothing), axis=1)[:, : width - 1]
    every: NDArray[np.int64] = np.sort(np.column_stack([own, listed]), axis=1)
    every[every == nothing] = -1
    return every


def _kth(
    rows: NDArray[np.int64],
    distances: NDArray[np.float32],
    copies: NDArray[np.int64],
    k: int,
    metric: Metric,
) -> NDArray[np.float64]:
    """The distance (nq,) of the k-th of the neighbours (nq, m) that is no copy, in the unit of results."""
    counted = np.ones(rows.shape, bool)
    for place in range(copies.shape[1]):
        counted &= rows != copies[:, place, None]
    at = np.argmax(np.cumsum(counted, axis=1) == k, axis=1)  # the first place at which k are counted
    found: NDArray[np.float64] = distances[np.arange(len(rows)), at].astype(np.float64)
    if metric is Metric.L2:
        np.sqrt(found, out=found)
    return found


def _mark(file: RecordFile, found: Answers | None, part_rows: int) -> Mark:
    return {
        "found": file.state(),
        "parts": [part_rows, MOST_PARTS],
        "answers": found
        and {
            "chosen": found.chosen.tolist(),
            "own": [[row for row in some if row >= 0] for some in found.own.tolist()],
            "kth": {str(k): distances.tolist() for k, distances in found.kth.items()},
        },
    }


def _of_mark(about: Mapping[str, Any]) -> Answers:
    width = max(map(len, about["own"]), default=0)
    own = [[*some, *[-1] * (width - len(some))] for some in about["own"]]
    return Answers(
        np.array(about["chosen"], np.int64),
        np.array(own, np.int64).reshape(len(own), width),
        {int(k): np.array(distances) for k, distances in about["kth"].items()},
    )


class _Parts:
    """Searches the parts of `vectors`; what was found for queries and part after part lies in this order in `file`."""

    def __init__(
        self,
        vectors: VectorSource,
        metric: Metric,
        threads: int,
        file: RecordFile,
        checkpoint: Checkpoint | None,
        progress: Progress,
        *,
        part_rows: int,
    ) -> None:
        self._part_rows = part_rows
        self._vectors, self._metric, self._threads = vectors, metric, threads
        self._file, self._checkpoint, self._progress = file, checkpoint, progress
        self._at = 0

    def nearest(self, queries: Array, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and distances of the k nearest, (nq, k)."""
        count = self._vectors.count
        bounds = np.linspace(0, count, min(MOST_PARTS, max(1, count // self._part_rows)) + 1).astype(np.int64).tolist()
        found, within = None, None
        for start, stop in pairwise(bounds):
            part = self._part(queries, k, start, stop, within)
            found = part if found is None else np.concatenate([found, part], axis=1)
            distances = -found["distance"] if self._metric is Metric.IP else found["distance"]
            order = np.lexsort((found["row"], distances), axis=1)[:, :k]
            found = np.take_along_axis(found, order, axis=1)
            within = found["distance"][:, -1] if found.shape[1] == k else None
        assert found is not None
        return found["row"], found["distance"]

    def _part(
        self, queries: Array, k: int, start: int, stop: int, within: NDArray[np.float32] | None
    ) -> NDArray[np.void]:
        shape = len(queries), min(k, stop - start)
        first, self._at = self._at, self._at + shape[0] * shape[1]
        if self._file.count < self._at:
            rows, distances = exact_search(
                _Part(self._vectors, start, stop),
                queries,
                shape[1],
                self._metric,
                threads=self._threads,
                within=within,
                progress=lambda stage, done, total: self._progress("truth", start + done, self._vectors.count),
            )
            found = np.empty(shape, FOUND)
            found["row"], found["distance"] = np.where(rows < 0, rows, start + rows), distances
            self._file.append(found.reshape(-1))
            if self._checkpoint:
                self._checkpoint.reached("truth", lambda: _mark(self._file, None, self._part_rows))
        return self._file.read(first, self._at).reshape(shape)


class _Part(VectorSource):
    """Rows `start` to `stop` (exclusive) of another source."""

    def __init__(self, whole: VectorSource, start: int, stop: int) -> None:
        super().__init__(whole.name, stop - start, whole.dim, whole.dtype, whole.element)
        self._whole, self._start = whole, start

    def _read(self, start: int, stop: int) -> Array:
        return self._whole.read(self._start + start, self._start + stop)

    def _take(self, rows: NDArray[np.int64]) -> Array:
        return self._whole.take(self._start + rows)
