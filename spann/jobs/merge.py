"""Merges the parts of a job into one file, in the formats of `spann.vectors.sinks`, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq

from spann.errors import InputError
from spann.jobs.graph import Neighbours, RowOrder, write_csr
from spann.jobs.output import Shape
from spann.jobs.tables import parquet_writer, read_neighbours
from spann.store.reader import IndexReader
from spann.types import Array
from spann.vectors.formats import BIN_HEADER
from spann.vectors.sinks import plain_ids, write_whole

_LINES = 4096
"""Rows that are turned into JSON at a time."""


@dataclass(frozen=True)
class Merged:
    """Parts with `k` neighbours a query, in order. A query with fewer has the `worst` distance in the remaining
    places."""

    parts: Sequence[Path]
    k: int
    shape: Shape
    worst: float

    def write(self, path: Path) -> None:
        """Writes one file at `path`, in the format of its extension: whole, or not at all."""
        writer = getattr(self, f"_{path.suffix[1:].lower()}")
        write_whole(path, lambda file: writer(file, str(path)))

    def _parquet(self, file: BinaryIO, name: str) -> None:
        _copy(file, self.parts, self.shape.own)

    def _jsonl(self, file: BinaryIO, name: str) -> None:
        for part in self.parts:
            with pq.ParquetFile(part) as source:
                for batch in source.iter_batches(_LINES):
                    for row in batch.to_pylist():
                        file.write(json.dumps(row, default=_text).encode() + b"\n")

    def _csv(self, file: BinaryIO, name: str) -> None:
        """A line for each neighbour, with what was carried."""
        text = io.TextIOWrapper(file, "utf-8", newline="")
        rows, head = csv.writer(text), None
        for part in self.parts:
            with pq.ParquetFile(part) as source:
                for batch in source.iter_batches(_LINES):
                    for row in map(dict, batch.to_pylist()):
                        for line in self._long(row):
                            if head is None:
                                head = list(line)
                                rows.writerow(head)
                            rows.writerow(plain_ids(np.array([*line.values()], object)))
        text.flush()
        text.detach()

    def _long(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self.shape.layout == "long":
            yield row
            return
        lists = row.pop(self.shape.ids), row.pop("distances")
        for rank, (one, distance) in enumerate(zip(*lists, strict=True)):
            yield {**row, "rank": rank, self.shape.one: one, "distance": distance}

    def _npz(self, file: BinaryIO, name: str) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for which, array, dtype in ((1, "ids", "<i8"), (2, "distances", "<f4")):
                with archive.open(f"{array}.npy", "w", force_zip64=True) as member:
                    header = {"descr": dtype, "fortran_order": False, "shape": (self._rows(), self.k)}
                    np.lib.format.write_array_header_1_0(member, header)
                    for block in self._blocks(which):
                        member.write(np.ascontiguousarray(block, dtype).data)

    def _ibin(self, file: BinaryIO, name: str) -> None:
        file.write(BIN_HEADER.pack(self._rows(), self.k))
        for which, dtype in ((1, "<i4"), (2, "<f4")):
            for block in self._blocks(which):
                if which == 1 and block.max(initial=0) > np.iinfo(np.int32).max:
                    raise InputError(f"{name}: id {block.max()} does not fit the int32 of .ibin; write .npz")
                file.write(block.astype(dtype).tobytes())

    def _rows(self) -> int:
        return sum(pq.read_metadata(part).num_rows for part in self.parts)

    def _blocks(self, which: int) -> Iterator[Array]:
        """Ids (1) or distances (2), some rows at a time."""
        for part in self.parts:
            for found in read_neighbours(part, self.k, self.shape, self.worst):
                yield found[which]


def _text(value: Any) -> str:
    """A value that JSON has no form for, as text."""
    return value.hex() if isinstance(value, bytes) else str(value)


def write_graph(merged: Merged, path: Path, reader: IndexReader) -> None:
    """Writes `merged`, neighbours of all vectors of the index, as a graph for scipy."""
    order = RowOrder(reader)

    def found() -> Neighbours:
        for part in merged.parts:
            yield from read_neighbours(part, merged.k, merged.shape, merged.worst)

    write_csr(path, found, int(reader.attributes["count"]), merged.k, order)


def merge_tables(parts: Sequence[Path], path: Path, plain: Sequence[str]) -> None:
    """Writes the tables of the `parts`, in order, to `path`. Columns in `plain` have no dictionary."""
    write_whole(path, lambda file: _copy(file, parts, plain))


def _copy(file: BinaryIO, parts: Sequence[Path], plain: Sequence[str]) -> None:
    with parquet_writer(file, pq.read_schema(parts[0]), plain) as writer:
        for part in parts:
            with pq.ParquetFile(part) as source:
                for group in range(source.num_row_groups):
                    table = source.read_row_group(group)
                    writer.write_table(table, row_group_size=max(1, len(table)))
