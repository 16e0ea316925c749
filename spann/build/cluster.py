"""Stages "sample" and "cluster": hierarchical balanced clustering (SPANN section 3.2.1).

The collection is cut into regions that fit in memory by a balanced k-means trained on a sample; each region is then
clustered down to leaves by one native call, on one thread, so the result does not depend on how many there are. The
vector nearest to a leaf's mean represents it (SPTAG does the same), unless the mean itself does (centroids.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels import clustering
from spann.build.centroids import Centroids, choose
from spann.build.parallel import ordered_map
from spann.build.space import Space
from spann.config import BuildParams
from spann.types import Progress
from spann.vectors import VectorSource, sample_rows

REGION_BYTES = 8 << 20
"""Working vectors of a region: with its copy it stays in reach of the cache while it is split, and two threads' regions
stay small beside any memory limit. 16 k vectors of 128 dimensions; 64 k were no better (recall equal to 0.001)."""

SAMPLE_BYTES = 128 << 20
"""Working vectors of the sample that the cut into regions is trained on."""

SAMPLE_PER_REGION = 256

ITERATIONS = 8
"""Lloyd iterations of a split. 16 lower the mean sqdist by under 1 %."""

REGION_ITERATIONS = 12

BALANCE = 0.1
"""Step of the size penalty (ext/c/cluster.h). On 62 clusters of SIFT the coefficient of variation of sizes falls from
0.21 to 0.05 at 0.3 % higher mean sqdist; 0.3 oscillates."""

LEAF_SLACK = 1.3
"""A child takes at most this many times its even share of rows, where leaves become postings: 8000 leaves of
1M SIFT then vary by 0.14 (std / mean) and none is longer than 1.41 times the mean."""

CENTROID_SLACK = 4.0
"""The same where leaves only choose the centroids. Representatives spread better when small leaves keep their shape:
recall@10 of 32 postings on 1M SIFT is 0.939 with 4, 0.934 with 1.3 or 1.5."""

GROUP_ROWS = 128
"""Rows of the subtrees that share their closure candidates. 64 and 256 find fewer of the true nearest centroids with
as many candidates (benchmarks: 0.89 and 0.82 against 0.91 with 4000)."""


@dataclass(frozen=True)
class Clusters:
    """The collection in tree order.

    - ``rows`` (count,) int64: row numbers, leaf by leaf.
    - ``leaf_end`` (leaves,) int64: end of each leaf in `rows`; ``leaf_centroid`` (leaves,) its centroid.
    - ``group_end`` (groups,) int64: end of each group of leaves in `rows`; ``group_centroid_end`` (groups,) the same in
      centroids. A group may have no centroid left, where its vectors are copies of others'.
    """

    rows: NDArray[np.int64]
    leaf_end: NDArray[np.int64]
    leaf_centroid: NDArray[np.int64]
    centroids: Centroids
    group_end: NDArray[np.int64]
    group_centroid_end: NDArray[np.int64]


def cluster(source: VectorSource, space: Space, params: BuildParams, threads: int, progress: Progress) -> Clusters:
    """Clusters all vectors of `source` around as many of them as `params` say, or fewer where vectors are identical."""
    seed, centroids = params.seed, params.centroid_count(source.count)
    slack = LEAF_SLACK if params.replicas == 1 else CENTROID_SLACK
    wants_means = params.bits > 0 and params.replicas == 1
    order, region_end = _cut_into_regions(source, space, seed, threads, progress)
    region_start = np.concatenate([[0], region_end[:-1]])
    # Leaves in proportion to rows, rounded on the running total so that they add up.
    leaf_total = np.rint(region_end * (centroids / source.count)).astype(np.int64)
    leaves = np.maximum(1, np.diff(leaf_total, prepend=0))

    def one(region: int) -> tuple[NDArray[np.int64], clustering.Tree, NDArray[np.float32]]:
        rows = order[region_start[region] : region_end[region]].copy()
        x = space.map(source.take(rows))
        tree = clustering.cluster(
            x,
            rows,
            leaves=min(int(leaves[region]), len(rows)),
            group_rows=GROUP_ROWS,
            iterations=ITERATIONS,
            balance=BALANCE,
            slack=slack,
            seed=_mix(seed, region + 1),
        )
        return rows, tree, _means(x, tree.leaf_end) if wants_means else x[:0]

    leaf_end, leaf_rep, leaf_group, leaf_mean = [], [], [], []
    done, groups = 0, 0
    for rows, tree, means in ordered_map(one, range(len(region_end)), threads):
        order[done : done + len(rows)] = rows
        leaf_end.append(tree.leaf_end.astype(np.int64) + done)
        leaf_rep.append(rows[tree.leaf_rep])
        leaf_group.append(tree.leaf_group.astype(np.int64) + groups)
        leaf_mean.append(means)
        done += len(rows)
        groups += int(tree.leaf_group[-1]) + 1
        progress("cluster", done, source.count)
    ends, group = np.concatenate(leaf_end), np.concatenate(leaf_group)
    found, keep, centroid_of = choose(
        source,
        space,
        np.concatenate(leaf_rep),
        np.concatenate(leaf_mean) if wants_means else None,
        given=params.bits == 0,
    )
    group_end = np.zeros(groups, np.int64)
    np.maximum.at(group_end, group, ends)
    group_centroid_end = np.cumsum(np.bincount(group[keep], minlength=groups))
    return Clusters(order, ends, centroid_of, found, group_end, group_centroid_end)


def _means(x: NDArray[np.float32], leaf_end: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Mean of each leaf of x (n, dim), which lies in tree order: (leaves, dim)."""
    end = leaf_end.astype(np.int64)
    start = np.concatenate([[0], end[:-1]])
    sums = np.add.reduceat(x, start, axis=0, dtype=np.float64)
    means: NDArray[np.float32] = (sums / (end - start)[:, None]).astype(np.float32)
    return means


