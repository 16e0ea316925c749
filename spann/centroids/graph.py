"""The navigation graph over the centroids: built by faiss (HNSW), kept as plain arrays.

The only module that imports faiss, and only to build. Searching is done by our own kernel on these arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Callable

LINKS = 16
"""HNSW's M: 2 M links at the base level, M above. Fewer save memory and cost recall."""

BUILD_BEAM = 100
"""HNSW's efConstruction."""

BLOCK = 4096


@dataclass(frozen=True)
class Level:
    """One level: node i is centroid ``nodes[i]`` (ascending; None at level 0, where it is centroid i) and its
    neighbours are ``neighbors[offsets[i]:offsets[i + 1]]``, centroid numbers, nodes of the same level.

    nodes (size,) uint32, offsets (size + 1,) uint64, neighbors (links,) uint32.
    """

    nodes: NDArray[np.uint32] | None
    offsets: NDArray[np.uint64]
    neighbors: NDArray[np.uint32]


@dataclass(frozen=True)
class Graph:
    """Levels from the base up; navigation starts at centroid `entry`, a node of the top one."""

    entry: int
    levels: list[Level]

    @property
    def nbytes(self) -> int:
        """Bytes of memory the arrays take."""
        arrays = [a for level in self.levels for a in (level.nodes, level.offsets, level.neighbors) if a is not None]
        return sum(a.nbytes for a in arrays)


def build_graph(
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    count: int,
    dim: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Graph:
    """HNSW graph (Malkov and Yashunin 2018) of `count` centroids; ``read(numbers)`` gives their working vectors.

    Built on one thread: faiss links nodes in the order its threads happen to finish, and the same seed must give the
    same bytes. Centroids are inserted in random order, because those of a tree in tree order are each other's first and
    only neighbours, which leaves long links out.
    """
    import faiss

    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    index = faiss.IndexHNSWFlat(dim, LINKS)
    index.hnsw.efConstruction = BUILD_BEAM
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for start in range(0, count, BLOCK):
            index.add(read(order[start : start + BLOCK]))
            progress(min(start + BLOCK, count), count)
    finally:
        faiss.omp_set_num_threads(threads)
    return _extract(faiss, index.hnsw, order)


def _extract(faiss: Any, hnsw: Any, order: NDArray[np.int64]) -> Graph:
    """faiss keeps 2 M + level * M slots a node, unused ones -1, under insertion numbers."""
    slots = faiss.vector_to_array(hnsw.neighbors)
    offsets = faiss.vector_to_array(hnsw.offsets).astype(np.int64)[:-1]
    height = faiss.vector_to_array(hnsw.levels)
    first_slot = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)
    levels = []
    for level in range(int(height.max())):
        inserted = np.flatnonzero(height > level)
        inserted = inserted[np.argsort(order[inserted], kind="stable")]
        which = offsets[inserted][:, None] + np.arange(first_slot[level], first_slot[level + 1])
        links = slots[which]
        used = links >= 0
        ends = np.cumsum(used.sum(axis=1))
        levels.append(
            Level(
                None if level == 0 else order[inserted].astype(np.uint32),
                np.concatenate([[0], ends]).astype(np.uint64),
                order[links[used]].astype(np.uint32),
            )
        )
    return Graph(int(order[hnsw.entry_point]), levels)


def check_graph(graph: Graph, centroids: int, where: str) -> None:
    """Raises `CorruptionError` unless every number in `graph` is in range: the search kernel follows them blindly."""
    size, below = centroids, None
    for number, level in enumerate(graph.levels):
        if level.nodes is not None:
            size = len(level.nodes)
            ascending = bool(np.all(level.nodes[1:] > level.nodes[:-1]))
            if size == 0 or not ascending or int(level.nodes[-1]) >= centroids:
                raise CorruptionError(f"{where}: nodes of graph level {number} are not ascending centroid numbers")
            if below is not None and not _among(level.nodes, below):
                raise CorruptionError(f"{where}: a node of graph level {number} is none of the level below")
            below = level.nodes
        offsets = level.offsets
        well_formed = len(offsets) == size + 1 and offsets[0] == 0 and offsets[-1] == len(level.neighbors)
        if not well_formed or bool(np.any(offsets[1:] < offsets[:-1])):
            raise CorruptionError(f"{where}: offsets of graph level {number} do not partition its neighbours")
        if level.nodes is None:
            inside = not len(level.neighbors) or int(level.neighbors.max()) < centroids
        else:
            inside = _among(level.neighbors, level.nodes)
        if not inside:
            raise CorruptionError(f"{where}: a neighbour in graph level {number} is not a node of that level")
    top = graph.levels[-1]
    if graph.entry >= centroids or (top.nodes is not None and graph.entry not in top.nodes):
        raise CorruptionError(f"{where}: graph entry {graph.entry} is not a node of the top level")


def _among(numbers: NDArray[np.uint32], nodes: NDArray[np.uint32]) -> bool:
    """Whether all `numbers` are among the `nodes`, which ascend."""
    at = np.minimum(np.searchsorted(nodes, numbers), len(nodes) - 1)
    return bool(np.all(nodes[at] == numbers))
