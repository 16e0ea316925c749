"""The build, one visible call per stage."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.building.checkpoint import Batches, Checkpoint
from spann.building.edges import Candidates, EdgeSpool
from spann.building.ids import Ids
from spann.building.plan import Plan, check_disk, limit_bytes, plan_build
from spann.building.space import Space
from spann.building.stages.arrange import arrange
from spann.building.stages.assign import assign_cells, assign_closure, assign_leaves
from spann.building.stages.balance import balance
from spann.building.stages.calibration import calibrate_with_own, own_rows
from spann.building.stages.cluster import TreeFiles, cluster, gather
from spann.building.stages.clusters import Clusters
from spann.building.stages.graph import NAME as GRAPH
from spann.building.stages.graph import build_graph, keep_graph, kept_graph
from spann.building.stages.layout import Directory, lay_out
from spann.building.stages.partition import Partition, partition
from spann.building.stages.refine import FOUND, Cells, refine
from spann.building.stages.scan import scan
from spann.building.stages.truth import FILE as TRUTH
from spann.building.stages.write_codes import Coded, posting_facts, write_codes
from spann.building.stages.write_exact import Pages, write_pages
from spann.building.temporary import RecordFile
from spann.building.workspace import Workspace
from spann.config import BuildParams, thread_count
from spann.elements import pack, stored_dtype, stored_width
from spann.errors import InputError, SpannError
from spann.format.graph import Graph
from spann.format.layout import SHARD_BYTES
from spann.format.postings import PAGE, Record
from spann.format.shapes import SHAPES, shape_bytes
from spann.quantize import Quantizer
from spann.store.arrays import ShardedArray
from spann.store.exact import PageChecksums
from spann.store.places import Where, as_path
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter
from spann.types import ELEMENT_TYPES, Metric, Progress
from spann.vectors import IdList, VectorSource, for_metric

T = TypeVar("T")

TEMPORARY_FILES = {
    "partition": ("regions-vectors", "regions-rows"),
    "cluster": ("tree-vectors", "tree-rows", "leaves", "means"),
    "refine": ("cells", "cell-means"),
    "assign": ("candidates",),
    "graph": (GRAPH,),
    "arrange": ("arranged",),
    "write": ("facts",),
    "truth": (TRUTH,),
}
"""The files that a stage's mark in the checkpoint speaks of."""

ARRAYS = {"arrange": "vectors/exact", "write": "postings/pages"}
"""The array of the index that a stage's mark speaks of."""

MAX_CENTROIDS = 2**32 - 2
"""Centroids and postings are numbered in 32 bits, with one number to spare."""


