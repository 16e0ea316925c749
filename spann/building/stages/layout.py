"""Stage "layout": edges become postings of bounded length, and postings get their places in pages.

Nothing here drops a vector: only replicas are cut; where the primaries of a centroid alone exceed the bound, the
centroid owns a chain of postings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spann.building.edges import EdgeSpool
from spann.building.job import Job
from spann.building.temporary import RecordFile
from spann.building.workspace import Workspace
from spann.format.postings import PAGE, Record
from spann.types import Array

TAIL_CUT = 0.1
"""A posting's last page is given up, and the replicas on it with it, if they fill at most this share of a page. On 1M
SIFT (31 records a page) 32 postings then take 57.7 pages instead of 59.1 at the same recall; 0.2 takes 56.1 pages."""

SCALE = 1024.0
"""Entries of codes farther from their centroid than the root of this many times the median go to a posting of their
own: factors are linear in 16 bits, between the least and the largest of a posting, and one entry a thousand times as
far as the others takes all of them. None is of SIFT or MiniLM."""

WINDOW = 1024
"""Postings whose partial pages are packed together; neighbours in space stay neighbours on disk."""


@dataclass(frozen=True)
class Postings:
    """The postings of one range of centroids, in order.

    - ``rows`` (entries,) int64: row numbers, posting by posting, primaries first, then by distance.
    - ``length`` (postings,) uint16, ``primaries`` (postings,) uint16.
    - ``owner`` (postings,) int64: the centroid of each, ascending; every one of the range has at least one posting.
    """

    rows: NDArray[np.int64]
    length: NDArray[np.uint16]
    primaries: NDArray[np.uint16]
    owner: NDArray[np.int64]


def cut(edges: Array, first: int, last: int, bound: int, record: Record) -> Postings:
    """Postings of centroids `first` to `last` (exclusive) from their edges: at most `bound` entries each, of codes of
    like distance."""
    if record.header:
        edges, owned = _by_scale(edges, first, last)
        found = _cut(edges, 0, len(owned), bound, record)
        return replace(found, owner=owned[found.owner])
    return _cut(edges, first, last, bound, record)


def _by_scale(edges: Array, first: int, last: int) -> tuple[Array, NDArray[np.int64]]:
    """The edges to centroids `first` to `last` (exclusive), with numbers of parts instead; and the centroid of each.

    No primary of a part is farther from its centroid than `SCALE` allows. Replicas that are farther are dropped, and
    all of a centroid of several parts: its postings are a chain."""
    part = edges["centroid"].astype(np.int64) - first
    owned, replica = np.arange(last - first), edges["replica"] > 0
    while True:
        order = np.lexsort((edges["sqdist"], replica, part))
        primaries = np.bincount(part, weights=~replica, minlength=len(owned)).astype(np.int64)
        start = np.cumsum(np.bincount(part, minlength=len(owned))) - np.bincount(part, minlength=len(owned))
        middle = np.zeros(len(owned), np.float32)
        some = primaries > 0
        middle[some] = edges["sqdist"][order[(start + primaries // 2)[some]]]
        far = (middle > 0)[part] & (edges["sqdist"] > np.float32(SCALE) * middle[part])
        if not far.any():
            break
        split = np.unique(part[far & ~replica])
        added = np.full(len(owned), -1)
        added[split] = len(owned) + np.arange(len(split))
        part = np.where(far & ~replica, added[part], part)
        edges, part, replica = edges[~(far & replica)], part[~(far & replica)], replica[~(far & replica)]
        owned = np.concatenate([owned, owned[split]])
    chained = np.bincount(owned, minlength=last - first)[owned] > 1
    kept = ~(replica & chained[part])
    edges, part = edges[kept], part[kept]
    ranked = np.argsort(owned, kind="stable")
    place = np.empty_like(ranked)
    place[ranked] = np.arange(len(ranked))
    edges = edges.copy()
    edges["centroid"] = place[part]
    return edges, owned[ranked] + first


def _cut(edges: Array, first: int, last: int, bound: int, record: Record) -> Postings:
    centroid = edges["centroid"].astype(np.int64) - first
    replica = edges["replica"] > 0
    order = np.lexsort((edges["row"], edges["sqdist"], replica, centroid))
    centroid, rows = centroid[order], edges["row"][order]
    total = np.bincount(centroid, minlength=last - first)
    primaries = np.bincount(centroid, weights=~replica[order], minlength=last - first).astype(np.int64)

    keep = np.minimum(total, bound)
    keep = np.maximum(keep - _tail(keep, primaries, record), primaries)
    position = np.arange(len(centroid)) - np.repeat(np.cumsum(total) - total, total)
    rows = rows[position < keep[centroid]]

    # A chain is only ever needed for primaries, so its replicas are gone; its postings get even shares.
    per_centroid = np.maximum(1, -(-keep // bound))
    owner = np.repeat(np.arange(last - first), per_centroid)
    link = np.arange(len(owner)) - np.repeat(np.cumsum(per_centroid) - per_centroid, per_centroid)
    links = per_centroid[owner]
    length = keep[owner] * (link + 1) // links - keep[owner] * link // links
    primary = np.where(links > 1, length, primaries[owner])
    return Postings(rows, length.astype(np.uint16), primary.astype(np.uint16), owner + first)


def _tail(length: NDArray[np.int64], primaries: NDArray[np.int64], record: Record) -> NDArray[np.int64]:
    """Entries on the last page of postings of `length`, where it is hardly filled and not their only one; else 0."""
    if record.header == 0:
        per_page = PAGE // record.primary
        if per_page <= 1:
            return np.zeros_like(length)
        tail = length % per_page
        return np.where((length > per_page) & (tail <= TAIL_CUT * per_page), tail, 0)
    size = record.size(length, np.minimum(primaries, length))
    rest = size % PAGE
    return np.where((size > PAGE) & (rest <= TAIL_CUT * PAGE), -(-rest // record.replica), 0)


@dataclass(frozen=True)
class Directory:
    """Where every posting lies and how long it is (docs/FORMAT.md, Postings), all (postings,); `owner` is the centroid.

    The pages end at number `pages`. Other postings may lie before these, with `pages_before` pages and `rows_before`
    rows of the exact store.
    """

    page: NDArray[np.uint32]
    offset: NDArray[np.uint16]
    length: NDArray[np.uint16]
    primaries: NDArray[np.uint16]
    owner: NDArray[np.int64]
    pages: int
    pages_before: int = 0
    rows_before: int = 0

    @property
    def first_row(self) -> NDArray[np.int64]:
        """Row of the exact store at which the primaries of each posting begin, where there is one."""
        return self.rows_before + np.cumsum(self.primaries, dtype=np.int64) - self.primaries


@dataclass(frozen=True)
class Laid:
    """All postings: their `directory`, and in ``kept`` the positions of their entries (int64), one posting after the
    other, primaries first in each."""

    directory: Directory
    kept: RecordFile


def lay_out(job: Job, work: Workspace, spool: EdgeSpool) -> Laid:
    """Cuts all postings out of the edges in `spool`, and places them."""
    kept = work.records("kept", np.int64)
    length, primaries, owner = _cut_all(job, spool, kept)
    page, offset, pages = place(job.record.size(length, primaries), job.sizes.shard_bytes // PAGE)
    return Laid(Directory(page, offset, length, primaries, owner, pages), kept)


def lay_out_more(job: Job, work: Workspace, spool: EdgeSpool, pages_before: int, rows_before: int) -> Laid:
    """The same for postings that are added behind others; a centroid without edges gets none."""
    kept = work.records("kept", np.int64)
    length, primaries, owner = _cut_all(job, spool, kept)
    used = length > 0
    length, primaries, owner = length[used], primaries[used], owner[used]
    page, offset, pages = place(job.record.size(length, primaries), job.sizes.shard_bytes // PAGE, pages_before)
    return Laid(Directory(page, offset, length, primaries, owner, pages, pages_before, rows_before), kept)


def _cut_all(
    job: Job, spool: EdgeSpool, kept: RecordFile
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]:
    """Length, primaries and owner of all postings. The positions of their entries go to `kept`."""
    parts = []
    for i in range(spool.buckets):
        first, last, edges = spool.bucket(i)
        part = cut(edges, first, last, job.decision.posting_bound, job.record)
        kept.append(part.rows)
        parts.append((part.length, part.primaries, part.owner))
        job.report("layout", i + 1, spool.buckets)
    length, primaries, owner = (np.concatenate(column) for column in zip(*parts, strict=True))
    return length, primaries, owner


def place(
    size: NDArray[np.int64], pages_per_shard: int, pages_before: int = 0
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], int]:
    """First page and byte offset in it for postings of `size` bytes, behind `pages_before`, and where pages then end.

    A posting touches no more pages than its size needs, and none crosses from one shard to the next. What fills whole
    pages is laid out alone; the rests share pages: in a shared page one posting may end (its full pages lie before),
    one may begin (its full pages follow) and any number of short ones lie between.
    """
    page, offset = np.zeros(len(size), np.uint32), np.zeros(len(size), np.uint16)
    at = pages_before
    for start in range(0, len(size), WINDOW):
        for ending, between, beginning in _share_pages(size[start : start + WINDOW], pages_per_shard):
            before = 0 if ending is None else int(size[start + ending]) // PAGE
            after = 0 if beginning is None else int(size[start + beginning]) // PAGE
            used = before + after + 1
            if ending is not None and not between and beginning is None and size[start + ending] % PAGE == 0:
                used -= 1
            if at % pages_per_shard + used > pages_per_shard:
                at += pages_per_shard - at % pages_per_shard
            cursor = 0
            if ending is not None:
                page[start + ending], cursor = at, int(size[start + ending]) % PAGE
            for short in between:
                page[start + short], offset[start + short] = at + before, cursor
                cursor += int(size[start + short])
            if beginning is not None:
                page[start + beginning] = at + before
                offset[start + beginning] = PAGE - int(size[start + beginning]) % PAGE
            at += used
    return page, offset, at


def _share_pages(size: NDArray[np.int64], pages_per_shard: int) -> Iterator[tuple[int | None, list[int], int | None]]:
    """Groups postings by shared page: (a long posting that ends there, short postings, a long posting that begins
    there).

    First-fit decreasing over the rests; postings without a rest come alone, as ending. Two long ones share a page only
    if together they fit in a shard.
    """
    rest = size % PAGE
    bins: list[tuple[list[int], list[int]]] = []
    room: list[int] = []
    for i in np.argsort(-rest, kind="stable").tolist():
        bytes_, long = int(rest[i]), int(size[i]) > PAGE
        if size[i] == 0:
            continue
        if bytes_ == 0:
            yield i, [], None
            continue
        for b, free in enumerate(room):
            longs = bins[b][0] + [i]
            if bytes_ <= free and (not long or (len(longs) < 3 and _pages_of(size, longs) <= pages_per_shard)):
                break
        else:
            b = len(bins)
            bins.append(([], []))
            room.append(PAGE)
        bins[b][0 if long else 1].append(i)
        room[b] -= bytes_
    for longs, shorts in bins:
        yield (longs[0] if longs else None), shorts, (longs[1] if len(longs) == 2 else None)


def _pages_of(size: NDArray[np.int64], longs: list[int]) -> int:
    """Pages of long postings that share one: the full pages of each, and the one they share."""
    return 1 + sum(int(size[i]) // PAGE for i in longs)
