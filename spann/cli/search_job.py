"""`spann search` for more queries than fit in memory: in parts, resumable, on many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.job import PARTS, TABLES, JobOptions, check_names, checked_output, is_folder, run_job, tell
from spann.cli.text import print_json, say
from spann.config import SearchParams
from spann.elements import memory_dtype
from spann.errors import InputError
from spann.jobs import Shape, answer_parts, answer_queries, describe, find_parts, share_memory
from spann.jobs.output import Labels
from spann.store.reader import IndexReader
from spann.types import Metric
from spann.vectors.places import TABLES as TABLE_KINDS


def column_options(command: Any) -> Any:
    """Adds `--query-id` and `--carry`."""
    for option in (
        click.option(
            "--carry",
            metavar="COLUMNS",
            help="Columns of Parquet QUERIES to copy to the results, such as lang,url. Default: none.",
        ),
        click.option(
            "--query-id",
            metavar="COLUMN",
            help="Column of Parquet QUERIES with their ids, copied to the results as query_id. Default: only the "
            "number of each query.",
        ),
    ):
        command = option(command)
    return command


def is_job(queries: str, output: Path, options: JobOptions, columns: bool, form: str | None) -> bool:
    """Whether to search in parts: an option needs it, or there are more queries than one part has."""
    if columns or options.asked or is_folder(output):
        return True
    return len(find_parts(queries, part_rows=options.part_rows, form=form)) > 1 or Path(f"{output}{PARTS}").exists()


def search_job(
    path: Path,
    queries: str,
    output: Path,
    k: int,
    params: SearchParams | None,
    target_recall: float | None,
    options: JobOptions,
    *,
    column: str | None,
    form: str | None,
    query_id: str | None,
    carry: str | None,
    as_json: bool,
    opening: dict[str, Any],
    **how: Any,
) -> None:
    """Runs the job, or resumes it."""
    shape = Shape(layout=options.layout)
    columns = {} if query_id is None else {query_id: "query_id"}
    for name in carry.split(",") if carry else ():
        if name in columns or name in (*shape.own, "query_id"):
            raise InputError(f"--carry {carry}: the output already has a column {name!r}")
        columns[name] = name
    checked_output(output, options)
    if columns and not is_folder(output) and output.suffix.lower() not in TABLES:
        raise InputError(f"{output}: columns of the queries are for {', '.join(TABLES)} and folders")
    parts = find_parts(queries, columns, options.part_rows, form, column or "")
    about = IndexReader.open(path).attributes
    row_bytes = int(about["dim"]) * memory_dtype(str(about["dtype"])).itemsize
    import pyarrow.parquet  # noqa: F401 - before the memory is divided

    parquet = any(part.place.kind in TABLE_KINDS for part in parts)
    memory = share_memory(options.memory_limit, row_bytes, k, parquet=parquet)
    if opening["memory_budget"] == "auto":
        opening["memory_budget"] = memory.budget
    with spann.open(path, **opening) as index, options.progress() as progress:
        check_names(index.names, output)
        setting = index.setting(k, params, target_recall)
        worst = float("-inf") if index.metric is Metric.IP else float("inf")

        def finish(files: list[Path], target: Path) -> None:
            from spann.jobs.merge import Merged

            Merged(files, k, shape, worst).write(target)

        answer = answer_queries(index.numbered.search, k, params=setting, **how)
        limits = {name: how[name] for name in ("radius", "inner")}
        report = run_job(
            describe("search", about, parts, k=k, shape=shape, params=setting, columns=columns, **limits),
            parts,
            output,
            options,
            lambda folder: answer_parts(
                parts,
                folder,
                k,
                answer,
                stage="search",
                shape=shape,
                shard=options.shard,
                block_rows=memory.block_rows,
                labels=Labels(ids=index.names),
                progress=progress,
            ),
            finish,
        )
    if as_json:
        print_json({"k": k, **report})
    else:
        say(*tell(report, "queries").splitlines())
