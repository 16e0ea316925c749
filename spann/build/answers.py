"""Stage "truth": how far the nearest vectors of a calibration's queries are, part by part of the collection.

What is found in a part is kept in a file, so that a build goes on behind it. The parts' answers together are the whole
one's: `exact_search` is exact, and orders equal distances by row.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from spann.build.checkpoint import Checkpoint, Mark
from spann.build.temporary import RecordFile
from spann.storage import Where
from spann.tune import exact_search
from spann.tune.calibrate import FEW, KS, STAND_INS
from spann.types import Array, Metric, Progress
from spann.vectors import VectorSource

FILE = "truth"

PART_ROWS = 1 << 17
"""Vectors of a part, at least."""

MOST_PARTS = 8
"""What is found in each of them is kept."""

FOUND = np.dtype([("row", np.int64), ("distance", np.float32)])
"""A neighbour, of the parts' rows and in the unit of truth files."""

Kth = dict[int, NDArray[np.float64]]
"""For each k, distances (nq,) of the k-th neighbours of as many queries as that k takes, in the unit of results."""


def answers(
    vectors: VectorSource,
    queries: Array,
    own: NDArray[np.int64] | None,
    metric: Metric,
    threads: int,
    temporary: Where,
    checkpoint: Checkpoint | None,
    progress: Progress,
) -> Kth:
    """The exact distances of neighbours of `queries`, for each k of the calibration that there are vectors for, and
    those that stand in for k 1.

    `own` (nq,) are the rows of `vectors` that the queries are, where they are of these: they are not among their
    neighbours. The file is made in the directory `temporary`, or gone on with where the `checkpoint` knows it.
    """
    known = checkpoint.of("truth") if checkpoint else None
    if known and known["kth"]:
        return {int(k): np.array(distances) for k, distances in known["kth"].items()}
    state = known and known["found"]
    if known and known["parts"] != [PART_ROWS, MOST_PARTS]:  # what was found there is cut off
        state = {"count": 0, "crc": 0}
    kth: Kth = {}
    with RecordFile(temporary / FILE, FOUND, (), state) as file:
        parts = _Parts(vectors, metric, threads, file, checkpoint, progress)
        # Few neighbours of many queries, and many of few: two passes over all vectors. A third, for the 100 of a fifth
        # of the queries, takes longer than to look for those of all (10M SIFT: 23 s instead of 19).
        few = sorted({*STAND_INS, *(k for k in KS if k <= 100)})
        for ks, count in ((few, len(queries)), ([k for k in KS if k > 100], FEW // 2)):
            usable = [k for k in ks if k + (own is not None) <= vectors.count]
            if not usable:
                break
            rows, distances = parts.nearest(queries[:count], usable[-1] + (own is not None))
            unit = np.sqrt(distances, dtype=np.float64) if metric is Metric.L2 else distances.astype(np.float64)
            for k in usable:
                # Under ip a vector need not be among its own nearest.
                at = k - 1 if own is None else k - 1 + (rows[:, :k] == own[:count, None]).any(axis=1)
                enough = len(unit) if k <= 10 else min(len(unit), max(len(queries) // 5, FEW))
                kth[k] = unit[np.arange(len(unit)), at][:enough]
        if checkpoint:
            checkpoint.completed("truth", lambda: _mark(file, kth))
    return kth


def _mark(file: RecordFile, kth: Kth) -> Mark:
    return {
        "found": file.state(),
        "parts": [PART_ROWS, MOST_PARTS],
        "kth": {str(k): distances.tolist() for k, distances in kth.items()},
    }


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
    ) -> None:
        self._vectors, self._metric, self._threads = vectors, metric, threads
        self._file, self._checkpoint, self._progress = file, checkpoint, progress
        self._at = 0

    def nearest(self, queries: Array, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and distances of the k nearest, (nq, k)."""
        count = self._vectors.count
        bounds = np.linspace(0, count, min(MOST_PARTS, max(1, count // PART_ROWS)) + 1).astype(np.int64).tolist()
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
                self._checkpoint.reached("truth", lambda: _mark(self._file, {}))
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
