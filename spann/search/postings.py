"""The content of postings as a verification walks through it: ids, primaries and replicas, and which rows were seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c, crc32c_blocks
from spann.elements import unpack
from spann.format.collection import Collection
from spann.format.kinds import Bytes, CodedPostings, ExactPostings
from spann.format.postings import PAGE, posting_span
from spann.quantize.factors import Entries
from spann.search.contract import Resident, first_unusable
from spann.store.arrays import ShardedArray
from spann.types import Array, Metric

PAGES_AT_A_TIME = 4096

_NO_ROWS: NDArray[np.int64] = np.empty(0, np.int64)


class Postings(ABC):
    """The directory of an index, and the bytes it leads to."""

    def __init__(self, resident: Resident, pages: ShardedArray) -> None:
        self.about = resident.collection
        self.length, self.primaries = resident.length.astype(np.int64), resident.primaries.astype(np.int64)
        self.first_row = np.cumsum(self.primaries) - self.primaries
        sizes = self.about.record.size(resident.length, resident.primaries)
        self.start, self.end = posting_span(resident.page, resident.offset, sizes)
        self.largest_sqnorm = 0.0
        self._resident, self._pages = resident, pages
        order = np.argsort(self.start, kind="stable")
        self._order = order[self.length[order] > 0]

    @staticmethod
    def of(resident: Resident, pages: ShardedArray) -> Postings:
        """The postings of an open index, by their kind."""
        kind = resident.collection.kind
        if isinstance(kind, CodedPostings):
            return CodeLists(resident, pages, kind)
        return VectorLists(resident, pages, kind)

    def overlap(self) -> bool:
        return bool(np.any(self.start[self._order][1:] < self.end[self._order][:-1]))

    def centroid(self, posting: int) -> int:
        """The centroid of one posting."""
        appended, chain = self._resident.appended, self._resident.chain
        own = len(self.length) - len(appended)
        if posting >= own:
            return int(appended[posting - own])
        return posting if chain is None else int(np.searchsorted(chain, posting, side="right")) - 1

    def runs(self) -> Iterator[tuple[str, list[tuple[int, Bytes]], Bytes]]:
        """All pages once, some at a time: their name, the postings (number, bytes) in them, and the bytes between.

        Every byte belongs to one run. They take no more memory than so many pages and one posting.
        """
        order, start, end = self._order, self.start, self.end
        at, cursor, total = 0, 0, self._pages.rows * PAGE
        while cursor < total:
            limit = cursor + PAGES_AT_A_TIME * PAGE
            stop = at + int(np.searchsorted(start[order[at:]], limit))
            run = order[at:stop]
            run_end = min(total, max(limit, int(end[run[-1]])) if len(run) else limit)
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

    def check(self, posting: int, content: Bytes) -> Iterator[str]:
        """What is wrong with the bytes of a posting, ids apart."""
        if crc32c(content) != self._resident.crc[posting]:
            yield f"posting {posting} does not match its checksum"
        yield from self._check_content(posting, content)

    def ids(self, posting: int, content: Bytes) -> Array:
        """The ids (n,) of the entries of a posting, primaries first."""
        return self.about.kind.ids(content, int(self.length[posting]))

    @abstractmethod
    def _check_content(self, posting: int, content: Bytes) -> Iterator[str]: ...

    @abstractmethod
    def marks(self, posting: int, content: Bytes) -> NDArray[np.int64]:
        """A number for each primary of a posting, (p,), that tells its vector from others."""

    @abstractmethod
    def bad_replica(self, posting: int, content: Bytes, marks: NDArray[np.int64]) -> str | None:
        """What is wrong with the replicas of a posting, whose primaries have these `marks`."""


class VectorLists(Postings):
    """Postings that hold vectors. A vector's mark is its checksum."""

    def __init__(self, resident: Resident, pages: ShardedArray, kind: ExactPostings) -> None:
        super().__init__(resident, pages)
        self._kind = kind

    def _check_content(self, posting: int, content: Bytes) -> Iterator[str]:
        vectors = self._kind.vectors(content, int(self.length[posting]))
        bad = first_unusable(vectors, self.about.element, directions=self.about.metric is Metric.COSINE)
        if bad is not None:
            yield f"entry {bad} of posting {posting} is not finite, or not of a length that can be worked with"
        if self.about.metric is Metric.IP:
            x = unpack(vectors, self.about.element)
            longest = float(np.einsum("ij,ij->i", x, x, dtype=np.float64).max())
            self.largest_sqnorm = max(self.largest_sqnorm, longest)

    def _entry_marks(self, posting: int, content: Bytes) -> NDArray[np.int64]:
        n = int(self.length[posting])
        vectors = self._kind.vectors(content, n).reshape(-1).view(np.uint8)
        return crc32c_blocks(vectors, vectors.size // n).astype(np.int64)

    def marks(self, posting: int, content: Bytes) -> NDArray[np.int64]:
        return self._entry_marks(posting, content)[: int(self.primaries[posting])]

    def bad_replica(self, posting: int, content: Bytes, marks: NDArray[np.int64]) -> str | None:
        replicas = self._entry_marks(posting, content)[int(self.primaries[posting]) :]
        return None if np.array_equal(replicas, marks) else "that is no copy of its primary"


class CodeLists(Postings):
    """Postings that hold codes. A vector's mark is its row in the exact store."""

    def __init__(self, resident: Resident, pages: ShardedArray, kind: CodedPostings) -> None:
        super().__init__(resident, pages)
        self._kind = kind

    def _check_content(self, posting: int, content: Bytes) -> Iterator[str]:
        if not np.isfinite(self._kind.header(content)).all():
            yield f"posting {posting} has a header that is not finite"

    def marks(self, posting: int, content: Bytes) -> NDArray[np.int64]:
        return np.arange(self.primaries[posting]) + int(self.first_row[posting])

    def rows(self, posting: int, content: Bytes) -> Array:
        """The rows (replicas,) of the exact store that the replicas of a posting name."""
        return self._kind.rows(content, int(self.length[posting]), int(self.primaries[posting]))

    def bad_replica(self, posting: int, content: Bytes, marks: NDArray[np.int64]) -> str | None:
        rows, first = self.rows(posting, content), int(self.primaries[posting])
        for i in np.flatnonzero(rows != marks.astype(np.uint64))[:1]:
            id_ = self.ids(posting, content)[first + i]
            return f"with id {id_} of row {rows[i]} of the exact store, which is not that vector"
        return None

    def entries(self, posting: int, content: Bytes, some: slice) -> Entries:
        """The codes of `some` entries of a posting, with what goes with them."""
        n, primaries = int(self.length[posting]), int(self.primaries[posting])
        add, scale = self._kind.factors(content, n, primaries)
        return Entries(
            self._kind.codes(content, n, primaries)[some], add[some], scale[some], self._kind.header(content)
        )

    def places(self, posting: int, content: Bytes) -> NDArray[np.int64]:
        """The rows (n,) of the exact store that the entries of a posting are of."""
        return np.concatenate([self.marks(posting, content), self.rows(posting, content).astype(np.int64)])


class RowSet:
    """Which rows of the collection were seen, told by their ids, as primaries and as representatives of centroids; and
    of each the place in the exact store, or without one a checksum of the vector."""

    def __init__(self, about: Collection, user_ids: NDArray[np.int64] | None) -> None:
        self._about = about
        self._seen = np.zeros(about.count, bool)
        self._represents = np.zeros(about.count, bool)
        self._mark = np.zeros(about.count, np.int64)
        self._ids: NDArray[np.int64] | None = None
        if user_ids is not None:
            self._row = np.argsort(user_ids, kind="stable")
            self._ids = user_ids[self._row]

    def bad_ids(self) -> Iterator[str]:
        """What is wrong with the ids that the user gave."""
        if self._ids is None:
            return
        if self._ids[0] < 0:
            yield f"vectors/ids holds {self._ids[0]}, and ids are at least 0"
        for at in np.flatnonzero(self._ids[1:] == self._ids[:-1])[:1]:
            yield f"vectors/ids holds {self._ids[at]} twice"
        if self._about.id_bytes == 4 and self._ids[-1] >= 1 << 32:
            yield f"vectors/ids holds {self._ids[-1]}, which ids of 4 bytes do not reach"

    def represent(self, ids: Array) -> Iterator[str]:
        """Marks the vectors that represent centroids."""
        rows, unknown = self._rows(ids)
        if unknown is not None:
            yield f"a centroid holds {unknown}"
            return
        if len(np.unique(rows)) < len(rows):
            yield "two centroids are represented by the same vector"
        self._seen[rows] = self._represents[rows] = True

    def add_primaries(self, posting: int, content: Bytes, postings: Postings) -> Iterator[str]:
        """Marks the primaries of a posting."""
        primaries = int(postings.primaries[posting])
        rows, unknown = self._rows(postings.ids(posting, content)[:primaries])
        if unknown is not None:
            yield f"posting {posting} holds {unknown}"
            return
        twice = len(np.unique(rows)) < len(rows) or bool(self._seen[rows].any())
        if twice:
            yield f"posting {posting} has a primary that is one elsewhere as well, or represents a centroid"
        self._seen[rows] = True
        self._mark[rows] = postings.marks(posting, content)

    def check_replicas(self, posting: int, content: Bytes, postings: Postings) -> Iterator[str]:
        """What is wrong with the replicas of a posting, once all primaries are known."""
        n, p = int(postings.length[posting]), int(postings.primaries[posting])
        ids = postings.ids(posting, content)
        if len(np.unique(ids)) < n:
            yield f"posting {posting} holds an id twice"
        rows, unknown = self._rows(ids[p:])
        if unknown is not None:
            yield f"posting {posting} has a replica with {unknown}"
            return
        if bool(self._represents[rows].any()):
            yield f"posting {posting} has a replica of a vector that represents a centroid"
        bad = postings.bad_replica(posting, content, self._mark[rows])
        if bad is not None:
            yield f"posting {posting} has a replica {bad}"

    def missing(self) -> int | None:
        """The first row not seen."""
        return None if self._seen.all() else int(np.argmin(self._seen))

    def _rows(self, ids: Array) -> tuple[NDArray[np.int64], str | None]:
        """The rows that have these ids; or, in words, the first id that no row has."""
        if self._ids is None:
            beyond = np.flatnonzero(ids >= len(self._seen))
            if len(beyond):
                return _NO_ROWS, f"id {ids[beyond[0]]}; the collection has {len(self._seen)} rows"
            return ids.astype(np.int64), None
        wanted = ids.astype(np.int64)
        at = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        unknown = np.flatnonzero(self._ids[at] != wanted)
        if len(unknown):
            return _NO_ROWS, f"id {ids[unknown[0]]}, which no vector has"
        return self._row[at], None
