"""Stage "refine": from the leaves of the tree to the cells of nearest centroids (Lloyd 1982), for postings of codes
without replicas.

A tree of splits parts what lies on either side of each of them: a third of the vectors of 1M SIFT, and nearly half of
10M, are nearer to another leaf's mean than to their own's. A query pays for that with postings, for what it looks for
is not where its nearest centroids are. So every vector goes to the nearest centroid, and centroids become means again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from spann.building.centroids import Floats, around
from spann.building.checkpoint import Checkpoint, Mark
from spann.building.parallel import ordered_map
from spann.building.space import Space
from spann.building.stages.clusters import Clusters
from spann.building.stages.neighborhood import Neighborhoods
from spann.building.temporary import RecordFile
from spann.types import Array, Progress

CANDIDATES = (256, 1024)
"""Centroids that the vectors of a group are compared with, in each pass. On 10M SIFT these hold the nearest of 90 % and
98 % of the vectors, to begin with; 1024 in both passes end with the same recall, and take a third longer."""

REACHED = 3
"""Times as many centroids, of the runs nearest to a group, are those out of which it picks its candidates
(neighborhood.py)."""

BLOCK_BYTES = 8 << 20
"""Working vectors that one thread sums up at a time."""


FOUND = np.dtype([("centroid", "<u4"), ("sqdist", "<f4")])
"""What a pass finds for a vector: its nearest centroid, and how far that was before it became the mean of its cell."""


@dataclass(frozen=True)
class Cells:
    """The nearest centroid of each of `count` vectors, by position: as they were numbered when it was found, in `found`
    from record `first` on; centroid i has the number ``number[i]`` now, for some have become equal."""

    found: RecordFile
    first: int
    count: int
    number: NDArray[np.int64]

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Of the vectors at positions `start` to `stop` (exclusive), (stop - start,)."""
        cells: NDArray[np.int64] = self.number[self._found(start, stop)["centroid"]]
        return cells

    def sqdist(self, start: int, stop: int) -> Floats:
        """How far they were from it, (stop - start,), about."""
        sqdist: Floats = self._found(start, stop)["sqdist"]
        return sqdist

    def _found(self, start: int, stop: int) -> Array:
        return self.found.read(self.first + start, self.first + stop)


def refine(
    space: Space,
    clusters: Clusters,
    found: RecordFile,
    averaged: RecordFile,
    held: NDArray[np.int64],
    threads: int,
    checkpoint: Checkpoint,
    progress: Progress,
) -> tuple[Clusters, Cells]:
    """The clusters with the means of their cells as centroids, and these cells; goes on after what is in `found`
    (`FOUND`), which keeps the nearest centroids of each pass, and `averaged` (space.dim of float32), their means.

    Those at positions `held` (n,), ascending, are in cells, but no mean counts them: the calibration asks for them, and
    a vector that has moved its centroid towards itself is found more easily than a query."""
    count = clusters.vectors.count
    blocks = checkpoint.part("refine", "blocks") or 0  # of the pass that was under way
    used = 0  # means, by the passes before

    def mark() -> Mark:
        return {"cells": found.state(), "blocks": blocks, "means": averaged.state()}

    for first, candidates in zip(range(0, count * len(CANDIDATES), count), CANDIDATES, strict=True):
        if found.count < first + count:
            for nearest in _nearest(space, clusters, candidates, blocks, threads):
                found.append(nearest)
                blocks = blocks + 1 if found.count < first + count else 0
                checkpoint.reached("refine", mark)
                progress("refine", found.count, count * len(CANDIDATES))
        end = used + len(clusters.centroids)
        cells = Cells(found, first, count, np.arange(end - used))
        if averaged.count < end:
            averaged.append(_means(space, clusters, cells, held, threads))
            checkpoint.reached("refine", mark)
        clusters, cells = _recentred(space, clusters, cells, averaged.read(used, end))
        used = end
    checkpoint.completed("refine", mark)
    return clusters, cells


def _nearest(space: Space, clusters: Clusters, candidates: int, skip: int, threads: int) -> Iterator[Array]:
    """For block after block of vectors, without the first `skip`, the nearest centroid of each (`FOUND`)."""
    near = Neighborhoods(space, clusters, candidates=candidates, reached=REACHED * candidates)

    def block(groups: tuple[int, int]) -> Array:
        parts = []
        for group in near.groups(groups):
            sqdist = group.x @ group.lifted.T
            nearest = np.argmin(sqdist, axis=1)
            part = np.empty(len(nearest), FOUND)
            part["centroid"] = group.centroids[nearest]
            part["sqdist"] = np.maximum(sqdist[np.arange(len(nearest)), nearest], 0)
            parts.append(part)
        return np.concatenate(parts)

    return ordered_map(block, islice(near.blocks(), skip, None), threads)


def _means(space: Space, clusters: Clusters, cells: Cells, held: NDArray[np.int64], threads: int) -> Floats:
    """The mean (centroids, space.dim) of each of the `cells`, `held` left out; a centroid without one stays."""
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
    means: Floats = sums.astype(np.float32)
    means[empty] = clusters.centroids.working(np.flatnonzero(empty))
    return means


def _recentred(space: Space, clusters: Clusters, cells: Cells, means: Floats) -> tuple[Clusters, Cells]:
    """`clusters` with `means` as centroids, and the cells by their numbers then."""
    centroids, keep, number = around(means, space, clusters.vectors.dtype)
    # Runs of neighbours lose the centroids that have become equal to others.
    run_end = np.unique(np.searchsorted(keep, clusters.run_end))
    clusters = replace(clusters, centroids=centroids, run_end=run_end[run_end > 0])
    return clusters, replace(cells, number=number)
