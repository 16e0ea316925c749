"""The invariants of an index beyond its checksums: what must be true of the postings' content."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError, SpannError
from spann.search.engine import Engine
from spann.storage import PAGE, IndexReader, Problem, ShardedArray, posting_span, record_bytes

PAGES_AT_A_TIME = 4096


def verify_index(reader: IndexReader, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """All that is wrong with an index: every checksum, and if those hold, the invariants.

    Invariants: the directory and graph refer to what exists; no posting is over its bound; ids in postings are ones
    the collection has; every vector is in at least one posting or represents a centroid; bytes between postings are 0.
    """
    problems = reader.verify(progress)
    if problems:
        return problems
    try:
        engine = Engine(reader, io="buffered", check=True)
    except SpannError as error:
        return [Problem("damaged", reader.path, str(error))]
    engine.close()
    try:
        return _content(reader)
    except SpannError as error:
        return [Problem("damaged", reader.path, str(error))]


def _content(reader: IndexReader) -> list[Problem]:
    about = reader.attributes
    record, count = record_bytes(about), int(about["count"])
    name = "postings/directory"
    page, offset, length = (reader.read(f"{name}/{part}") for part in ("page", "offset", "length"))
    primaries = reader.read(f"{name}/primaries")
    pages = reader.array("postings/pages")
    problems = []
    bound = int(about["posting_bound"])
    for p in np.flatnonzero(length > bound)[:1]:
        problems.append(f"posting {p} has {length[p]} entries, over its bound of {bound}")
    for p in np.flatnonzero(primaries > length)[:1]:
        problems.append(f"posting {p} has {length[p]} entries and claims {primaries[p]} primaries")
    entries = int(length.sum(dtype=np.int64))
    if entries != about["entries"]:
        problems.append(f"postings hold {entries} entries; the manifest says {about['entries']}")
    represented = int(about["centroids"]) + int(primaries.sum(dtype=np.int64))
    if represented != count:
        problems.append(f"centroids and primaries are {represented} together; the collection has {count} rows")

    rows = _RowSet(reader, about["ids"] == "user", count)
    problems += rows.add(reader.read("centroids/ids"), "a centroid")
    start, end = posting_span(page, offset, length, record)
    order = np.argsort(start, kind="stable")
    order = order[length[order] > 0]
    if bool(np.any(start[order][1:] < end[order][:-1])):
        problems.append("two postings overlap")
    else:
        problems += _walk(pages, order, start, end, int(about["id_bytes"]), record, rows)
    missing = None if problems else rows.missing()
    if missing is not None:
        problems.append(f"row {missing} is in no posting and represents no centroid")
    where = reader.path / "postings"
    return [Problem("damaged", where, text) for text in problems]


def _walk(
    pages: ShardedArray,
    order: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    id_bytes: int,
    record: int,
    rows: _RowSet,
) -> list[str]:
    """Reads all pages once, a run of postings at a time, in the `order` the postings lie in; stops at the first fault.

    Every byte belongs to one run: that of the first posting that ends after it, or of what follows the last.
    """
    at, cursor = 0, 0
    while cursor < pages.rows * PAGE:
        stop = int(np.searchsorted(start[order], cursor + PAGES_AT_A_TIME * PAGE))
        stop = min(max(stop, at + 1), len(order))
        run = order[at:stop]
        run_end = int(end[run[-1]]) if stop < len(order) else pages.rows * PAGE
        first_page = cursor // PAGE
        content = pages.read_rows(first_page, -(-run_end // PAGE)).reshape(-1)
        content = content[cursor - first_page * PAGE : run_end - first_page * PAGE]
        between = np.ones(len(content), bool)
        ids = [np.empty(0, f"<u{id_bytes}")]
        for p in run:
            begin, finish = int(start[p]) - cursor, int(end[p]) - cursor
            between[begin:finish] = False
            ids.append(content[begin : begin + (finish - begin) // record * id_bytes].view(f"<u{id_bytes}"))
        where = f"pages {first_page} to {-(-run_end // PAGE) - 1}"
        if content[between].any():
            return [f"bytes between postings in {where} are not 0"]
        problems = rows.add(np.concatenate(ids), f"a posting in {where}")
        if problems:
            return problems
        at, cursor = stop, run_end
    return []


class _RowSet:
    """Which rows of the collection have been seen, told by their ids."""

    def __init__(self, reader: IndexReader, user_ids: bool, count: int) -> None:
        self.seen = np.zeros(count, bool)
        self.ids: NDArray[np.int64] | None = None
        if user_ids:
            stored = reader.read("vectors/ids")
            if stored.shape != (count,):
                raise CorruptionError(f"{reader.path}: vectors/ids has {len(stored)} ids for {count} vectors")
            self.row = np.argsort(stored, kind="stable")
            self.ids = stored[self.row]

    def add(self, ids: NDArray[np.uint64], where: str) -> list[str]:
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

    def missing(self) -> int | None:
        """The first row not seen."""
        return None if self.seen.all() else int(np.argmin(self.seen))
