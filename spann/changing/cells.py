"""The cells of an index that can be updated: which of their rows are live, and which cells are to be laid anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.format.live import Bits, unpack_live
from spann.store.reader import IndexReader

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

ROWS_AT_A_TIME = 1 << 22
"""Rows whose bits are counted together."""


@dataclass(frozen=True)
class Bounds:
    """What a cell may be like before it is dirty. Shares are of the posting size, that of `dead` is of its postings.

    - ``tail``: live rows outside of its largest posting; ``dead``: dead rows in postings that have live ones.
    - ``smallest`` and ``largest``: its live rows.
    """

    tail: float = 0.25
    dead: float = 0.25
    smallest: float = 0.35
    largest: float = 1.6


TIDY = Bounds()
"""Bounds within which searches stay nearly as fast as in a new build."""

PURGED = Bounds(tail=0.0, dead=0.0)
"""Bounds that leave one posting a cell, and no dead row beside a live one."""


@dataclass(frozen=True)
class Cells:
    """The `count` cells of an index with codes and without replicas.

    - ``owner`` (postings,): the cell of each posting. The first `own` postings belong to cells in their order.
    - ``first``, ``length``, ``live`` (postings,): the first row of each posting, its rows, and how many are live.
    - ``bits``: the bits of all rows.
    """

    count: int
    own: int
    owner: Ints
    first: Ints
    length: Ints
    live: Ints
    bits: Bits

    @classmethod
    def of(cls, reader: IndexReader, bits: Bits) -> Cells:
        """The cells of the index that `reader` has open, with these `bits` of its rows."""
        directory, arrays = "postings/directory", reader.arrays()
        length = reader.read(f"{directory}/primaries").astype(np.int64)
        appended = np.empty(0, np.int64)
        if f"{directory}/appended" in arrays:
            appended = reader.read(f"{directory}/appended").astype(np.int64)
        own = np.arange(len(length) - len(appended))
        if f"{directory}/chain" in arrays:
            own = np.searchsorted(reader.read(f"{directory}/chain").astype(np.int64), own, side="right") - 1
        first = np.cumsum(length) - length
        live = _live(bits, first, length)
        return cls(reader.collection.centroids, len(own), np.concatenate([own, appended]), first, length, live, bits)

    def per_cell(self, values: Ints) -> Ints:
        """Sums (count,) of `values` (postings,) over the postings of each cell."""
        return np.bincount(self.owner, weights=values, minlength=self.count).astype(np.int64)

    @property
    def main(self) -> Ints:
        """The posting of each cell that has most live rows, (count,); the first of several."""
        order = np.lexsort((np.arange(len(self.owner)), -self.live, self.owner))
        return order[np.searchsorted(self.owner[order], np.arange(self.count))]

    def dirty(self, posting_size: int, bounds: Bounds, fresh: Ints) -> Flags:
        """Which cells are outside of the `bounds`, (count,), if `fresh` (count,) vectors more belong to each.

        A cell without a vector is dirty only beside others: there is nothing to lay, but its centroid can go."""
        live, size = self.per_cell(self.live), float(posting_size)
        tail = live - self.live[self.main]
        dead = self.per_cell(np.where(self.live > 0, self.length - self.live, 0))
        stored = self.per_cell(np.where(self.live > 0, self.length, 0))
        found = (tail + fresh > bounds.tail * size) | (dead > bounds.dead * np.maximum(stored, 1))
        found |= (live + fresh > bounds.largest * size) | (live + fresh < bounds.smallest * size)
        empty = live + fresh == 0
        result: Flags = found if (found & ~empty).any() else np.zeros(self.count, np.bool_)
        return result

    def postings_of(self) -> tuple[Ints, Ints]:
        """The postings in the order of their cells, and where those of each cell begin there, (count + 1,)."""
        order = np.argsort(self.owner, kind="stable")
        return order, np.searchsorted(self.owner[order], np.arange(self.count + 1))

    def rows(self, posting: int) -> Ints:
        """The live rows of a posting, ascending."""
        start, stop = int(self.first[posting]), int(self.first[posting] + self.length[posting])
        byte = start // 8
        flags = unpack_live(self.bits[byte : -(-stop // 8)], stop - 8 * byte)[start - 8 * byte :]
        return start + np.flatnonzero(flags)


def _live(bits: Bits, first: Ints, length: Ints) -> Ints:
    """How many of the rows of each posting are live."""
    live, at, ends = np.zeros(len(length), np.int64), 0, first + length
    while at < len(length):
        stop = max(at + 1, int(np.searchsorted(ends, first[at] + ROWS_AT_A_TIME, side="right")))
        start, byte = int(first[at]), int(first[at]) // 8
        flags = unpack_live(bits[byte : -(-int(ends[stop - 1]) // 8)], int(ends[stop - 1]) - 8 * byte)
        total = np.concatenate([[0], np.cumsum(flags[start - 8 * byte :], dtype=np.int64)])
        live[at:stop] = total[ends[at:stop] - start] - total[first[at:stop] - start]
        at = stop
    return live
