"""The build, one visible call per stage."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.build.assign import assign_closure, assign_leaves
from spann.build.balance import balance
from spann.build.cluster import Clusters, cluster
from spann.build.edges import Candidates, EdgeSpool
from spann.build.layout import Directory, lay_out
from spann.build.space import Space, scan
from spann.build.temporary import RecordFile
from spann.build.write import write_pages
from spann.centroids import Graph, build_graph
from spann.config import BuildParams, thread_count
from spann.errors import InputError
from spann.storage import PAGE, SHARD_BYTES, IndexWriter, files
from spann.types import Array, Metric, Progress
from spann.vectors import VectorSource

STAGES = ("scan", "sample", "cluster", "assign", "balance", "graph", "layout", "write", "publish")
"""What `build_index` does, in the order progress is reported."""

MAX_CENTROIDS = 2**32 - 2
"""Centroids and postings are numbered in 32 bits, with one number to spare."""


def build_index(
    source: VectorSource,
    path: str | Path,
    metric: Metric,
    params: BuildParams,
    *,
    created_by: str,
    ids: Array | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Builds an index of all vectors of `source` at `path`; it appears there whole or not at all.

    `ids` (count,) integers in [0, 2^63), all different, name the vectors in results; without it a vector's id is its
    row number. The bytes of the index depend on the data, `metric` and `params` alone, not on `threads`. Raises
    `InputError`, `ExistsError`, `MissingError`, `StorageError`.
    """
    report = progress or (lambda stage, done, total: None)
    workers = thread_count(threads)
    checked_ids, id_bytes = _check_ids(ids, source)
    record = id_bytes + source.row_bytes
    _check_sizes(source, params, record)

    with IndexWriter(path, created_by=created_by, overwrite=overwrite) as writer:
        space = scan(source, metric, workers, report)
        clusters = cluster(source, space, params, workers, report)
        temporary = writer.work / "temporary"
        files.make_dir(temporary)
        with (
            EdgeSpool(temporary, len(clusters.centroid_rows), source.count * params.max_replicas) as spool,
            RecordFile(temporary / "rows", np.dtype(np.int64)) as kept,
        ):
            graph = _beside(
                workers > 1,
                lambda done: _graph(source, space, clusters, params, done),
                lambda: _assign(source, space, clusters, params, temporary, spool, workers, report),
                lambda done, total: report("graph", done, total),
            )
            directory = lay_out(
                spool,
                params.posting_bound,
                record,
                SHARD_BYTES // PAGE,
                kept,
                lambda done, total: report("layout", done, total),
            )
            pages = writer.create_array("postings/pages", directory.pages, np.uint8, (PAGE,))
            checksums = write_pages(source, checked_ids, id_bytes, directory, kept, pages, workers, report)
            pages.finish()
        files.remove_tree(temporary)

        _write_centroids(writer, source, clusters, graph, checked_ids, id_bytes)
        _write_directory(writer, directory, checksums)
        if checked_ids is not None:
            writer.write_array("vectors/ids", checked_ids)
        writer.publish(_attributes(source, space, params, clusters, directory, graph, id_bytes, checked_ids))
        report("publish", 1, 1)


def _check_ids(ids: Array | None, source: VectorSource) -> tuple[NDArray[np.int64] | None, int]:
    """The ids as int64, and the bytes an id takes on disk."""
    if ids is None:
        return None, 4 if source.count <= 2**32 else 8
    if ids.shape != (source.count,) or ids.dtype.kind not in "iu":
        raise InputError(f"ids are {ids.shape} {ids.dtype}; {source.name} needs ({source.count},) integers")
    for limit, wrong in (("at least 0", ids < 0), ("below 2**63", ids > np.iinfo(np.int64).max)):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"id {ids[row]} of row {row} of {source.name} is not {limit}")
    ordered = np.sort(ids)
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        raise InputError(f"id {ordered[same[0]]} is given to more than one row of {source.name}; ids must differ")
    return ids.astype(np.int64), 4 if int(ordered[-1]) < 2**32 else 8


