"""A new build of a collection from the vectors of its own index, as the next generation of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.pipeline import build_index
from spann.changing.generation import Generation
from spann.config import BuildParams
from spann.errors import ExistsError, FormatError, InputError
from spann.format.live import all_live, pack_live
from spann.format.manifest import RESERVED
from spann.format.updates import DELETED, IDS, LIVE, ROWS, Updates
from spann.jobs.own import OwnVectors
from spann.store import files
from spann.store.places import Directory, Place, without_links
from spann.store.publishing import BUILDING, LOCK
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter
from spann.types import Array, Progress
from spann.updating.live_source import LiveSource
from spann.vectors import ArraySource, IdList, StoredSource, VectorSource

SUFFIX = ".rebuilt"
"""What the name of the new build has after that of the index, until its arrays become the next generation."""


@dataclass(frozen=True)
class Resources:
    """What a change of an index may take: see `spann.build`."""

    threads: int | None = None
    memory_limit: int | None = None
    progress: Progress | None = None


def params_of(reader: IndexReader) -> BuildParams:
    """The parameters that the index was built with. `FormatError` for some that cannot be."""
    try:
        return BuildParams(**reader.attributes["parameters"])
    except (TypeError, InputError) as error:
        raise FormatError(f"{reader.path}: the parameters of its build cannot be: {error}") from None


def unfinished(path: Path) -> bool:
    """Whether a rebuild of the index at `path` was interrupted, and may be resumed."""
    real = path.resolve()
    return any(real.with_name(real.name + SUFFIX + end).exists() for end in (BUILDING, ""))


def rebuild(
    following: Generation,
    updates: Updates,
    resources: Resources,
    *,
    without: NDArray[np.int64],
    more: NDArray[np.int64],
    vectors: Array,
) -> None:
    """Publishes as `following` a build of the live vectors of the old generation, but for those of the ids `without`,
    and of the stored `vectors` with the ids `more`. `updates` has the log and the next id of the new generation.

    The build is an index beside the old one, which a repeated call resumes; raises what `build_index` does."""
    old = following.old
    own = LiveSource(old, without, more, vectors)
    place = place_beside(following.path)
    if len(own.ids):
        _build(own, own.ids, place, old, following.created_by, resources)
    else:  # an index has at least one row
        nothing = placeholder(old.collection.element, old.collection.dim)
        _build(nothing, np.zeros(1, np.int64), place, old, following.created_by, resources)
    new = IndexReader.open(place.path)
    _adopt(following, new, updates, len(own.ids) > 0)
    new.close()
    files.remove_tree(place)


def place_beside(path: Path) -> Place:
    """Where the index at `path` is built anew."""
    real = without_links(path)
    return Directory(real.parent) / (real.name + SUFFIX)


def discard_rebuild(path: Path, created_by: str) -> None:
    """Removes what a killed process left of a new build beside the index at `path`, finished or not."""
    place = place_beside(path)
    names = (place.name, place.name + BUILDING, place.name + LOCK)
    if not any(files.exists(place.parent / name) for name in names):
        return
    with IndexWriter(place.path, created_by=created_by, overwrite=True):
        pass  # which removes what it does not publish
    if files.exists(place):
        IndexReader.open(place.path).close()  # raises for what is no index
        files.remove_tree(place)


def placeholder(element: str, dim: int) -> VectorSource:
    """One vector of ones: the dead row of a collection without vectors."""
    if element == "bit":
        return ArraySource(np.ones((1, dim), np.bool_), name="no vectors")
    if element == "bfloat16":
        ones = ArraySource(np.full((1, dim), 0x3F80, np.uint16), name="no vectors", element="uint16")
        return StoredSource(ones, element)
    return ArraySource(np.ones((1, dim), element), name="no vectors")


def _build(
    source: VectorSource,
    ids: NDArray[np.int64],
    place: Place,
    old: IndexReader,
    created_by: str,
    resources: Resources,
) -> None:
    def build(**how: Any) -> None:
        build_index(
            source,
            place.path,
            old.collection.metric,
            params_of(old),
            created_by=created_by,
            ids=IdList(ids),
            threads=resources.threads,
            memory_limit=resources.memory_limit,
            progress=resources.progress,
            **how,
        )

    try:
        build()
    except ExistsError:  # of an earlier rebuild, of other vectors
        build(overwrite=True, restart=True)
    except InputError:
        if not files.exists(place.parent / (place.name + BUILDING)):
            raise
        build(restart=True)


def _adopt(following: Generation, new: IndexReader, updates: Updates, live: bool) -> None:
    """Publishes the arrays of `new` as the next generation, with the attributes that outlive a build."""
    old = following.old.attributes
    kept = adopt(following.writer, new, updates, live)
    kept["sources"] = [*kept.get("sources", [""])[:1], *old.get("sources", [])[1:]]
    given = old.get("calibration")
    if given is not None and given["origin"] == "given":
        kept["calibration"] = given
    features = sorted({*new.attributes["features"], DELETED})
    following.writer.publish(kept, features=features, generation=old["generation"] + 1)


def adopt(writer: IndexWriter, new: IndexReader, updates: Updates, live: bool) -> dict[str, Any]:
    """Links the arrays of `new`, an index without updates, and adds those for updates. Returns the attributes to
    publish. All rows are `live`, or none."""
    about = new.collection
    for name in new.arrays():
        if name != "vectors/ids":
            writer.extend_array(name, new.array(name), new.checksums(name)).finish()
    ids = OwnVectors(new).ids()
    rows = np.argsort(ids, kind="stable") if live else np.empty(0, np.int64)
    writer.write_array(LIVE, all_live(about.count) if live else pack_live(np.zeros(about.count, np.bool_)))
    writer.write_array(IDS, ids[rows].astype(f"<u{about.id_bytes}"))
    writer.write_array(ROWS, rows.astype(np.uint64 if about.count > 1 << 32 else np.uint32))
    made = Updates(len(rows), updates.next_id, updates.lineage, updates.log, (len(rows),) if len(rows) else ())
    kept = {name: value for name, value in new.attributes.items() if name not in RESERVED}
    return kept | {"ids": "user", "updates": made.to_json()}
