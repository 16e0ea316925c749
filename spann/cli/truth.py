"""`spann truth`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from spann.cli.options import (
    COUNT,
    FILE,
    Command,
    given_ids,
    ids_option,
    max_rows_option,
    metric_option,
    quiet_option,
    threads_option,
)
from spann.cli.progress import progress_report
from spann.cli.text import say
from spann.measuring.exact import exact_search
from spann.vectors import open_queries, open_source, write_truth
from spann.vectors.sinks import check_path


@click.command(cls=Command)
@click.argument("base", type=FILE)
@click.argument("queries", type=FILE)
@click.option("-k", type=COUNT, default=100, metavar="K", help="Neighbours of each query. Default: 100.")
@click.option("-o", "--output", type=FILE, required=True, metavar="OUT", help="File to write: .ibin or .npz.")
@metric_option(default="l2")
@ids_option
@threads_option
@max_rows_option("BASE")
@quiet_option
def truth(
    base: Path,
    queries: Path,
    k: int,
    output: Path,
    metric: str,
    ids: Path | None,
    threads: int | None,
    max_rows: int | None,
    quiet: bool,
) -> None:
    """Find the exact K nearest neighbours in BASE of each vector in QUERIES.

    Distances for l2 are squared, the custom in such files.
    """
    check_path(output, (".ibin", ".npz"))
    names = given_ids(ids, max_rows)
    start = time.perf_counter()
    with open_source(base, max_rows=max_rows) as source, open_queries(queries) as asked:
        names = names or source.own_ids()
        if names is not None:
            named = names.of(source.count, source.name)
        vectors = asked.read(0, asked.count)
        with progress_report(quiet) as progress:
            rows, distances = exact_search(source, vectors, k, metric, threads=threads, progress=progress)
    write_truth(output, rows if names is None else named[rows], distances)
    say(f"{output}: {k} neighbours of {len(rows)} queries in {time.perf_counter() - start:.1f} s")
