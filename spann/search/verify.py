"""The invariants of an index beyond its checksums: what must be true of the postings' content."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.errors import CorruptionError, SpannError
from spann.search.engine import Engine
from spann.storage import (
    FACTOR_BYTES,
    PAGE,
    IndexReader,
    Problem,
    Record,
    directions_of,
    page_checksums,
    posting_bytes,
    posting_span,
    shape_record,
)
from spann.types import Array

PAGES_AT_A_TIME = 4096
SHAPES_AT_A_TIME = 65_536

Bytes = NDArray[np.uint8]


def verify_index(reader: IndexReader, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """All that is wrong with an index: every checksum, and if those hold, the invariants.

    Invariants: the directory and graph refer to what exists; postings match the checksums that searches compare; none
    is over its bound; ids in postings are ones the collection has; every vector is in at least one posting or
    represents a centroid; bytes between postings are 0.
    Of codes besides: every vector is primary once; a replica names the row of the exact store that has its id; headers
    and shapes are finite; the checksums of pages of the exact store are those of its pages.
    """
    problems = reader.verify(progress)
    if problems:
        return problems
    try:
        engine = Engine(reader, io="buffered", memory_budget="none")
    except SpannError as error:
        return [Problem("damaged", reader.path, str(error))]
    engine.close()
    try:
        return _content(reader)
    except SpannError as error:
        return [Problem("damaged", reader.path, str(error))]


def _content(reader: IndexReader) -> list[Problem]:
    about = reader.attributes
    postings = _Postings(reader)
    count, bound = int(about["count"]), int(about["posting_bound"])
    problems = []
    for p in np.flatnonzero(postings.length > bound)[:1]:
        problems.append(f"posting {p} has {postings.length[p]} entries, over its bound of {bound}")
    entries = int(postings.length.sum())
    if entries != about["entries"]:
        problems.append(f"postings hold {entries} entries; the manifest says {about['entries']}")
    represented = int(postings.primaries.sum()) + (0 if postings.coded else int(about["centroids"]))
    if represented != count:
        problems.append(f"centroids and primaries are {represented} together; the collection has {count} rows")

    rows = _RowSet(reader, about["ids"] == "user", count)
    if not postings.coded:
        problems += rows.add(reader.read("centroids/ids"), "a centroid")
    problems += ["two postings overlap"] if postings.overlap() else _walk(postings, rows)
    missing = None if problems else rows.missing()
    if missing is not None:
        problems.append(f"row {missing} is in no posting and represents no centroid")
    if postings.coded and not problems:
        problems += _check_replicas(postings, rows) + _check_pages(reader) + _check_shapes(reader)
    where = reader.path / "postings"
    return [Problem("damaged", where, text) for text in problems]


def _check_shapes(reader: IndexReader) -> list[str]:
    about = reader.attributes
    directions = directions_of(about, str(reader.path))
    if directions == 0:
        return []
    kind, shapes = shape_record(about["dim"], about["code_bits"], directions), reader.array("postings/shapes")
    for start in range(0, shapes.rows, SHAPES_AT_A_TIME):
        some = shapes.read_rows(start, min(start + SHAPES_AT_A_TIME, shapes.rows)).reshape(-1).view(kind)
        finite = np.ones(len(some), bool)
        for name in ("header", "spread", "rest", "offsets"):
            finite &= np.isfinite(some[name].reshape(len(some), -1)).all(axis=1)
        if not finite.all():
            return [f"the shape of posting {start + int(np.argmin(finite))} is not finite"]
    return []


class _Postings:
    """The directory of an index, and the bytes it leads to."""

    def __init__(self, reader: IndexReader) -> None:
        about = reader.attributes
        self.coded = bool(about.get("code_bits", 0))
        self.id_type = np.dtype(f"<u{about['id_bytes']}")
        self.row_type = np.dtype(f"<u{about['row_bytes'] if self.coded else 4}")
        self.header = Record.of(about).header
        page, offset, length, primaries, self.crc = (
            reader.read(f"postings/directory/{part}") for part in ("page", "offset", "length", "primaries", "crc32c")
        )
        self.length, self.primaries = length.astype(np.int64), primaries.astype(np.int64)
        self.first_row = np.cumsum(self.primaries) - self.primaries
        self.start, self.end = posting_span(page, offset, posting_bytes(about, length, primaries))
        order = np.argsort(self.start, kind="stable")
        self._order = order[self.length[order] > 0]
        self._pages = reader.array("postings/pages")

    def overlap(self) -> bool:
        return bool(np.any(self.start[self._order][1:] < self.end[self._order][:-1]))

    def runs(self) -> Iterator[tuple[str, list[tuple[int, Bytes]], Bytes]]:
        """All pages once, some at a time: their name, the postings (number, bytes) in them, and the bytes between.

        Every byte belongs to one run: that of the first posting that ends after it, or of what follows the last.
        """
        order, start, end = self._order, self.start, self.end
        at, cursor, total = 0, 0, self._pages.rows * PAGE
        while cursor < total:
            stop = int(np.searchsorted(start[order], cursor + PAGES_AT_A_TIME * PAGE))
            stop = min(max(stop, at + 1), len(order))
            run = order[at:stop]
            run_end = int(end[run[-1]]) if stop < len(order) else total
            first_page, end_page = cursor // PAGE, -(-run_end // PAGE)
            content = self._pages.read_rows(first_page, end_page).reshape(-1)
            content = content[cursor - first_page * PAGE : run_end - first_page * PAGE]
            between = np.ones(len(content), bool)
            postings = []
            for p in run.tolist():
                part = slice(int(start[p]) - cursor, int(end[p]) - cursor)
                between[part] = False
                postings.append((p, content[part]))
            yield f"pages {first_page} to {end_page - 1}", postings, content[between]
            at, cursor = stop, run_end

    def ids(self, posting: int, content: Bytes) -> Array:
        """The ids of its entries, or where replicas come apart of its primaries, (n,) unsigned."""
        n = int(self.primaries[posting] if self.coded else self.length[posting])
        ids: Array = content[self.header :][: n * self.id_type.itemsize].view(self.id_type)
        return ids

    def replicas(self, posting: int, content: Bytes) -> tuple[Array, Array]:
        """Ids of the replicas in a posting of codes, and the rows of the exact store it says they are."""
        n, p = int(self.length[posting]), int(self.primaries[posting])
        ids = content[self.header :][: n * self.id_type.itemsize].view(self.id_type)
        rows = content[self.header + n * (self.id_type.itemsize + FACTOR_BYTES) :]
        return ids[p:], rows[: (n - p) * self.row_type.itemsize].view(self.row_type)


def _walk(postings: _Postings, rows: _RowSet) -> list[str]:
    """Reads all pages; stops at the first fault."""
    for pages, run, between in postings.runs():
        if between.any():
            return [f"bytes between postings in {pages} are not 0"]
        for p, content in run:
            if crc32c(content) != postings.crc[p]:
                return [f"posting {p} in {pages} does not match its checksum"]
        where = f"a posting in {pages}"
        ids = [postings.ids(p, content) for p, content in run]
        problems = rows.add(np.concatenate([np.empty(0, postings.id_type), *ids]), where)
        if problems:
            return problems
        if postings.coded:
            headers = np.concatenate([between[:0], *(content[: postings.header] for _, content in run)]).view("<f4")
            if not np.isfinite(headers).all():
                return [f"{where} has a header that is not finite"]
            for (p, _), own in zip(run, ids, strict=True):
                rows.place(int(postings.first_row[p]), own)
    return []


def _check_replicas(postings: _Postings, rows: _RowSet) -> list[str]:
    if not (postings.length > postings.primaries).any():
        return []
    for pages, run, _ in postings.runs():
        for p, content in run:
            ids, places = postings.replicas(p, content)
            wrong = rows.differ(places, ids)
            if len(wrong):
                i = int(wrong[0])
                return [
                    f"posting {p} in {pages} has a replica with id {ids[i]} of row {places[i]} of the exact store, "
                    f"which is not that vector"
                ]
    return []


def _check_pages(reader: IndexReader) -> list[str]:
    found, stored = page_checksums(reader.array("vectors/exact")), reader.read("vectors/exact_crc32c")
    wrong = np.flatnonzero(found != stored)
    return [f"page {p} of vectors/exact does not match its checksum in vectors/exact_crc32c" for p in wrong[:1]]


class _RowSet:
    """Which rows of the collection have been seen, told by their ids, and the id at each row of the exact store."""

    def __init__(self, reader: IndexReader, user_ids: bool, count: int) -> None:
        self.seen = np.zeros(count, bool)
        self.ids: NDArray[np.int64] | None = None
        self.stored = np.empty(0, np.int64)
        if user_ids:
            stored = reader.read("vectors/ids")
            if stored.shape != (count,):
                raise CorruptionError(f"{reader.path}: vectors/ids has {len(stored)} ids for {count} vectors")
            self.row = np.argsort(stored, kind="stable")
            self.ids = stored[self.row]

    def add(self, ids: Array, where: str) -> list[str]:
        """Marks `ids`; says so if one is not an id of the collection."""
        if self.ids is None:
            if len(ids) and int(ids.max()) >= len(self.seen):
                return [f"{where} holds id {int(ids.max())}; the collection has {len(self.seen)} rows"]
            self.seen[ids] = True
            return []
        at = np.minimum(np.searchsorted(self.ids, ids.astype(np.int64)), len(self.ids) - 1)
        unknown = np.flatnonzero(self.ids[at] != ids.astype(np.int64))
        if len(unknown):
            return [f"{where} holds id {int(ids[unknown[0]])}, which no vector has"]
        self.seen[self.row[at]] = True
        return []

    def place(self, row: int, ids: Array) -> None:
        """Notes that the exact store has `ids` from `row` on."""
        if not len(self.stored):
            self.stored = np.full(len(self.seen), -1, np.int64)
        self.stored[row : row + len(ids)] = ids

    def differ(self, places: Array, ids: Array) -> NDArray[np.int64]:
        """Positions at which `places` are no rows of the exact store, or not those of `ids`."""
        inside = np.minimum(places, len(self.seen) - 1)
        return np.flatnonzero((places != inside) | (self.stored[inside] != ids.astype(np.int64)))

    def missing(self) -> int | None:
        """The first row not seen."""
        return None if self.seen.all() else int(np.argmin(self.seen))
