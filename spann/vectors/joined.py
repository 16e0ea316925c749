"""Several sources as one, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array
from spann.vectors.sources import VectorSource, usable_rows


class JoinedSource(VectorSource):
    """The vectors of all `parts`, which are of one dimension and type; closes them in the end."""

    def __init__(self, parts: Sequence[VectorSource], *, max_rows: int | None, name: str) -> None:
        first = parts[0]
        for part in parts:
            if (part.dim, part.element) != (first.dim, first.element):
                raise InputError(
                    f"{part.name} has {part.dim} {part.element} where {first.name} has {first.dim} {first.element}: "
                    "all parts hold vectors of one kind"
                )
        self._ends = np.cumsum([part.count for part in parts], dtype=np.int64)
        rows = int(self._ends[-1])
        count = usable_rows(name, announced=rows, present=rows, max_rows=max_rows)
        super().__init__(name, count, first.dim, first.dtype, first.element)
        self._parts = parts

    def close(self) -> None:
        with ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.close)

    def _read(self, start: int, stop: int) -> Array:
        number = int(np.searchsorted(self._ends, start, side="right"))
        if stop <= (self._ends[number] if number < len(self._ends) else start):
            first = int(self._ends[number]) - self._parts[number].count
            return self._parts[number].read(start - first, stop - first)
        out, at = np.empty((stop - start, self.dim), self.dtype), start
        while at < stop:
            part = self._parts[number]
            first = int(self._ends[number]) - part.count
            end = min(stop, int(self._ends[number]))
            out[at - start : end - start] = part.read(at - first, end - first)
            at, number = end, number + 1
        return out

    def _take(self, rows: NDArray[np.int64]) -> Array:
        out = np.empty((len(rows), self.dim), self.dtype)
        where = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(where).tolist():
            mine = np.flatnonzero(where == number)
            first = int(self._ends[number]) - self._parts[number].count
            out[mine] = self._parts[number].take(rows[mine] - first)
        return out
