"""`spann build`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.options import (
    FILE,
    Command,
    config_option,
    ids_option,
    json_option,
    max_rows_option,
    metric_option,
    parameters,
    quiet_option,
    read_ids,
    threads_option,
)
from spann.cli.progress import progress_report
from spann.cli.text import SUMMARY, print_json, summary
from spann.config import DEFAULT_CENTROIDS, DEFAULT_POSTING_SIZE, BuildParams
from spann.errors import InputError
from spann.vectors import open_source


def _code_bits(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    # Codes pay off once memory holds them, which no version does yet: the best choice at present is none.
    return None if value is None else 0 if value == "auto" else int(click.INT(value, param, ctx))


@click.command(cls=Command)
@click.argument("base", type=FILE)
@click.argument("index", type=FILE)
@metric_option(default=None)
@click.option(
    "--posting-size",
    type=int,
    metavar="N",
    help="Entries a posting should have; none has more than 2N. Sets the number of centroids if --centroids does not. "
    f"Default: {DEFAULT_POSTING_SIZE}.",
)
@click.option(
    "--centroids",
    type=float,
    metavar="RATIO",
    help=f"Centroids as a share of the vectors, up to 0.5. Default: {DEFAULT_CENTROIDS}.",
)
@click.option(
    "--max-replicas",
    type=int,
    metavar="N",
    help=f"Postings that one vector may be in. Default: {BuildParams.max_replicas}.",
)
@click.option(
    "--epsilon1",
    type=float,
    metavar="X",
    help=f"A vector may join centroids up to (1 + X) times as far as its nearest. Default: {BuildParams.epsilon1}.",
)
@click.option(
    "--code-bits",
    callback=_code_bits,
    metavar="B|auto",
    help="Bits per dimension of the codes in postings; 0 keeps exact vectors there. Default: auto, which is 0.",
)
@click.option("--seed", type=int, metavar="S", help=f"Start of all randomness. Default: {BuildParams.seed}.")
@threads_option
@ids_option
@max_rows_option("BASE")
@click.option("--overwrite", is_flag=True, help="Replace an index at INDEX. Default: refuse.")
@config_option
@json_option
@quiet_option
def build(
    base: Path,
    index: Path,
    metric: str | None,
    ids: Path | None,
    threads: int | None,
    max_rows: int | None,
    overwrite: bool,
    config: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Build an index of the vectors in BASE in the new directory INDEX."""
    params, preset = parameters(BuildParams, config, **options)
    if params.code_bits:
        raise InputError(f"code_bits {params.code_bits} is not supported by this version yet: only 0 and auto are")
    start = time.perf_counter()
    with open_source(base, max_rows=max_rows) as source, progress_report(quiet) as progress:
        built = spann.build(
            source,
            index,
            metric=metric or preset.get("metric", "l2"),
            ids=None if ids is None else read_ids(ids),
            params=params,
            threads=threads,
            overwrite=overwrite,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    with built:
        info = built.info()
    if as_json:
        length = {name: value for name, value in info["posting_length"].items() if name != "histogram"}
        brief = {name: info[name] for name in SUMMARY}
        print_json({"path": str(index), "seconds": seconds, **brief, "posting_length": length})
    else:
        click.echo(f"{index}: {summary(info)}; built in {seconds:.1f} s")
