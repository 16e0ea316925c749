"""Numbers of types that no index holds, as float32."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import NarrowingWarning
from spann.types import Array
from spann.vectors.checks import narrowed
from spann.vectors.sources import WIDE, VectorSource, given_dtype

MANY = 64
"""Rows that are checked for whether float32 can tell them apart."""


class NarrowedSource(VectorSource):
    """The vectors of `wide`, numbers of one of the types `WIDE`, as float32; what float32 cannot hold is refused by
    row."""

    def __init__(self, wide: VectorSource) -> None:
        super().__init__(wide.name, wide.count, wide.dim, np.dtype(np.float32))
        self._wide = wide
        self.columns, self.metric, self.named = wide.columns, wide.metric, wide.named

    def own_ids(self, column: str | None = None) -> Any:
        return self._wide.own_ids(column)

    def own_column(self, name: str) -> tuple[Any, Iterator[Any]]:
        return self._wide.own_column(name)

    def close(self) -> None:
        self._wide.close()

    def _read(self, start: int, stop: int) -> Array:
        return narrowed(self._wide.read(start, stop), start, self.name, spread=stop - start >= MANY)

    def _take(self, rows: NDArray[np.int64]) -> Array:
        return narrowed(self._wide.take(rows), rows, self.name, spread=False)

    def _blocks(self, rows_per_block: int) -> Iterator[tuple[int, Array]]:
        for start, block in self._wide.blocks(rows_per_block):
            yield start, narrowed(block, start, self.name, spread=len(block) >= MANY)


def usable(source: VectorSource, *, quiet: bool = False) -> VectorSource:
    """`source` where an index can hold its elements, else the same as float32, about which a `NarrowingWarning` tells
    unless `quiet`."""
    dtype = given_dtype(source.dtype, source.name)
    if dtype.name not in WIDE:
        return source
    if not quiet:
        warnings.warn(
            f"{source.name} holds {dtype.name}, which becomes float32: an index holds no wider numbers",
            NarrowingWarning,
            stacklevel=_caller(),
        )
    return NarrowedSource(source)


def _caller() -> int:
    """How many calls up, from `usable`, the caller of this package is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("spann", "contextlib"):
        frame, level = frame.f_back, level + 1
    return level
