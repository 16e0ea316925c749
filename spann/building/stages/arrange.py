"""Stage "arrange": writes the exact store, every vector once in the order of postings, near ones on the same page.

A query re-ranks a few tens of vectors out of some postings, and pays for the pages they lie on. So the primaries of
each posting are halved at page boundaries until a part fills a page (ext/c/building/pages.c). Where hardly one fits a
page it is reads that are saved: of 60 k float32 vectors of 768 dimensions the best 30 lie on 34 pages in 9 reads that
join what is up to 3 pages apart, otherwise on 44 in 23.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from spann._kernels import postings as kernels
from spann.building.checkpoint import Batches
from spann.building.parallel import ordered_map
from spann.building.space import Space
from spann.building.stages.layout import Directory
from spann.building.stages.partition import Partition
from spann.building.temporary import RecordFile
from spann.elements import pack
from spann.format.layout import ArrayLayout
from spann.format.postings import PAGE
from spann.store.arrays import ShardedWriter
from spann.store.exact import PageChecksums
from spann.types import Array, Progress

BATCH_BYTES = 16 << 20
"""Vectors of the postings that one thread arranges at a time, with their working copies."""


def arrange(
    source: Partition,
    space: Space,
    directory: Directory,
    kept: RecordFile,
    arranged: RecordFile,
    writer: ShardedWriter,
    checksums: PageChecksums,
    batches: Batches,
    threads: int,
    progress: Progress,
) -> None:
    """Appends all vectors to `writer` and tells `checksums` of them; `arranged` gets their positions (int64); goes on
    after those of the `batches` that are done.

    `kept` holds the entries of all postings, primaries first in each.
    """
    entry_end = np.cumsum(directory.length, dtype=np.int64)
    first_row = directory.first_row

    def one(batch: tuple[int, int]) -> tuple[NDArray[np.int64], Array]:
        first, last = batch
        length, primaries = directory.length[first:last], directory.primaries[first:last].astype(np.int64)
        begin = int(entry_end[first]) - int(length[0])
        entries = kept.read(begin, int(entry_end[last - 1]))
        position = np.arange(len(entries)) - np.repeat(entry_end[first:last] - length - begin, length)
        rows = entries[position < np.repeat(primaries, length)]
        vectors = source.take(rows)
        start = int(first_row[first])
        bounds = _page_starts(writer.layout, start, start + len(rows)) - start
        order = kernels.arrange(space.plain(vectors), primaries, bounds)
        return rows[order], pack(vectors[order], source.element)

    for rows, vectors in ordered_map(one, islice(_batches(directory, source, entry_end), batches.done, None), threads):
        arranged.append(rows)
        writer.append(vectors)
        checksums.update(vectors)
        batches.add()
        progress("arrange", arranged.count, source.count)
    batches.end()


def _batches(directory: Directory, source: Partition, entry_end: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of postings (first, last exclusive) of about `BATCH_BYTES`."""
    entries = max(1, BATCH_BYTES // (source.row_bytes + 4 * source.dim))
    first, total = 0, len(directory.length)
    while first < total:
        before = int(entry_end[first]) - int(directory.length[first])
        last = max(first + 1, int(np.searchsorted(entry_end, before + entries, side="right")))
        yield first, last
        first = last


def _page_starts(layout: ArrayLayout, start: int, stop: int) -> NDArray[np.int64]:
    """The rows between `start` and `stop`, both exclusive, that are the first to begin on a page or in a shard."""
    row_bytes, shard_rows = layout.row_bytes, layout.shard_rows
    found = []
    for shard in range(start // shard_rows, (stop - 1) // shard_rows + 1):
        low, high = (max(0, min(row - shard * shard_rows, shard_rows)) for row in (start, stop))
        pages = np.arange(low * row_bytes // PAGE, (high * row_bytes - 1) // PAGE + 1)
        found.append(-(-pages * PAGE // row_bytes) + shard * shard_rows)
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    return rows[(rows > start) & (rows < stop)]
