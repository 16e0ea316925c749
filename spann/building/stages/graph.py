"""Stage "graph": the navigation graph over the centroids, built by faiss (HNSW).

The only module that imports faiss. Searching is done by our own kernel on plain arrays (spann/format/graph.py). The
graph is kept in a temporary file, so that a resumed build need not make it again: it takes one thread minutes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.background import Background, Step
from spann.building.centroids import Centroids
from spann.building.checkpoint import Checkpoint, Mark
from spann.building.job import Job
from spann.building.temporary import RecordFile
from spann.building.workspace import Workspace
from spann.format.graph import Graph, Level
from spann.store.places import Where
from spann.types import Array

LINKS = 16
"""HNSW's M: 2 M links at the base level, M above. Fewer save memory and cost recall."""

BUILD_BEAM = 100
"""HNSW's efConstruction."""

NAME = "graph"

_BYTES = np.dtype(np.uint8)


def graph_of(job: Job, work: Workspace, centroids: Centroids) -> Background[Graph]:
    """The navigation graph of `centroids`, made on one thread beside the next stages.

    With one thread only it is made at once; so it is if an earlier process has left it. The result is the same."""
    known = work.checkpoint.of(NAME)

    def make(step: Step) -> Graph:
        return kept_graph(work.temporary, known) if known else build_graph(job, centroids, step)

    def finished(graph: Graph) -> None:
        if not known:
            keep_graph(graph, work.temporary, work.checkpoint)

    return Background(make, finished=finished, report=job.progress(NAME), at_once=job.threads == 1 or known is not None)


def keep_graph(graph: Graph, directory: Where, checkpoint: Checkpoint) -> None:
    """Marks the graph; it is written to `directory` when the mark is due."""

    def written() -> Mark:
        with RecordFile(directory / NAME, _BYTES) as file:
            sizes = []
            for level in graph.levels:
                arrays: list[Array | None] = [level.nodes, level.offsets, level.neighbors]
                for array in arrays:
                    if array is not None:
                        file.append(np.ascontiguousarray(array).view(np.uint8))
                sizes.append([None if array is None else len(array) for array in arrays])
            return {"file": file.state(), "entry": graph.entry, "sizes": sizes}

    checkpoint.completed(NAME, written)


def kept_graph(directory: Where, mark: Mark) -> Graph:
    """The graph that the mark names. Raises `CorruptionError` if the file holds another."""
    at = 0
    with RecordFile(directory / NAME, _BYTES, (), mark["file"]) as file:

        def next_array(size: int, dtype: Any) -> Array:
            nonlocal at
            start, at = at, at + size * np.dtype(dtype).itemsize
            return file.read(start, at).view(dtype)

        levels = []
        for nodes, offsets, neighbors in mark["sizes"]:
            own = None if nodes is None else next_array(nodes, np.uint32)
            levels.append(Level(own, next_array(offsets, np.uint64), next_array(neighbors, np.uint32)))
    return Graph(int(mark["entry"]), levels)


def graph_arrays(graph: Graph) -> dict[str, Array]:
    """The arrays of the index that hold the graph, by name (docs/FORMAT.md, Graph)."""
    found: dict[str, Array] = {}
    for number, level in enumerate(graph.levels):
        name = f"centroids/graph/level{number}"
        if level.nodes is not None:
            found[f"{name}/nodes"] = level.nodes
        found[f"{name}/offsets"] = level.offsets
        found[f"{name}/neighbors"] = level.neighbors
    return found


def build_graph(job: Job, centroids: Centroids, progress: Step) -> Graph:
    """HNSW graph (Malkov and Yashunin 2018) of `centroids`.

    Built on one thread: faiss links nodes in the order its threads happen to finish, and the same seed must give the
    same bytes. Centroids are inserted in random order, because those of a tree in tree order are each other's first and
    only neighbours, which leaves long links out.
    """
    import faiss

    count, block = len(centroids), job.sizes.graph_block
    order = np.random.Generator(np.random.PCG64(job.decision.seed)).permutation(count)
    index = faiss.IndexHNSWFlat(centroids.space.dim, LINKS)
    index.hnsw.efConstruction = BUILD_BEAM
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for start in range(0, count, block):
            index.add(centroids.working(order[start : start + block]))
            progress(min(start + block, count), count)
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
