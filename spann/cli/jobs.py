"""`spann knn-graph`, `join`, `assign` and `dedup`: jobs over whole collections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.groups_page import write_page
from spann.cli.inputs import SOURCE
from spann.cli.job import TABLES, JobOptions, checked_output, is_folder, job_options, output_path, run_job, tell
from spann.cli.options import FILE, RECALL, Command, check_option, io_option, json_option, k_option, threads_option
from spann.cli.text import print_json, say
from spann.config import thread_count
from spann.elements import memory_dtype
from spann.errors import InputError
from spann.jobs import (
    OwnVectors,
    Shape,
    answer_own,
    answer_parts,
    answer_queries,
    describe,
    find_parts,
    own_parts,
    settled,
)
from spann.jobs import share_memory as share
from spann.jobs.clusters import assign_parts, own_clusters
from spann.jobs.groups import KEEP, check_keep, dedup_parts, duplicates_of, posting_parts, read_pairs
from spann.jobs.output import Labels
from spann.jobs.pairs import AT_ONCE, CACHE_BYTES, Pairs
from spann.jobs.parts import Part
from spann.jobs.reach import choose_reach
from spann.jobs.search import Answer
from spann.store.names import names_of
from spann.store.reader import IndexReader
from spann.types import Metric
from spann.vectors.sinks import check_path

NEIGHBOURS = Shape("id", "neighbors", "neighbor")

_target = click.option(
    "--target-recall",
    type=float,
    metavar="R",
    help="Share of the true neighbours to find. Default: 0.95 if the index is calibrated.",
)


def _output(kinds: Sequence[str]) -> Callable[..., Any]:
    return click.option(
        "-o",
        "--output",
        type=str,
        callback=output_path,
        metavar="OUT",
        required=True,
        help=f"Where it goes: {' or '.join(kinds)} by extension, or a folder of Parquet parts as OUT/.",
    )


def _share(options: JobOptions, about: Any, k: int, other_bytes: int = 0) -> Any:
    import pyarrow.parquet  # noqa: F401 - before the memory is divided

    row_bytes = int(about["dim"]) * memory_dtype(str(about["dtype"])).itemsize
    return share(options.memory_limit, row_bytes, k, other_bytes=other_bytes)


def _tell(report: dict[str, Any], as_json: bool, more: str = "") -> None:
    if as_json:
        print_json(report)
    else:
        say(tell(report, "vectors") + more)


@click.command("knn-graph", cls=Command)
@click.argument("index", type=FILE)
@k_option(15)
@_output((*TABLES, ".npz"))
@_target
@threads_option
@io_option
@check_option
@job_options()
@json_option
def knn_graph(
    index: Path,
    k: int,
    output: Path,
    target_recall: float | None,
    threads: int | None,
    io: str,
    no_check: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the K nearest neighbours of every vector in INDEX among the others.

    A row of the output is a vector: its id, the ids of its neighbours, nearest first, and their distances. A .npz holds
    the graph for scipy.sparse.load_npz, in the order of the rows that the index was built of. Vectors are searched for
    in the order of the index, in which near ones share their reads.
    """
    options = JobOptions.take(given)
    checked_output(output, options, (*TABLES, ".npz"))
    about = IndexReader.open(index).attributes
    memory = _share(options, about, k + 1)
    with spann.open(index, io=io, memory_budget=memory.budget, check=not no_check) as opened:
        setting = opened.setting(k + 1, None, target_recall)
        answer = answer_own(opened.numbered.search, k, params=setting, threads=threads)
        parts = own_parts(OwnVectors(settled(IndexReader.open(index))), options.part_rows)
        names = None if output.suffix.lower() == ".npz" else opened.names  # a matrix has rows
        how = How("knn-graph", options, k, memory.block_rows, Labels(names, names))
        _neighbours(opened, parts, answer, output, how, as_json, params=setting)


