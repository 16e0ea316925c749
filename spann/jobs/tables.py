"""Neighbours as Parquet: a row for each query, or a row for each neighbour. The size of row groups depends on k alone,
so the bytes do not depend on how many queries were searched at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spann.format.names import arrow_type
from spann.jobs.output import NO_LABELS, Labels, Shape
from spann.store import files
from spann.store.names import NameTable
from spann.types import Array

GROUP_RESULTS = 1 << 20
"""About so many neighbours are in a row group."""

LARGEST_GROUP = 1 << 16
"""The most queries in a row group."""

CODEC = "zstd"

Ids = NDArray[np.int64]


def group_rows(k: int) -> int:
    """Queries of a row group."""
    return max(1, min(LARGEST_GROUP, GROUP_RESULTS // k))


class TableWriter:
    """Writes tables of one schema to a Parquet file, `rows` in a row group. Leaving the context ends the file.

    Columns named in `plain` have no dictionary, because hardly a value comes twice."""

    def __init__(self, path: Path, schema: Any, rows: int, plain: Collection[str]) -> None:
        self._path, self._rows = path, rows
        self._held: list[Any] = []
        self._size = 0
        self._writer = parquet_writer(path, schema, plain)
        self._schema = schema

    def add(self, table: Any) -> None:
        at = 0
        while at < len(table):
            part = table.slice(at, self._rows - self._size)
            self._held.append(part)
            self._size += len(part)
            at += len(part)
            if self._size == self._rows:
                self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._held).combine_chunks().cast(self._schema)
        with files.explained(self._path, "write"):
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._held, self._size = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None and self._held:
            self._flush()
        with files.explained(self._path, "write"):
            self._writer.close()


def parquet_writer(file: Path | BinaryIO, schema: Any, plain: Collection[str]) -> Any:
    dictionary = [name for name in schema.names if name not in plain]
    return pq.ParquetWriter(file, schema, compression=CODEC, use_dictionary=dictionary or False)


def _types(labels: Labels) -> tuple[Any, Any]:
    """Arrow types of keys and ids."""
    keys, ids = (pa.int64() if one is None else arrow_type(one.kind) for one in (labels.keys, labels.ids))
    return keys, ids


def _named(numbers: Ids, names: NameTable | None) -> Any:
    return pa.array(numbers) if names is None else names.arrow(numbers)


def neighbours_schema(shape: Shape, others: Any = None, labels: Labels = NO_LABELS) -> Any:
    """The schema of a table of neighbours; `others` is the schema of carried columns."""
    of_keys, of_ids = _types(labels)
    key, besides = pa.field(shape.key, of_keys), [] if others is None else list(others)
    if shape.layout == "long":
        found = [("rank", pa.int32()), (shape.one, of_ids), ("distance", pa.float32())]
    else:
        found = [(shape.ids, pa.list_(of_ids)), ("distances", pa.list_(pa.float32()))]
    return pa.schema([key, *besides, *(pa.field(name, kind) for name, kind in found)])


def neighbours_table(
    shape: Shape,
    keys: Ids,
    others: Any,
    ids: Ids,
    distances: Array,
    labels: Labels = NO_LABELS,
) -> Any:
    """A table of neighbours (n, k) of queries called `keys` (n,), and the columns of `others`, if not None."""
    found = ids >= 0
    schema = neighbours_schema(shape, None if others is None else others.schema, labels)
    besides = [] if others is None else others.columns
    if shape.layout == "wide":
        limits = pa.array(np.concatenate([[0], np.cumsum(found.sum(axis=1))]), pa.int32())
        values = _named(ids[found], labels.ids), pa.array(distances[found])
        lists = (pa.ListArray.from_arrays(limits, one) for one in values)
        return pa.table([_named(keys, labels.keys), *besides, *lists], schema=schema)
    query, rank = np.nonzero(found)
    rows = pa.array(query)
    columns = [pa.array(rank.astype(np.int32)), _named(ids[found], labels.ids), pa.array(distances[found])]
    called = _named(keys[query], labels.keys)
    return pa.table([called, *(column.take(rows) for column in besides), *columns], schema=schema)


def read_neighbours(path: Path, k: int, shape: Shape, worst: float) -> Iterator[tuple[Ids, Ids, Array]]:
    """Yields keys (n,), ids and distances (n, k) of a wide file, row group by row group. A query with fewer neighbours
    is filled with id -1 and the `worst` distance."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[shape.key, shape.ids, "distances"])
            lists = table[shape.ids].combine_chunks()
            counts = lists.value_lengths().to_numpy()
            query = np.repeat(np.arange(len(counts)), counts)
            rank = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
            ids = np.full((len(counts), k), -1, np.int64)
            distances = np.full((len(counts), k), worst, np.float32)
            ids[query, rank] = lists.flatten().to_numpy()
            distances[query, rank] = table["distances"].combine_chunks().flatten().to_numpy()
            yield table[shape.key].to_numpy(), ids, distances
