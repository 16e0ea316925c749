"""`spann add`, `upsert`, `delete`, `get`, `flush`, `optimize` and `snapshot`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import spann
from spann.cli.inputs import SOURCE, Inputs, input_options
from spann.cli.options import (
    FILE,
    Command,
    json_option,
    memory_limit_option,
    progress_option,
    quiet_option,
    threads_option,
)
from spann.cli.progress import progress_report
from spann.cli.text import print_json, say
from spann.errors import InputError
from spann.updating.inputs import as_id_array
from spann.vectors import convert, ids_for, open_source

_named_option = click.option(
    "--ids",
    "named",
    metavar="FILE[#COLUMN]|-",
    help="Ids: a .npy file, a column of a .parquet file or a dataset of an .hdf5 file; - reads numbers from standard "
    "input. Default: the IDS given.",
)
_maintenance_option = click.option(
    "--maintenance",
    type=click.Choice(["inline", "manual"]),
    default="inline",
    help="Flush and optimise when the log calls for it, or leave it to other commands until the log is full. Default: "
    "inline.",
)


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("vectors", type=SOURCE, nargs=-1, required=True)
@input_options("VECTORS")
@_maintenance_option
@json_option
def add(index: Path, vectors: tuple[str, ...], maintenance: str, as_json: bool, **options: Any) -> None:
    """Add VECTORS to INDEX under new ids, durably.

    Without --ids the index numbers them, if it was built without ids. `spann append` adds many vectors faster.
    """
    start = time.perf_counter()
    inputs = Inputs.take(options)
    with _open(index, maintenance) as opened, inputs.open(vectors, index.absolute().parent) as source:
        given = ids_for(source, inputs.ids_of(source))
        found = opened.add(source, given)
        _told(opened, start, as_json, {"added": len(found), "first_id": int(found[0]), "last_id": int(found[-1])})


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("vectors", type=SOURCE, nargs=-1, required=True)
@input_options("VECTORS")
@_maintenance_option
@json_option
def upsert(index: Path, vectors: tuple[str, ...], maintenance: str, as_json: bool, **options: Any) -> None:
    """Add VECTORS to INDEX, or replace those that have the same ids, durably."""
    start = time.perf_counter()
    inputs = Inputs.take(options)
    with _open(index, maintenance) as opened, inputs.open(vectors, index.absolute().parent) as source:
        given = ids_for(source, inputs.ids_of(source))
        if given is None:
            raise InputError(f"{source.name}: --ids is missing, which says what each vector replaces")
        inserted, replaced = opened.upsert(given, source)
        _told(opened, start, as_json, {"inserted": inserted, "replaced": replaced})


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("ids", type=click.IntRange(min=0), nargs=-1)
@_named_option
@click.option(
    "--missing",
    type=click.Choice(["ignore", "raise"]),
    default="ignore",
    help="Pass over ids that have no vector, or fail and delete nothing. Default: ignore.",
)
@_maintenance_option
@json_option
def delete(index: Path, ids: tuple[int, ...], named: str | None, missing: str, maintenance: str, as_json: bool) -> None:
    """Delete the vectors of IDS from INDEX, durably."""
    start, given = time.perf_counter(), _ids(ids, named)
    with _open(index, maintenance) as opened:
        _told(opened, start, as_json, {"deleted": opened.delete(given, missing)})


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("ids", type=click.IntRange(min=0), nargs=-1)
@_named_option
@click.option(
    "--output",
    "-o",
    type=FILE,
    metavar="FILE",
    help="Write the vectors to a file that `spann convert` knows. Default: print a line of JSON for each.",
)
def get(index: Path, ids: tuple[int, ...], named: str | None, output: Path | None) -> None:
    """Show the vectors of IDS in INDEX, as they were given."""
    given = _ids(ids, named)
    with _open(index, "manual") as opened:
        vectors = opened.get(given)
        if output is not None:
            if output.suffix == ".parquet":
                convert(open_source(vectors), output, ids=given)
            else:
                convert(open_source(vectors), output)
            say(f"{output}: {len(vectors)} vectors of dimension {opened.dim}")
            return
    for one, vector in zip(given.tolist(), vectors, strict=True):
        numbers = vector.astype(np.int64 if vector.dtype.kind in "biu" else np.float64).tolist()
        print_json({"id": one, "vector": numbers}, indent=None)


@click.command(cls=Command)
@click.argument("index", type=FILE)
@threads_option
@memory_limit_option
@json_option
@progress_option
@quiet_option
def flush(
    index: Path, threads: int | None, memory_limit: str | None, as_json: bool, progress_form: str, quiet: bool
) -> None:
    """Make a generation of INDEX that contains its log, and empty that."""
    start = time.perf_counter()
    with _open(index, "manual") as opened, progress_report(quiet, progress_form) as progress:
        done = opened.flush(threads=threads, memory_limit=memory_limit, progress=progress)
        _told(opened, start, as_json, {"operations": done.operations, "rebuilt": done.rebuilt})


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.option("--full", is_flag=True, help="Do all that makes searches faster. Default: what has become worth it.")
@click.option("--purge", is_flag=True, help="Leave no deleted or replaced vector on the disk. Default: some may stay.")
@click.option("--rebuild", is_flag=True, help="Build the index anew from its own vectors. Default: if it is worth it.")
@threads_option
@memory_limit_option
@json_option
@progress_option
@quiet_option
def optimize(
    index: Path,
    full: bool,
    purge: bool,
    rebuild: bool,
    threads: int | None,
    memory_limit: str | None,
    as_json: bool,
    progress_form: str,
    quiet: bool,
) -> None:
    """Flush INDEX, and bring it nearer to what a new build would be."""
    start = time.perf_counter()
    with _open(index, "manual") as opened, progress_report(quiet, progress_form) as progress:
        done = opened.optimize(
            full=full, purge=purge, rebuild=rebuild, threads=threads, memory_limit=memory_limit, progress=progress
        )
        facts = {"operations": done.operations, "rebuilt": done.rebuilt, "dead": done.dead}
        _told(opened, start, as_json, facts)


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("target", type=FILE)
def snapshot(index: Path, target: Path) -> None:
    """Copy INDEX, with all that was written to it, to TARGET.

    On one file system the copy shares the files of INDEX. Nothing that is done to one changes the other.
    """
    spann.snapshot(index, target)
    say(f"{target}: a copy of {index}")


def _open(index: Path, maintenance: str) -> spann.Index:
    return spann.open(index, memory_budget="none", maintenance=maintenance)


def _ids(ids: tuple[int, ...], named: str | None) -> NDArray[np.int64]:
    if bool(ids) == (named is not None):
        raise click.UsageError("give either IDS or --ids, which name the vectors")
    if named is None:
        return as_id_array(np.array(ids, np.uint64))
    if named != "-":
        return as_id_array(named)
    words = sys.stdin.read().split()
    bad = [word for word in words if not word.isascii() or not word.isdigit() or len(word) > 19]
    if bad:
        raise InputError(f"standard input: {bad[0][:40]!r} is no id")
    return as_id_array(np.array([int(word) for word in words], np.uint64))


def _told(opened: spann.Index, start: float, as_json: bool, facts: dict[str, Any]) -> None:
    seconds = time.perf_counter() - start
    generation, sequence = opened.version
    if as_json:
        print_json(
            {
                "path": str(opened.path),
                "seconds": seconds,
                "count": len(opened),
                "generation": generation,
                "sequence": sequence,
                **facts,
            }
        )
        return
    words = ", ".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in facts.items())
    say(f"{opened.path}: {words}; now {len(opened)} vectors ({seconds:.2f} s)")


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
