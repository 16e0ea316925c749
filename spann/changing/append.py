"""Appending to an index: new vectors join the centroids there are, as postings of their own, in a new generation.

Nothing that exists is touched. The new generation is a directory of its own that takes the old one's place in one step
(docs/FORMAT.md, Publishing); full shards are links to those of the old one, so an append writes what is new, up to one
shard of each big array again, and the directory. Vectors come in the order of space by the stages of a build, so that
near ones lie together here as well.

What it cannot do is move centroids: where the new vectors outnumber the old ones or lie elsewhere, postings grow long
or many, and a new build finds more for the same reads (docs/SCALING.md has the figures).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.centroids import Centroids
from spann.building.checkpoint import Batches
from spann.building.edges import EdgeSpool
from spann.building.ids import Ids
from spann.building.pipeline import TEMPORARY_FILES, checksums_of, grow_tree, source_mark
from spann.building.plan import limit_bytes, threads_to_append
from spann.building.space import Space, middle
from spann.building.stages.arrange import arrange
from spann.building.stages.assign import assign_nearest
from spann.building.stages.cluster import TreeFiles, group_ends
from spann.building.stages.clusters import Clusters
from spann.building.stages.layout import Directory, lay_out_more
from spann.building.stages.scan import scan
from spann.building.stages.write_codes import Coded, posting_facts, write_codes
from spann.building.stages.write_exact import Pages, write_pages
from spann.building.temporary import RecordFile
from spann.changing.generation import Generation
from spann.changing.likeness import still_valid, unlike
from spann.config import BuildParams, thread_count
from spann.elements import memory_dtype, unpack
from spann.errors import FormatError, InputError
from spann.format.layout import SHARD_BYTES
from spann.format.postings import PAGE, Record
from spann.format.shapes import directions_of, shape_bytes
from spann.quantize import Quantizer
from spann.store.arrays import ShardedArray
from spann.store.exact import PageChecksums
from spann.store.reader import IndexReader
from spann.types import Array, Metric, Progress
from spann.vectors import IdList, VectorSource, for_metric

APPEND_STAGES = ("scan", "partition", "cluster", "assign", "layout", "arrange", "write", "publish")
"""What `append_index` does, in the order progress is reported; "arrange" only where there is an exact store."""

RUN = 8
"""Centroids, neighbours by number and so in space, that are looked for together (spann/building/stages/assign.py)."""

_DIRECTORY = "postings/directory"


def append_index(
    source: VectorSource,
    path: str | Path,
    *,
    created_by: str,
    ids: IdList | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    restart: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Adds all vectors of `source` to the index at `path`, which becomes its next generation, whole or not at all.

    False where they were appended already, with the same ids, as after a process that was killed when it was all but
    done: nothing is added then, unless `again` says so.

    `ids` (count,) int64 are needed where the index has ids that were given, and refused where it has not: there the new
    vectors are numbered on. Readers of the old generation go on undisturbed. An append that was interrupted is gone on
    with by the same call, and ends with the same bytes. Raises `InputError` for vectors of another type or dimension,
    ids that cannot be, and what does not fit; `MissingError`, `FormatError`, `CorruptionError`, `StorageError`, and
    `ExistsError` while another process changes the index.
    """
    report = progress or (lambda stage, done, total: None)
    with Generation(path, created_by=created_by) as following:
        old = _Old(following.old)
        source = for_metric(source, old.metric)
        old.check(source)
        workers = threads_to_append(
            source,
            old.about,
            following.path,
            threads=thread_count(threads),
            limit=limit_bytes(memory_limit),
            copied=following.copied_bytes(),
        )
        given = ids.of(source.count, source.name) if ids is not None and old.about["ids"] == "user" else None
        scanned = None
        if not again and old.may_hold(source, given):
            scanned = scan(source, old.metric, workers, report, alone=False)
            if source_mark(source, scanned[1], given) in old.appended:
                return False
        names = Ids.more(ids, source, old.ids(), old.count, old.about["id_bytes"])
        found, content = scanned or scan(source, old.metric, workers, report, alone=False)
        following.resume(
            "append",
            checksums_of(source, content, names.user),
            command=f"spann append {following.path} {source.name}" + (" --again" if again else ""),
            files=TEMPORARY_FILES,
            restart=restart,
        )
        mark = source_mark(source, content, names.user)
        _append(source, old.space(found.max_norm), old, names, mark, following, workers, report)
    return True


