"""Giving an index its first update: rows by id, a bit for each row, and a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.changing.generation import Generation, refuse_columns
from spann.errors import InputError
from spann.format.live import all_live, without
from spann.format.updates import DELETED, IDS, LIVE, ROWS, Updates
from spann.jobs.own import OwnVectors
from spann.store.log import create_log, log_of
from spann.store.reader import IndexReader
from spann.system import check_room


def check_numbers(reader: IndexReader) -> None:
    """Raises `InputError` unless the ids of the index are integers."""
    kind = reader.attributes.get("name_type")
    if kind is not None:
        raise InputError(
            f"{reader.path}: the ids of its vectors are {kind}, and single vectors are looked up and changed by "
            "integers only: `spann append` adds vectors, a new build does the rest"
        )


def ensure_log(path: str | Path, *, created_by: str) -> None:
    """Makes the log of the index at `path` if there is none, as of an index that was copied alone."""
    with Generation(path, created_by=created_by) as following:
        updates = following.old.collection.updates
        if updates is not None and not log_of(following.old).exists:
            create_log(following.path, updates.lineage, updates.log)


def begin_updates(path: str | Path, *, created_by: str, dead: NDArray[np.int64] | None = None) -> None:
    """Publishes a generation of the index at `path` that can be updated, and makes its log; nothing if it can already.

    `dead` are stored rows that hold no vector of the collection. Takes 24 bytes of memory for each vector. Raises
    `InputError` if other work on the index is unfinished, and `ExistsError` while another process changes it."""
    with Generation(path, created_by=created_by) as following:
        old = following.old
        if old.collection.updates is not None:
            return
        check_numbers(old)
        refuse_columns(old)
        following.resume("begin updates", {}, command=f"spann flush {following.path}", files={})
        about, count = old.collection, old.collection.count
        check_room(24 * count, f"the ids of the {count} vectors of {following.path}")
        ids = OwnVectors(old).ids()
        rows = np.argsort(ids, kind="stable")
        bits = all_live(count)
        if dead is not None:
            bits = without(bits, dead)
            rows = rows[~np.isin(rows, dead)]
        updates = Updates(
            live=count - (0 if dead is None else len(dead)),
            next_id=None if about.user_ids else count,
            lineage=str(old.attributes["checksum"]),
            log=1,
            runs=(len(rows),) if len(rows) else (),
        )
        create_log(following.path, updates.lineage, updates.log)
        following.rewrite(LIVE, bits)
        following.rewrite(IDS, ids[rows].astype(f"<u{about.id_bytes}"))
        following.rewrite(ROWS, rows.astype(np.uint64 if count > 1 << 32 else np.uint32))
        changes: dict[str, Any] = {"ids": "user", "updates": updates.to_json()}
        if about.user_ids:
            following.drop("vectors/ids")
        following.publish(changes, features=sorted({*old.attributes["features"], DELETED}))
