"""A column of a Parquet file as vectors, read by pyarrow; imported only when one is opened."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spann.errors import InputError, StorageError
from spann.types import Array
from spann.vectors.sources import VectorSource, check_dim, usable_rows, vector_dtype

COLUMNS = ("vector", "embedding", "emb")
"""Names under which vectors are looked for where there are several list columns."""

KEPT_GROUPS = 2
"""Row groups kept decoded: a block may end in one and begin in the next."""


def open_parquet(path: Path, column: str, *, max_rows: int | None, name: str) -> ParquetSource:
    """The named list column of the file; without a name one of `COLUMNS`, or the only one."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{name} is not a Parquet file that can be read: {' '.join(str(error).split())}") from error
    try:
        return ParquetSource(file, _find(file.schema_arrow, column, name), max_rows=max_rows, name=name)
    except BaseException:
        file.close()
        raise


def _find(schema: pa.Schema, column: str, name: str) -> str:
    lists = [field.name for field in schema if _is_list(field.type)]
    wanted = column or next((known for known in COLUMNS if known in lists), lists[0] if len(lists) == 1 else "")
    if wanted not in lists:
        known = f"its list columns are {', '.join(lists)}" if lists else "it has no list column"
        problem = f"has no list column {wanted!r}" if wanted else f"has several or none, and none is {COLUMNS[0]!r}"
        raise InputError(f"{name} {problem}; {known}: name one as FILE#COLUMN")
    return wanted


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


class ParquetSource(VectorSource):
    """Vectors of a list or fixed-size-list column. A row group is decoded whole: as many as `KEPT_GROUPS` of them are
    in memory besides what is read."""

    def __init__(self, file: pq.ParquetFile, column: str, *, max_rows: int | None, name: str) -> None:
        kind = file.schema_arrow.field(column).type
        dtype = vector_dtype(kind.value_type.to_pandas_dtype(), name)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._file, self._column, self._lock = file, column, threading.Lock()
        self._ends = np.cumsum(groups, dtype=np.int64)
        self._kept: OrderedDict[int, Array] = OrderedDict()
        rows = int(self._ends[-1]) if groups else 0
        count = usable_rows(name, announced=rows, present=rows, max_rows=max_rows)
        dim = kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_length(name)
        check_dim(dim, name)
        super().__init__(name, count, dim, dtype)

    def close(self) -> None:
        self._file.close()

    def _first_length(self, name: str) -> int:
        batch = next(self._file.iter_batches(batch_size=1, columns=[self._column]))
        length = batch.column(0).value_lengths()[0].as_py()
        if length is None:
            raise InputError(f"row 0 of {name} is null: vectors cannot have missing values")
        return int(length)

    def _read(self, start: int, stop: int) -> Array:
        out = np.empty((stop - start, self.dim), self.dtype)
        at = start
        while at < stop:
            group = int(np.searchsorted(self._ends, at, side="right"))
            first = int(self._ends[group - 1]) if group else 0
            end = min(stop, int(self._ends[group]))
            out[at - start : end - start] = self._group(group)[at - first : end - first]
            at = end
        return out

    def _take(self, rows: NDArray[np.int64]) -> Array:
        out = np.empty((len(rows), self.dim), self.dtype)
        group = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(group).tolist():
            first = int(self._ends[number - 1]) if number else 0
            mine = group == number
            out[mine] = self._group(number)[rows[mine] - first]
        return out

    def _group(self, number: int) -> Array:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            first = int(self._ends[number - 1]) if number else 0
            try:
                column = self._file.read_row_group(number, columns=[self._column]).column(0)
            except OSError as error:
                raise StorageError(f"row group {number} of {self.name} cannot be read: {error}") from error
            except pa.ArrowException as error:
                reason = " ".join(str(error).split())
                raise InputError(f"row group {number} of {self.name} cannot be decoded: {reason}") from error
            parts = []
            for chunk in column.chunks:
                parts.append(self._rows(chunk, first))
                first += len(chunk)
            found = np.concatenate(parts)
            self._kept[number] = found
            while len(self._kept) > KEPT_GROUPS:
                self._kept.popitem(last=False)
            return found

    def _rows(self, chunk: Any, first: int) -> Array:
        lengths = chunk.value_lengths() if not pa.types.is_fixed_size_list(chunk.type) else None
        if chunk.null_count or (lengths is not None and (lengths.to_numpy(zero_copy_only=False) != self.dim).any()):
            wrong = chunk.is_null().to_numpy(zero_copy_only=False)
            if lengths is not None and not wrong.any():
                wrong = lengths.to_numpy(zero_copy_only=False) != self.dim
            raise InputError(
                f"row {first + int(np.argmax(wrong))} of {self.name} is null or has not the length of row 0, {self.dim}"
            )
        values = chunk.flatten()
        if values.null_count:
            raise InputError(f"vectors of {self.name} from row {first} on have elements that are null")
        table: Array = values.to_numpy(zero_copy_only=False).reshape(len(chunk), self.dim)
        return table
