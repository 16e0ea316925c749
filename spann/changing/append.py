"""Appending to an index: new vectors join the present centroids, as postings of their own, in a new generation.

Nothing that exists is touched. The new generation takes the place of the old one in one step (docs/FORMAT.md,
Publishing). Full shards are links to those of the old one: an append writes what is new, the directory, and up to one
shard of each big array again. Vectors come in the order of space by the stages of a build, so that neighbours lie
together here as well.

An append cannot move centroids. If the new vectors outnumber the old ones or lie elsewhere, postings grow long or many,
and a new build finds more for the same reads (docs/SCALING.md has the figures).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.centroids import Centroids
from spann.building.ids import Given, Ids, Known, mark_of
from spann.building.job import Job
from spann.building.pipeline import TEMPORARY_FILES, checksums_of, source_mark
from spann.building.plan import limit_bytes, threads_to_append
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.stages.assign import assign_nearest
from spann.building.stages.cluster import TreeFiles, group_ends, grow_tree
from spann.building.stages.clusters import Clusters
from spann.building.stages.layout import Directory, lay_out_more
from spann.building.stages.scan import scan
from spann.changing.extend import extend_postings
from spann.changing.generation import Generation, refuse_columns
from spann.changing.likeness import compared, still_valid, unlike
from spann.changing.present import Present
from spann.changing.rows import Replaced, add_rows, quiet_log
from spann.config import thread_count
from spann.errors import InputError
from spann.format.live import is_live
from spann.format.names import BYTES, CHUNK_BYTES, ENDS
from spann.format.shapes import shape_bytes
from spann.format.updates import IDS, LIVE, ROWS
from spann.store.names import add_names, names_of
from spann.types import Progress
from spann.vectors import IdList, VectorSource, for_metric

APPEND_STAGES = ("scan", "partition", "cluster", "assign", "layout", "arrange", "write", "publish")
"""The stages of `append_index`, in the order of progress; "arrange" only with an exact store."""

RUN = 8
"""Centroids, neighbours by number and so in space, that are looked for together (spann/building/stages/assign.py)."""

_DIRECTORY = "postings/directory"


def append_index(
    source: VectorSource,
    path: str | Path,
    *,
    created_by: str,
    ids: Given = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    restart: bool = False,
    again: bool = False,
    progress: Progress | None = None,
    sizes: Sizes = DEFAULT_SIZES,
) -> bool:
    """Adds all vectors of `source` to the index at `path`, in its next generation, whole or not at all.

    Returns False if they were appended already, with the same ids, as after a process that was killed when it was all
    but done. Nothing is added then, unless `again` asks for it.

    An index with given ids needs `ids` (count,) of the same kind. Any other index numbers its vectors by row, and
    refuses them. Readers of the old generation are not disturbed. The same call resumes an interrupted append, and ends
    with the same bytes.

    Raises `InputError` for vectors of another type or dimension, for bad ids, and if memory or disk are too small.
    Raises `ExistsError` while another process changes the index, and `MissingError`, `FormatError`, `CorruptionError`
    or `StorageError` as readers and writers do.
    """
    report = progress or (lambda stage, done, total: None)
    with Generation(path, created_by=created_by, sizes=sizes) as following, quiet_log(following.old):
        refuse_columns(following.old)
        old = _Old(following.old, source.count)
        source = for_metric(source, old.metric)
        old.check(source)
        workers = old.workers(following, source, threads, memory_limit)
        known = old.known(following.path.parent)
        known.check(ids, source)
        marked = mark_of(ids, source)
        scanned = None
        if not again and old.may_hold(source, marked):
            scanned = scan(source, old.metric, workers, report, alone=False)
            if source_mark(source, scanned[1], marked) in old.appended:
                return False
        given = old.numbered(ids, source.count)
        names = Ids.more(given, source, known, count=old.count, width=old.about["id_bytes"])
        found, content = scanned or scan(source, old.metric, workers, report, alone=False)
        following.resume(
            "append",
            checksums_of(source, content, marked),
            command=f"spann append {following.path} {source.name}" + (" --again" if again else ""),
            files=TEMPORARY_FILES,
            restart=restart,
        )
        job = Job(source, old.space(found.max_norm), old.decision, names, old.record, workers, report, sizes)
        _append(job, following, old, source_mark(source, content, marked))
    return True


def append_rows(
    following: Generation,
    source: VectorSource,
    ids: NDArray[np.int64],
    replaced: Replaced,
    *,
    threads: int | None,
    memory_limit: int | None,
    progress: Progress | None,
) -> None:
    """Publishes as `following` the index with the vectors of `source` under `ids`, and without the rows `replaced`.

    The index has updates, and no live row that stays has one of these ids. Raises as `append_index` does."""
    report = progress or (lambda stage, done, total: None)
    old = _Old(following.old, source.count)
    old.check(source)
    workers = old.workers(following, source, threads, memory_limit)
    found, _ = scan(source, old.metric, workers, report, alone=False)
    names = Ids(ids, old.about["id_bytes"])
    job = Job(source, old.space(found.max_norm), old.decision, names, old.record, workers, report, following.sizes)
    _append(job, following, old, None, replaced)


class _Old(Present):
    """The generation that is appended to."""

    def check(self, source: VectorSource) -> None:
        """Raises `InputError` unless the vectors of `source` can be added."""
        about = self.about
        if (source.dim, source.element) != (about["dim"], about["dtype"]):
            raise InputError(
                f"{source.name} holds {source.element} vectors of dimension {source.dim}; {self.reader.path} holds "
                f"{about['dtype']} vectors of dimension {about['dim']}, and only such can be added"
            )
        if self.decision.code_bits and self.count + source.count > 1 << 8 * about["row_bytes"]:
            raise InputError(
                f"{self.count + source.count} vectors with those of {source.name}; rows of {self.reader.path} have "
                f"{about['row_bytes']} bytes and it can hold {1 << 8 * about['row_bytes']}"
            )

    def workers(
        self, following: Generation, source: VectorSource, threads: int | None, memory_limit: int | None
    ) -> int:
        """Threads that append `source` within the limit. Raises `InputError` if memory or disk are too small."""
        return threads_to_append(
            source,
            self.about,
            following.path,
            decision=self.decision,
            threads=thread_count(threads),
            limit=limit_bytes(memory_limit),
            copied=following.copied_bytes(),
        )

    @property
    def sources(self) -> list[str]:
        """Marks of all vectors that it holds: those it was built of, then what was appended."""
        return list(self.about.get("sources", []))

    @property
    def appended(self) -> list[str]:
        return self.sources[1:]

    def may_hold(self, source: VectorSource, ids: str) -> bool:
        """Whether something was appended that is like `source` but for, perhaps, the values of its vectors."""
        like = checksums_of(source, 0, ids)
        begin = like["vectors"].split(",")[0]
        return any(mark.startswith(f"{begin},") and mark.endswith(f"; ids {like['ids']}") for mark in self.appended)

    def known(self, scratch: Path) -> Known:
        """Its ids. Temporary files are in `scratch`."""
        if self.updates is not None:
            return Known(self._taken(), None, scratch, self.updates.next_id is not None)
        user = self.reader.read("vectors/ids") if self.about["ids"] == "user" else None
        return Known(user, names_of(self.reader), scratch)

    def _taken(self) -> NDArray[np.int64]:
        """The ids that new vectors of an index with updates cannot have."""
        ids = self.reader.read(IDS).astype(np.int64)
        if not self.decision.code_bits:  # not even those of dead rows
            return ids
        live: NDArray[np.int64] = ids[is_live(self.reader.read(LIVE), self.reader.read(ROWS).astype(np.int64))]
        return live

    def numbered(self, ids: Given, count: int) -> Given:
        """The ids of `count` new vectors: as given, or the numbers that follow if an index with updates has such."""
        if ids is None and self.updates is not None and self.updates.next_id is not None:
            return IdList(np.arange(self.updates.next_id, self.updates.next_id + count))
        return ids

    def replaced(self, names: Ids) -> Replaced:
        """What an append changes besides adding rows with these `names`: the next id."""
        assert self.updates is not None
        following = self.updates.next_id
        if following is not None and names.user is not None:
            following = max(following, int(names.user.max()) + 1)
        return Replaced(np.empty(0, np.int64), following, self.updates.log)


def _append(job: Job, following: Generation, old: _Old, mark: str | None, replaced: Replaced | None = None) -> None:
    """All stages after "scan"; `mark` is what the index keeps of the source, and `replaced` what dies of it."""
    about, source = old.about, job.source
    centroids = old.centroids(job.space)
    clusters = _clusters(grow_tree(job, following), centroids)  # partition and cluster
    edges = assign_nearest(job, following, clusters)
    laid = lay_out_more(job, following, edges, old.pages, old.count)
    directory = laid.directory
    made = extend_postings(job, following, old, clusters.vectors, centroids, laid)
    facts = made.facts
    checksums = facts["crc32c"] if job.decision.code_bits else facts
    if job.decision.directions:
        shapes = following.extend("postings/shapes", len(facts))
        shapes.append(shape_bytes(facts["shape"]))
        shapes.finish()
    _extend_directory(old, following, directory, checksums)
    if "centroids/lift" in old.reader.arrays() and job.space.max_norm > about["max_norm"]:
        assert centroids.lift is not None
        following.rewrite("centroids/lift", centroids.lift)
    if old.updates is None and job.ids.user is not None:
        user = following.extend("vectors/ids", source.count)
        user.append(job.ids.user)
        user.finish()
    if (new := job.ids.names) is not None:
        end = old.reader.layout(BYTES).rows
        ends = following.extend(ENDS, source.count, chunk_bytes=CHUNK_BYTES)
        add_names(ends, following.extend(BYTES, new.size, chunk_bytes=CHUNK_BYTES), new.chunks(), end)
    changes: dict[str, Any] = {
        "count": old.count + source.count,
        "postings": about["postings"] + len(directory.page),
        "entries": about["entries"] + int(directory.length.sum()),
        "max_norm": job.space.max_norm,
    }
    if mark is not None:
        changes["sources"] = [*(old.sources or [""]), mark]
    if old.updates is not None:
        ids = job.ids.of(clusters.vectors.rows_of(made.stored(laid))).astype(np.int64)
        changes |= add_rows(following, ids, replaced or old.replaced(job.ids))
    if "calibration" in about:
        difference = unlike(old.reader, centroids, job.space, source.take(compared(source.count)))
        changes["calibration"] = still_valid(about["calibration"], difference, source.count, changes["count"])
    following.publish(changes, features=sorted({*about["features"], "appended"}))
    job.report("publish", 1, 1)


def _clusters(tree: TreeFiles, centroids: Centroids) -> Clusters:
    """The new vectors in tree order, and the old centroids in runs of neighbours."""
    leaves, count = tree.leaves.read(0, tree.leaves.count), len(centroids)
    unused = np.empty(0, np.int64)
    run_end = np.append(np.arange(RUN, count, RUN), count)
    return Clusters(tree.vectors, unused, unused, centroids, group_ends(tree, leaves), run_end)


def _extend_directory(old: _Old, following: Generation, directory: Directory, checksums: NDArray[np.uint32]) -> None:
    columns = {
        "page": directory.page,
        "offset": directory.offset,
        "length": directory.length,
        "primaries": directory.primaries,
        "crc32c": checksums,
    }
    for name, values in columns.items():
        following.rewrite(f"{_DIRECTORY}/{name}", np.concatenate([old.reader.read(f"{_DIRECTORY}/{name}"), values]))
    appended = [directory.owner.astype(np.uint32)]
    if "appended" in old.about["features"]:
        appended.insert(0, old.reader.read(f"{_DIRECTORY}/appended"))
    following.rewrite(f"{_DIRECTORY}/appended", np.concatenate(appended))
