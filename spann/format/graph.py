"""The navigation graph over the centroids as plain arrays, and the check of every number in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError


@dataclass(frozen=True)
class Level:
    """One level of the graph. Node i is centroid ``nodes[i]``, ascending; at level 0 `nodes` is None and node i is
    centroid i. Its neighbours are the centroids ``neighbors[offsets[i]:offsets[i + 1]]``, nodes of the same level.

    nodes (size,) uint32, offsets (size + 1,) uint64, neighbors (links,) uint32.
    """

    nodes: NDArray[np.uint32] | None
    offsets: NDArray[np.uint64]
    neighbors: NDArray[np.uint32]


@dataclass(frozen=True)
class Graph:
    """Levels from the base up. Navigation starts at centroid `entry`, a node of the top level."""

    entry: int
    levels: list[Level]

    @property
    def nbytes(self) -> int:
        """Bytes of memory the arrays take."""
        arrays = [a for level in self.levels for a in (level.nodes, level.offsets, level.neighbors) if a is not None]
        return sum(a.nbytes for a in arrays)


def check_graph(graph: Graph, centroids: int, where: str) -> None:
    """Raises `CorruptionError` unless every number in `graph` is in range. The search kernel follows them blindly."""
    size, below = centroids, None
    for number, level in enumerate(graph.levels):
        if level.nodes is not None:
            size = len(level.nodes)
            ascending = bool(np.all(level.nodes[1:] > level.nodes[:-1]))
            if size == 0 or not ascending or int(level.nodes[-1]) >= centroids:
                raise CorruptionError(f"{where}: nodes of graph level {number} are not ascending centroid numbers")
            if below is not None and not _among(level.nodes, below):
                raise CorruptionError(f"{where}: a node of graph level {number} is missing on the level below")
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
    """Whether all `numbers` are among the ascending `nodes`."""
    at = np.minimum(np.searchsorted(nodes, numbers), len(nodes) - 1)
    return bool(np.all(nodes[at] == numbers))
