"""Which stored vectors of an open index count in a search: all, or those left by deletions and updates.

An `Alive` never changes, so searches under way keep theirs. `without` makes the next one, at the cost of copying a bit
for each row. The native search masks by it where scores are compared (ext/c/search/live.h).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _search
from spann.format.kinds import ExactPostings
from spann.format.live import Bits, count_live, unpack_live, without
from spann.format.postings import PAGE, posting_span
from spann.search.contract import Resident
from spann.store.arrays import ShardedArray
from spann.types import Array

ROWS_AT_A_TIME = 8 << 20
"""Rows whose bits are unpacked at once."""

Ids = NDArray[np.int64]


class Alive(ABC):
    """The stored vectors that count, `count` in number."""

    count: int

    @property
    @abstractmethod
    def native(self) -> _search.Live:
        """As the native search takes it. Only if `count` is at least 1."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that it takes."""

    @abstractmethod
    def without(self, rows: Ids, ids: Ids) -> Alive:
        """The same without the live stored `rows` (n,), which have these `ids`."""


class AliveRows(Alive):
    """For postings of codes, whose entries have rows of the exact store: a bit for each row."""

    def __init__(self, bits: Bits, length: NDArray[np.uint16], first_row: NDArray[np.uint64], count: int) -> None:
        """`bits` with `LIVE_SLACK` bytes behind; `length` (postings,): the entries that may count. `first_row`
        (postings + 1,): where the primaries of each begin."""
        self._bits, self._length, self._first_row, self.count = bits, length, first_row, count
        self._native: _search.Live | None = None

    @classmethod
    def of(
        cls, bits: Bits, length: NDArray[np.uint16], primaries: NDArray[np.uint16], first_row: NDArray[np.uint64]
    ) -> Self:
        """From the bits of all rows. Replicas may count: which rows they have is on disk."""
        live = _live_primaries(bits, first_row)
        may = length - primaries + live
        padded = np.concatenate([bits, np.zeros(_search.LIVE_SLACK, np.uint8)])
        return cls(padded, may.astype(np.uint16), first_row, count_live(bits))

    @property
    def native(self) -> _search.Live:
        if self._native is None:
            found = _search.Live(self.count, self._length)
            found.set_rows(self._bits)
            self._native = found
        return self._native

    @property
    def nbytes(self) -> int:
        return self._bits.nbytes + self._length.nbytes

    def without(self, rows: Ids, ids: Ids) -> Alive:
        postings, fewer = np.unique(
            np.searchsorted(self._first_row, rows.astype(np.uint64), side="right") - 1, return_counts=True
        )
        length = self._length.copy()
        length[postings] -= fewer.astype(np.uint16)
        return AliveRows(without(self._bits, rows), length, self._first_row, self.count - len(rows))


class AliveIds(Alive):
    """For postings of vectors, whose entries have ids alone: the ids that do not count."""

    def __init__(self, dead: Ids, length: NDArray[np.uint16], count: int) -> None:
        """`dead` in any order, none twice; `length` (postings,) of all entries."""
        self._dead, self._length, self.count = dead, length, count
        self._native: _search.Live | None = None

    @property
    def native(self) -> _search.Live:
        if self._native is None:
            found = _search.Live(self.count, self._length)
            found.set_dead(self._dead)
            self._native = found
        return self._native

    @property
    def nbytes(self) -> int:
        return self._dead.nbytes + 32 * len(self._dead)

    def without(self, rows: Ids, ids: Ids) -> Alive:
        return AliveIds(np.concatenate([self._dead, ids]), self._length, self.count - len(ids))


def dead_ids(resident: Resident, pages: ShardedArray, bits: Bits) -> Ids:
    """The ids of the dead rows of an index with postings of vectors, read from its centroids and postings."""
    about, kind = resident.collection, resident.collection.kind
    assert isinstance(kind, ExactPostings)
    assert resident.ids is not None
    rows = np.flatnonzero(~unpack_live(bits, about.count))
    found = [resident.ids[rows[rows < about.centroids]].astype(np.int64)]
    rows = rows[rows >= about.centroids] - about.centroids
    first = np.concatenate([[0], np.cumsum(resident.primaries, dtype=np.int64)])
    start, end = posting_span(resident.page, resident.offset, kind.record.size(resident.length, resident.primaries))
    owner = np.searchsorted(first, rows, side="right") - 1
    for posting in np.unique(owner).tolist():
        low, high = int(start[posting]), int(end[posting])
        content = pages.read_rows(low // PAGE, -(-high // PAGE)).reshape(-1)[low % PAGE :][: high - low]
        ids: Array = kind.ids(content, int(resident.length[posting]))
        found.append(ids[rows[owner == posting] - first[posting]].astype(np.int64))
    return np.concatenate(found)


def _live_primaries(bits: Bits, first_row: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many primaries of each posting are live, (postings,)."""
    rows = int(first_row[-1])
    before = np.zeros(len(first_row), np.int64)  # live rows before first_row, counted block by block
    counted = 0
    for start in range(0, rows, ROWS_AT_A_TIME):
        some = unpack_live(bits[start // 8 :], min(ROWS_AT_A_TIME, rows - start))
        sums = np.concatenate([[0], np.cumsum(some, dtype=np.int64)])
        low, high = np.searchsorted(first_row, [start, start + len(some)], side="right").tolist()
        before[low:high] = counted + sums[first_row[low:high].astype(np.int64) - start]
        counted += int(sums[-1])
    return np.diff(before)
