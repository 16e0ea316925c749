"""Which centroids the vectors of a neighbourhood are compared with, when all vectors are compared with the nearest.

Candidates come from the tree, not from a graph search per vector. Vectors of a group (small subtrees) share one set of
candidate centroids: those nearest to the group's mean, found among the runs of centroids, neighbours in the tree, that
are nearest to a block of groups. One matrix product then gives all distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.building.job import Job
from spann.building.stages.clusters import GROUP_ROWS, Clusters

PIECE_ROWS = 1024
"""Rows of a group that are compared at a time: one of copies, which no split can part, may have tens of thousands."""

RUN_CENTROIDS = 16
"""Centroids of neighbouring groups that are one run. Where centroids are few, a group of the tree is a leaf: with runs
of one, finding the nearest of them took more time than the distances."""

CANCELS = 0.001
"""Where the vectors of a group are nearer to their mean than the root of this share of their squared length, lifted
products in float32 would keep less than 13 bits of what they are apart: such a group is moved to its mean first. None
is of SIFT or MiniLM; all are where clusters lie far from each other (docs/decisions/0024)."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Group:
    """Vectors at positions from `start` on, and the centroids they are compared with: ``x @ lifted.T`` are the squared
    distances of each.

    - ``x`` (n, dim + 2) float32, ``lifted`` (candidates, dim + 2) float32: lifted, the centroids' vectors in front;
      both less a point of the group's where sums would cancel.
    - ``centroids`` (candidates,) int64: their numbers, ascending.
    """

    start: int
    x: Floats
    centroids: NDArray[np.int64]
    lifted: Floats


class Neighborhoods:
    """All vectors of `clusters`, group by group, with the `candidates` centroids nearest to the mean of each, found
    among the `reached` centroids of the runs that are nearest to it. Holds what is proportional to their number."""

    def __init__(self, job: Job, clusters: Clusters, *, candidates: int, reached: int) -> None:
        self.space, self.vectors = job.space, clusters.vectors
        self.block_rows = job.sizes.neighborhood_rows
        self.candidates, self.reached = candidates, reached
        self.centroids = clusters.centroids
        self.group_end = _joined(clusters.group_end, GROUP_ROWS)
        self.group_start = np.concatenate([[0], self.group_end[:-1]])
        self.run_end = _joined(clusters.run_end, RUN_CENTROIDS)
        self.run_start = np.concatenate([[0], self.run_end[:-1]])
        self.run_size = self.run_end - self.run_start
        self.run_mean = self._run_means()
        self.run_sqnorm = np.einsum("ij,ij->i", self.run_mean, self.run_mean)
        self.runs_reached = max(1, round(2 * reached * len(self.run_mean) / len(self.centroids)))

    def _run_means(self) -> Floats:
        """Mean of each run of centroids, (runs, dim)."""
        means = np.empty((len(self.run_size), self.space.dim), np.float32)
        for start in range(0, len(means), 4096):
            runs = slice(start, start + 4096)
            first, last = self.run_start[runs][0], self.run_end[runs][-1]
            sums = np.add.reduceat(self.centroids.working(slice(first, last)), self.run_start[runs] - first, axis=0)
            means[runs] = sums / self.run_size[runs, None]
        return means

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Runs of groups that share one gathering of centroids."""
        start = 0
        while start < len(self.group_end):
            limit = self.group_start[start] + self.block_rows
            stop = max(start + 1, int(np.searchsorted(self.group_end, limit, side="right")))
            yield start, stop
            start = stop

    def groups(self, block: tuple[int, int]) -> Iterator[Group]:
        """The groups of a block, one by one, large ones in pieces."""
        first, last = block
        start, stop = int(self.group_start[first]), int(self.group_end[last - 1])
        vectors = self.space.map(self.vectors.read(start, stop))
        begin, end = self.group_start[first:last] - start, self.group_end[first:last] - start
        means = np.add.reduceat(vectors, begin, axis=0) / (end - begin)[:, None].astype(np.float32)
        squares = np.add.reduceat(np.einsum("ij,ij->i", vectors, vectors), begin)
        around = vectors - np.repeat(means, end - begin, axis=0)
        cancels = np.add.reduceat(np.einsum("ij,ij->i", around, around), begin) < CANCELS * squares
        gathered = self._gather(means, cancels)
        plain = self.centroids.working(gathered)
        lifted = _lift_centroids(plain)
        mean_sqdist = _lift_rows(means) @ lifted.T
        x = _lift_rows(vectors)
        for number, (low, high) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            if cancels[number]:
                near = _smallest(_sqdist(plain, means[number]), self.candidates)
                among, rows = _lift_centroids(plain[near] - means[number]), _lift_rows(around[low:high])
            else:
                near = _smallest(mean_sqdist[number], self.candidates)
                among, rows = lifted[near], x[low:high]
            for piece in range(0, high - low, PIECE_ROWS):
                yield Group(start + low + piece, rows[piece : piece + PIECE_ROWS], gathered[near], among)

    def _gather(self, means: Floats, cancels: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Centroids of the runs nearest to each of `means`: at least `reached` for each, or all there are."""
        sqdist = self.run_sqnorm - 2 * (means @ self.run_mean.T)
        for number in np.flatnonzero(cancels):
            sqdist[number] = _sqdist(self.run_mean, means[number])
        wanted = np.zeros(len(self.run_mean), bool)
        for row in sqdist:
            runs = _smallest(row, self.runs_reached)
            runs = runs[np.argsort(row[runs], kind="stable")]
            wanted[runs[: np.searchsorted(np.cumsum(self.run_size[runs]), self.reached) + 1]] = True
        runs = np.flatnonzero(wanted)
        sizes = self.run_size[runs]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        numbers: NDArray[np.int64] = np.repeat(self.run_start[runs], sizes) + within
        return numbers


def _joined(end: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Ends of the runs that `end` (n,) says, neighbours joined up to `most` in all."""
    ends, at, start = [], 0, 0
    while at < len(end):
        at = max(at + 1, int(np.searchsorted(end, start + most, side="right")))
        start = int(end[at - 1])
        ends.append(start)
    return np.array(ends, np.int64)


def _sqdist(x: Floats, point: Floats) -> Floats:
    """Squared distances (n,) of `x` (n, dim) to `point`, without cancellation."""
    apart = x - point
    found: Floats = np.einsum("ij,ij->i", apart, apart)
    return found


def _lift_rows(x: Floats) -> Floats:
    """(-2x, |x|^2, 1): its product with a lifted centroid (c, 1, |c|^2) is their sqdist, in one pass of BLAS."""
    lifted = np.empty((len(x), x.shape[1] + 2), np.float32)
    np.multiply(x, -2, out=lifted[:, :-2])
    lifted[:, -2] = np.einsum("ij,ij->i", x, x)
    lifted[:, -1] = 1
    return lifted


def _lift_centroids(c: Floats) -> Floats:
    lifted = np.empty((len(c), c.shape[1] + 2), np.float32)
    lifted[:, :-2] = c
    lifted[:, -2] = 1
    lifted[:, -1] = np.einsum("ij,ij->i", c, c)
    return lifted


def _smallest(values: Floats, n: int) -> NDArray[np.int64]:
    """Positions of the `n` smallest values, ascending by position."""
    if n >= len(values):
        return np.arange(len(values))
    return np.sort(np.argpartition(values, n)[:n])
