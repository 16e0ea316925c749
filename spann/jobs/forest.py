"""Few pairs that connect the same vectors as many, at their radius and at every smaller one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError

EDGE = np.dtype([("a", np.int64), ("b", np.int64), ("distance", np.float32)])
"""A pair of vectors: their rows, the smaller first, and their distance."""


def forest(edges: NDArray[np.void]) -> NDArray[np.void]:
    """The minimum spanning forest of `edges` (n,) of `EDGE`, by distance, then by rows. Up to any distance, it connects
    the same vectors as `edges` do. It has fewer edges than vectors."""
    if not len(edges):
        return edges
    csgraph, sparse = _scipy()
    edges = edges[np.lexsort((edges["b"], edges["a"], edges["distance"]))]
    nodes, number = np.unique(np.concatenate([edges["a"], edges["b"]]), return_inverse=True)
    a, b = np.split(number.reshape(-1), 2)
    _, first = np.unique(a * len(nodes) + b, return_index=True)
    edges, a, b = (values[np.sort(first)] for values in (edges, a, b))
    # Ranks instead of distances: no two are equal, and none is 0, which scipy takes for no edge.
    ranks = np.arange(1, len(edges) + 1, dtype=np.float64)
    tree = csgraph.minimum_spanning_tree(sparse.csr_matrix((ranks, (a, b)), shape=(len(nodes),) * 2))
    kept: NDArray[np.void] = edges[np.sort(tree.data.astype(np.int64)) - 1]
    return kept


def components(edges: NDArray[np.void], count: int) -> NDArray[np.int64]:
    """For each of `count` rows, the smallest row that it is connected with, (count,)."""
    csgraph, sparse = _scipy()
    lowest = np.arange(count)
    if not len(edges):
        return lowest
    nodes, number = np.unique(np.concatenate([edges["a"], edges["b"]]), return_inverse=True)
    a, b = np.split(number.reshape(-1), 2)
    graph = sparse.csr_matrix((np.ones(len(a)), (a, b)), shape=(len(nodes),) * 2)
    _, label = csgraph.connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    lowest[nodes] = nodes[first[label]]
    return lowest


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import sparse
        from scipy.sparse import csgraph
    except ModuleNotFoundError as error:
        raise InputError("groups of near vectors need scipy: pip install 'spann-index[neighbors]'") from error
    return csgraph, sparse
