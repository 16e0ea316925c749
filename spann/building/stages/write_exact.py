"""Stage "write" of postings that hold vectors: gathers those of each and writes the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spann._kernels import postings as packing
from spann.building.checkpoint import Batches
from spann.building.job import Job
from spann.building.stages.layout import Directory, Laid
from spann.building.stages.partition import Partition
from spann.building.temporary import RecordFile
from spann.building.workspace import Workspace
from spann.format.postings import PAGE
from spann.store.arrays import ShardedWriter
from spann.types import Array

NAME = "postings/pages"
"""The array with the pages of postings."""

Run = tuple[NDArray[np.int64], int, int]
"""A run of whole pages: the postings that begin in them, the first page, and the page after the last."""


@dataclass(frozen=True)
class Pages:
    """The pages of all postings of ``directory``, on their way to ``writer``.

    ``facts`` keeps what else is known of each posting, such as its crc32c. ``batches`` counts what is done."""

    job: Job
    directory: Directory
    writer: ShardedWriter
    facts: RecordFile
    batches: Batches

    def fill(self, assemble: Callable[[Run], tuple[Array, Array]], pages: int) -> Array:
        """Appends what `assemble` makes of each run of about `pages` pages: its bytes, and the facts of its postings.

        Resumes after the batches that are done, and finishes the array. Returns the facts of all (postings,)."""
        directory, writer, facts = self.directory, self.writer, self.facts
        order = np.lexsort((directory.offset, directory.page))
        total = directory.pages - directory.pages_before
        runs = islice(page_batches(directory, order, pages), self.batches.done, None)
        for made, found in self.job.map(assemble, runs):
            writer.append(made)
            facts.append(found)
            self.batches.add()
            self.job.report("write", writer.rows - directory.pages_before, total)
        self.batches.end()
        writer.finish()
        every = np.zeros(len(order), facts.dtype)
        every[order[: facts.count]] = facts.read(0, facts.count)
        return every


def write_pages(source: Partition, laid: Laid, out: Pages) -> NDArray[np.uint32]:
    """Fills the pages of `out` with the vectors of `source`; returns the crc32c of each posting (postings,)."""
    directory, kept, ids = laid.directory, laid.kept, out.job.ids
    entry_end = np.cumsum(directory.length, dtype=np.int64)

    def assemble(run: Run) -> tuple[Array, NDArray[np.uint32]]:
        which, first_page, last_page = run
        length = directory.length[which]
        entries = ranges(entry_end[which] - length, length.astype(np.int64))
        low, high = (int(entries.min()), int(entries.max()) + 1) if len(entries) else (0, 0)
        rows = kept.read(low, high)[entries - low]
        distinct, inverse = np.unique(rows, return_inverse=True)
        made = np.zeros((last_page - first_page) * PAGE, np.uint8)
        starts = (directory.page[which].astype(np.uint64) - np.uint64(first_page)) * np.uint64(PAGE)
        found = packing.pack(
            ids.of(source.rows_of(distinct))[inverse],
            source.take_stored(distinct)[inverse],
            length,
            starts + directory.offset[which],
            made,
        )
        return made.reshape(-1, PAGE), found

    return out.fill(assemble, out.job.sizes.page_bytes // PAGE)


def posting_pages(job: Job, work: Workspace, directory: Directory, facts: DTypeLike) -> Pages:
    """The pages of a build, with those that an earlier process has marked; `facts` is the type of their facts."""
    checkpoint = work.checkpoint
    writer = work.writer.create_array(NAME, directory.pages, np.uint8, (PAGE,), state=checkpoint.part("write", "array"))
    known = work.records("facts", facts, state=checkpoint.part("write", "facts"))
    batches = Batches(checkpoint, "write", lambda: {"array": work.writer.array_state(NAME), "facts": known.state()})
    return Pages(job, directory, writer, known, batches)


def page_batches(directory: Directory, order: NDArray[np.int64], pages: int) -> Iterator[Run]:
    """Runs of about `pages` whole pages; `order` is that of the postings on disk, which they cut into pieces.

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
