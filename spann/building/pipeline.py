"""The build: the stages of `STAGES` in order, one visible call each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.building.centroids import Centroids
from spann.building.ids import Given, Ids, mark_of
from spann.building.job import Job
from spann.building.plan import Plan, check_disk, limit_bytes, plan_build
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.stages.arrange import NAME as EXACT
from spann.building.stages.arrange import ExactStore, arrange, exact_store
from spann.building.stages.assign import assign
from spann.building.stages.attributes import write_columns
from spann.building.stages.calibration import calibrate_index, own_queries, own_rows
from spann.building.stages.cluster import gather, grow_tree
from spann.building.stages.clusters import Clusters
from spann.building.stages.graph import NAME as GRAPH
from spann.building.stages.graph import graph_arrays, graph_of
from spann.building.stages.layout import Directory, Laid, lay_out
from spann.building.stages.partition import Partition
from spann.building.stages.refine import refine
from spann.building.stages.scan import scan
from spann.building.stages.truth import FILE as TRUTH
from spann.building.stages.truth import answers
from spann.building.stages.write_codes import Coded, posting_facts, write_codes
from spann.building.stages.write_exact import NAME as PAGES
from spann.building.stages.write_exact import posting_pages, write_pages
from spann.building.workspace import Workspace
from spann.config import BuildDecision, BuildParams, thread_count
from spann.elements import pack
from spann.errors import InputError, SpannError
from spann.format.columns import ATTRIBUTES
from spann.format.graph import Graph
from spann.format.names import NAMES
from spann.format.postings import Record
from spann.format.shapes import SHAPES, shape_bytes
from spann.quantize import Quantizer
from spann.store.names import write_names
from spann.store.places import as_path
from spann.store.reader import IndexReader
from spann.types import ELEMENT_TYPES, Metric, Progress
from spann.vectors import VectorSource, for_metric

if TYPE_CHECKING:
    from spann.vectors.attributes import GivenColumn

TEMPORARY_FILES = {
    "partition": ("regions-vectors", "regions-rows"),
    "cluster": ("tree-vectors", "tree-rows", "leaves", "means"),
    "refine": ("cells", "cell-means"),
    "assign": ("edges-*",),
    "graph": (GRAPH,),
    "arrange": ("arranged",),
    "write": ("facts",),
    "truth": (TRUTH,),
}
"""The temporary files that a stage's mark in the checkpoint speaks of, by name or pattern."""

ARRAYS = {"arrange": EXACT, "write": PAGES}
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
    ids: Given = None,
    columns: Sequence[GivenColumn] = (),
    threads: int | None = None,
    memory_limit: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
    sizes: Sizes = DEFAULT_SIZES,
) -> bool:
    """Builds an index of all vectors of `source` at `path`; it appears there whole or not at all.

    Returns False if that very index is there already, as after a process that was killed when it was all but done.

    `ids` (count,) are different integers in [0, 2^63), or names, that stand for the vectors in results. Without them
    the id of a vector is its row number. `columns` have a value for each vector. The process stays within
    `memory_limit` (bytes; by default half of what is available) by using fewer threads. Neither `threads` nor
    `memory_limit` changes a byte of the index.

    Raises `InputError` for bad input, and if the memory limit or the free disk is too small. Raises `ExistsError`,
    `MissingError` and `StorageError` as `IndexWriter` does.
    """
    report = progress or (lambda stage, done, total: None)
    source = for_metric(source, metric)
    names, marked = Ids.check(ids, source, Path(path).absolute().parent), mark_of(ids, source)
    held = [column.checksum(source.count) for column in columns]
    plan = plan_build(
        source,
        metric,
        params,
        threads=thread_count(threads),
        limit=limit_bytes(memory_limit),
        id_bytes=names.width,
        names_size=0 if names.names is None else names.names.size,
        columns=columns,
    )
    decision = params.decide(source.element, source.dim, metric, source.count)
    record = Record.exact(names.width, source.stored_bytes)
    if decision.code_bits:
        record = Record.coded(names.width, 4 if source.count <= 2**32 else 8, source.dim, decision.code_bits)
    _check_sizes(source, decision, record, sizes)

    if not overwrite and _may_be_built(path, source, metric, decision, created_by):
        _, content = scan(source, metric, plan.threads, report)
        if _sources(path) == [source_mark(source, content, marked, held)]:
            finish_publishing(path, created_by)
            return False
    work = Workspace(path, created_by=created_by, overwrite=overwrite, sizes=sizes)
    check_disk(plan, work.path, work.writer.work)
    with work:
        space, content = scan(source, metric, plan.threads, report)
        work.resume(
            "build",
            {"metric": metric.value, **checksums_of(source, content, marked, held), **decision.as_json()},
            command=f"spann build {source.name} {path}" + (" --overwrite" if overwrite else ""),
            files=TEMPORARY_FILES,
            arrays=ARRAYS,
            restart=restart,
        )
        job = Job(source, space, decision, names, record, plan.threads, report, sizes)
        _build(job, work, source_mark(source, content, marked, held), plan, columns)
    return True


