"""`spann search`."""

from __future__ import annotations

import io as streams
import time
from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.options import (
    FILE,
    Command,
    check_option,
    config_option,
    io_option,
    k_option,
    max_rows_option,
    memory_budget_option,
    order_option,
    parameters,
    search_options,
    threads_option,
)
from spann.cli.text import print_json
from spann.config import SearchParams
from spann.tune.evaluate import costs
from spann.types import SearchResult
from spann.vectors import check_results_path, open_source, write_results
from spann.vectors.sinks import WRITERS

_STDOUT = Path("-")


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("queries", type=FILE)
@k_option()
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="OUT",
    help="Where ids and distances go: .npz, .ibin or .jsonl by extension, - for JSON lines on standard output. "
    "Needed unless --json is given.",
)
@click.option(
    "--max-postings", type=int, metavar="N", help="Postings that one query may score. Default: 64, with codes 128."
)
@search_options
@io_option
@memory_budget_option
@order_option
@threads_option
@check_option
@config_option
@max_rows_option("QUERIES")
@click.option(
    "--json", "as_json", is_flag=True, help="Print speed and reads as JSON on standard output. Default: text."
)
def search(
    index: Path,
    queries: Path,
    k: int,
    output: Path | None,
    io: str,
    memory_budget: str,
    in_flight: int | None,
    order: str | None,
    threads: int | None,
    no_check: bool,
    config: Path | None,
    max_rows: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the K nearest neighbours in INDEX of each vector in QUERIES.

    Distances are Euclidean for l2, 1 - cos for cosine, and the inner product for ip.
    """
    if output is None and not as_json:
        raise click.UsageError("nowhere to put the results: give -o OUT, or --json for the statistics alone")
    if output == _STDOUT and as_json:
        raise click.UsageError("-o - and --json would both write to standard output: give one of them")
    if output is not None and output != _STDOUT:
        check_results_path(output)
    params, _ = parameters(SearchParams, config, **options)
    with open_source(queries, max_rows=max_rows) as source:
        vectors = source.read(0, source.count)
        with spann.open(index, io=io, memory_budget=memory_budget, check=not no_check) as opened:
            start = time.perf_counter()
            result = opened.search(vectors, k, params, threads=threads, in_flight=in_flight, order=order or "auto")
            seconds = time.perf_counter() - start
    if output == _STDOUT:
        lines = streams.BytesIO()
        WRITERS[".jsonl"](lines, "standard output", result.ids, result.distances)
        click.echo(lines.getvalue(), nl=False)
    elif output is not None:
        write_results(output, result.ids, result.distances)
    if as_json:
        print_json(_report(result, k, seconds, output))
    else:
        latency, pages = result.stats["total_ns"].mean() / 1e6, result.stats["pages_read"].mean()
        click.echo(
            f"{len(result.ids)} queries in {seconds:.3f} s ({len(result.ids) / seconds:.0f} per second), "
            f"{latency:.2f} ms and {pages:.1f} pages each",
            err=output == _STDOUT,
        )


def _report(result: SearchResult, k: int, seconds: float, output: Path | None) -> dict[str, Any]:
    return {
        "queries": len(result.ids),
        "k": k,
        "seconds": seconds,
        "qps": len(result.ids) / seconds,
        **costs(result.stats),
        "output": None if output is None else str(output),
    }
