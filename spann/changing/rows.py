"""Rows that a generation adds to an index with updates, and rows that die with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.changing.generation import Generation
from spann.errors import InputError
from spann.format.live import extended, is_live, without
from spann.format.updates import IDS, LIVE, ROWS, Updates
from spann.store.log import log_of
from spann.store.reader import IndexReader
from spann.system import check_room

MOST_RUNS = 8
"""Runs of `by_id` before they become one: each costs a lookup by id a read."""


@dataclass(frozen=True)
class Replaced:
    """What a generation takes from its log: the stored `rows` that die, the least id that no vector had yet (None if
    the index does not number its vectors), and the first `log` file that it does not contain."""

    rows: NDArray[np.int64]
    next_id: int | None
    log: int


@contextmanager
def quiet_log(old: IndexReader) -> Iterator[None]:
    """Keeps the log of the index as it is, which must be empty: writers wait. Nothing for an index without updates."""
    if old.collection.updates is None or not (log := log_of(old)).exists:
        yield
        return
    with log.locked():
        if log.poll():
            raise InputError(f"{old.path}: the log has operations that come before: `spann flush` first")
        yield


def add_rows(following: Generation, ids: NDArray[np.int64], replaced: Replaced) -> dict[str, Any]:
    """Writes the arrays of an index with updates to which rows with these `ids` (n,) were added, in the order of the
    stored rows; returns the entries of the manifest that change."""
    old, about = following.old, following.old.collection
    assert about.updates is not None
    bits = old.read(LIVE)
    rows = replaced.rows
    if not is_live(bits, rows).all():
        raise InputError(f"{old.path}: row {rows[int(np.argmin(is_live(bits, rows)))]} is to die and is dead")
    bits = extended(without(bits, rows), about.count, len(ids))
    following.rewrite(LIVE, bits)
    runs = add_run(following, ids, bits)
    made = Updates(
        about.updates.live - len(rows) + len(ids), replaced.next_id, about.updates.lineage, replaced.log, runs
    )
    return {"updates": made.to_json()}


def add_run(following: Generation, ids: NDArray[np.int64], bits: NDArray[np.uint8]) -> tuple[int, ...]:
    """Adds a run to `by_id`: the `ids` (n,) of the rows behind the old ones. `bits` are those of all rows. Returns the
    ends of all runs, which become one if there are many."""
    old, about = following.old, following.old.collection
    assert about.updates is not None
    if not len(ids):
        return about.updates.runs
    total, width, wide = about.count + len(ids), f"<u{about.id_bytes}", old.layout(ROWS).dtype.itemsize == 8
    kind = np.dtype(np.uint64 if wide or total > 1 << 32 else np.uint32)
    order = np.argsort(ids, kind="stable")
    runs, new_ids, new_rows = about.updates.runs, ids[order], about.count + order
    if len(runs) < MOST_RUNS and kind == old.layout(ROWS).dtype:
        for name, values in ((IDS, new_ids.astype(width)), (ROWS, new_rows.astype(kind))):
            writer = following.extend(name, len(values))
            writer.append(values)
            writer.finish()
        return (*runs, about.updates.entries + len(ids))
    check_room(40 * total, f"the ids of the {total} vectors of {old.path}")
    every_id = np.concatenate([old.read(IDS).astype(np.int64), new_ids])
    every_row = np.concatenate([old.read(ROWS).astype(np.int64), new_rows])
    order = np.argsort(every_id, kind="stable")
    order = order[is_live(bits, every_row[order])]
    following.rewrite(IDS, every_id[order].astype(width))
    following.rewrite(ROWS, every_row[order].astype(kind))
    return (len(order),)
