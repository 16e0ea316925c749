"""Stage "assign": every vector gets its primary posting and, by closure, replicas (SPANN section 3.2.2)."""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from spann._kernels import clustering
from spann.building.checkpoint import Mark
from spann.building.edges import EDGE, EdgeSpool, pack_edges
from spann.building.job import Job
from spann.building.stages.clusters import Clusters
from spann.building.stages.neighborhood import Neighborhoods
from spann.building.stages.refine import Cells
from spann.building.workspace import Workspace
from spann.types import Array

BLOCK_CELLS = 1 << 16
"""Vectors of cells whose edges are made at a time."""

Floats = NDArray[np.float32]


def assign(job: Job, work: Workspace, clusters: Clusters, cells: Cells | None) -> EdgeSpool:
    """The edges from all vectors to the centroids whose postings they join."""
    spool = _edge_spool(job, work, clusters)
    if cells is not None:
        assign_cells(job, cells, spool)
    elif job.decision.max_replicas == 1:
        assign_leaves(job, clusters, spool)
    else:
        assign_closure(job, work, clusters, spool)
    return spool


def assign_nearest(job: Job, work: Workspace, clusters: Clusters) -> EdgeSpool:
    """The edges of the closures of vectors that are added to centroids which have postings already."""
    spool = _edge_spool(job, work, clusters)
    assign_closure(job, work, clusters, spool)
    return spool


def _edge_spool(job: Job, work: Workspace, clusters: Clusters) -> EdgeSpool:
    """A spool with room for all edges of the job, and with those that the checkpoint names."""
    edges, state = job.source.count * job.decision.max_replicas, work.checkpoint.part("assign", "edges")
    return work.hold(EdgeSpool(work.temporary, len(clusters.centroids), edges, job.sizes, state))


def assign_cells(job: Job, cells: Cells, spool: EdgeSpool) -> None:
    """Sends to `spool` one edge a vector, to the centroid of its cell: postings without replicas, around means."""
    for start in range(0, cells.count, BLOCK_CELLS):
        rows = np.arange(start, min(start + BLOCK_CELLS, cells.count))
        centroid = cells.read(start, start + len(rows))
        sqdist = cells.sqdist(start, start + len(rows))
        spool.append(pack_edges(centroid, sqdist, rows, np.zeros(len(rows), np.uint8)))
        job.report("assign", start + len(rows), cells.count)


def assign_leaves(job: Job, clusters: Clusters, spool: EdgeSpool) -> None:
    """Sends to `spool` one edge a vector, to the representative of its leaf: postings of vectors without replicas.

    Leaves have balanced sizes; the cells of nearest centroids have not. Representatives have no edges.
    """
    vectors, space = clusters.vectors, job.space
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
    for count, edges in job.map(one, range(0, vectors.count, block)):
        spool.append(edges)
        done += count
        job.report("assign", done, vectors.count)


def assign_closure(job: Job, work: Workspace, clusters: Clusters, spool: EdgeSpool) -> None:
    """Sends to `spool` the edges of each vector's closure. Resumes after the edges that the checkpoint names.

    Representatives have no edges where they are found as centroids. Elsewhere they mostly have one, to their own.
    """
    closure, checkpoint = _Closure(job, clusters), work.checkpoint
    before = checkpoint.of("assign") or {"blocks": 0, "rows": 0}
    blocks, done = before["blocks"], before["rows"]

    def mark() -> Mark:
        return {"blocks": blocks, "rows": done, "edges": spool.state()}

    for count, edges in job.map(closure.block, islice(closure.blocks(), blocks, None)):
        spool.append(edges)
        blocks, done = blocks + 1, done + count
        checkpoint.reached("assign", mark)
        job.report("assign", done, clusters.vectors.count)
    checkpoint.completed("assign", mark)


class _Closure:
    """Closures of the vectors of one block after the other."""

    def __init__(self, job: Job, clusters: Clusters) -> None:
        self.dim, self.decision = job.space.dim, job.decision
        sizes = job.sizes
        self.near = Neighborhoods(job, clusters, candidates=sizes.closure_candidates, reached=sizes.closure_reached)
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
        decision = self.decision
        chosen, sqdist, counts = clustering.closure(
            x @ lifted.T,
            lifted[:, : self.dim],
            near=decision.closure_candidates,
            replicas=decision.max_replicas,
            reach=(1 + decision.epsilon1) ** 2,
            rng=decision.rng_factor,
        )
        replica = np.broadcast_to(np.arange(decision.max_replicas, dtype=np.uint8), chosen.shape)
        valid = replica < counts[:, None]
        return pack_edges(centroids[chosen[valid]], sqdist[valid], np.repeat(rows, counts), replica[valid])