class _Old:
    """The generation that is added to."""

    def __init__(self, reader: IndexReader) -> None:
        self.reader, self.about = reader, reader.attributes
        self.count, self.bits = reader.collection.count, reader.collection.code_bits
        self.directions = directions_of(self.about, str(reader.path))
        self.facts = np.dtype(np.uint32)
        if self.bits:
            self.facts = posting_facts(self.about["dim"], self.bits, self.directions)
        self.metric = Metric.parse(self.about["metric"])
        try:
            self.params = BuildParams(**self.about["parameters"])
        except (TypeError, InputError) as error:
            raise FormatError(f"{reader.path}: the parameters of its build cannot be: {error}") from None
        self.record = Record.of(self.about)
        self.pages: int = reader.array("postings/pages").rows

    def check(self, source: VectorSource) -> None:
        """Raises `InputError` unless the vectors of `source` can be added."""
        about = self.about
        if (source.dim, source.element) != (about["dim"], about["dtype"]):
            raise InputError(
                f"{source.name} holds {source.element} vectors of dimension {source.dim}; {self.reader.path} holds "
                f"{about['dtype']} vectors of dimension {about['dim']}, and only such can be added"
            )
        if self.bits and self.count + source.count > 1 << 8 * about["row_bytes"]:
            raise InputError(
                f"{self.count + source.count} vectors with those of {source.name}; rows of {self.reader.path} have "
                f"{about['row_bytes']} bytes and it can hold {1 << 8 * about['row_bytes']}"
            )

    @property
    def sources(self) -> list[str]:
        """Marks of all vectors that it holds: those it was built of, then what was appended."""
        return list(self.about.get("sources", []))

    @property
    def appended(self) -> list[str]:
        return self.sources[1:]

    def may_hold(self, source: VectorSource, ids: NDArray[np.int64] | None) -> bool:
        """Whether something was appended that is like `source` but for, perhaps, the values of its vectors."""
        like = checksums_of(source, 0, ids)
        begin = like["vectors"].split(",")[0]
        return any(mark.startswith(f"{begin},") and mark.endswith(f"; ids {like['ids']}") for mark in self.appended)

    def ids(self) -> NDArray[np.int64] | None:
        return self.reader.read("vectors/ids") if self.about["ids"] == "user" else None

    def space(self, max_norm: float) -> Space:
        """The working space of the centroids, for vectors up to `max_norm` long."""
        origin = np.zeros(self.about["dim"], np.float32)
        if self.metric.is_euclidean:
            vectors = self._centroid_vectors()
            origin = middle(vectors.mean(axis=0, dtype=np.float64), vectors).astype(np.float32)
            if memory_dtype(self.about["dtype"]).kind in "biu":  # which stay exact
                origin = np.rint(origin)
        return Space(self.metric, self.about["dim"], max(max_norm, self.about["max_norm"]), origin)

    def _centroid_vectors(self) -> Array:
        vectors = self.reader.read("centroids/vectors")
        return vectors if self.bits else unpack(vectors, self.about["dtype"])

    def centroids(self, space: Space) -> Centroids:
        vectors, lift = self._centroid_vectors(), None
        if self.bits and self.metric is Metric.IP:
            was = self.about["max_norm"] ** 2
            if "centroids/lift" in self.reader.arrays():
                sqlift = np.square(self.reader.read("centroids/lift"), dtype=np.float64)
            else:
                x = vectors.astype(np.float32)
                sqlift = np.maximum(was - np.einsum("ij,ij->i", x, x, dtype=np.float64), 0)
            lift = np.sqrt(sqlift + (space.max_norm**2 - was)).astype(np.float32)
        return Centroids(space, vectors, None, lift, self.bits == 0)


