"""`spann search`."""

from __future__ import annotations

import io as streams
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np

import spann
from spann.cli.inputs import SOURCE, column_option, format_option
from spann.cli.job import JobOptions, check_names, job_options, output_path
from spann.cli.options import (
    FILE,
    RECALL,
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
from spann.cli.text import print_json, put_lines, say, table
from spann.config import SearchParams
from spann.errors import InputError, StorageError
from spann.measuring.evaluate import costs
from spann.system import reason
from spann.types import Array, Metric, SearchResult
from spann.vectors import check_lengths, check_results_path, open_queries, write_results
from spann.vectors.sinks import WRITERS, plain_ids

_STREAM = Path("-")
_INPUT = "-"

_READ_BYTES = 1 << 20
"""Bytes read from standard input at a time. The queries among them are searched as a batch."""

LONGEST_LINE = 4 << 20
"""The most bytes of a line: five times those of a vector of the largest dimension."""


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("queries", type=SOURCE)
@k_option()
@click.option(
    "-o",
    "--output",
    type=str,
    callback=output_path,
    metavar="OUT",
    help="Where ids and distances go: a .npz, .ibin, .jsonl or .parquet file, a folder of Parquet parts (OUT/), or - "
    "for JSON lines on standard output. Default: print a table of the first.",
)
@click.option(
    "--target-recall",
    type=RECALL,
    metavar="R",
    help="Share of the true neighbours to find; decides the settings below. Default: 0.95 if the index is "
    "calibrated and no setting is given.",
)
@click.option(
    "--radius",
    type=float,
    metavar="X",
    help="Only neighbours at most X from the query, in the unit of the metric; under ip, with a product of at least X. "
    "Default: any distance.",
)
@click.option(
    "--inner",
    type=float,
    metavar="X",
    help="Only neighbours farther than X from the query; under ip, with a product below X. Default: any distance.",
)
@click.option(
    "--explain", is_flag=True, help="Tell what each query did, stage by stage, and why it stopped. Default: do not."
)
@click.option(
    "--max-postings", type=int, metavar="N", help="The most postings that a query scores. Default: 64, with codes 128."
)
@search_options
@io_option
@memory_budget_option
@order_option
@threads_option
@check_option
@config_option
@max_rows_option("QUERIES")
@column_option
@format_option
@column_options
@job_options()
@click.option(
    "--json", "as_json", is_flag=True, help="Print speed and reads as JSON on standard output. Default: text."
)
def search(
    index: Path,
    queries: str,
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
    column: str | None,
    form: str | None,
    query_id: str | None,
    carry: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the K nearest neighbours in INDEX of each vector in QUERIES.

    QUERIES is a file, a folder of files, or a pattern such as 'parts/*.parquet'. OUT may be a folder, OUT/. It gets
    part-00000.parquet and so on, and _SUCCESS at the end. Any number of queries is answered in bounded memory. If the
    command is killed, give it again: it makes the missing parts.

    Distances are Euclidean for l2, 1 - cos for cosine, the inner product for ip, and bits for hamming. In the folder of
    a VectorDBBench data set, test.parquet has the queries. QUERIES - reads JSON lines from standard input as they come.
    Each is an array of numbers, or an object with the array under "vector" or "embedding". Each is answered by a line,
    with its "id" if it has one.
    """
    if queries == _INPUT and output is None:
        output = _STREAM
    if output == _STREAM and as_json:
        raise click.UsageError("-o - and --json would both write to standard output; give one of them")
    if explain and (radius is not None or inner is not None):
        raise click.UsageError("--explain cannot explain --radius and --inner; leave them out")
    if queries == _INPUT and (output != _STREAM or explain):
        raise click.UsageError(
            "queries from standard input are answered on standard output; leave out --explain and -o OUT"
        )
    job = JobOptions.take(options)
    params = _given(config, target_recall, options)
    columns = query_id is not None or carry is not None
    alone = queries == _INPUT or output is None or output == _STREAM or explain or max_rows is not None
    if alone and (columns or job.asked):
        raise click.UsageError("a search in parts needs files of queries and -o OUT, without --explain and --max-rows")
    if output is not None and not alone and is_job(queries, output, job, columns, form):
        search_job(
            index,
            queries,
            output,
            k,
            params,
            target_recall,
            job,
            column=column,
            form=form,
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
        if output is not None and output != _STREAM:
            check_names(opened.names, output)
        if queries == _INPUT:
            if sys.stdin is None:
                raise InputError("standard input is closed; QUERIES - needs it")
            _answer(opened, sys.stdin.buffer, k, how, max_rows)
            return
        with open_queries(queries, max_rows=max_rows, column=column or "", format=form) as source:
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
        put_lines(lines.getvalue())
    elif output is not None:
        write_results(output, result.ids, result.distances)
    if explain:
        return
    if as_json:
        print_json(_report(result, k, seconds, output))
        return
    if output is None:
        say(*_first_found(result), "")
    # Only query by query does a single query have a time of its own.
    latency = f"{result.stats['total_ns'].mean() / 1e6:.2f} ms and " if order == "query" else ""
    say(
        f"{len(result.ids)} queries in {seconds:.3f} s ({len(result.ids) / seconds:.0f} per second), "
        f"{latency}{result.stats['pages_read'].mean():.1f} pages each",
        err=output == _STREAM,
    )


SHOWN_QUERIES, SHOWN_NEIGHBOURS = 10, 5


def _first_found(result: SearchResult) -> list[str]:
    """A table of the first neighbours of the first queries, each an id with its distance."""
    rows = [
        [str(query), *(f"{one} ({far:.4g})" for one, far in zip(*result[query], strict=True))]
        for query in range(min(SHOWN_QUERIES, len(result)))
    ]
    width = 1 + min(SHOWN_NEIGHBOURS, max(len(row) - 1 for row in rows))
    header = ["query", *(f"{rank}. id (distance)" for rank in range(1, width))]
    lines = table(header, [(row + [""] * width)[:width] for row in rows])
    k = result.ids.shape[1]
    if len(result) > len(rows) or k >= width:
        lines.append(f"{len(rows)} of {len(result)} queries, {width - 1} of {k} neighbours; -o OUT keeps all")
    return lines


def _given(config: Path | None, target_recall: float | None, options: dict[str, Any]) -> SearchParams | None:
    """The parameters given by options; None if none was given. Then a target decides."""
    given = [name for name, value in options.items() if value is not None]
    if target_recall is not None and (given or config):
        what = f"--{given[0].replace('_', '-')}" if given else "--config"
        raise click.UsageError(f"--target-recall and {what} were both given; the target decides the settings")
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
        for number, one in enumerate(told):
            say(*([""] if number else []), f"query {number}", *str(one).splitlines())


def _answer(index: spann.Index, stream: BinaryIO, k: int, how: dict[str, Any], max_rows: int | None) -> None:
    """Answers queries as they come. All that are there at a time form a batch."""
    done = 0
    names: list[Any] = []
    for vectors in stream_batches(stream, index, max_rows, names):
        found = index.search(vectors, k, **how)
        for number, name in enumerate(names):
            ids, distances = found[number]
            told = {"query": done} | ({} if name is None else {"id": name})
            print_json({**told, "ids": plain_ids(ids), "distances": distances.tolist()}, indent=None)
            done += 1
        names.clear()


def stream_batches(
    stream: BinaryIO, index: spann.Index, max_rows: int | None = None, names: list[Any] | None = None
) -> Iterator[Array]:
    """Yields vectors (n, dim) of the lines, as they come. `names` gets the id of each line, None if it has no id.

    Raises `InputError` for an unusable line, after the vectors before it were yielded.
    """
    done = 0
    for lines in _complete_lines(stream):
        good: list[Array] = []
        problem = None
        for line in lines if max_rows is None else lines[: max_rows - done]:
            try:
                vector, name = _vector(line, done + len(good), index)
            except InputError as error:
                problem = error
                break
            good.append(vector)
            if names is not None:
                names.append(name)
        if good:
            yield np.stack(good)
        done += len(good)
        if problem:
            raise problem
        if done == max_rows:
            return


def _complete_lines(stream: BinaryIO) -> Iterator[list[bytes]]:
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := _chunk(read):
        *lines, rest = (rest + chunk).split(b"\n")
        lines = [line for line in lines if line.strip()]
        if lines:
            yield lines
        if len(rest) > LONGEST_LINE:
            raise InputError(f"a line of standard input is over {LONGEST_LINE} bytes long, which is the limit")
    if rest.strip():
        yield [rest]


def _chunk(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(_READ_BYTES)
    except (OSError, ValueError) as error:
        raise StorageError(f"standard input cannot be read: {reason(error)}") from error


_NO_VECTOR = 'is not a JSON array of numbers, nor an object with one under "vector" or "embedding"'

VECTOR_KEYS = ("vector", "embedding", "emb", "values")
"""Keys under which an object of JSON lines may have its vector."""


def _vector(line: bytes, number: int, index: spann.Index) -> tuple[Array, str | int | None]:
    """The vector in a line, in the type of the index, and the "id" of the line."""
    where = f"query {number} on standard input"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} {_NO_VECTOR}") from error
    values, name = found, None
    if isinstance(found, dict):
        values = next((found[key] for key in VECTOR_KEYS if key in found), None)
        name = found.get("id") if isinstance(found.get("id"), str | int) else None
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise InputError(f"{where} {_NO_VECTOR}")
    if len(values) != index.dim:
        raise InputError(f"{where} has {len(values)} numbers; {index.path} needs {index.dim}")
    try:
        wide = np.array(values, np.float64)
    except OverflowError:  # an integer of hundreds of digits
        wide = np.array([math.inf if abs(value) > sys.float_info.max else value for value in values], np.float64)
    vector: Array
    if index.dtype.kind in "biu":
        low, high = (0, 1) if index.dtype == np.bool_ else (np.iinfo(index.dtype).min, np.iinfo(index.dtype).max)
        if not ((wide == np.rint(wide)) & (wide >= low) & (wide <= high)).all():
            raise InputError(f"{where} holds numbers that are not {index.element}")
        vector = wide.astype(index.dtype)
    else:
        with np.errstate(over="ignore", under="ignore"):
            vector = wide.astype(index.dtype)
        if not np.isfinite(vector).all():
            at = int(np.argmax(~np.isfinite(vector)))
            raise InputError(f"{where} has {wide[at]:.5g} at place {at}, which is not a finite {index.dtype}")
        if wide.any() and not vector.any():
            raise InputError(f"{where} becomes all zeros in {index.dtype}: scale the vectors")
    if index.metric is Metric.COSINE or vector.dtype.kind == "f":
        check_lengths(vector[None], number, "standard input", directions=index.metric is Metric.COSINE)
    return vector, name


def _report(result: SearchResult, k: int, seconds: float, output: Path | None) -> dict[str, Any]:
    return {
        "queries": len(result.ids),
        "k": k,
        "seconds": seconds,
        "qps": len(result.ids) / seconds,
        **costs(result.stats),
        "output": None if output is None else str(output),
    }
