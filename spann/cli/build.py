"""`spann build` and `spann plan`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.inputs import SOURCE, Inputs, input_options
from spann.cli.options import (
    FILE,
    Command,
    config_option,
    done_once,
    json_option,
    memory_limit_option,
    metric_option,
    parameters,
    progress_option,
    quiet_option,
    threads_option,
)
from spann.cli.progress import progress_report
from spann.cli.text import SUMMARY, print_json, say, summary
from spann.config import (
    CODE_BITS,
    CODED_POSTING_SIZE,
    DEFAULT_CENTROIDS,
    DEFAULT_DIRECTIONS,
    DEFAULT_POSTING_SIZE,
    DEFAULT_REPLICAS,
    BuildParams,
)
from spann.progress import clock, size

AUTO = "auto"


def _code_bits(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    return value if value in (None, AUTO) else int(click.INT(value, param, ctx))


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",")]


_BUILD_OPTIONS = (
    click.option(
        "--posting-size",
        type=int,
        metavar="N",
        help="Entries a posting should have; none has more than 2N. Sets the number of centroids if --centroids does "
        f"not. Default: {DEFAULT_POSTING_SIZE}, with codes {CODED_POSTING_SIZE} or more.",
    ),
    click.option(
        "--centroids",
        type=float,
        metavar="RATIO",
        help=f"Centroids as a share of the vectors, up to 0.5. Default: {DEFAULT_CENTROIDS}, with codes 1 / posting "
        "size.",
    ),
    click.option(
        "--max-replicas",
        type=int,
        metavar="N",
        help=f"The most postings that one vector may be in. Default: {DEFAULT_REPLICAS}, with codes 1.",
    ),
    click.option(
        "--epsilon1",
        type=float,
        metavar="X",
        help=f"A vector may join centroids up to (1 + X) times as far as its nearest. Default: {BuildParams.epsilon1}.",
    ),
    click.option(
        "--code-bits",
        callback=_code_bits,
        metavar="B|auto",
        help=f"Bits per dimension of the codes in postings ({', '.join(map(str, CODE_BITS[1:]))}); 0 keeps exact "
        "vectors there instead. Default: auto, by the dimension, and 0 for vectors under 64 bytes.",
    ),
    click.option(
        "--directions",
        type=int,
        metavar="N",
        help="Directions in the shape of each posting, which tells searches whether it reaches towards a query; "
        f"0: no shapes. Default: {DEFAULT_DIRECTIONS} with codes and without replicas, else 0.",
    ),
    click.option(
        "--calibration-queries",
        type=int,
        metavar="N",
        help="Vectors searched for at the end, to measure which settings reach which recall; 0: none. Default: 2000, "
        "fewer above a million vectors.",
    ),
    click.option("--seed", type=int, metavar="S", help=f"Start of all randomness. Default: {BuildParams.seed}."),
)


_COLUMN_OPTIONS = (
    click.option(
        "--attributes",
        metavar="A,B",
        callback=_names,
        help="Columns of BASE that filters may name; they come back with results too. Default: none.",
    ),
    click.option(
        "--payload",
        metavar="A,B",
        callback=_names,
        help="Columns of BASE that only come back with results. Default: none.",
    ),
)


def _build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the parameters of a build to `build` or `plan`."""
    for option in reversed((*_BUILD_OPTIONS, *_COLUMN_OPTIONS)):
        command = option(command)
    return command


