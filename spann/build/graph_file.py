"""The navigation graph in a temporary file, for a build that goes on: making it takes one thread minutes."""

from __future__ import annotations

from typing import Any

import numpy as np

from spann.build.checkpoint import Checkpoint, Mark
from spann.build.temporary import RecordFile
from spann.centroids import Graph, Level
from spann.storage import Where
from spann.types import Array

NAME = "graph"

_BYTES = np.dtype(np.uint8)


def keep_graph(graph: Graph, directory: Where, checkpoint: Checkpoint) -> None:
    """Marks the graph, which is written to `directory` where a mark is due."""

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
    """The graph that the mark speaks of. Raises `CorruptionError` where the file holds another."""
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