def _build(job: Job, work: Workspace, mark: str, plan: Plan, columns: Sequence[GivenColumn]) -> None:
    """All stages after "scan"; `mark` is what the index keeps of the source."""
    decision = job.decision
    tree = grow_tree(job, work)  # partition and cluster
    clusters, cells = gather(job, tree), None
    if decision.means:
        clusters, cells = refine(job, work, clusters, own_rows(job.source.count, decision.calibration_queries))
    with graph_of(job, work, clusters.centroids) as graph:  # beside the next stages
        job = replace(job, report=graph.watched(job.report))
        edges = assign(job, work, clusters, cells)
        laid = lay_out(job, work, edges)
        store = None
        if decision.code_bits:
            store = exact_store(job, work)
            arrange(job, work, clusters.vectors, laid, store)
        navigation = graph.result()
    checksums = _write_postings(job, work, clusters, laid, store)
    _write_centroids(job, work, clusters, navigation)
    _write_directory(work, laid.directory, checksums, len(clusters.centroids))
    if job.ids.user is not None:
        work.writer.write_array("vectors/ids", job.ids.user)
    if (new := job.ids.names) is not None:
        write_names(work.writer, new.chunks(), job.source.count, new.size)
    about = _attributes(job, clusters.centroids, laid.directory, navigation) | {"sources": [mark]}
    features = features_of(job.source.element, decision, named=job.ids.names is not None)
    if columns:
        written = write_columns(job, work, columns, clusters, laid, store)
        about["columns"] = [column.to_json() for column in written]
        features = sorted([*features, ATTRIBUTES])
    if decision.calibration_queries:
        work.writer.complete(about, features=features)
        calibration = _calibration(job, work, clusters.vectors, plan)
        if calibration is not None:
            about["calibration"] = calibration
    work.let_go()
    work.writer.publish(about, features=features)
    job.report("publish", 1, 1)


def _write_postings(
    job: Job, work: Workspace, clusters: Clusters, laid: Laid, store: ExactStore | None
) -> NDArray[np.uint32]:
    """The stage "write"; returns the crc32c of each posting (postings,)."""
    decision, writer = job.decision, work.writer
    if store is None:
        pages = posting_pages(job, work, laid.directory, np.uint32)
        return write_pages(clusters.vectors, laid, pages)
    pages = posting_pages(
        job, work, laid.directory, posting_facts(job.source.dim, decision.code_bits, decision.directions)
    )
    quantizer = Quantizer.make(
        job.source.dim, decision.code_bits, job.space.metric, clusters.centroids.middle, seed=decision.seed
    )
    writer.write_array("quantizer/origin", quantizer.origin)
    writer.write_array("quantizer/signs", quantizer.signs)
    facts = write_codes(Coded(job, clusters.vectors, store, laid, clusters.centroids, quantizer), pages)
    if decision.directions:
        writer.write_array("postings/shapes", shape_bytes(facts["shape"]))
    checksums: NDArray[np.uint32] = facts["crc32c"].copy()
    return checksums


def _calibration(job: Job, work: Workspace, vectors: Partition, plan: Plan) -> dict[str, Any] | None:
    """The stages "truth" and "calibrate", on the complete index; None if its vectors are too few."""
    queries = own_queries(vectors, lambda at: job.ids.of(vectors.rows_of(at)), job.decision.calibration_queries)
    known = answers(
        vectors,
        queries.vectors,
        queries.rows,
        job.space.metric,
        threads=job.threads,
        temporary=work.temporary,
        checkpoint=work.checkpoint,
        progress=job.report,
        part_rows=job.sizes.truth_rows,
    )
    return calibrate_index(
        as_path(work.writer.work),
        vectors,
        queries,
        known,
        threads=job.threads,
        memory_budget=plan.memory_limit if plan.pins else "none",  # pinned codes change no result
        progress=job.report,
    )


def checksums_of(source: VectorSource, content: int, ids: str, columns: Sequence[str] = ()) -> dict[str, str]:
    """What tells vectors, their ids and `columns` (their checksums) from others. `content` is the checksum that `scan`
    returns, `ids` the text that `mark_of` does."""
    found = {
        "vectors": f"{source.count} x {source.dim} {source.element}, checksum {content:08x}",
        "ids": ids,
    }
    if columns:
        text = np.frombuffer("\n".join(columns).encode(), np.uint8)
        found["columns"] = f"{len(columns)}, checksum {crc32c(text):08x}"
    return found