def build_index(
    source: VectorSource,
    path: str | Path,
    metric: Metric,
    params: BuildParams,
    *,
    created_by: str,
    ids: IdList | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Builds an index of all vectors of `source` at `path`; it appears there whole or not at all.

    False where just that index is there already, as after a process that was killed when it was all but done.

    `ids` (count,) integers in [0, 2^63), all different, name the vectors in results; without it a vector's id is its
    row number. The bytes of the index depend on the data, `metric` and `params` alone, not on `threads` or
    `memory_limit` (bytes; by default half of what is available), within which the process stays by using fewer threads.
    Raises `InputError`, also where that or the disk cannot do, `ExistsError`, `MissingError`, `StorageError`.
    """
    report = progress or (lambda stage, done, total: None)
    source = for_metric(source, metric)
    params = params.resolved(source.element, source.dim, metric)
    names = Ids.check(ids, source)
    plan = plan_build(
        source, metric, params, threads=thread_count(threads), limit=limit_bytes(memory_limit), id_bytes=names.width
    )
    workers = plan.threads
    record = Record.exact(names.width, source.stored_bytes)
    if params.bits:
        record = Record.coded(names.width, 4 if source.count <= 2**32 else 8, source.dim, params.bits)
    _check_sizes(source, params, record)

    if not overwrite and _may_be_built(path, source, metric, params, created_by):
        _, content = scan(source, metric, workers, report)
        if _sources(path) == [source_mark(source, content, names.user)]:
            finish_publishing(path, created_by)
            return False
    work = Workspace(path, created_by=created_by, overwrite=overwrite)
    check_disk(plan, work.path, work.writer.work)
    with work:
        space, content = scan(source, metric, workers, report)
        checkpoint = work.resume(
            "build",
            {"metric": metric.value, **checksums_of(source, content, names.user), **asdict(params)},
            command=f"spann build {source.name} {path}" + (" --overwrite" if overwrite else ""),
            files=TEMPORARY_FILES,
            arrays=ARRAYS,
            restart=restart,
        )
        mark = source_mark(source, content, names.user)
        _build(source, space, metric, params, record, names, mark, work.writer, checkpoint, plan, report)
    return True


def checksums_of(source: VectorSource, content: int, ids: NDArray[np.int64] | None) -> dict[str, str]:
    """By what vectors and their ids are known again; `content` is the checksum that `scan` returns."""
    return {
        "vectors": f"{source.count} x {source.dim} {source.element}, checksum {content:08x}",
        "ids": "row numbers" if ids is None else f"checksum {crc32c(ids):08x}",
    }


def source_mark(source: VectorSource, content: int, ids: NDArray[np.int64] | None) -> str:
    """The same as one text, an entry of the attribute `sources` of the index."""
    found = checksums_of(source, content, ids)
    return f"{found['vectors']}; ids {found['ids']}"


def finish_publishing(path: str | Path, created_by: str) -> None:
    """Removes what a process left that was killed after it had given the index its name; an unfinished work stays."""
    with Workspace(path, created_by=created_by, overwrite=True):
        pass


def _may_be_built(path: str | Path, source: VectorSource, metric: Metric, params: BuildParams, created_by: str) -> bool:
    """Whether the index at `path`, if there is one, was built in this way of as many vectors, and not changed since."""
    try:
        about = IndexReader.open(path).attributes
    except SpannError:
        return False
    ours = {
        "created_by": created_by,
        "generation": 0,
        "metric": metric.value,
        "count": source.count,
        "dim": source.dim,
        "dtype": source.element,
        "parameters": asdict(params),
    }
    return all(about.get(name) == value for name, value in ours.items())


def _sources(path: str | Path) -> list[str]:
    return list(IndexReader.open(path).attributes.get("sources", []))


def _build(
    source: VectorSource,
    space: Space,
    metric: Metric,
    params: BuildParams,
    record: Record,
    names: Ids,
    mark: str,
    writer: IndexWriter,
    checkpoint: Checkpoint,
    plan: Plan,
    report: Progress,
) -> None:
    temporary, workers = writer.temporary, plan.threads
    with (
        TreeFiles(temporary, source, space, checkpoint.of("cluster")) as tree,
        RecordFile(temporary / "cells", FOUND, (), checkpoint.part("refine", "cells")) as nearest,
        RecordFile(
            temporary / "cell-means", np.dtype(np.float32), (space.dim,), checkpoint.part("refine", "means")
        ) as averaged,
    ):
        grow_tree(source, space, params, temporary, tree, checkpoint, workers, report)
        clusters, cells = gather(tree, space, params), None
        if params.means:
            held = own_rows(source.count, params.calibration_count(source.count))
            clusters, cells = refine(space, clusters, nearest, averaged, held, workers, checkpoint, report)
        vectors = clusters.vectors
        with (
            EdgeSpool(temporary, len(clusters.centroids), source.count * params.replicas) as spool,
            Candidates(temporary, checkpoint.part("assign", "candidates")) as candidates,
            RecordFile(temporary / "kept", np.dtype(np.int64)) as kept,
            RecordFile(temporary / "arranged", np.dtype(np.int64), (), checkpoint.part("arrange", "rows")) as arranged,
            RecordFile(temporary / "facts", _facts(source, params), (), checkpoint.part("write", "facts")) as facts,
        ):

            def places(report: Progress) -> tuple[Directory, ShardedArray | None]:
                _assign(space, clusters, params, cells, candidates, spool, workers, checkpoint, report)
                bound, told = params.posting_bound, lambda done, total: report("layout", done, total)
                found = lay_out(spool, bound, record, SHARD_BYTES // PAGE, kept, told)
                if not params.bits:
                    return found, None
                return found, _exact_store(writer, clusters, space, found, kept, arranged, checkpoint, workers, report)

            graph, (directory, exact) = _with_graph(clusters, params, temporary, checkpoint, workers, report, places)
            name = ARRAYS["write"]
            pages = writer.create_array(
                name, directory.pages, np.uint8, (PAGE,), state=checkpoint.part("write", "array")
            )
            batches = Batches(checkpoint, "write", lambda: {"array": writer.array_state(name), "facts": facts.state()})
            out = Pages(directory, pages, facts, batches, workers, report)
            if exact is not None:
                quantizer = _quantizer(writer, clusters, space, params)
                centroids, row_bytes = clusters.centroids, record.row_bytes
                coded = Coded(
                    vectors, exact, 0, arranged, kept, space, quantizer, centroids, params.shaped, names, row_bytes
                )
                every = write_codes(coded, out)
                checksums = every["crc32c"].copy()
                if params.shaped:
                    writer.write_array("postings/shapes", shape_bytes(every["shape"]))
                del every
            else:
                checksums = write_pages(vectors, names, kept, out)
            pages.finish()
            _write_centroids(writer, clusters, graph, names)
            _write_directory(writer, directory, checksums, len(clusters.centroids))
            if names.user is not None:
                writer.write_array("vectors/ids", names.user)
            about = _attributes(source, space, params, clusters, directory, graph, names) | {"sources": [mark]}
            if params.bits:
                about |= {"code_bits": params.bits, "row_bytes": record.row_bytes}
            if params.shaped:
                about["directions"] = params.shaped
            features = features_of(source.element, params)
            queries = params.calibration_count(source.count)
            if queries:
                writer.complete(about, features=features)
                found = calibrate_with_own(
                    as_path(writer.work),
                    vectors,
                    lambda positions: names.of(vectors.rows_of(positions)),
                    queries,
                    workers,
                    _search_budget(plan),
                    temporary,
                    report,
                    checkpoint,
                )
                if found is not None:  # too few vectors say nothing
                    about["calibration"] = found
    writer.publish(about, features=features)
    report("publish", 1, 1)


def features_of(element: str, params: BuildParams) -> list[str]:
    """What a reader must understand of an index (docs/FORMAT.md)."""
    optional = {"codes": params.bits, SHAPES: params.shaped, element: element not in ELEMENT_TYPES}
    return sorted(name for name, used in optional.items() if used)


def _facts(source: VectorSource, params: BuildParams) -> np.dtype[Any]:
    return posting_facts(source.dim, params.bits, params.shaped) if params.bits else np.dtype(np.uint32)


def _search_budget(plan: Plan) -> int | str:
    """Memory for the searches of the calibration. If all codes fit they are pinned, which changes no result."""
    return plan.memory_limit if plan.pins else "none"


def grow_tree(
    source: VectorSource,
    space: Space,
    params: BuildParams,
    temporary: Where,
    tree: TreeFiles,
    checkpoint: Checkpoint,
    workers: int,
    report: Progress,
) -> None:
    """Brings all vectors into tree order, in `tree`; goes on from where the checkpoint says."""
    if tree.complete:
        return
    known = checkpoint.of("partition")
    with Partition(temporary, "regions", source, known) as regions:
        ends = np.array(known["ends"]) if known else partition(source, space, regions, params.seed, workers, report)
        checkpoint.completed("partition", lambda: {**regions.state(), "ends": ends.tolist()})
        cluster(regions, ends, tree, space, params, workers, checkpoint, report)
        regions.remove()


def _exact_store(
    writer: IndexWriter,
    clusters: Clusters,
    space: Space,
    directory: Directory,
    kept: RecordFile,
    arranged: RecordFile,
    checkpoint: Checkpoint,
    workers: int,
    report: Progress,
) -> ShardedArray:
    """Every vector and the checksums of their pages, as `arrange` says; goes on after those that are there."""
    vectors, name = clusters.vectors, ARRAYS["arrange"]
    width = stored_width(vectors.element, vectors.dim)
    exact = writer.create_array(
        name,
        vectors.count,
        stored_dtype(vectors.element),
        (width,),
        state=checkpoint.part("arrange", "array"),
    )
    store, page_crcs = ShardedArray(exact.path, exact.layout), PageChecksums(exact.layout)
    page_crcs.read(store, 0, exact.rows)
    batches = Batches(checkpoint, "arrange", lambda: {"array": writer.array_state(name), "rows": arranged.state()})
    arrange(vectors, space, directory, kept, arranged, exact, page_crcs, batches, workers, report)
    exact.finish()
    writer.write_array("vectors/exact_crc32c", page_crcs.values)
    return store


def _quantizer(writer: IndexWriter, clusters: Clusters, space: Space, params: BuildParams) -> Quantizer:
    dim, middle = clusters.vectors.dim, clusters.centroids.middle
    quantizer = Quantizer.make(dim, params.bits, space.metric, middle, seed=params.seed)
    writer.write_array("quantizer/origin", quantizer.origin)
    writer.write_array("quantizer/signs", quantizer.signs)
    return quantizer


def _check_sizes(source: VectorSource, params: BuildParams, record: Record) -> None:
    centroids = params.centroid_count(source.count)
    if centroids > MAX_CENTROIDS:
        raise InputError(
            f"{centroids} centroids for {source.count} vectors of {source.name}; the limit is {MAX_CENTROIDS}"
        )
    largest = record.header + params.posting_bound * record.replica
    if largest > SHARD_BYTES:
        raise InputError(
            f"a posting of {params.posting_bound} entries of {record.replica} bytes would take {largest} bytes; "
            f"the limit is {SHARD_BYTES}: lower posting_size"
        )


def _with_graph(
    clusters: Clusters,
    params: BuildParams,
    temporary: Where,
    checkpoint: Checkpoint,
    workers: int,
    report: Progress,
    rest: Callable[[Progress], T],
) -> tuple[Graph, T]:
    """The navigation graph, and what `rest` returns, which is given what to report progress to.

    The graph is made on one thread while `rest` runs, before it where there is one worker only, or an earlier run of
    this build has left it: the result is the same. It is kept as soon as it is there."""
    known = checkpoint.of("graph")
    if known:
        return kept_graph(temporary, known), rest(report)
    if workers == 1:
        graph = _graph(clusters, params, lambda done, total: report("graph", done, total))
        keep_graph(graph, temporary, checkpoint)
        return graph, rest(report)

    stop, kept, seen = False, False, (0, 1)

    def step(done: int, total: int) -> None:
        nonlocal seen
        if stop:
            raise CancelledError
        seen = (done, total)

    def keep() -> Graph:
        nonlocal kept
        graph = future.result()
        if not kept:
            kept = True
            keep_graph(graph, temporary, checkpoint)
            report("graph", *seen)
        return graph

    def told(stage: str, done: int, total: int) -> None:
        if future.done():
            keep()
        report(stage, done, total)

    with ThreadPoolExecutor(1) as pool:
        future: Future[Graph] = pool.submit(_graph, clusters, params, step)
        try:
            result = rest(told)
            return keep(), result
        except BaseException:
            stop = True  # the graph has minutes to go, and nobody waits for it any more
            raise


def _assign(
    space: Space,
    clusters: Clusters,
    params: BuildParams,
    cells: Cells | None,
    candidates: Candidates,
    spool: EdgeSpool,
    workers: int,
    checkpoint: Checkpoint,
    report: Progress,
) -> None:
    if cells is not None:
        assign_cells(cells, spool, report)
        return
    if params.replicas == 1:
        assign_leaves(space, clusters, spool, workers, report)
        return
    assign_closure(space, clusters, params, candidates, workers, checkpoint, report)
    balance(candidates, len(clusters.centroids), params.replicas, params.posting_bound, spool, report)


def _graph(clusters: Clusters, params: BuildParams, report: Callable[[int, int], None]) -> Graph:
    centroids = clusters.centroids
    return build_graph(centroids.working, len(centroids), centroids.space.dim, params.seed, report)


def _write_centroids(writer: IndexWriter, clusters: Clusters, graph: Graph, names: Ids) -> None:
    centroids = clusters.centroids
    vectors = pack(centroids.vectors, clusters.vectors.element) if centroids.given else centroids.vectors
    writer.write_array("centroids/vectors", vectors)
    if centroids.given and centroids.rows is not None:
        writer.write_array("centroids/ids", names.of(clusters.vectors.rows_of(centroids.rows)))
    if centroids.lift is not None:
        writer.write_array("centroids/lift", centroids.lift)
    for number, level in enumerate(graph.levels):
        name = f"centroids/graph/level{number}"
        if level.nodes is not None:
            writer.write_array(f"{name}/nodes", level.nodes)
        writer.write_array(f"{name}/offsets", level.offsets)
        writer.write_array(f"{name}/neighbors", level.neighbors)


def _write_directory(writer: IndexWriter, directory: Directory, checksums: NDArray[np.uint32], centroids: int) -> None:
    name = "postings/directory"
    writer.write_array(f"{name}/page", directory.page)
    writer.write_array(f"{name}/offset", directory.offset)
    writer.write_array(f"{name}/length", directory.length)
    writer.write_array(f"{name}/primaries", directory.primaries)
    writer.write_array(f"{name}/crc32c", checksums)
    if len(directory.page) != centroids:
        chain = np.searchsorted(directory.owner, np.arange(centroids + 1))
        writer.write_array(f"{name}/chain", chain.astype(np.uint32))


def _attributes(
    source: VectorSource,
    space: Space,
    params: BuildParams,
    clusters: Clusters,
    directory: Directory,
    graph: Graph,
    names: Ids,
) -> dict[str, Any]:
    return {
        "metric": space.metric.value,
        "dtype": source.element,
        "dim": source.dim,
        "count": source.count,
        "id_bytes": names.width,
        "ids": "row" if names.user is None else "user",
        "max_norm": space.max_norm,
        "centroids": len(clusters.centroids),
        "postings": len(directory.page),
        "entries": int(directory.length.sum()),
        "posting_bound": params.posting_bound,
        "graph": {"levels": len(graph.levels), "entry": graph.entry},
        "parameters": asdict(params),
    }