def _check_sizes(source: VectorSource, params: BuildParams, record: int) -> None:
    centroids = params.centroid_count(source.count)
    if centroids > MAX_CENTROIDS:
        raise InputError(
            f"{centroids} centroids for {source.count} vectors of {source.name}; the limit is {MAX_CENTROIDS}"
        )
    if params.code_bits != 0:
        raise InputError(f"code_bits is {params.code_bits}; this version stores exact vectors only, code_bits 0")
    largest = params.posting_bound * record
    if largest > SHARD_BYTES:
        raise InputError(
            f"a posting of {params.posting_bound} entries of {record} bytes would take {largest} bytes; "
            f"the limit is {SHARD_BYTES}: lower posting_size"
        )


def _beside(
    parallel: bool,
    graph: Callable[[Callable[[int, int], None]], Graph],
    rest: Callable[[], None],
    report: Callable[[int, int], None],
) -> Graph:
    """Runs the graph's single thread beside the rest, or before it. Either way the result is the same."""
    if not parallel:
        rest()
        return graph(report)
    seen = [(0, 1)]
    stop = False

    def step(done: int, total: int) -> None:
        if stop:
            raise CancelledError
        seen.append((done, total))

    with ThreadPoolExecutor(1) as pool:
        future: Future[Graph] = pool.submit(graph, step)
        try:
            rest()
            result = future.result()
        except BaseException:
            stop = True  # the graph has minutes to go, and nobody waits for it any more
            raise
    report(*seen[-1])
    return result


def _assign(
    source: VectorSource,
    space: Space,
    clusters: Clusters,
    params: BuildParams,
    temporary: Path,
    spool: EdgeSpool,
    workers: int,
    report: Progress,
) -> None:
    if params.max_replicas == 1:
        assign_leaves(source, space, clusters, spool, workers, report)
        return
    with Candidates(temporary) as candidates:
        assign_closure(source, space, clusters, params, candidates, workers, report)
        balance(candidates, len(clusters.centroid_rows), params.max_replicas, params.posting_bound, spool, report)


def _graph(
    source: VectorSource,
    space: Space,
    clusters: Clusters,
    params: BuildParams,
    report: Callable[[int, int], None],
) -> Graph:
    rows = clusters.centroid_rows
    return build_graph(lambda numbers: space.map(source.take(rows[numbers])), len(rows), space.dim, params.seed, report)


def _write_centroids(
    writer: IndexWriter,
    source: VectorSource,
    clusters: Clusters,
    graph: Graph,
    ids: NDArray[np.int64] | None,
    id_bytes: int,
) -> None:
    rows = clusters.centroid_rows
    writer.write_array("centroids/vectors", source.take(rows))
    writer.write_array("centroids/ids", (rows if ids is None else ids[rows]).astype(f"<u{id_bytes}"))
    for number, level in enumerate(graph.levels):
        name = f"centroids/graph/level{number}"
        if level.nodes is not None:
            writer.write_array(f"{name}/nodes", level.nodes)
        writer.write_array(f"{name}/offsets", level.offsets)
        writer.write_array(f"{name}/neighbors", level.neighbors)


def _write_directory(writer: IndexWriter, directory: Directory, checksums: NDArray[np.uint32]) -> None:
    name = "postings/directory"
    writer.write_array(f"{name}/page", directory.page)
    writer.write_array(f"{name}/offset", directory.offset)
    writer.write_array(f"{name}/length", directory.length)
    writer.write_array(f"{name}/primaries", directory.primaries)
    writer.write_array(f"{name}/crc32c", checksums)
    if len(directory.page) != len(directory.chain) - 1:
        writer.write_array(f"{name}/chain", directory.chain)


def _attributes(
    source: VectorSource,
    space: Space,
    params: BuildParams,
    clusters: Clusters,
    directory: Directory,
    graph: Graph,
    id_bytes: int,
    ids: NDArray[np.int64] | None,
) -> dict[str, Any]:
    return {
        "metric": space.metric.value,
        "dtype": source.dtype.name,
        "dim": source.dim,
        "count": source.count,
        "id_bytes": id_bytes,
        "ids": "row" if ids is None else "user",
        "max_norm": space.max_norm,
        "centroids": len(clusters.centroid_rows),
        "postings": len(directory.page),
        "entries": int(directory.length.sum()),
        "posting_bound": params.posting_bound,
        "graph": {"levels": len(graph.levels), "entry": graph.entry},
        "parameters": asdict(params),
    }
