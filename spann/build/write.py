"""Stage "write" of postings that hold vectors: gathers those of each and writes the pages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spann._kernels import postings as packing
from spann.build.ids import Ids
from spann.build.layout import Directory
from spann.build.parallel import ordered_map
from spann.build.partition import Partition
from spann.build.temporary import RecordFile
from spann.storage import PAGE, ShardedWriter
from spann.types import Array, Progress

BATCH_BYTES = 16 << 20
"""Pages assembled at a time by one thread. Neighbouring postings share vectors, which are then read once."""


def write_pages(
    source: Partition,
    names: Ids,
    directory: Directory,
    kept: RecordFile,
    writer: ShardedWriter,
    threads: int,
    progress: Progress,
) -> NDArray[np.uint32]:
    """Fills `writer` with the pages of all postings; returns the crc32c of each posting (postings,)."""
    entry_end = np.cumsum(directory.length, dtype=np.int64)
    # Within a window postings are placed out of order, so batches are cut where pages are complete.
    order = np.lexsort((directory.offset, directory.page))

    def assemble(batch: tuple[NDArray[np.int64], int, int]) -> tuple[Array, NDArray[np.int64], NDArray[np.uint32]]:
        which, first_page, last_page = batch
        length = directory.length[which]
        entries = ranges(entry_end[which] - length, length.astype(np.int64))
        low, high = (int(entries.min()), int(entries.max()) + 1) if len(entries) else (0, 0)
        rows = kept.read(low, high)[entries - low]
        distinct, inverse = np.unique(rows, return_inverse=True)
        out = np.zeros((last_page - first_page) * PAGE, np.uint8)
        starts = (directory.page[which].astype(np.uint64) - np.uint64(first_page)) * np.uint64(PAGE)
        crcs = packing.pack(
            names.of(source.rows_of(distinct))[inverse],
            source.take_stored(distinct)[inverse],
            length,
            starts + directory.offset[which],
            out,
        )
        return out.reshape(-1, PAGE), which, crcs

    checksums = np.zeros(len(order), np.uint32)
    done = 0
    for pages, which, crcs in ordered_map(assemble, page_batches(directory, order, BATCH_BYTES // PAGE), threads):
        writer.append(pages)
        checksums[which] = crcs
        done += len(pages)
        progress("write", done, directory.pages - directory.pages_before)
    return checksums


def page_batches(
    directory: Directory, order: NDArray[np.int64], pages: int
) -> Iterator[tuple[NDArray[np.int64], int, int]]:
    """Runs of about `pages` whole pages: (postings that begin in them, first page, last page exclusive).

    A run ends only before a page in which a posting begins at byte 0, so no posting lies across two runs.
    """
    page = directory.page[order].astype(np.int64)
    clean = np.flatnonzero((directory.offset[order] == 0) & (directory.length[order] > 0))
    position, start_page = 0, directory.pages_before
    while start_page < directory.pages:
        following = clean[np.searchsorted(page[clean], start_page + pages) :]
        stop = int(following[0]) if len(following) else len(order)
        stop_page = int(page[stop]) if len(following) else directory.pages
        yield order[position:stop], start_page, stop_page
        position, start_page = stop, stop_page


def ranges(start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions start[i] .. start[i] + length[i], for every i, one after another."""
    total = int(length.sum())
    ranges: NDArray[np.int64] = np.arange(total) + np.repeat(start - (np.cumsum(length) - length), length)
    return ranges