def _cut_into_regions(
    source: VectorSource, space: Space, seed: int, threads: int, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows in region order, and the end of each region. No region has more than twice the rows it should."""
    region_rows = max(256, REGION_BYTES // (4 * space.dim))
    k = -(-source.count // region_rows)
    if k == 1:
        return np.arange(source.count, dtype=np.int64), np.array([source.count], np.int64)
    sample = min(source.count, max(k, min(k * SAMPLE_PER_REGION, SAMPLE_BYTES // (4 * space.dim))))
    x = space.map(source.take(sample_rows(source.count, sample, _mix(seed, 0))))
    centres, weights = clustering.balanced_kmeans(
        x, k, iterations=REGION_ITERATIONS, balance=BALANCE, seed=_mix(seed, 0)
    )
    offset = np.einsum("ij,ij->i", centres, centres) + weights
    block = max(1, REGION_BYTES // (4 * max(space.dim, k)))

    def assign(start: int) -> NDArray[np.uint32]:
        x = space.map(source.read(start, min(start + block, source.count)))
        nearest: NDArray[np.uint32] = np.argmin(offset - 2 * (x @ centres.T), axis=1).astype(np.uint32)
        return nearest

    label = np.empty(source.count, np.uint32)
    done = 0
    for part in ordered_map(assign, range(0, source.count, block), threads):
        label[done : done + len(part)] = part
        done += len(part)
        progress("sample", done, source.count)
    order = np.argsort(label, kind="stable")
    sizes = np.bincount(label, minlength=k)
    # A region far over its share (copies cannot be told apart) is cut by position: nothing is dropped.
    pieces = [np.full(-(-int(n) // (2 * region_rows)), 2 * region_rows) for n in sizes if n]
    for piece, n in zip(pieces, sizes[sizes > 0], strict=True):
        piece[-1] = n - piece[:-1].sum()
    return order, np.cumsum(np.concatenate(pieces))


def _mix(seed: int, stream: int) -> int:
    """A seed of its own for each use of randomness (`numpy.random.SeedSequence` keeps them apart)."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0])
