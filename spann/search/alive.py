"""Which stored vectors of an open index count in a search: all, or those left by deletions and updates.

An `Alive` never changes, so searches under way keep theirs. `without` makes the next one, at the cost of copying a bit
for each row. The native search masks by it where scores are compared (ext/c/search/live.h).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _search
from spann.format.kinds import ExactPostings
from spann.format.live import Bits, count_live, unpack_live, without
from spann.format.postings import PAGE, posting_span
from spann.search.cells import Cells, live_primaries
from spann.search.contract import Resident
from spann.store.arrays import ShardedArray
from spann.types import Array

Ids = NDArray[np.int64]


class Alive(ABC):
    """The stored vectors that count, `count` in number."""

    count: int
    is_filtered = False
    is_listed = False
    _centroids: NDArray[np.uint32] | None = None
    _native: _search.Live | None = None

    @property
    def native(self) -> _search.Live:
        """As the native search takes it. Only if `count` is at least 1."""
        if self._native is None:
            found = self._made()
            if self.is_filtered:
                found.set_filter(self._centroids)
            self._native = found
        return self._native

    def under_filter(self, centroids: NDArray[np.uint32] | None) -> Self:
        """The same as what a filter leaves. With `centroids`, ascending, only their postings are looked at."""
        found = copy(self)
        found.is_filtered, found.is_listed = True, centroids is not None
        found._centroids, found._native = centroids, None
        return found

    @abstractmethod
    def _made(self) -> _search.Live: ...

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that it takes."""

    @abstractmethod
    def without(self, rows: Ids, ids: Ids) -> Alive:
        """The same without the live stored `rows` (n,), which have these `ids`."""


class AliveRows(Alive):
    """For postings of codes, whose entries have rows of the exact store: a bit for each row."""

    def __init__(self, bits: Bits, length: NDArray[np.uint16], cells: Cells, count: int) -> None:
        """`bits` with `LIVE_SLACK` bytes behind; `length` (postings,): the entries that may count in each that is
        visited."""
        self._bits, self.length, self._cells, self.count = bits, length, cells, count

    @classmethod
    def of(cls, bits: Bits, cells: Cells) -> Self:
        """From the bits of all rows. Replicas may count: which rows they have is on disk."""
        live = live_primaries(bits, cells.first_row, cells.primaries)
        may = cells.length - cells.primaries + live
        padded = np.concatenate([bits, np.zeros(_search.LIVE_SLACK, np.uint8)])
        return cls(padded, may.astype(np.uint16), cells, count_live(bits))

    def _made(self) -> _search.Live:
        found = _search.Live(self.count, self.length)
        found.set_rows(self._bits)
        return found

    @property
    def bits(self) -> Bits:
        """The bits of all rows, without what lies behind."""
        return self._bits[: -_search.LIVE_SLACK]

    @property
    def nbytes(self) -> int:
        return self._bits.nbytes + self.length.nbytes

    def without(self, rows: Ids, ids: Ids) -> Alive:
        postings, fewer = np.unique(self._cells.visited(rows), return_counts=True)
        length = self.length.copy()
        length[postings] -= fewer.astype(np.uint16)
        return AliveRows(without(self._bits, rows), length, self._cells, self.count - len(rows))


class AliveIds(Alive):
    """For postings of vectors, whose entries have ids alone: the ids that do not count, or those that do."""

    def __init__(self, ids: Ids, length: NDArray[np.uint16], count: int, *, kept: bool = False) -> None:
        """`ids` in any order, none twice: those that do not count, or, if `kept`, those that do. `length` (postings,)
        of all entries."""
        self.ids, self.kept, self.length, self.count = ids, kept, length, count

    def _made(self) -> _search.Live:
        found = _search.Live(self.count, self.length)
        if self.kept:
            found.set_listed(self.ids)
        else:
            found.set_dead(self.ids)
        return found

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + 32 * len(self.ids)

    def without(self, rows: Ids, ids: Ids) -> Alive:
        if self.kept:
            return AliveIds(self.ids[~np.isin(self.ids, ids)], self.length, self.count - len(ids), kept=True)
        return AliveIds(np.concatenate([self.ids, ids]), self.length, self.count - len(ids))


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