def source_mark(source: VectorSource, content: int, ids: str, columns: Sequence[str] = ()) -> str:
    """The same in one text: an entry of the attribute `sources` of the index."""
    found = checksums_of(source, content, ids, columns)
    more = f"; columns {found['columns']}" if columns else ""
    return f"{found['vectors']}; ids {found['ids']}{more}"


def finish_publishing(path: str | Path, created_by: str) -> None:
    """Removes what is left of a build that was killed after the index had its name. Other unfinished work stays."""
    with Workspace(path, created_by=created_by, overwrite=True):
        pass


def _may_be_built(
    path: str | Path, source: VectorSource, metric: Metric, decision: BuildDecision, created_by: str
) -> bool:
    """Whether an index at `path` was built in this way of as many vectors, and was not changed since."""
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
        "parameters": decision.as_json(),
    }
    return all(about.get(name) == value for name, value in ours.items())


def _sources(path: str | Path) -> list[str]:
    return list(IndexReader.open(path).attributes.get("sources", []))


def features_of(element: str, decision: BuildDecision, *, named: bool = False) -> list[str]:
    """The features that a reader must understand (docs/FORMAT.md)."""
    optional = {"codes": decision.code_bits, SHAPES: decision.directions, element: element not in ELEMENT_TYPES}
    optional[NAMES] = named
    return sorted(name for name, used in optional.items() if used)


def _check_sizes(source: VectorSource, decision: BuildDecision, record: Record, sizes: Sizes) -> None:
    centroids = decision.centroids
    if centroids > MAX_CENTROIDS:
        raise InputError(
            f"{centroids} centroids for {source.count} vectors of {source.name}; the limit is {MAX_CENTROIDS}"
        )
    largest = record.header + decision.posting_bound * record.replica
    if largest > sizes.shard_bytes:
        raise InputError(
            f"a posting of {decision.posting_bound} entries of {record.replica} bytes would take {largest} bytes; "
            f"the limit is {sizes.shard_bytes}: lower posting_size"
        )


def _write_centroids(job: Job, work: Workspace, clusters: Clusters, graph: Graph) -> None:
    centroids, writer = clusters.centroids, work.writer
    vectors = pack(centroids.vectors, clusters.vectors.element) if centroids.given else centroids.vectors
    writer.write_array("centroids/vectors", vectors)
    if centroids.given and centroids.rows is not None:
        writer.write_array("centroids/ids", job.ids.of(clusters.vectors.rows_of(centroids.rows)))
    if centroids.lift is not None:
        writer.write_array("centroids/lift", centroids.lift)
    for name, values in graph_arrays(graph).items():
        writer.write_array(name, values)


def _write_directory(work: Workspace, directory: Directory, checksums: NDArray[np.uint32], centroids: int) -> None:
    name, writer = "postings/directory", work.writer
    writer.write_array(f"{name}/page", directory.page)
    writer.write_array(f"{name}/offset", directory.offset)
    writer.write_array(f"{name}/length", directory.length)
    writer.write_array(f"{name}/primaries", directory.primaries)
    writer.write_array(f"{name}/crc32c", checksums)
    if len(directory.page) != centroids:
        chain = np.searchsorted(directory.owner, np.arange(centroids + 1))
        writer.write_array(f"{name}/chain", chain.astype(np.uint32))


def _attributes(job: Job, centroids: Centroids, directory: Directory, graph: Graph) -> dict[str, Any]:
    """What the manifest says of the index, but for its calibration."""
    source, decision = job.source, job.decision
    about = {
        "metric": job.space.metric.value,
        "dtype": source.element,
        "dim": source.dim,
        "count": source.count,
        "id_bytes": job.ids.width,
        "ids": "row" if job.ids.user is None else "user",
        "max_norm": job.space.max_norm,
        "centroids": len(centroids),
        "postings": len(directory.page),
        "entries": int(directory.length.sum()),
        "posting_bound": decision.posting_bound,
        "graph": {"levels": len(graph.levels), "entry": graph.entry},
        "parameters": decision.as_json(),
    }
    if decision.code_bits:
        about |= {"code_bits": decision.code_bits, "row_bytes": job.record.row_bytes}
    if decision.directions:
        about["directions"] = decision.directions
    if job.ids.names is not None:
        about["name_type"] = job.ids.names.names.kind
    return about
