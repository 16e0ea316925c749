"""Stage "assign": every vector gets its primary posting and, by closure, replicas (SPANN section 3.2.2)."""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from spann._kernels import clustering
from spann.building.checkpoint import Checkpoint, Mark
from spann.building.edges import EDGE, Candidates, EdgeSpool, pack_edges
from spann.building.parallel import ordered_map
from spann.building.space import Space
from spann.building.stages.balance import SPARE
from spann.building.stages.clusters import Clusters
from spann.building.stages.neighborhood import Neighborhoods
from spann.building.stages.refine import Cells
from spann.config import BuildParams
from spann.types import Array, Progress

CANDIDATES = 4000
"""Centroids that the closures of a group of vectors are chosen from. On 1M SIFT with 160 k centroids they hold 91 % of
each vector's true nearest 128; taking whole neighbouring runs instead would need 10000."""

REACHED = 10_000
"""Centroids of the runs nearest to a group, out of which it picks its candidates (neighborhood.py)."""

BLOCK_CELLS = 1 << 16
"""Of vectors whose edges are made at a time."""

Floats = NDArray[np.float32]


def assign_cells(cells: Cells, spool: EdgeSpool, progress: Progress) -> None:
    """Sends to `spool` one edge a vector, to the centroid of its cell: postings without replicas, around means."""
    for start in range(0, cells.count, BLOCK_CELLS):
        rows = np.arange(start, min(start + BLOCK_CELLS, cells.count))
        centroid = cells.read(start, start + len(rows))
        sqdist = cells.sqdist(start, start + len(rows))
        spool.append(pack_edges(centroid, sqdist, rows, np.zeros(len(rows), np.uint8)))
        progress("assign", start + len(rows), cells.count)


def assign_leaves(space: Space, clusters: Clusters, spool: EdgeSpool, threads: int, progress: Progress) -> None:
    """Sends to `spool` one edge a vector, to the representative of its leaf: postings of vectors without replicas.

    Leaves have balanced sizes; the cells of nearest centroids have not. Representatives have no edges.
    """
    vectors = clusters.vectors
    block = max(1, (8 << 20) // (4 * space.dim))
    representative = clusters.centroids.rows
    assert representative is not None

    def one(start: int) -> tuple[int, Array]:
        rows = np.arange(start, min(start + block, vectors.count))
        centroid = clusters.leaf_centroid[np.searchsorted(clusters.leaf_end, rows, side="right")]
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
    """Closures of the vectors of one block after the other, of at most `edges` centroids each."""

    def __init__(self, space: Space, clusters: Clusters, params: BuildParams, edges: int) -> None:
        self.dim, self.params, self.edges = space.dim, params, edges
        self.near = Neighborhoods(space, clusters, candidates=CANDIDATES, reached=REACHED)
        self.blocks = self.near.blocks
        self.centroids = clusters.centroids

    def block(self, groups: tuple[int, int]) -> tuple[int, Array]:
        """Rows done, and the edges of the vectors in a run of groups."""
        parts, rows = [], 0
        for group in self.near.groups(groups):
            rows += len(group.x)
            member = ~self._represents(group.start, group.start + len(group.x))
            if member.any():
                positions = group.start + np.flatnonzero(member)
                parts.append(self._close(group.x[member], positions, group.centroids, group.lifted))
        return rows, np.concatenate(parts) if parts else np.empty(0, EDGE)

    def _represents(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether the vectors at these positions are found as centroids."""
        found = np.zeros(stop - start, bool)
        positions = self.centroids.rows
        if self.centroids.given and positions is not None:
            first, last = np.searchsorted(positions, (start, stop))
            found[positions[first:last] - start] = True
        return found

    def _close(self, x: Floats, rows: NDArray[np.int64], centroids: NDArray[np.int64], lifted: Floats) -> Array:
        params = self.params
        chosen, sqdist, counts = clustering.closure(
            x @ lifted.T,
            lifted[:, : self.dim],
            near=params.closure_candidates,
            replicas=self.edges,
            reach=(1 + params.epsilon1) ** 2,
            rng=params.rng_factor,
        )
        replica = np.broadcast_to(np.arange(self.edges, dtype=np.uint8), chosen.shape)
        valid = replica < counts[:, None]
        return pack_edges(centroids[chosen[valid]], sqdist[valid], np.repeat(rows, counts), replica[valid])
