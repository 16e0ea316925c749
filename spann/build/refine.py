"""Stage "refine": from the leaves of the tree to the cells of nearest centroids (Lloyd 1982), for postings of codes
without replicas.

A tree of splits parts what lies on either side of each of them: a third of the vectors of 1M SIFT, and nearly half of
10M, are nearer to another leaf's mean than to their own's. A query pays for that with postings, for what it looks for
is not where its nearest centroids are. So every vector goes to the nearest centroid, and centroids become means again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spann.build.centroids import around
from spann.build.checkpoint import Checkpoint, Mark
from spann.build.cluster import Clusters
from spann.build.neighborhood import Neighborhoods
from spann.build.parallel import ordered_map
from spann.build.space import Space
from spann.build.temporary import RecordFile
from spann.types import Progress

CANDIDATES = (256, 1024)
"""Centroids that the vectors of a group are compared with, in each pass. On 10M SIFT these hold the nearest of 90 % and
98 % of the vectors, to begin with; 1024 in both passes end with the same recall, and take a third longer."""

REACHED = 3
"""Times as many centroids, of the runs nearest to a group, are those out of which it picks its candidates
(neighborhood.py)."""

BLOCK_BYTES = 8 << 20
"""Working vectors that one thread sums up at a time."""


class Cells:
    """The number of each vector's nearest centroid, by position: a temporary file under `directory`.

    It keeps those of all passes, so that a build goes on within one; centroids that are no more are read as those
    that they have become equal to."""

    def __init__(self, directory: Path, count: int, mark: Mark | None) -> None:
        self.count = count
        self._file = RecordFile(directory / "cells", np.dtype(np.uint32), (), mark and mark["cells"])
        self._blocks: int = mark["blocks"] if mark else 0
        self._pass = 0
        self._number = np.empty(0, np.int64)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Of the vectors at positions `start` to `stop` (exclusive), (stop - start,)."""
        before = (self._pass - 1) * self.count
        cells: NDArray[np.int64] = self._number[self._file.read(before + start, before + stop)]
        return cells

    def find(
        self, space: Space, clusters: Clusters, threads: int, checkpoint: Checkpoint, report: Callable[[int], None]
    ) -> None:
        """The next pass: compares all vectors with the centroids of `clusters`, but those of which it is known."""
        self._number = np.arange(len(clusters.centroids))
        self._pass += 1
        if self._file.count >= self._pass * self.count:
            report(self._file.count)
            return
        candidates = CANDIDATES[self._pass - 1]
        near = Neighborhoods(space, clusters, candidates=candidates, reached=REACHED * candidates)

        def block(groups: tuple[int, int]) -> NDArray[np.int64]:
            return np.concatenate(
                [group.centroids[np.argmin(group.x @ group.lifted.T, axis=1)] for group in near.groups(groups)]
            )

        for found in ordered_map(block, islice(near.blocks(), self._blocks, None), threads):
            self._file.append(found.astype(np.uint32))
            self._blocks += 1
            if self._file.count == self._pass * self.count:
                self._blocks = 0
            checkpoint.reached("refine", self.state)
            report(self._file.count)

    def renumber(self, number: NDArray[np.int64]) -> None:
        """Says which centroid each of the last pass has become."""
        self._number = number

    def state(self) -> Mark:
        """Makes all durable; what it takes to go on from here."""
        return {"cells": self._file.state(), "blocks": self._blocks}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


def refine(
    space: Space,
    clusters: Clusters,
    cells: Cells,
    held: NDArray[np.int64],
    threads: int,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Clusters:
    """Finds all `cells`; the clusters with the means of these as centroids. Goes on after what is there.

    Those at positions `held` (n,), ascending, are in cells, but no mean counts them: the calibration asks for them, and
    a vector that has moved its centroid towards itself is found more easily than a query."""
    total = len(CANDIDATES) * cells.count
    for _ in CANDIDATES:
        cells.find(space, clusters, threads, checkpoint, lambda done: progress("refine", done, total))
        clusters = _recentred(space, clusters, cells, held, threads)
    checkpoint.completed("refine", cells.state)
    return clusters


def _recentred(space: Space, clusters: Clusters, cells: Cells, held: NDArray[np.int64], threads: int) -> Clusters:
    """`clusters` with the mean of each of the `cells`, `held` left out, as its centroid; one that has none stays."""
    vectors = clusters.vectors
    block = max(1, BLOCK_BYTES // (4 * space.dim))
    sums = np.zeros((len(clusters.centroids), space.dim))
    counts = np.zeros(len(sums), np.int64)

    def one(start: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        stop = min(start + block, vectors.count)
        label, counted = cells.read(start, stop), np.ones(stop - start, bool)
        counted[held[slice(*np.searchsorted(held, (start, stop)))] - start] = False
        order = np.argsort(label, kind="stable")
        order = order[counted[order]]
        which, first, found = np.unique(label[order], return_index=True, return_counts=True)
        x = space.map(vectors.read(start, stop))[order]
        return which, np.add.reduceat(x, first, axis=0, dtype=np.float64) if len(x) else sums[:0], found

    for which, sum_, found in ordered_map(one, range(0, vectors.count, block), threads):
        sums[which] += sum_
        counts[which] += found
    empty = counts == 0
    sums /= np.maximum(counts, 1)[:, None]
    means = sums.astype(np.float32)
    means[empty] = clusters.centroids.working(np.flatnonzero(empty))
    centroids, keep, number = around(means, space, vectors.dtype)
    cells.renumber(number)
    # Runs of neighbours lose the centroids that have become equal to others.
    run_end = np.unique(np.searchsorted(keep, clusters.run_end))
    return replace(clusters, centroids=centroids, run_end=run_end[run_end > 0])
