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
from spann.config import (
    CODE_BITS,
    CODED_POSTING_SIZE,
    DEFAULT_CENTROIDS,
    DEFAULT_POSTING_SIZE,
    DEFAULT_REPLICAS,
    BuildParams,
)
from spann.vectors import open_source

AUTO = "auto"


def _code_bits(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    return value if value in (None, AUTO) else int(click.INT(value, param, ctx))


@click.command(cls=Command)
@click.argument("base", type=FILE)
@click.argument("index", type=FILE)
@metric_option(default=None)
@click.option(
    "--posting-size",
    type=int,
    metavar="N",
    help="Entries a posting should have; none has more than 2N. Sets the number of centroids if --centroids does not. "
    f"Default: {DEFAULT_POSTING_SIZE}, with codes {CODED_POSTING_SIZE} or more.",
)
@click.option(
    "--centroids",
    type=float,
    metavar="RATIO",
    help=f"Centroids as a share of the vectors, up to 0.5. Default: {DEFAULT_CENTROIDS}, with codes 1 / posting size.",
)
@click.option(
    "--max-replicas",
    type=int,
    metavar="N",
    help=f"Postings that one vector may be in. Default: {DEFAULT_REPLICAS}, with codes 1.",
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
    help=f"Bits per dimension of the codes in postings ({', '.join(map(str, CODE_BITS[1:]))}); 0 keeps exact vectors "
    "there. Default: auto, by the dimension, and 0 for vectors under 64 bytes.",
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
    code_bits: int | str | None,
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
    params, preset = parameters(BuildParams, config, **options, code_bits=None if code_bits == AUTO else code_bits)
    if code_bits == AUTO:
        params = params.with_(code_bits=None)  # even where the preset has bits
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