@click.command(cls=Command)
@click.argument("left", type=FILE)
@click.argument("right", type=FILE)
@k_option(1)
@_output(TABLES)
@click.option(
    "--radius",
    type=float,
    metavar="X",
    help="Only neighbours at most X away, in the unit of the metric; under ip, with a product of at least X. Default: "
    "any distance.",
)
@_target
@threads_option
@io_option
@check_option
@job_options()
@json_option
def join(
    left: Path,
    right: Path,
    k: int,
    output: Path,
    radius: float | None,
    target_recall: float | None,
    threads: int | None,
    io: str,
    no_check: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Find, for every vector in the index LEFT, its K nearest in the index RIGHT.

    A row of the output is a vector of LEFT: its id, the ids of its neighbours in RIGHT, nearest first, and their
    distances. Rows come in the order of LEFT, in which near vectors lie together.
    """
    options = JobOptions.take(given)
    checked_output(output, options, TABLES)
    memory = _share(options, IndexReader.open(right).attributes, k)
    with spann.open(right, io=io, memory_budget=memory.budget, check=not no_check) as opened:
        setting = opened.setting(k, None, target_recall)
        answer = answer_queries(opened.numbered.search, k, params=setting, threads=threads, radius=radius)
        parts = own_parts(OwnVectors(settled(IndexReader.open(left))), options.part_rows)
        how = How("join", options, k, memory.block_rows, Labels(names_of(IndexReader.open(left)), opened.names))
        _neighbours(opened, parts, answer, output, how, as_json, params=setting, radius=radius)


@dataclass(frozen=True)
class How:
    """How neighbours of a collection are found and written."""

    kind: str
    options: JobOptions
    k: int
    block_rows: int
    labels: Labels


def _neighbours(
    index: spann.Index,
    parts: Sequence[Part],
    answer: Answer,
    output: Path,
    how: How,
    as_json: bool,
    **settings: Any,
) -> None:
    from spann.jobs.merge import Merged, write_graph

    about, kind, k, options = IndexReader.open(index.path).attributes, how.kind, how.k, how.options
    shape = Shape(NEIGHBOURS.key, NEIGHBOURS.ids, NEIGHBOURS.one, options.layout)
    worst = float("-inf") if index.metric is Metric.IP else float("inf")

    def finish(files: list[Path], target: Path) -> None:
        merged = Merged(files, k, shape, worst)
        if target.suffix.lower() == ".npz":
            write_graph(merged, target, IndexReader.open(index.path))
        else:
            merged.write(target)

    with options.progress() as progress:
        report = run_job(
            describe(kind, about, parts, k=k, shape=shape, **settings),
            parts,
            output,
            options,
            lambda folder: answer_parts(
                parts,
                folder,
                k,
                answer,
                stage=kind,
                shape=shape,
                shard=options.shard,
                block_rows=how.block_rows,
                labels=how.labels,
                progress=progress,
            ),
            finish,
        )
    _tell({"k": k, **report}, as_json)


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("vectors", type=SOURCE, required=False)
@_output((".parquet",))
@threads_option
@job_options(layout=False)
@json_option
def assign(index: Path, vectors: str | None, output: Path, threads: int | None, as_json: bool, **given: Any) -> None:
    """Write the cluster of each vector in VECTORS, or of each vector of INDEX.

    VECTORS is a file, a folder of files or a pattern. A row of the output is a vector: its id, or its number in
    VECTORS, and the number of its cluster. For VECTORS that is the cluster with the nearest centroid.
    """
    options = JobOptions.take(given)
    checked_output(output, options, (".parquet",))
    about = IndexReader.open(index).attributes
    collection = OwnVectors(settled(IndexReader.open(index)))
    memory = _share(options, about, 2, 0 if vectors else 8 * collection.count)
    parts: Sequence[Part]
    parts = (
        own_parts(collection, options.part_rows) if vectors is None else find_parts(vectors, None, options.part_rows)
    )
    key = "id" if vectors is None else "query"
    with spann.open(index, memory_budget="none") as opened, options.progress() as progress:
        report = run_job(
            describe("assign", about, parts),
            parts,
            output,
            options,
            lambda folder: assign_parts(
                parts,
                folder,
                lambda some: opened.assign(some, threads=threads),
                shard=options.shard,
                block_rows=memory.block_rows,
                key=key,
                own=own_clusters(collection) if vectors is None else None,
                names=opened.names if vectors is None else None,
                progress=progress,
            ),
            lambda files, target: _merge(files, target, (key,)),
        )
    _tell(report, as_json)


def _merge(files: list[Path], target: Path, plain: Sequence[str]) -> None:
    from spann.jobs.merge import merge_tables

    merge_tables(files, target, plain)


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.option(
    "--radius",
    type=float,
    required=True,
    metavar="R",
    help="Vectors at most R apart, in the unit of the metric, form one group.",
)
@click.option(
    "--target",
    type=RECALL,
    metavar="R",
    help="Share of the pairs within the radius to find, as a sample tells that is compared with all vectors first. "
    f"Default: no sample; {AT_ONCE} centroids are looked at beyond the last near one.",
)
@click.option(
    "--report",
    "page",
    type=FILE,
    metavar="FILE",
    help="Write an HTML page on the groups: how many, how large, examples. Default: no page.",
)
@click.option(
    "--keep",
    type=click.Choice(KEEP),
    default="first",
    help="The vector of a group to keep: the smallest id, or the nearest to the mean. Default: first.",
)
@click.option("-o", "--output", type=FILE, metavar="OUT", required=True, help="Where the groups go: .parquet.")
@threads_option
@job_options(layout=False)
@json_option
def dedup(
    index: Path,
    radius: float,
    target: float | None,
    page: Path | None,
    keep: str,
    output: Path,
    threads: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Group the vectors in INDEX that lie within R of each other, directly or through others of the group.

    A row of the output is a vector, in the order of ids. Its columns are id, group (the id of the kept vector), keep
    (whether this is the kept vector), nearest (the nearest other vector) and distance. The last two are null if no
    other vector is within R.
    """
    options = JobOptions.take(given)
    if is_folder(output):
        raise InputError(f"{output}: the groups go to one file, such as groups.parquet")
    checked_output(output, options, (".parquet",))
    check_keep(keep)
    if page is not None:
        check_path(page, (".html",))
    reader = IndexReader.open(index)
    about, collection = reader.attributes, OwnVectors(settled(reader))
    _share(options, about, 1, CACHE_BYTES + 48 * collection.count)
    parts = posting_parts(collection, options.part_rows)
    with spann.open(index, memory_budget="none") as opened, options.progress() as progress:
        pairs = Pairs(collection, opened.centroids, opened.metric, radius)
        found: dict[str, Any] = {}
        if target is not None:
            reach = choose_reach(pairs, target)
            pairs = pairs.looking(reach.at_once)
            found |= {"sampled_pairs": reach.pairs, "sampled_recall": reach.found}

        def finish(files: list[Path], target: Path) -> None:
            groups = duplicates_of(collection, read_pairs(files), radius, keep, opened.metric, opened.names)
            groups.write(target)
            found.update(groups.report())
            if page is not None:
                write_page(groups, index.name, page)

        report = run_job(
            describe("dedup", about, parts, radius=radius, target=target),
            parts,
            output,
            options,
            lambda folder: dedup_parts(pairs, parts, folder, thread_count(threads), progress),
            finish,
        )
    more = (
        f"\n{found['groups']} groups, the largest of {found['largest_group']}; {found['filtered']} vectors "
        f"({found['duplicate_ratio']:.2%}) are near one that is kept, {found['exact_duplicate_ratio']:.2%} are copies"
    )
    if target is not None:
        more += f"\nof {found['sampled_pairs']} pairs in a sample, {found['sampled_recall']:.2%} were found"
    _tell({**report, **found}, as_json, more)
