"""`spann search`."""

from __future__ import annotations

import io as streams
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np

import spann
from spann.cli.job import JobOptions, job_options, output_path
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
from spann.cli.search_job import column_options, is_job, search_job
from spann.cli.text import print_json
from spann.config import SearchParams
from spann.errors import InputError
from spann.tune.evaluate import costs
from spann.types import Array, SearchResult
from spann.vectors import check_results_path, open_queries, write_results
from spann.vectors.sinks import WRITERS

_STREAM = Path("-")

_READ_BYTES = 1 << 20
"""Of standard input at a time: what has come by then is searched as a batch."""


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("queries", type=FILE)
@k_option()
@click.option(
    "-o",
    "--output",
    type=str,
    callback=output_path,
    metavar="OUT",
    help="Where ids and distances go: .npz, .ibin, .jsonl or .parquet by extension, a folder of Parquet parts as OUT/, "
    "- for JSON lines on standard output. Needed unless --json or --explain is given.",
)
@click.option(
    "--target-recall",
    type=float,
    metavar="R",
    help="Share of the true neighbours to find: decides the settings below. Default: 0.95 where the index is "
    "calibrated and no setting is given.",
)
@click.option(
    "--radius",
    type=float,
    metavar="X",
    help="Only neighbours at most X from the query, in the unit of the metric; under ip, of product at least X. "
    "Default: however far.",
)
@click.option(
    "--inner",
    type=float,
    metavar="X",
    help="Only neighbours farther than X from the query; under ip, of product less than X. Default: however near.",
)
@click.option("--explain", is_flag=True, help="Say what each query did, stage by stage, and why. Default: do not.")
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
@column_options
@job_options()
@click.option(
    "--json", "as_json", is_flag=True, help="Print speed and reads as JSON on standard output. Default: text."
)
def search(
    index: Path,
    queries: Path,
    k: int,
    output: Path | None,
    target_recall: float | None,
    radius: float | None,
    inner: float | None,
    explain: bool,
    io: str,
    memory_budget: str,
    in_flight: int | None,
    order: str | None,
    threads: int | None,
    no_check: bool,
    config: Path | None,
    max_rows: int | None,
    query_id: str | None,
    carry: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the K nearest neighbours in INDEX of each vector in QUERIES.

    Any number of queries is answered in bounded memory, in parts: QUERIES may be a folder of files or a pattern, as
    'parts/*.parquet', and OUT a folder, which gets part-00000.parquet and so on, and in the end _SUCCESS. Killed at any
    time, the same command goes on with the parts that are missing.

    Distances are Euclidean for l2, 1 - cos for cosine, the inner product for ip, and bits for hamming. QUERIES is a
    file, or the folder of a VectorDBBench data set, of which its test.parquet is read. QUERIES - reads JSON lines
    from standard input, each an array of numbers or an object with one under "vector", and answers each in a line, as
    they come.
    """
    if output is None and not as_json and not explain:
        raise click.UsageError("nowhere to put the results: give -o OUT, or --json for the statistics alone")
    if output == _STREAM and as_json:
        raise click.UsageError("-o - and --json would both write to standard output: give one of them")
    if explain and (radius is not None or inner is not None):
        raise click.UsageError("--explain tells of a search without --radius and --inner: leave them out")
    if queries == _STREAM and (output != _STREAM or explain):
        raise click.UsageError("queries from standard input are answered on standard output: give -o -")
    job = JobOptions.take(options)
    params = _given(config, target_recall, options)
    columns = query_id is not None or carry is not None
    alone = queries == _STREAM or output is None or output == _STREAM or explain or max_rows is not None
    if alone and (columns or job.asked):
        raise click.UsageError("a search in parts needs files of queries and -o OUT, without --explain and --max-rows")
    if output is not None and not alone and is_job(queries, output, job, columns):
        search_job(
            index,
            queries,
            output,
            k,
            params,
            target_recall,
            job,
            query_id=query_id,
            carry=carry,
            as_json=as_json,
            opening={"io": io, "memory_budget": memory_budget, "check": not no_check},
            radius=radius,
            inner=inner,
            threads=threads,
            in_flight=in_flight,
            order=order or "auto",
        )
        return
    if output is not None and output != _STREAM:
        check_results_path(output)
    with spann.open(index, io=io, memory_budget=memory_budget, check=not no_check) as opened:
        how: dict[str, Any] = {"params": params, "target_recall": target_recall, "threads": threads}
        how |= {"radius": radius, "inner": inner}
        if queries == _STREAM:
            _answer(opened, sys.stdin.buffer, k, how, max_rows)
            return
        with open_queries(queries, max_rows=max_rows) as source:
            vectors = source.read(0, source.count)
            if explain:
                _explain(opened, vectors, k, params, target_recall, as_json)
                if output is None:
                    return
            start = time.perf_counter()
            result = opened.search(vectors, k, in_flight=in_flight, order=order or "auto", **how)
            seconds = time.perf_counter() - start
    if output == _STREAM:
        lines = streams.BytesIO()
        WRITERS[".jsonl"](lines, "standard output", result.ids, result.distances)
        click.echo(lines.getvalue(), nl=False)
    elif output is not None:
        write_results(output, result.ids, result.distances)
    if explain:
        return
    if as_json:
        print_json(_report(result, k, seconds, output))
    else:
        latency, pages = result.stats["total_ns"].mean() / 1e6, result.stats["pages_read"].mean()
        click.echo(
            f"{len(result.ids)} queries in {seconds:.3f} s ({len(result.ids) / seconds:.0f} per second), "
            f"{latency:.2f} ms and {pages:.1f} pages each",
            err=output == _STREAM,
        )


def _given(config: Path | None, target_recall: float | None, options: dict[str, Any]) -> SearchParams | None:
    """The parameters that were given, None where none was: then a target decides."""
    given = [name for name, value in options.items() if value is not None]
    if target_recall is not None and (given or config):
        what = f"--{given[0].replace('_', '-')}" if given else "--config"
        raise click.UsageError(f"--target-recall and {what} were both given: the target decides the settings")
    return parameters(SearchParams, config, **options)[0] if given or config else None


def _explain(
    index: spann.Index,
    vectors: Array,
    k: int,
    params: SearchParams | None,
    target_recall: float | None,
    as_json: bool,
) -> None:
    told = [index.explain(vector, k, params, target_recall=target_recall) for vector in vectors]
    if as_json:
        print_json([{"query": number, **one.to_json()} for number, one in enumerate(told)])
    else:
        click.echo("\n\n".join(f"query {number}\n{one}" for number, one in enumerate(told)))


def _answer(index: spann.Index, stream: BinaryIO, k: int, how: dict[str, Any], max_rows: int | None) -> None:
    """Answers queries as they come: all that are there at a time as one batch."""
    done = 0
    for lines in _complete_lines(stream):
        if max_rows is not None:
            lines = lines[: max_rows - done]
        if not lines:
            return
        vectors = np.stack([_vector(line, done + i, index) for i, line in enumerate(lines)])
        found = index.search(vectors, k, **how)
        for ids, distances in zip(found.ids, found.distances, strict=True):
            here = ids >= 0
            answer = {"query": done, "ids": ids[here].tolist(), "distances": distances[here].tolist()}
            click.echo(json.dumps(answer, allow_nan=False))
            done += 1


def _complete_lines(stream: BinaryIO) -> Iterator[list[bytes]]:
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(_READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        lines = [line for line in lines if line.strip()]
        if lines:
            yield lines
    if rest.strip():
        yield [rest]


def _vector(line: bytes, number: int, index: spann.Index) -> Array:
    where = f"query {number} on standard input"
    try:
        found = json.loads(line)
        values = np.asarray(found["vector"] if isinstance(found, dict) else found, np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f'{where} is not a JSON array of numbers, nor an object with one under "vector"') from error
    if values.shape != (index.dim,):
        raise InputError(f"{where} has shape {values.shape}; {index.path} needs ({index.dim},)")
    if index.dtype.kind in "biu":
        low, high = (0, 1) if index.dtype == np.bool_ else (np.iinfo(index.dtype).min, np.iinfo(index.dtype).max)
        if not ((values == np.rint(values)) & (values >= low) & (values <= high)).all():
            raise InputError(f"{where} holds numbers that are not {index.element}")
    vector: Array = values.astype(index.dtype)
    return vector


def _report(result: SearchResult, k: int, seconds: float, output: Path | None) -> dict[str, Any]:
    return {
        "queries": len(result.ids),
        "k": k,
        "seconds": seconds,
        "qps": len(result.ids) / seconds,
        **costs(result.stats),
        "output": None if output is None else str(output),
    }
