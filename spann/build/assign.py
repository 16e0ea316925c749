"""Stage "assign": every vector gets its primary posting and, by closure, replicas (SPANN section 3.2.2).

Candidates come from the tree, not from a graph search per vector. Vectors of a group (small subtrees) share one set of
candidate centroids: those nearest to the group's mean, found among the runs of centroids, neighbours in the tree, that
are nearest to a block of groups. One matrix product then gives all distances. On 1M SIFT with 160 k centroids, 4000
candidates hold 91 % of each vector's true nearest 128; taking whole neighbouring runs instead would need 10000.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from spann._kernels import clustering
from spann.build.balance import SPARE
from spann.build.checkpoint import Checkpoint, Mark
from spann.build.cluster import GROUP_ROWS, Clusters
from spann.build.edges import EDGE, Candidates, EdgeSpool, pack_edges
from spann.build.parallel import ordered_map
from spann.build.space import Space
from spann.config import BuildParams
from spann.types import Array, Progress

BLOCK_ROWS = 2048
"""Rows whose groups share one gathering of centroids. With 2048 of 1M SIFT around 30 k centroids, closure finds 0.975
of what comparing with all centroids finds, with 1024 0.963 in the same time."""

CANDIDATES = 4000
"""Centroids that the vectors of a group are compared with."""

REACHED = 10_000
"""Centroids of the runs nearest to a group, out of which it picks its candidates; a block gathers the union."""

RUN_CENTROIDS = 16
"""Centroids of neighbouring groups that are one run. Where centroids are few, a group of the tree is a leaf: with runs
of one, finding the nearest of them took more time than the distances."""

Floats = NDArray[np.float32]


def assign_leaves(space: Space, clusters: Clusters, spool: EdgeSpool, threads: int, progress: Progress) -> None:
    """Sends to `spool` one edge a vector, to the centroid of its leaf: postings without replicas.

    Leaves have balanced sizes; the cells of nearest centroids have not. Representatives have no edges where they are
    found as centroids. Edges to means have no distance: `arrange` orders those postings.
    """
    vectors = clusters.vectors
    block = max(1, (8 << 20) // (4 * space.dim))
    representative = clusters.centroids.rows

    def one(start: int) -> tuple[int, Array]:
        rows = np.arange(start, min(start + block, vectors.count))
        centroid = clusters.leaf_centroid[np.searchsorted(clusters.leaf_end, rows, side="right")]
        if representative is None:
            return len(rows), pack_edges(centroid, np.zeros(len(rows), np.float32), rows, np.zeros(len(rows), np.uint8))
        own = representative[centroid]
        member = rows != own
        difference = space.map(vectors.take(rows[member])) - space.map(vectors.take(own[member]))
        sqdist = np.einsum("ij,ij->i", difference, difference)
        return len(rows), pack_edges(centroid[member], sqdist, rows[member], np.zeros(len(sqdist), np.uint8))

    done = 0
    for count, edges in ordered_map(one, range(0, vectors.count, block), threads):
        spool.append(edges)
        done += count
        progress("assign", done, vectors.count)


def assign_closure(
    space: Space,
    clusters: Clusters,
    params: BuildParams,
    candidates: Candidates,
    threads: int,
    checkpoint: Checkpoint,
    progress: Progress,
) -> None:
    """Sends to `candidates` the edges of each vector's closure, `SPARE` more than it may keep; goes on after those that
    the checkpoint says are there.

    Representatives have no edges where they are found as centroids; elsewhere they mostly have one, to their own.
    """
    work = _Closure(space, clusters, params, params.replicas + SPARE)
    before = checkpoint.of("assign") or {"blocks": 0, "rows": 0}
    blocks, done = before["blocks"], before["rows"]

    def mark() -> Mark:
        return {"blocks": blocks, "rows": done, "candidates": candidates.state()}

    for count, edges in ordered_map(work.block, islice(work.blocks(), blocks, None), threads):
        candidates.append(edges)
        blocks, done = blocks + 1, done + count
        checkpoint.reached("assign", mark)
        progress("assign", done, clusters.vectors.count)
    checkpoint.completed("assign", mark)


def assign_nearest(
    space: Space, clusters: Clusters, params: BuildParams, spool: EdgeSpool, threads: int, progress: Progress
) -> None:
    """Sends to `spool` the edges of each vector's closure, where nothing is to be balanced: vectors that are added to
    centroids which have postings already."""
    work = _Closure(space, clusters, params, params.replicas)
    done = 0
    for count, edges in ordered_map(work.block, work.blocks(), threads):
        spool.append(edges)
        done += count
        progress("assign", done, clusters.vectors.count)


class _Closure:
    """Everything that the blocks of one closure assignment share, all proportional to the number of centroids."""

    def __init__(self, space: Space, clusters: Clusters, params: BuildParams, edges: int) -> None:
        self.space, self.clusters, self.params = space, clusters, params
        self.edges = edges  # of a vector, at most
        self.centroids = clusters.centroids
        self.group_end = _joined(clusters.group_end, GROUP_ROWS)
        self.group_start = np.concatenate([[0], self.group_end[:-1]])
        self.run_end = _joined(clusters.run_end, RUN_CENTROIDS)
        self.run_start = np.concatenate([[0], self.run_end[:-1]])
        self.run_size = self.run_end - self.run_start
        self.run_mean = self._run_means()
        self.run_sqnorm = np.einsum("ij,ij->i", self.run_mean, self.run_mean)
        self.runs_reached = max(1, round(2 * REACHED * len(self.run_mean) / len(self.centroids)))

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
        """Runs of groups with about `BLOCK_ROWS` rows."""
        start = 0
        while start < len(self.group_end):
            limit = self.group_start[start] + BLOCK_ROWS
            stop = max(start + 1, int(np.searchsorted(self.group_end, limit, side="right")))
            yield start, stop
            start = stop

    def block(self, groups: tuple[int, int]) -> tuple[int, Array]:
        """Rows done, and the edges of the vectors in a run of groups."""
        first, last = groups
        start, stop = int(self.group_start[first]), int(self.group_end[last - 1])
        rows = np.arange(start, stop)
        vectors = self.space.map(self.clusters.vectors.read(start, stop))
        begin, end = self.group_start[first:last] - start, self.group_end[first:last] - start
        means = np.add.reduceat(vectors, begin, axis=0) / (end - begin)[:, None].astype(np.float32)
        gathered = self._gather(means)
        lifted = _lift_centroids(self.centroids.working(gathered))
        mean_sqdist = _lift_rows(means) @ lifted.T
        x = _lift_rows(vectors)
        member = ~self._represents(start, stop)
        parts = []
        for g in range(first, last):
            picked = np.flatnonzero(member[begin[g - first] : end[g - first]]) + begin[g - first]
            if len(picked) == 0:
                continue
            near = _smallest(mean_sqdist[g - first], CANDIDATES)
            parts.append(self._close(x[picked], rows[picked], gathered[near], lifted[near]))
        return len(rows), np.concatenate(parts) if parts else np.empty(0, EDGE)

    def _represents(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether the vectors at these positions are found as centroids."""
        found = np.zeros(stop - start, bool)
        positions = self.centroids.rows
        if self.centroids.given and positions is not None:
            first, last = np.searchsorted(positions, (start, stop))
            found[positions[first:last] - start] = True
        return found

    def _gather(self, means: Floats) -> NDArray[np.int64]:
        """Centroids of the runs nearest to each of `means`: at least `REACHED` for each, or all there are."""
        sqdist = self.run_sqnorm - 2 * (means @ self.run_mean.T)
        wanted = np.zeros(len(self.run_mean), bool)
        for row in sqdist:
            runs = _smallest(row, self.runs_reached)
            runs = runs[np.argsort(row[runs], kind="stable")]
            wanted[runs[: np.searchsorted(np.cumsum(self.run_size[runs]), REACHED) + 1]] = True
        runs = np.flatnonzero(wanted)
        sizes = self.run_size[runs]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        numbers: NDArray[np.int64] = np.repeat(self.run_start[runs], sizes) + within
        return numbers

    def _close(self, x: Floats, rows: NDArray[np.int64], centroids: NDArray[np.int64], lifted: Floats) -> Array:
        params = self.params
        chosen, sqdist, counts = clustering.closure(
            x @ lifted.T,
            lifted[:, : self.space.dim],
            near=params.closure_candidates,
            replicas=self.edges,
            reach=(1 + params.epsilon1) ** 2,
            rng=params.rng_factor,
        )
        replica = np.broadcast_to(np.arange(self.edges, dtype=np.uint8), chosen.shape)
        valid = replica < counts[:, None]
        return pack_edges(centroids[chosen[valid]], sqdist[valid], np.repeat(rows, counts), replica[valid])


def _joined(end: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Ends of the runs that `end` (n,) says, neighbours joined up to `most` in all."""
    ends, at, start = [], 0, 0
    while at < len(end):
        at = max(at + 1, int(np.searchsorted(end, start + most, side="right")))
        start = int(end[at - 1])
        ends.append(start)
    return np.array(ends, np.int64)


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
