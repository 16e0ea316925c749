"""Stage "attributes": columns come into the order of the stored rows, and ids into their own.

Each column is first copied to a temporary file, as it comes. Strings and tags become numbers of words there. Blocks of
stored rows then take their values out of it. So memory is bounded by a block and the dictionary of one column. The
stage has no marks: after a kill it is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spann.building.job import Job
from spann.building.stages.arrange import ExactStore
from spann.building.stages.clusters import Clusters
from spann.building.stages.layout import Laid
from spann.building.stages.write_exact import ranges
from spann.building.temporary import RecordFile
from spann.building.workspace import Workspace
from spann.format.columns import TAGS, TEXT, Column, column_name
from spann.format.updates import IDS, ROWS
from spann.format.words import Words
from spann.types import Array

if TYPE_CHECKING:
    from spann.vectors.attributes import GivenColumn, Values

WORD = np.dtype(np.uint32)
"""The number of a word, in the copy of a column."""

BLOCK_ROWS = 1 << 18
"""Stored rows that take their values together."""

BUCKET_ROWS = 1 << 24
"""Rows of the source whose places are found in one pass over all places."""

GAP = 512
"""Records between two values of different lengths that are read along rather than passed over."""

POSTINGS = 4096
"""Postings whose primaries are listed together."""


@dataclass
class _Copy:
    """A column as it came: its records, and where it has values of different lengths or none, ends and validity."""

    given: GivenColumn
    records: RecordFile
    ends: RecordFile | None
    valid: RecordFile
    words: dict[str, int] = field(default_factory=dict)
    nulls: bool = False
    total: int = 0

    def add(self, piece: Values) -> None:
        """Takes more values."""
        valid = np.ones(piece.rows, np.uint8) if piece.valid is None else piece.valid.astype(np.uint8)
        self.nulls |= piece.valid is not None
        self.valid.append(valid)
        lengths = piece.lengths
        if piece.texts is None:
            assert piece.values is not None
            self.records.append(piece.values)
        elif self.given.kind == TEXT:
            texts = [text.encode() if text is not None else b"" for text in piece.texts.to_pylist()]
            lengths = np.array([len(text) for text in texts], np.int64)
            self.records.append(np.frombuffer(b"".join(texts), np.uint8))
        else:
            known, found = self.words, piece.texts.to_pylist()
            numbers = np.array([0 if word is None else known.setdefault(word, len(known)) for word in found], WORD)
            if lengths is not None:
                numbers, lengths = _distinct(numbers, lengths)
            self.records.append(numbers)
        if self.ends is not None and lengths is not None:
            self.ends.append(self.total + np.cumsum(lengths))
            self.total += int(lengths.sum())

    def close(self) -> None:
        """Gives the space of the copy back."""
        for file in (self.records, self.valid, self.ends):
            if file is not None:
                file.remove()


def _distinct(words: NDArray[np.uint32], lengths: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Each list sorted, and without repetitions."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((words, row))
    words, row = words[order], row[order]
    first = np.ones(len(words), np.bool_)
    first[1:] = (words[1:] != words[:-1]) | (row[1:] != row[:-1])
    return words[first], np.bincount(row[first], minlength=len(lengths)).astype(np.int64)


def write_columns(
    job: Job, work: Workspace, given: Sequence[GivenColumn], clusters: Clusters, laid: Laid, store: ExactStore | None
) -> list[Column]:
    """Writes the arrays of all columns, and the rows of ids; returns what the manifest says of the columns."""
    rows = work.records("column-rows", np.int64)
    for some in _stored_rows(clusters, laid, store):
        rows.append(some)
    _write_by_id(job, work, rows)
    found = []
    for number, column in enumerate(given):
        copy = _copied(work, column, number)
        found.append(_write(work, copy, number, rows))
        copy.close()
        job.report("attributes", number + 1, len(given))
    rows.remove()
    return found


def _stored_rows(clusters: Clusters, laid: Laid, store: ExactStore | None) -> Iterator[NDArray[np.int64]]:
    """The row of the source of each stored row, in the order of these."""
    source = clusters.vectors
    if store is not None:
        for start in range(0, store.positions.count, BLOCK_ROWS):
            yield source.rows_of(store.positions.read(start, min(start + BLOCK_ROWS, store.positions.count)))
        return
    assert clusters.centroids.rows is not None
    yield source.rows_of(clusters.centroids.rows)
    length, primaries = laid.directory.length.astype(np.int64), laid.directory.primaries.astype(np.int64)
    ends = np.cumsum(length)
    for first in range(0, len(length), POSTINGS):
        some = slice(first, first + POSTINGS)
        begin = int(ends[first] - length[first])
        entries = laid.kept.read(begin, int(ends[some][-1]))
        yield source.rows_of(entries[ranges(ends[some] - length[some] - begin, primaries[some])])


def _write_by_id(job: Job, work: Workspace, rows: RecordFile) -> None:
    """Writes the ids in ascending order, and the stored row of each."""
    count, user = rows.count, job.ids.user
    places = work.records("column-places", np.int64)
    for low in range(0, count, BUCKET_ROWS):
        bucket = np.empty(min(BUCKET_ROWS, count - low), np.int64)
        for start in range(0, count, BLOCK_ROWS):
            some = rows.read(start, min(start + BLOCK_ROWS, count))
            mine = np.flatnonzero((some >= low) & (some < low + len(bucket)))
            bucket[some[mine] - low] = start + mine
        places.append(bucket)
    order = None if user is None else np.argsort(user)
    ids = work.writer.create_array(IDS, count, f"uint{8 * job.ids.width}")
    found = work.writer.create_array(ROWS, count, np.uint32 if count <= 1 << 32 else np.uint64)
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        which = np.arange(start, stop) if order is None else order[start:stop]
        ids.append(job.ids.of(which).astype(ids.layout.dtype))
        there = places.read(start, stop) if order is None else places.take(which)
        found.append(there.astype(found.layout.dtype))
    ids.finish()
    found.finish()
    places.remove()


def _copied(work: Workspace, given: GivenColumn, number: int) -> _Copy:
    name, column = f"column-{number}", Column(given.name, given.kind, given.role)
    copy = _Copy(
        given,
        work.records(name, WORD if column.has_words else column.dtype),
        work.records(f"{name}-ends", np.int64) if column.has_ends else None,
        work.records(f"{name}-valid", np.uint8),
    )
    for piece in given.pieces():
        copy.add(piece)
    return copy


def _write(work: Workspace, copy: _Copy, number: int, rows: RecordFile) -> Column:
    """Writes the arrays of a column in the order of stored rows."""
    given, writer, count = copy.given, work.writer, rows.count
    words = Words.of(copy.words)
    column = Column(given.name, given.kind, given.role, copy.nulls, len(words))
    order = np.array([words.find(word) for word in copy.words] or [0], np.int64)  # new numbers of words as they came
    values = writer.create_array(column_name(number, "values"), copy.records.count, column.dtype)
    ends = writer.create_array(column_name(number, "ends"), count, np.uint64) if column.has_ends else None
    bits, end = [], 0
    for start in range(0, count, BLOCK_ROWS):
        some = rows.read(start, min(start + BLOCK_ROWS, count))
        if copy.ends is None:
            taken, lengths = copy.records.take(some), None
        else:
            taken, lengths = _gathered(copy.records, copy.ends, some)
        if column.has_words:
            taken = order[taken]
            if column.kind == TAGS and lengths is not None:
                taken, lengths = _distinct(taken.astype(WORD), lengths)
        values.append(taken.astype(column.dtype))
        if ends is not None and lengths is not None:
            ends.append((end + np.cumsum(lengths)).astype(np.uint64))
            end += int(lengths.sum())
        if copy.nulls:
            bits.append(np.packbits(copy.valid.take(some), bitorder="little"))
    for made in (values, ends):
        if made is not None:
            made.finish()
    if column.has_words:
        writer.write_array(column_name(number, "words"), words.content)
        writer.write_array(column_name(number, "word_ends"), words.ends)
    if copy.nulls:
        writer.write_array(column_name(number, "valid"), np.concatenate(bits))
    return column


def _gathered(records: RecordFile, ends: RecordFile, rows: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """The values of `rows` (n,) one after the other, and their lengths."""
    end = ends.take(rows)
    start = np.where(rows > 0, ends.take(np.maximum(rows - 1, 0)), 0)
    lengths = end - start
    order = np.argsort(start, kind="stable")
    first, last = start[order], end[order]
    cuts = np.flatnonzero(first[1:] - last[:-1] > GAP) + 1
    begin = first[np.concatenate([[0], cuts])]
    stop = np.maximum.reduceat(last, np.concatenate([[0], cuts]))
    content = np.concatenate([records.read(int(a), int(b)) for a, b in zip(begin, stop, strict=True)])
    base = np.concatenate([[0], np.cumsum(stop - begin)[:-1]])
    group = np.searchsorted(begin, start, side="right") - 1
    return content[ranges(base[group] + start - begin[group], lengths)], lengths
