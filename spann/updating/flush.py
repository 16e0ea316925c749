"""Making a generation that contains the operations of the log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spann.changing.append import append_rows
from spann.changing.generation import Generation
from spann.changing.relay import Change, can_be_relaid, relay
from spann.changing.rows import Replaced, add_rows
from spann.format.updates import LIVE
from spann.jobs.own import OwnVectors
from spann.store.by_id import ById
from spann.store.log import Log, log_of
from spann.store.reader import IndexReader
from spann.types import Array
from spann.updating.fresh import Fresh
from spann.updating.rebuild import Resources, discard_rebuild, rebuild
from spann.vectors import ArraySource, StoredSource, VectorSource

GROWN = 0.5
"""Share of the vectors of an index. More new ones than that lead to a new build, as centroids are those of the old."""


@dataclass(frozen=True)
class Logged:
    """The operations of the log in the end: `ids` that have `vectors` (stored form), and ids that are `gone`."""

    ids: NDArray[np.int64]
    vectors: Array
    gone: NDArray[np.int64]
    largest_id: int
    operations: int

    def source(self, element: str) -> VectorSource:
        """The vectors, of an index that holds such elements."""
        stored = ArraySource(self.vectors, name="the log", element=self.vectors.dtype.name)
        return StoredSource(stored, element) if element in ("bfloat16", "bit") else stored

    @property
    def touched(self) -> NDArray[np.int64]:
        """All ids, ascending."""
        return np.union1d(self.ids, self.gone)


@dataclass(frozen=True)
class Flushed:
    """What a flush did: the `operations` that the new generation contains, and whether it `rebuilt` the index."""

    operations: int
    rebuilt: bool


def flush_index(
    path: str | Path, *, created_by: str, resources: Resources | None = None, restart: bool = False
) -> Flushed:
    """Publishes a generation of the index at `path` that contains all operations of its log, and empties that.

    Nothing happens if there are none. Killed at any step, it is done by the next call. Searches and writes go on.
    Raises `ExistsError` while another process changes the index, and `InputError` if other work on it is unfinished,
    unless `restart` gives that up."""
    resources = resources or Resources()
    with Generation(path, created_by=created_by) as following:
        old = following.old
        if old.collection.updates is None:
            return Flushed(0, rebuilt=False)
        log, fresh = log_of(old), Fresh.of(old.collection)
        if not log.exists:
            return Flushed(0, rebuilt=False)
        read(log, fresh)
        if not fresh.operations:
            with log.locked():  # a process may have been killed after it had published
                log.remove_before(old.collection.updates.log)
            return Flushed(0, rebuilt=False)
        following.resume("flush", {}, command=f"spann flush {following.path}", files={}, restart=restart)
        with log.locked():
            read(log, fresh)
            number = log.rotate()
        rebuilt = _publish(following, _logged(fresh), number, resources)
        with log.locked():
            log.remove_before(number)
        discard_rebuild(following.path, created_by)  # which is of an older generation
        return Flushed(fresh.operations, rebuilt)


def read(log: Log, fresh: Fresh) -> None:
    """Applies what is new in the log."""
    for frame in log.poll():
        fresh.apply(frame)


def _logged(fresh: Fresh) -> Logged:
    ids, vectors, gone = fresh.survivors()
    return Logged(ids, vectors, gone, fresh.largest_id, fresh.operations)


def _publish(following: Generation, logged: Logged, number: int, resources: Resources) -> bool:
    """Publishes the generation; whether it is a new build."""
    old, about = following.old, following.old.collection
    assert about.updates is not None
    next_id = about.updates.next_id
    if next_id is not None:
        next_id = max(next_id, logged.largest_id + 1)
    bits, by_id = old.read(LIVE), ById(old)
    rows = by_id.find(logged.touched, bits)
    replaced = Replaced(rows[rows >= 0], next_id, number)
    if _needs_build(old, logged, by_id.find(logged.ids, bits)):
        updates = replace(about.updates, next_id=next_id, log=number)
        rebuild(following, updates, resources, without=logged.touched, more=logged.ids, vectors=logged.vectors)
        return True
    if can_be_relaid(old) and about.updates.live - len(replaced.rows) + len(logged.ids):
        change = Change(replaced.rows, logged.ids, logged.vectors)
        updates = replace(about.updates, next_id=next_id, log=number)
        relay(following, updates, change, **vars(resources))
    elif len(logged.ids):
        append_rows(
            following,
            logged.source(about.element),
            logged.ids,
            replaced,
            threads=resources.threads,
            memory_limit=resources.memory_limit,
            progress=resources.progress,
        )
    else:
        following.publish(add_rows(following, logged.ids, replaced))
    return False


def _needs_build(old: IndexReader, logged: Logged, rows: NDArray[np.int64]) -> bool:
    """Whether the vectors of the log cannot join the postings that there are. `rows` held their ids before."""
    about, ids = old.collection, logged.ids
    if not len(ids):
        return False
    if len(ids) > GROWN * about.live or int(ids.max()) >= 1 << 8 * about.id_bytes:
        return True
    if about.code_bits:
        return about.count + len(ids) > 1 << 8 * about.row_bytes
    if bool((rows >= 0).any()):
        return True  # a row without codes is known by its id alone, so no other may have it
    return about.live < about.count and bool(np.isin(ids, OwnVectors(old).ids()).any())
