"""`spann demo`: the whole way from vectors to a table of recall against cost, on made-up data."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

import spann
from spann.cli.options import COUNT, FILE, Command, json_option, quiet_option, threads_option
from spann.cli.plot import check_plot, draw
from spann.cli.progress import progress_report
from spann.cli.text import print_json, runs_table, say, summary
from spann.config import BuildParams, SearchParams, thread_count
from spann.errors import ExistsError
from spann.measuring import evaluate
from spann.measuring.exact import exact_search
from spann.testing import clustered
from spann.types import Array, Progress
from spann.vectors import Truth, open_source, write_truth

_DIM = 96
_QUERIES = 500
_K = 10
_POSTINGS = (4, 8, 16, 32, 64, 128)


@click.command(cls=Command, short_help="Build an index of made-up vectors, and show recall against cost.")
@click.option("--rows", type=COUNT, default=100_000, hidden=True)
@click.option(
    "--dtype", type=click.Choice(["float32", "uint8"]), default="float32", help="Element type. Default: float32."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="S", help="Start of all randomness. Default: 0.")
@threads_option
@click.option(
    "--keep",
    type=FILE,
    metavar="DIR",
    help="Keep base.npy, queries.npy, truth.ibin and index.spann in the new directory DIR. Default: delete them.",
)
@click.option(
    "--plot", type=FILE, metavar="FILE", help="Draw recall against speed and cost, to a .png. Default: do not."
)
@json_option
@quiet_option
def demo(
    rows: int,
    dtype: str,
    seed: int,
    threads: int | None,
    keep: Path | None,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make 100,000 clustered vectors, build an index of them, and show recall against cost."""
    if plot is not None:
        check_plot(plot)
    workers = thread_count(threads)
    with ExitStack() as stack:
        directory = _new_directory(keep) if keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress = stack.enter_context(progress_report(quiet))
        base, queries = clustered(rows, _DIM, _QUERIES, seed, dtype)
        np.save(directory / "base.npy", base)
        np.save(directory / "queries.npy", queries)
        built, report = _measure(directory, queries, BuildParams(seed=seed), workers, progress)
    if plot is not None:
        draw(report, plot)
    if as_json:
        print_json(report)
        return
    say(built, "", *runs_table(report))
    if plot is not None:
        say("", f"drawn in {plot}")
    if keep:
        say("", f"kept in {keep}; try: spann search {keep}/index.spann {keep}/queries.npy -o -")


def _measure(
    directory: Path, queries: Array, params: BuildParams, threads: int, progress: Progress | None
) -> tuple[str, dict[str, Any]]:
    """Builds an index, finds the true neighbours, and evaluates. Returns a line on the index, and the report."""
    with open_source(directory / "base.npy") as source:
        start = time.perf_counter()
        with spann.build(source, directory / "index.spann", params=params, threads=threads, progress=progress) as index:
            built = f"{summary(index.info())}; built in {time.perf_counter() - start:.1f} s"
            k = min(_K, source.count)
            ids, distances = exact_search(source, queries, k, index.metric, threads=threads, progress=progress)
            write_truth(directory / "truth.ibin", ids, distances)
            settings = [SearchParams(max_postings=count) for count in _POSTINGS]
            runs = sorted({1, threads})
            return built, evaluate(index, queries, Truth(ids, distances), k, settings, runs, progress=progress)


def _new_directory(path: Path) -> Path:
    try:
        path.mkdir()
    except FileExistsError:
        raise ExistsError(f"{path} exists: --keep needs the name of a new directory") from None
    return path
