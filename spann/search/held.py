"""Ids of stored rows as a verification meets them, where dead rows may have the ids of live ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spann.format.collection import Collection
from spann.format.kinds import Bytes
from spann.format.live import unpack_live
from spann.format.updates import IDS, ROWS, check_by_id
from spann.search.postings import CodeLists, Postings
from spann.store.reader import IndexReader
from spann.types import Array


class HeldRows:
    """The id of each stored row: as `by_id` has it, and as its posting or its centroid does. Takes the place of
    `RowSet`, and has the same methods."""

    def __init__(self, about: Collection, reader: IndexReader, bits: NDArray[np.uint8]) -> None:
        assert about.held is not None
        self._about = about
        self._known = check_by_id(
            about.held, reader.read(IDS), reader.read(ROWS), unpack_live(bits, about.count), str(reader.path)
        )
        self._held = np.zeros(about.count, np.int64)
        self._mark = np.zeros(about.count, np.int64)
        self._led = about.kind.outside(about.centroids)
        self._order: NDArray[np.int64] | None = None

    def bad_ids(self) -> Iterator[str]:
        """Nothing: `by_id` was checked when it was read."""
        yield from ()

    def represent(self, ids: Array) -> Iterator[str]:
        """Takes the ids of the rows that represent centroids."""
        yield from self._take(np.arange(len(ids)), ids, "a centroid")

    def add_primaries(self, posting: int, content: Bytes, postings: Postings) -> Iterator[str]:
        """Takes the ids of the primaries of a posting."""
        primaries = int(postings.primaries[posting])
        rows = self._led + int(postings.first_row[posting]) + np.arange(primaries)
        yield from self._take(rows, postings.ids(posting, content)[:primaries], f"posting {posting}")
        self._mark[rows] = postings.marks(posting, content)

    def check_replicas(self, posting: int, content: Bytes, postings: Postings) -> Iterator[str]:
        """What is wrong with the replicas of a posting, once all primaries are known."""
        primaries = int(postings.primaries[posting])
        ids = postings.ids(posting, content)
        replicas = ids[primaries:].astype(np.int64)
        if isinstance(postings, CodeLists):
            rows = postings.rows(posting, content).astype(np.int64)
            for row in rows[rows >= self._about.count][:1]:
                yield f"posting {posting} has a replica of row {row}; the exact store has {self._about.count}"
                return
            for i in np.flatnonzero(self._held[rows] != replicas)[:1]:
                yield (
                    f"posting {posting} has a replica with id {replicas[i]} of row {rows[i]} of the exact store, which "
                    f"has id {self._held[rows[i]]}"
                )
            return
        if len(np.unique(ids)) < len(ids):
            yield f"posting {posting} holds an id twice"
        rows = self._rows(replicas)
        if bool((self._held[rows] != replicas).any()) or bool((rows < self._led).any()):
            yield f"posting {posting} has a replica of a vector that no posting has as a primary"
        elif bad := postings.bad_replica(posting, content, self._mark[rows]):
            yield f"posting {posting} has a replica {bad}"

    def missing(self) -> int | None:
        """Without codes, the first row that has the id of another; else None, for the directory counts rows."""
        if self._about.kind.is_reranked:
            return None
        order = self._by_held()
        same = np.flatnonzero(self._held[order][1:] == self._held[order][:-1])
        return int(order[same[0]]) if len(same) else None

    def _take(self, rows: NDArray[np.int64], ids: Array, where: str) -> Iterator[str]:
        self._held[rows] = ids
        if bool((self._held[rows] < 0).any()):
            yield f"{where} holds id {ids.max()}, and ids are below 2^63"
        known = self._known[rows]
        for i in np.flatnonzero((known >= 0) & (known != self._held[rows]))[:1]:
            yield f"{where} holds id {ids[i]} for row {rows[i]}, which by_id gives id {known[i]}"

    def _by_held(self) -> NDArray[np.int64]:
        if self._order is None:
            self._order = np.argsort(self._held, kind="stable")
        return self._order

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        order = self._by_held()
        at = np.minimum(np.searchsorted(self._held[order], ids), len(order) - 1)
        return order[at]
