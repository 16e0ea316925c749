"""`spann append`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.inputs import SOURCE, Inputs, input_options
from spann.cli.options import (
    FILE,
    Command,
    done_once,
    json_option,
    memory_limit_option,
    progress_option,
    quiet_option,
    threads_option,
)
from spann.cli.progress import progress_report
from spann.cli.text import SUMMARY, print_json, say, summary


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("more", type=SOURCE, nargs=-1, required=True)
@threads_option
@memory_limit_option
@input_options("MORE")
@click.option("--restart", is_flag=True, help="Begin anew, even if an unfinished append is there. Default: resume it.")
@click.option(
    "--again", is_flag=True, help="Add vectors again that were appended before. Default: say so, and add nothing."
)
@json_option
@progress_option
@quiet_option
def append(
    index: Path,
    more: tuple[str, ...],
    threads: int | None,
    memory_limit: str | None,
    restart: bool,
    again: bool,
    as_json: bool,
    progress_form: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Add the vectors in MORE to the index in the directory INDEX.

    MORE is what BASE of `spann build` can be. The vectors join the centroids of INDEX. Searches that have it open
    continue undisturbed. If much was added, or vectors of another kind, a new build searches faster.
    """
    start = time.perf_counter()
    inputs = Inputs.take(options)
    with inputs.open(more, index.absolute().parent) as source, done_once() as repeated:
        with progress_report(quiet, progress_form) as progress:
            grown = spann.append(
                index,
                source,
                ids=inputs.ids_of(source),
                threads=threads,
                memory_limit=memory_limit,
                restart=restart,
                again=again,
                progress=progress,
                memory_budget="none",
            )
        added = source.count
    if repeated:
        grown, added = spann.open(index, memory_budget="none"), 0
    seconds = time.perf_counter() - start
    with grown:
        info = grown.info()
    if as_json:
        brief = {name: info[name] for name in ("generation", *SUMMARY, "appended_postings")}
        print_json({"path": str(index), "seconds": seconds, "added": added, **brief})
    else:
        say(f"{index}: {added} vectors added in {seconds:.1f} s; now {summary(info)}")
