"""The cluster of each vector: the centroid that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.format.names import arrow_type
from spann.jobs.ahead import ahead
from spann.jobs.output import OutputFolder, Shard
from spann.jobs.own import OwnVectors
from spann.jobs.parts import Part
from spann.store.names import NameTable
from spann.types import Array, Progress

GROUP_ROWS = 1 << 18
"""Rows of a row group."""

Assign = Callable[[Array], NDArray[np.int64]]
"""The number of the nearest centroid of vectors (n, dim), (n,)."""


def own_clusters(collection: OwnVectors) -> NDArray[np.int64]:
    """The centroid of each row of the collection, (count,), in the order of the index: the row lies in its posting."""
    owner = np.repeat(collection.centroid_of, np.diff(collection.first))
    return np.concatenate([np.arange(collection.led), owner])


def assign_parts(
    parts: Sequence[Part],
    folder: OutputFolder,
    assign: Assign,
    *,
    shard: Shard,
    block_rows: int,
    key: str,
    own: NDArray[np.int64] | None = None,
    names: NameTable | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes `key` and `cluster` of the missing parts. `own` are the clusters of the collection's own vectors, if these
    are the parts. Returns the number of vectors assigned."""
    import pyarrow as pa

    from spann.jobs.tables import TableWriter

    schema = pa.schema([(key, pa.int64() if names is None else arrow_type(names.kind)), ("cluster", pa.int64())])
    mine = folder.missing(shard)
    first = np.concatenate([[0], np.cumsum([part.rows for part in parts], dtype=np.int64)])
    total, done = sum(parts[number].rows for number in mine), 0
    for number in mine:
        at = int(first[number])
        with folder.writing(number) as path, TableWriter(path, schema, GROUP_ROWS, (key,)) as out:
            for block in ahead(parts[number].blocks(block_rows)):
                rows = len(block.vectors)
                try:
                    clusters = assign(block.vectors) if own is None else own[at : at + rows]
                except InputError as error:
                    where = at - int(first[number])
                    raise InputError(f"{parts[number].name}, rows from {where} on: {error}") from error
                keys = np.arange(at, at + rows) if block.keys is None else block.keys
                called = pa.array(keys) if names is None else names.arrow(keys)
                out.add(pa.table([called, clusters], schema=schema))
                at += rows
                done += rows
                if progress:
                    progress("assign", done, total)
    return total
