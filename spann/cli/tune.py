"""`spann tune`."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.inputs import SOURCE
from spann.cli.options import (
    COUNT,
    FILE,
    RECALL,
    Command,
    json_option,
    max_rows_option,
    number_list,
    progress_option,
    quiet_option,
    threads_option,
)
from spann.cli.progress import progress_report
from spann.cli.text import print_json, say, table
from spann.config import SearchParams
from spann.errors import UnlikeWarning

TARGETS = "0.8,0.9,0.95,0.98,0.99"


def _targets(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    return tuple(float(RECALL(part, param, ctx)) for part in value.split(","))


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("queries", type=SOURCE, required=False)
@click.option(
    "--target",
    "targets",
    callback=_targets,
    default=TARGETS,
    metavar="R,R,...",
    help=f"Recalls to show. Default: {TARGETS}.",
)
@click.option(
    "-k",
    "ks",
    callback=number_list,
    default="10",
    metavar="K,K,...",
    help="Neighbours of each query to show. Default: 10.",
)
@click.option("--count", type=COUNT, metavar="N", help="The most queries to use. Default: 2000.")
@click.option(
    "--base",
    type=SOURCE,
    metavar="FILE",
    help="The vectors of INDEX; needed only if it has no codes. Default: read from INDEX.",
)
@click.option("--show", is_flag=True, help="Only show the present calibration. Default: calibrate.")
@click.option(
    "--restart",
    is_flag=True,
    help="Discard the work of an unfinished build, append or other tune. Default: refuse while there is any.",
)
@threads_option
@max_rows_option("QUERIES")
@json_option
@progress_option
@quiet_option
def tune(
    index: Path,
    queries: str | None,
    targets: tuple[float, ...],
    ks: tuple[int, ...],
    count: int | None,
    base: str | None,
    show: bool,
    restart: bool,
    threads: int | None,
    max_rows: int | None,
    as_json: bool,
    progress_form: str,
    quiet: bool,
) -> None:
    """Measure which settings of INDEX give which recall, and store that in it.

    With QUERIES, the result holds for queries of that kind. Give some of your own if they differ from the vectors of
    INDEX, such as texts that look for images. Without QUERIES it holds for queries like the vectors of INDEX.
    """
    start = time.perf_counter()
    if show:
        opened = spann.open(index, memory_budget="none")
    else:
        with progress_report(quiet, progress_form) as progress, warnings.catch_warnings():
            warnings.simplefilter("ignore", UnlikeWarning)  # the command says it below
            source = None if queries is None else spann.vectors.open_queries(queries, max_rows=max_rows)
            opened = spann.calibrate(
                index,
                source,
                base=base,
                count=count,
                threads=threads,
                restart=restart,
                progress=progress,
                memory_budget="none",
            )
    seconds = time.perf_counter() - start
    with opened:
        if opened.calibration is None:
            raise spann.InputError(f"{index}: the index is not calibrated; leave out --show")
        found, doubts = opened.calibration, opened.info()["recall_doubts"]
        rows = [(k, target, opened.params_for(target, k)) for k in ks for target in targets if found.reaches(target, k)]
    if as_json:
        print_json(
            {
                "path": str(index),
                "seconds": seconds,
                "origin": found.origin,
                "queries": found.queries,
                "unlike": found.unlike,
                "doubts": doubts,
                "settings": [{"k": k, "target_recall": target, **_setting(params)} for k, target, params in rows],
            }
        )
        return
    say(f"{index}: calibrated with {found.queries} queries ({found.origin})")
    for warning in filter(None, [found.warning, *doubts]):
        say(f"spann: warning: {warning}", err=True)
    header = ["k", "target recall", "max_postings", "epsilon2", "error_bound"]
    cells = [
        [str(k), f"{target:g}", str(p.max_postings), f"{p.epsilon2:.3g}", f"{p.error_bound:.2f}"]
        for k, target, p in rows
    ]
    say(*table(header, cells))


def _setting(params: SearchParams) -> dict[str, Any]:
    epsilon2 = params.epsilon2 if params.epsilon2 < float("inf") else None
    return {"max_postings": params.max_postings, "epsilon2": epsilon2, "error_bound": params.error_bound}
