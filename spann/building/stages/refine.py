"""Stage "refine": from the leaves of the tree to the cells of nearest centroids (Lloyd 1982), for postings of codes
without replicas.

A tree of splits parts what lies on either side of each of them: a third of the vectors of 1M SIFT, and nearly half of
10M, are nearer to the mean of another leaf. A query pays for that with postings, because its neighbours are not in the
postings of the nearest centroids. So every vector goes to the nearest centroid, and centroids become means again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from spann.building.centroids import Floats, around
from spann.building.checkpoint import Mark
from spann.building.job import Job
from spann.building.space import Space
from spann.building.stages.clusters import Clusters
from spann.building.stages.neighborhood import Neighborhoods
from spann.building.temporary import RecordFile
from spann.building.workspace import Workspace
from spann.types import Array

REACHED = 3
"""A group picks its candidates among so many times as many centroids, of the runs nearest to it (neighborhood.py)."""

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
        """The cells of the vectors at positions `start` to `stop` (exclusive), (stop - start,)."""
        cells: NDArray[np.int64] = self.number[self._found(start, stop)["centroid"]]
        return cells

    def sqdist(self, start: int, stop: int) -> Floats:
        """How far they were from it, (stop - start,), about."""
        sqdist: Floats = self._found(start, stop)["sqdist"]
        return sqdist

    def _found(self, start: int, stop: int) -> Array:
        return self.found.read(self.first + start, self.first + stop)


def refine(job: Job, work: Workspace, clusters: Clusters, held: NDArray[np.int64]) -> tuple[Clusters, Cells]:
    """The clusters with the means of their cells as centroids, and these cells. Resumes the pass under way.

    The vectors at positions `held` (n,), ascending, are in cells, but no mean counts them. The calibration asks for
    them, and a vector that has moved its centroid towards itself is found more easily than a query."""
    count, checkpoint, passes = clusters.vectors.count, work.checkpoint, job.sizes.refine_candidates
    found = work.records("cells", FOUND, state=checkpoint.part("refine", "cells"))  # pass after pass
    averaged = work.records("cell-means", np.float32, (job.space.dim,), state=checkpoint.part("refine", "means"))
    blocks = checkpoint.part("refine", "blocks") or 0  # of the pass that was under way
    used = 0  # means, by the passes before

    def mark() -> Mark:
        return {"cells": found.state(), "blocks": blocks, "means": averaged.state()}

    for first, candidates in zip(range(0, count * len(passes), count), passes, strict=True):
        if found.count < first + count:
            for nearest in _nearest(job, clusters, candidates, blocks):
                found.append(nearest)
                blocks = blocks + 1 if found.count < first + count else 0
                checkpoint.reached("refine", mark)
                job.report("refine", found.count, count * len(passes))
        end = used + len(clusters.centroids)
        cells = Cells(found, first, count, np.arange(end - used))
        if averaged.count < end:
            averaged.append(_means(job, clusters, cells, held))
            checkpoint.reached("refine", mark)
        clusters, cells = _recentred(job.space, clusters, cells, averaged.read(used, end))
        used = end
    checkpoint.completed("refine", mark)
    return clusters, cells


def _nearest(job: Job, clusters: Clusters, candidates: int, skip: int) -> Iterator[Array]:
    """For block after block of vectors, without the first `skip`, the nearest centroid of each (`FOUND`)."""
    near = Neighborhoods(job, clusters, candidates=candidates, reached=REACHED * candidates)

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

    return job.map(block, islice(near.blocks(), skip, None))


def _means(job: Job, clusters: Clusters, cells: Cells, held: NDArray[np.int64]) -> Floats:
    """The mean (centroids, space.dim) of each of the `cells`, `held` left out; a centroid without one stays."""
    vectors, space = clusters.vectors, job.space
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

    for which, sum_, found in job.map(one, range(0, vectors.count, block)):
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
