"""Reads the vectors of an index back with their ids, in the order of the index: near vectors lie together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spann.elements import memory_dtype, stored_dtype, stored_width, unpack
from spann.errors import CorruptionError, InputError
from spann.format.postings import PAGE, Record, posting_bytes, posting_span
from spann.store.checked import Checked
from spann.store.log import log_of
from spann.store.reader import IndexReader
from spann.types import Array

READ_BYTES = 8 << 20
"""Bytes of postings read at a time."""

_NEAR_ROWS = 64
"""Two wanted rows with at most so many rows between them share one read."""

Rows = tuple[NDArray[np.int64], Array]
"""Ids (n,) and vectors (n, dim), in the form that a search takes."""


class OwnVectors:
    """The collection in an index, `count` rows. With codes, row i is row i of the exact store. Without codes, the
    representatives of centroids come first, then the primaries of all postings. Keeps 30 bytes for each posting.

    Any thread may read. Raises `CorruptionError` for data that does not match its checksum.
    """

    def __init__(self, reader: IndexReader) -> None:
        about = reader.attributes
        self.path, self.count, self.dim = reader.path, int(about["count"]), int(about["dim"])
        self.element, self.checksum = str(about["dtype"]), str(about["checksum"])
        self.dtype = memory_dtype(self.element)
        self._record, self._id_type = Record.of(about), np.dtype(f"<u{about['id_bytes']}")
        self._width, self._stored = stored_width(self.element, self.dim), stored_dtype(self.element)
        directory = "postings/directory"
        page, offset, self._length, self._primaries = (
            reader.read(f"{directory}/{name}") for name in ("page", "offset", "length", "primaries")
        )
        self._start, self._end = posting_span(page, offset, posting_bytes(about, self._length, self._primaries))
        self._pages = Checked(reader, "postings/pages")
        self._exact = Checked(reader, "vectors/exact") if about.get("code_bits", 0) else None
        self.led = 0 if self._exact else int(about["centroids"])
        """The number of rows that are representatives; they come first."""
        if self._exact is None:
            self._led_ids, self._led = Checked(reader, "centroids/ids"), Checked(reader, "centroids/vectors")
        self.first: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self._primaries, dtype=np.int64)]) + self.led
        """The row of the first primary of each posting; (postings + 1,)."""
        self.centroid_of: NDArray[np.int64] = _centroid_of(reader, len(self._length))
        """The centroid of each posting; (postings,)."""
        self.leading = _first_postings(self.centroid_of, self.led)
        if self.first[-1] != self.count:
            raise CorruptionError(f"{self.path}: postings hold {self.first[-1]} vectors; the index has {self.count}")

    def blocks(self, rows: int) -> Iterator[Rows]:
        """Yields all rows in order, `rows` at a time."""
        for start in range(0, self.count, rows):
            yield self.read(start, min(start + rows, self.count))

    def read(self, start: int, stop: int) -> Rows:
        """Rows `start` to `stop` (exclusive)."""
        if not 0 <= start <= stop <= self.count:
            raise InputError(f"{self.path}: rows {start} to {stop} are not within its {self.count} vectors")
        ids, vectors = self._read(start, stop)
        return ids.astype(np.int64), unpack(vectors, self.element)

    def take(self, rows: NDArray[np.int64]) -> Array:
        """The vectors of `rows` (n,), ascending."""
        out = np.empty((len(rows), self.dim), self.dtype)
        ends = np.flatnonzero(np.diff(rows) > _NEAR_ROWS) + 1
        for run in np.split(np.arange(len(rows)), ends) if len(rows) else ():
            first = int(rows[run[0]])
            out[run] = self.read(first, int(rows[run[-1]]) + 1)[1][rows[run] - first]
        return out

    def cell(self, posting: int) -> tuple[NDArray[np.int64], Array]:
        """Rows (n,) and vectors (n, dim) of the primaries of a posting. Without codes, the first posting of a centroid
        also has the centroid's representative."""
        start, stop = int(self.first[posting]), int(self.first[posting + 1])
        rows = np.arange(start, stop)
        if self._exact is not None:
            return rows, unpack(self._exact.read(start, stop), self.element)
        vectors = self.read(start, stop)[1]
        leads = np.flatnonzero(self.leading == posting)
        if len(leads):
            led = [self.read(int(lead), int(lead) + 1)[1] for lead in leads]
            rows, vectors = np.concatenate([leads, rows]), np.concatenate([*led, vectors])
        return rows, vectors

    def ids(self) -> NDArray[np.int64]:
        """The ids of all rows, (count,)."""
        found = np.empty(self.count, np.int64)
        step = max(1, READ_BYTES // max(1, self._record.primary))
        for start in range(0, self.count, step):
            stop = min(start + step, self.count)
            found[start:stop] = self._read(start, stop, vectors=False)[0]
        return found

    def _read(self, start: int, stop: int, *, vectors: bool = True) -> tuple[Array, Array]:
        """Ids, and vectors in stored form."""
        ids = np.empty(stop - start, self._id_type)
        found = np.empty((stop - start if vectors else 0, self._width), self._stored)
        led = max(0, min(stop, self.led) - start)
        if led:
            ids[:led] = self._led_ids.read(start, start + led)
            if vectors:
                found[:led] = self._led.read(start, start + led)
        if led == stop - start:
            return ids, found
        first = int(np.searchsorted(self.first, start + led, side="right")) - 1
        last = int(np.searchsorted(self.first, stop, side="left"))
        for posting, data in self._postings(first, last):
            begin = int(self.first[posting]) - start
            low, high = max(begin, led), min(begin + int(self._primaries[posting]), stop - start)
            there = data[self._record.header :].view(np.uint8)
            size = self._id_type.itemsize
            ids[low:high] = there[(low - begin) * size : (high - begin) * size].view(self._id_type)
            if vectors and self._exact is None:
                body, wide = there[int(self._length[posting]) * size :], self._width * self._stored.itemsize
                rows = body[(low - begin) * wide : (high - begin) * wide].view(self._stored)
                found[low:high] = rows.reshape(high - low, self._width)
        if vectors and self._exact is not None:
            found = self._exact.read(start, stop)
        return ids, found

    def _postings(self, first: int, stop: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yields the bytes of these postings, in the order on disk, without those that have no primaries."""
        order = first + np.argsort(self._start[first:stop], kind="stable")
        order = order[self._primaries[order] > 0]
        at, begin = 0, self._start[order]
        while at < len(order):
            page = int(begin[at]) // PAGE
            end = max(at + 1, int(np.searchsorted(begin, page * PAGE + READ_BYTES)))
            run = order[at:end]
            data = self._pages.read(page, -(-int(self._end[run].max()) // PAGE)).reshape(-1)
            for posting in run.tolist():
                yield posting, data[int(self._start[posting]) - page * PAGE : int(self._end[posting]) - page * PAGE]
            at = end


def settled(reader: IndexReader) -> IndexReader:
    """`reader`, if every row of its index is live and its log is empty. Else raises `InputError`, for whoever would
    take dead rows for vectors of the collection."""
    about = reader.collection
    if about.updates is not None and (about.live < about.count or log_of(reader).poll()):
        raise InputError(
            f"{reader.path}: the index has deleted or replaced vectors, or writes in its log, which this does not take "
            "into account: `spann optimize --purge` first"
        )
    return reader


def _centroid_of(reader: IndexReader, postings: int) -> NDArray[np.int64]:
    directory, arrays = "postings/directory", reader.arrays()
    appended = np.empty(0, np.uint32)
    if f"{directory}/appended" in arrays:
        appended = reader.read(f"{directory}/appended")
    own = np.arange(postings - len(appended))
    if f"{directory}/chain" in arrays:
        own = np.searchsorted(reader.read(f"{directory}/chain").astype(np.int64), own, side="right") - 1
    return np.concatenate([own, appended.astype(np.int64)])


def _first_postings(centroid_of: NDArray[np.int64], led: int) -> NDArray[np.int64]:
    """The posting that each of the first `led` centroids is read with, (led,)."""
    leading = np.zeros(led, np.int64)
    for posting in range(len(centroid_of) - 1, -1, -1) if led else ():
        leading[centroid_of[posting]] = posting
    return leading
