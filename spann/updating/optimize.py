"""Bringing an index back to what a new build would be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spann.changing.generation import Generation
from spann.changing.relay import can_be_relaid
from spann.format.collection import Collection
from spann.store.reader import IndexReader
from spann.types import Array
from spann.updating.begin import begin_updates
from spann.updating.flush import Flushed, flush_index
from spann.updating.rebuild import Resources, discard_rebuild, rebuild, unfinished

WORN = 0.3
"""Share of worn rows from which on an index is built anew without being asked: dead ones, and those that were appended
to an index whose cells cannot be laid anew."""

_NO_IDS: Array = np.empty(0, np.int64)


@dataclass(frozen=True)
class Optimized:
    """What an optimisation did: the `operations` that it took from the log, and whether it `rebuilt` the index. Then
    the vectors of the index (`live`), and rows that are still `dead`."""

    operations: int
    rebuilt: bool
    live: int
    dead: int


@dataclass(frozen=True)
class Wanted:
    """What is asked of an optimisation: all that helps (`full`), no dead row left (`purge`), or a new build in any case
    (`rebuild`). Without any, what the index calls for."""

    full: bool = False
    purge: bool = False
    rebuild: bool = False


def optimize_index(path: str | Path, wanted: Wanted, *, created_by: str, resources: Resources) -> Optimized:
    """Flushes the log of the index at `path` and does what is `wanted`. An interrupted build is resumed by the next
    call. Raises as `flush_index` and `rebuild` do."""
    path = Path(path)
    begin_updates(path, created_by=created_by)
    flushed = Flushed(0, rebuilt=False)
    resuming = unfinished(path) and (wanted.rebuild or wanted.purge)
    if not resuming:
        flushed = flush_index(path, created_by=created_by, resources=resources)
    reader = IndexReader.open(path)
    rebuilt = flushed.rebuilt
    if (resuming or not rebuilt) and _needs_build(reader, wanted):
        rebuild_index(path, created_by=created_by, resources=resources)
        rebuilt = True
    elif unfinished(path):  # of a process that was killed after it had published, or of an older generation
        with Generation(path, created_by=created_by):
            discard_rebuild(path.absolute(), created_by)
    about = IndexReader.open(path).collection
    return Optimized(flushed.operations, rebuilt, about.live, about.count - about.live)


def _needs_build(reader: IndexReader, wanted: Wanted) -> bool:
    about = reader.collection
    dead = about.count - about.live
    if wanted.rebuild or (wanted.purge and dead):
        return True
    return bool(dead or about.is_appended) if wanted.full else worn(reader) > WORN


def worn(reader: IndexReader) -> float:
    """The share of the rows of an index that are dead, or were appended and cannot be laid anew."""
    about: Collection = reader.collection
    appended = 0
    if about.is_appended and not can_be_relaid(reader):
        last = reader.layout("postings/directory/appended").rows
        primaries = reader.array("postings/directory/primaries")
        appended = int(primaries.read_rows(primaries.rows - last, primaries.rows).sum(dtype=np.int64))
    return (about.count - about.live + appended) / about.count


def rebuild_index(path: str | Path, *, created_by: str, resources: Resources) -> None:
    """Builds the index at `path` anew from its own live vectors. Operations of the log stay there."""
    with Generation(path, created_by=created_by) as following:
        updates = following.old.collection.updates
        assert updates is not None
        following.resume("rebuild", {}, command=f"spann optimize {following.path} --rebuild", files={})
        width = following.old.collection.width
        rebuild(following, updates, resources, without=_NO_IDS, more=_NO_IDS, vectors=np.empty((0, width)))
