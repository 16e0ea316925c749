"""Which stored postings a search visits, and which are tails.

A centroid owns one posting or several. What was appended to it lies in further postings, and belongs to its tail. If no
row of its own postings is live, its cell was laid anew: then the first appended posting with live rows takes the place
of its own. So the native search knows cells and tails, and nothing of how they came to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.format.live import Bits
from spann.search.contract import Resident

BYTES_AT_A_TIME = 1 << 20
"""Bytes of bits that are counted at once."""

NO_ROW = 1 << 62
"""Row of an empty posting, and so of none: `NO_ROW` and its number, beyond all rows."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """The postings that a search visits, in the order of centroids: ``posting`` (n,) is the number of each on disk.

    - ``page``, ``offset``, ``length``, ``primaries``, ``crc`` (n,): its entries of the directory.
    - ``first_row`` (n,): the stored row of its first primary, beyond all rows if it is empty.
    - ``tail`` (m,): the other postings with live rows, ascending; ``tail_centroid`` (m,): their centroids.
    """

    posting: Ints
    page: NDArray[np.uint32]
    offset: NDArray[np.uint16]
    length: NDArray[np.uint16]
    primaries: NDArray[np.uint16]
    crc: NDArray[np.uint32]
    first_row: NDArray[np.uint64]
    tail: Ints
    tail_centroid: NDArray[np.uint32]

    @classmethod
    def of(cls, resident: Resident) -> Cells:
        """The cells of an open index, by the rows that are live on disk."""
        first = np.concatenate([[0], np.cumsum(resident.primaries, dtype=np.int64)])
        own = len(resident.length) - len(resident.appended)
        posting, tail = np.arange(own), np.arange(own, len(resident.length))
        centroid, length = resident.appended, resident.length
        if resident.live is not None and resident.collection.kind.is_reranked:
            live = length - resident.primaries + live_primaries(resident.live, first[:-1], resident.primaries)
            if resident.collection.entries == resident.collection.count:  # a pinned replica is found by its place
                posting = _mains(resident, live > 0)
                length = np.where(live > 0, length, 0).astype(np.uint16)
            left = (live[own:] > 0) & ~np.isin(tail, posting)
            tail, centroid = tail[left], centroid[left]
        found = length[posting]
        primaries = np.minimum(resident.primaries[posting], found)
        return cls(
            posting=posting,
            page=resident.page[posting],
            offset=resident.offset[posting],
            length=found,
            primaries=primaries,
            crc=resident.crc[posting],
            first_row=np.where(found > 0, first[posting], NO_ROW + np.arange(own)).astype(np.uint64),
            tail=tail,
            tail_centroid=centroid,
        )

    def visited(self, rows: Ints) -> Ints:
        """For stored `rows` the visited postings that have them as primaries, one number for each row. Rows of tails
        have none."""
        order = np.argsort(self.first_row, kind="stable")
        at = np.searchsorted(self.first_row[order], rows.astype(np.uint64), side="right") - 1
        found: Ints = order[at[at >= 0]]
        inside = rows[at >= 0] - self.first_row[found].astype(np.int64) < self.primaries[found]
        return found[inside]


def _mains(resident: Resident, live: NDArray[np.bool_]) -> Ints:
    """The stored posting in each place of the own postings, (own,)."""
    own, centroids = len(resident.length) - len(resident.appended), resident.collection.centroids
    chain = np.arange(centroids + 1) if resident.chain is None else resident.chain.astype(np.int64)
    there = np.add.reduceat(live[:own].astype(np.int64), chain[:-1]) > 0
    wanted = np.flatnonzero(live[own:] & ~there[resident.appended])
    laid, first = np.unique(resident.appended[wanted], return_index=True)
    found = np.arange(own)
    found[chain[laid]] = own + wanted[first]
    return found


def live_primaries(bits: Bits, first_row: NDArray[np.integer], primaries: NDArray[np.integer]) -> Ints:
    """How many primaries of each posting are live, (postings,): those of `primaries` rows from `first_row` on."""
    starts = first_row.astype(np.int64)
    places = np.concatenate([starts, starts + primaries])
    places[np.tile(np.asarray(primaries) == 0, 2)] = 0
    order = np.argsort(places, kind="stable")
    before, counted, byte = np.zeros(len(places), np.int64), 0, places[order] >> 3
    for start in range(0, len(bits) + 1, BYTES_AT_A_TIME):
        some = np.bitwise_count(bits[start : start + BYTES_AT_A_TIME])
        sums = np.concatenate([[0], np.cumsum(some, dtype=np.int64)])
        low, high = np.searchsorted(byte, [start, start + BYTES_AT_A_TIME]).tolist()
        before[order[low:high]] = counted + sums[byte[low:high] - start]
        counted += int(sums[-1])
    first_bits = np.append(bits, np.uint8(0))[places >> 3] & ((1 << (places & 7)) - 1).astype(np.uint8)
    before += np.bitwise_count(first_bits)
    return before[len(starts) :] - before[: len(starts)]
