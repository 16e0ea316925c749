"""`spann eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.inputs import SOURCE
from spann.cli.options import (
    FILE,
    Command,
    check_option,
    config_option,
    io_option,
    json_option,
    k_option,
    max_rows_option,
    memory_budget_option,
    number_list,
    order_option,
    parameters,
    quiet_option,
    recall_list,
    search_options,
)
from spann.cli.plot import check_plot, draw
from spann.cli.progress import progress_report
from spann.cli.text import print_json, runs_table, say
from spann.config import SearchParams
from spann.measuring import evaluate as measure
from spann.vectors import open_queries, read_truth


@click.command("eval", cls=Command)
@click.argument("index", type=FILE)
@click.argument("queries", type=SOURCE)
@click.argument("truth", type=FILE)
@k_option()
@click.option(
    "--max-postings",
    callback=number_list,
    metavar="N,N,...",
    help="The most postings that a query scores: one run for each number. Default: 64, with codes 128.",
)
@click.option(
    "--target-recall",
    callback=recall_list,
    metavar="R,R,...",
    help="Recalls to aim at: one run for each, with the settings that the calibration has for it. Default: use "
    "--max-postings.",
)
@search_options
@io_option
@memory_budget_option
@order_option
@click.option(
    "--threads",
    callback=number_list,
    default="1",
    metavar="T,T,...",
    help="Numbers of threads: one run for each. Default: 1.",
)
@check_option
@config_option
@max_rows_option("QUERIES")
@json_option
@click.option(
    "--plot",
    type=FILE,
    metavar="FILE",
    help="Draw recall against queries a second, and against the cost of a query, to a .png, .svg or .pdf. Default: do "
    "not.",
)
@quiet_option
def evaluate(
    index: Path,
    queries: str,
    truth: Path,
    k: int,
    max_postings: tuple[int, ...] | None,
    target_recall: tuple[float, ...] | None,
    io: str,
    memory_budget: str,
    in_flight: int | None,
    order: str | None,
    threads: tuple[int, ...],
    no_check: bool,
    config: Path | None,
    max_rows: int | None,
    as_json: bool,
    plot: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure recall, speed and reads of INDEX on QUERIES with the exact neighbours in TRUTH.

    TRUTH is an .ibin, .ivecs, .npz or .parquet file; `spann truth` makes one. QUERIES and TRUTH can both be the folder
    of a VectorDBBench data set. Then test.parquet and neighbors.parquet in it are read.
    """
    if plot is not None:
        check_plot(plot)
    params, _ = parameters(SearchParams, config, **options)
    given = [name for name, value in options.items() if value is not None]
    if target_recall and (given or max_postings or config):
        what = given[0].replace("_", "-") if given else "max-postings" if max_postings else "config"
        raise click.UsageError(f"--target-recall and --{what} were both given; the target decides the settings")
    settings = [params.with_(max_postings=count) for count in max_postings or (params.max_postings,)]
    known = read_truth(truth)
    with open_queries(queries, max_rows=max_rows) as source:
        vectors = source.read(0, source.count)
        opening = spann.open(index, io=io, memory_budget=memory_budget, check=not no_check)
        with opening as opened, progress_report(quiet) as progress:
            if target_recall:
                settings = [opened.params_for(target, k) for target in target_recall]
            report = measure(
                opened,
                vectors,
                known,
                k,
                settings,
                threads,
                in_flight=in_flight,
                order=order or "query",
                io=io,
                truth_name=str(truth),
                progress=progress,
            )
            report["open_memory_bytes"] = opened.open_memory_bytes
            doubts = opened.info()["recall_doubts"]
    for number, run in enumerate(report["runs"] if target_recall else ()):
        run["settings"]["target_recall"] = (target_recall or ())[number // len(threads)]
    if unknown := max(run["unknown"] for run in report["runs"]):
        doubts.append(
            f"{unknown} neighbours found are nearer than those in {truth}, which lacks them. It belongs to other "
            "vectors, perhaps from before an append, so recalls are too low"
        )
    for doubt in doubts:
        say(f"spann: warning: {index}: {doubt}", err=True)
    if plot is not None:
        draw(report, plot)
    if as_json:
        print_json(report)
    else:
        say(*runs_table(report))