def _append(
    source: VectorSource,
    space: Space,
    old: _Old,
    names: Ids,
    mark: str,
    following: Generation,
    workers: int,
    report: Progress,
) -> None:
    centroids = old.centroids(space)
    temporary, checkpoint = following.temporary, following.checkpoint
    with (
        TreeFiles(temporary, source, space, checkpoint.of("cluster")) as tree,
        EdgeSpool(temporary, len(centroids), source.count * old.params.replicas) as spool,
        RecordFile(temporary / "kept", np.dtype(np.int64)) as kept,
        RecordFile(temporary / "facts", old.facts) as facts,
    ):
        grow_tree(source, space, old.params, temporary, tree, checkpoint, workers, report)
        clusters = _clusters(tree, centroids)
        assign_nearest(space, clusters, old.params, spool, workers, report)
        directory = lay_out_more(
            spool,
            old.about["posting_bound"],
            old.record,
            SHARD_BYTES // PAGE,
            kept,
            old.pages,
            old.count,
            lambda done, total: report("layout", done, total),
        )
        pages = following.extend("postings/pages", directory.pages - old.pages)
        out = Pages(directory, pages, facts, Batches(), workers, report)
        if old.bits:
            every = _add_coded(old, clusters, space, names, kept, following, out)
            checksums = every["crc32c"]
            if old.directions:
                shapes = following.extend("postings/shapes", len(every))
                shapes.append(shape_bytes(every["shape"]))
                shapes.finish()
        else:
            checksums = write_pages(clusters.vectors, names, kept, out)
        pages.finish()
    _extend_directory(old, following, directory, checksums)
    if names.user is not None:
        user = following.extend("vectors/ids", source.count)
        user.append(names.user)
        user.finish()
    changes: dict[str, Any] = {
        "count": old.count + source.count,
        "postings": old.about["postings"] + len(directory.page),
        "entries": old.about["entries"] + int(directory.length.sum()),
        "max_norm": space.max_norm,
        "sources": [*(old.sources or [""]), mark],
    }
    if "calibration" in old.about:
        difference = unlike(old.reader, centroids, space, source)
        changes["calibration"] = still_valid(old.about["calibration"], difference, source.count, changes["count"])
    following.publish(changes, features=sorted({*old.about["features"], "appended"}))
    report("publish", 1, 1)


def _clusters(tree: TreeFiles, centroids: Centroids) -> Clusters:
    """The new vectors in tree order, and the old centroids in runs of neighbours."""
    leaves, count = tree.leaves.read(0, tree.leaves.count), len(centroids)
    unused = np.empty(0, np.int64)
    run_end = np.append(np.arange(RUN, count, RUN), count)
    return Clusters(tree.vectors, unused, unused, centroids, group_ends(tree, leaves), run_end)


def _add_coded(
    old: _Old,
    clusters: Clusters,
    space: Space,
    names: Ids,
    kept: RecordFile,
    following: Generation,
    out: Pages,
) -> Array:
    """Extends the exact store and the pages of postings of codes; what is to be known of the new postings."""
    reader = old.reader
    signs, origin = reader.read("quantizer/signs"), reader.read("quantizer/origin")
    quantizer = Quantizer(space.source_dim, old.bits, space.metric, origin, signs)
    exact = following.extend("vectors/exact", clusters.vectors.count)
    page_crcs = PageChecksums(exact.layout)
    page_crcs.begin_with(reader.array("vectors/exact"), reader.read("vectors/exact_crc32c"))
    vectors = clusters.vectors
    with RecordFile(following.temporary / "arranged", np.dtype(np.int64)) as arranged:
        arrange(vectors, space, out.directory, kept, arranged, exact, page_crcs, Batches(), out.threads, out.progress)
        exact.finish()
        coded = Coded(
            vectors,
            ShardedArray(exact.path, exact.layout),
            old.count,
            arranged,
            kept,
            space,
            quantizer,
            clusters.centroids,
            old.directions,
            names,
            old.record.row_bytes,
        )
        every = write_codes(coded, out)
    following.rewrite("vectors/exact_crc32c", page_crcs.values)
    return every


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