@click.command(cls=Command)
@click.argument("base", type=SOURCE, nargs=-1, required=True)
@click.argument("index", type=FILE)
@metric_option()
@_build_options
@threads_option
@memory_limit_option
@input_options("BASE")
@click.option("--overwrite", is_flag=True, help="Replace an index at INDEX. Default: refuse.")
@click.option(
    "--restart",
    is_flag=True,
    help="Begin anew, even if an unfinished build is there. Default: resume it; refuse if it is another build.",
)
@config_option
@json_option
@progress_option
@quiet_option
def build(
    base: tuple[str, ...],
    index: Path,
    metric: str | None,
    code_bits: int | str | None,
    threads: int | None,
    memory_limit: str | None,
    overwrite: bool,
    restart: bool,
    attributes: list[str] | None,
    payload: list[str] | None,
    config: Path | None,
    as_json: bool,
    progress_form: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Build an index of the vectors in BASE in the new directory INDEX.

    BASE is a file, a folder of files, a pattern as 'parts/*.parquet', several files, a Zarr array, or the folder of a
    VectorDBBench data set. Vectors go by the numbers in their column "id" where they have one, else by their row.
    """
    inputs = Inputs.take(options)
    params, preset = _parameters(config, code_bits, options)
    metric = metric or preset.get("metric")
    start = time.perf_counter()
    with inputs.open(base, index.absolute().parent) as source:
        ids = inputs.ids_of(source)
        stages: tuple[str, ...] = ()
        expected = None
        if not quiet and progress_form == "text":
            planned = spann.plan(
                source,
                metric=metric,
                attributes=attributes,
                payload=payload,
                params=params,
                threads=threads,
                memory_limit=memory_limit,
            )
            say(f"spann: plan: {_plan_line(planned)}", err=True)
            stages, expected = planned.stages, planned.seconds
        report = progress_report(quiet, progress_form, stages=stages, seconds=expected)
        with done_once() as repeated, report as progress:
            built = spann.build(
                source,
                index,
                metric=metric,
                ids=ids,
                attributes=attributes,
                payload=payload,
                params=params,
                threads=threads,
                memory_limit=memory_limit,
                overwrite=overwrite,
                restart=restart,
                progress=progress,
                memory_budget="none",
            )
    if repeated:
        built = spann.open(index, memory_budget="none")
    seconds = time.perf_counter() - start
    with built:
        info = built.info()
    if as_json:
        length = {name: value for name, value in info["posting_length"].items() if name != "histogram"}
        brief = {name: info[name] for name in SUMMARY}
        print_json({"path": str(index), "seconds": seconds, **brief, "posting_length": length})
    else:
        say(f"{index}: {summary(info)}; built in {seconds:.1f} s")


@click.command(cls=Command)
@click.argument("base", type=SOURCE, nargs=-1, required=True)
@metric_option()
@_build_options
@threads_option
@memory_limit_option
@input_options("BASE", ids=False)
@config_option
@json_option
def plan(
    base: tuple[str, ...],
    metric: str | None,
    code_bits: int | str | None,
    threads: int | None,
    memory_limit: str | None,
    attributes: list[str] | None,
    payload: list[str] | None,
    config: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict what building an index of BASE would take, without building it."""
    inputs = Inputs.take(options)
    params, preset = _parameters(config, code_bits, options)
    with inputs.open(base) as source:
        found = spann.plan(
            source,
            metric=metric or preset.get("metric"),
            attributes=attributes,
            payload=payload,
            params=params,
            threads=threads,
            memory_limit=memory_limit,
        )
    if as_json:
        print_json(asdict(found))
        return
    facts = {
        "vectors": f"{found.count} {found.dtype} of dimension {found.dim}, {found.metric}",
        "codes": f"{found.code_bits} bits per dimension" if found.code_bits else "none",
        "centroids": str(found.centroids),
        "index on disk": size(found.disk_bytes),
        "temporary disk": size(found.temporary_bytes),
        "memory to build": f"{size(found.memory_bytes)} with {found.threads} threads, limit {size(found.memory_limit)}",
        "time to build": clock(found.seconds),
        "memory when open": f"{size(found.open_memory_bytes)} with all codes in memory, "
        f"{size(found.open_memory_least)} with none",
    }
    width = max(map(len, facts))
    say(*(f"{name:<{width}}  {value}" for name, value in facts.items()))


def _parameters(
    config: Path | None, code_bits: int | str | None, options: dict[str, Any]
) -> tuple[BuildParams, dict[str, Any]]:
    params, preset = parameters(BuildParams, config, **options, code_bits=None if code_bits == AUTO else code_bits)
    if code_bits == AUTO:
        params = params.with_(code_bits=None)  # even if the preset has bits
    return params, preset


def _plan_line(found: spann.Plan) -> str:
    return (
        f"about {clock(found.seconds)}, {size(found.memory_bytes)} of memory ({found.threads} threads, limit "
        f"{size(found.memory_limit)}), {size(found.disk_bytes)} of disk and {size(found.temporary_bytes)} while "
        f"building; open, {size(found.open_memory_least)} to {size(found.open_memory_bytes)} of memory"
    )
