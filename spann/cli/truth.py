"""`spann truth`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from spann.cli.inputs import SOURCE, Inputs, input_options
from spann.cli.options import (
    COUNT,
    FILE,
    Command,
    metric_option,
    quiet_option,
    threads_option,
)
from spann.cli.progress import progress_report
from spann.cli.text import say
from spann.measuring.exact import exact_search
from spann.vectors import NameList, ids_for, metric_of, open_queries, write_truth
from spann.vectors.sinks import check_path


@click.command(cls=Command)
@click.argument("base", type=SOURCE)
@click.argument("queries", type=SOURCE)
@click.option("-k", type=COUNT, default=100, metavar="K", help="Neighbours of each query. Default: 100.")
@click.option("-o", "--output", type=FILE, required=True, metavar="OUT", help="File to write: .ibin or .npz.")
@metric_option()
@threads_option
@input_options("BASE")
@quiet_option
def truth(
    base: str,
    queries: str,
    k: int,
    output: Path,
    metric: str | None,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Find the exact K nearest neighbours in BASE of each vector in QUERIES.

    Distances for l2 are squared, the custom in such files.
    """
    check_path(output, (".ibin", ".npz"))
    inputs = Inputs.take(options)
    start = time.perf_counter()
    with inputs.open([base]) as source, open_queries(queries) as asked:
        wanted = metric_of(source, metric)
        names = ids_for(source, inputs.ids_of(source))
        if isinstance(names, NameList):  # an index numbers the vectors itself, by their rows
            names = None
        if names is not None:
            named = names.of(source.count, source.name)
        vectors = asked.read(0, asked.count)
        with progress_report(quiet) as progress:
            rows, distances = exact_search(source, vectors, k, wanted, threads=threads, progress=progress)
    write_truth(output, rows if names is None else named[rows], distances)
    say(f"{output}: {k} neighbours of {len(rows)} queries in {time.perf_counter() - start:.1f} s")
