"""The rows of ids: `vectors/by_id` on disk (docs/FORMAT.md, Updates), or the ids of all rows in memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from spann.format.live import is_live
from spann.format.updates import IDS, ROWS
from spann.store.checked import Checked
from spann.store.reader import IndexReader

Rows = NDArray[np.int64]

STEP = 4096
"""Entries between two ids of a run that are kept in memory: a search for an id reads so many."""

_READ_ENTRIES = 1 << 20


class ById:
    """Finds the live rows of ids in an index with updates. Keeps an id of every `STEP` entries in memory.

    Any thread may use it. Raises `CorruptionError` for what does not match its checksum."""

    def __init__(self, reader: IndexReader) -> None:
        assert reader.collection.updates is not None
        self._ids, self._rows = Checked(reader, IDS), Checked(reader, ROWS)
        self._runs = []
        start = 0
        for end in reader.collection.updates.runs:
            self._runs.append((start, end, self._keys(start, end)))
            start = end

    def _keys(self, start: int, end: int) -> Rows:
        parts = []
        for at in range(start, end, _READ_ENTRIES):
            parts.append(self._ids.read(at, min(at + _READ_ENTRIES, end))[::STEP].astype(np.int64))
        return np.concatenate(parts)

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        return sum(keys.nbytes for _, _, keys in self._runs)

    def find(self, ids: NDArray[np.int64], live: NDArray[np.uint8]) -> Rows:
        """The row of each of `ids` (n,) that is live in the bits `live`; -1 where none is."""
        order = np.argsort(ids, kind="stable")
        wanted, found = ids[order], np.full(len(ids), -1, np.int64)
        for start, end, keys in self._runs:
            block = np.searchsorted(keys, wanted, side="right") - 1
            bounds = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(wanted)]
            for first, last in pairwise(bounds):
                if first == last or block[first] < 0:
                    continue
                begin = start + int(block[first]) * STEP
                here = self._ids.read(begin, min(begin + STEP, end)).astype(np.int64)
                at = np.searchsorted(here, wanted[first:last])
                there = np.flatnonzero((at < len(here)) & (here[np.minimum(at, len(here) - 1)] == wanted[first:last]))
                if not len(there):
                    continue
                low, high = int(at[there].min()), int(at[there].max()) + 1
                rows = self._rows.read(begin + low, begin + high).astype(np.int64)[at[there] - low]
                current = is_live(live, rows)
                found[order[first + there[current]]] = rows[current]
        return found


class AllIds:
    """The same for an index without updates: all ids in memory, 16 bytes for each."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        """`ids` (count,) are those of the stored rows."""
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]

    @property
    def nbytes(self) -> int:
        return self._ids.nbytes + self._order.nbytes

    def find(self, ids: NDArray[np.int64], live: NDArray[np.uint8] | None = None) -> Rows:
        """The row of each of `ids` (n,); -1 where there is none."""
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[at] == ids, self._order[at], -1)


RowsOfIds = ById | AllIds
