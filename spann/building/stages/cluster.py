"""Stage "cluster": hierarchical balanced clustering (SPANN section 3.2.1) of the regions that "partition" cut.

Each region is clustered down to leaves by one native call, on one thread, so the result does not depend on how many
there are. The vector nearest to a leaf's mean represents it (SPTAG does the same), unless the mean itself does
(centroids.py).
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spann._kernels import clustering
from spann.building.centroids import around, represent
from spann.building.checkpoint import Mark
from spann.building.job import Job
from spann.building.stages.clusters import GROUP_ROWS, Clusters
from spann.building.stages.partition import Partition, mix, partition
from spann.building.temporary import RecordFile
from spann.building.workspace import Workspace
from spann.types import Array

ITERATIONS = 8
"""Lloyd iterations of a split. 16 lower the mean sqdist by under 1 %."""

BALANCE = 0.1
"""Step of the size penalty (ext/c/building/cluster.h). On 62 clusters of SIFT the coefficient of variation of sizes
falls from 0.21 to 0.05 at 0.3 % higher mean sqdist; 0.3 oscillates (docs/decisions/0004)."""

LEAF_SLACK = 1.3
"""A child takes at most this many times its even share of rows, where leaves become postings: 8000 leaves of
1M SIFT then vary by 0.14 (std / mean) and none is longer than 1.41 times the mean."""

CENTROID_SLACK = 4.0
"""The same where leaves only choose the centroids. Representatives spread better when small leaves keep their shape:
recall@10 of 32 postings on 1M SIFT is 0.939 with 4, 0.934 with 1.3 or 1.5."""

LEAF = np.dtype([("end", "<i8"), ("representative", "<i8"), ("group", "<i8")])
"""A leaf in tree order: its end, the position of the vector nearest to its mean, and its group."""


class TreeFiles:
    """Temporary files of the vectors in tree order and of their leaves, region by region, as far as these are done."""

    def __init__(self, job: Job, work: Workspace) -> None:
        directory, known = work.temporary, work.checkpoint.of("cluster") or {}
        self.regions, self.groups = known.get("regions", 0), known.get("groups", 0)
        self.complete = bool(known.get("complete", False))
        with ExitStack() as undo:
            self.vectors = undo.enter_context(Partition(directory, "tree", job.source, known.get("tree")))
            self.leaves = undo.enter_context(RecordFile(directory / "leaves", LEAF, (), known.get("leaves")))
            self.means = undo.enter_context(
                RecordFile(directory / "means", np.dtype(np.float32), (job.space.dim,), known.get("means"))
            )
            self._closing = undo.pop_all()

    def add(self, vectors: Array, rows: NDArray[np.int64], tree: clustering.Tree, means: NDArray[np.float32]) -> None:
        """The next region: its vectors in tree order, where they come from, its leaves, and their means if wanted."""
        start = self.vectors.written
        self.vectors.put(start, vectors, rows)
        leaves = np.empty(len(tree.leaf_end), LEAF)
        leaves["end"], leaves["representative"] = tree.leaf_end + start, tree.leaf_rep + start
        leaves["group"] = tree.leaf_group + self.groups
        self.leaves.append(leaves)
        self.means.append(means)
        self.regions += 1
        self.groups += int(tree.leaf_group[-1]) + 1

    def state(self) -> Mark:
        """Makes all files durable; returns the mark to resume from."""
        return {
            "regions": self.regions,
            "groups": self.groups,
            "complete": self.complete,
            "tree": self.vectors.state(),
            "leaves": self.leaves.state(),
            "means": self.means.state(),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._closing.close()


def grow_tree(job: Job, work: Workspace) -> TreeFiles:
    """Brings all vectors into tree order: the stages "partition" and "cluster"."""
    tree = work.hold(TreeFiles(job, work))
    if not tree.complete:
        known = work.checkpoint.of("partition")
        with Partition(work.temporary, "regions", job.source, known) as regions:
            ends = np.array(known["ends"]) if known else partition(job, regions)
            work.checkpoint.completed("partition", lambda: {**regions.state(), "ends": ends.tolist()})
            cluster(job, work, regions, ends, tree)
            regions.remove()
    return tree


def cluster(job: Job, work: Workspace, regions: Partition, region_end: NDArray[np.int64], tree: TreeFiles) -> None:
    """Clusters the vectors of each of the `regions`, into `tree`. Resumes after the regions that are there."""
    decision, count, space = job.decision, regions.count, job.space
    centroids = job.decision.centroids
    slack = LEAF_SLACK if decision.max_replicas == 1 else CENTROID_SLACK
    region_start = np.concatenate([[0], region_end[:-1]])
    # Leaves in proportion to rows, rounded on the running total so that they add up.
    leaf_total = np.rint(region_end * (centroids / count)).astype(np.int64)
    leaves = np.maximum(1, np.diff(leaf_total, prepend=0))

    def one(region: int) -> tuple[Array, NDArray[np.int64], clustering.Tree, NDArray[np.float32]]:
        start, stop = int(region_start[region]), int(region_end[region])
        found = regions.read(start, stop)
        x, order = space.map(found), np.arange(len(found))
        tree = clustering.cluster(
            x,
            order,
            leaves=min(int(leaves[region]), len(found)),
            group_rows=GROUP_ROWS,
            iterations=ITERATIONS,
            balance=BALANCE,
            slack=slack,
            seed=mix(decision.seed, region + 1),
        )
        means = _means(x, tree.leaf_end) if decision.means else x[:0]
        return found[order], regions.rows(start, stop)[order], tree, means

    for found, rows, part, means in job.map(one, range(tree.regions, len(region_end))):
        tree.add(found, rows, part, means)
        work.checkpoint.reached("cluster", tree.state)
        job.report("cluster", tree.vectors.written, count)
    tree.complete = True
    work.checkpoint.completed("cluster", tree.state, instead_of="partition")


def gather(job: Job, tree: TreeFiles) -> Clusters:
    """The clusters in `tree`. They have fewer centroids than leaves where vectors are identical."""
    leaves = tree.leaves.read(0, tree.leaves.count)
    ends, group = leaves["end"].copy(), leaves["group"]
    if job.decision.means:
        chosen, keep, centroid_of = around(tree.means.read(0, tree.means.count), job.space, tree.vectors.dtype)
    else:
        given = job.decision.code_bits == 0
        chosen, keep, centroid_of = represent(tree.vectors, job.space, leaves["representative"].copy(), given=given)
    # A group may have no centroid left, where its vectors are copies of others'.
    run_end = np.cumsum(np.unique(group[keep], return_counts=True)[1])
    return Clusters(tree.vectors, ends, centroid_of, chosen, group_ends(tree, leaves), run_end)


def group_ends(tree: TreeFiles, leaves: Array) -> NDArray[np.int64]:
    """End of each group of the `leaves` (leaves,) in `tree`."""
    ends = np.zeros(tree.groups, np.int64)
    np.maximum.at(ends, leaves["group"], leaves["end"])
    return ends


def _means(x: NDArray[np.float32], leaf_end: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Mean of each leaf of x (n, dim), which lies in tree order: (leaves, dim)."""
    end = leaf_end.astype(np.int64)
    start = np.concatenate([[0], end[:-1]])
    sums = np.add.reduceat(x, start, axis=0, dtype=np.float64)
    means: NDArray[np.float32] = (sums / (end - start)[:, None]).astype(np.float32)
    return means
