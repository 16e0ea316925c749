"""`spann convert`."""

from __future__ import annotations

from pathlib import Path

import click

from spann.cli.options import FILE, Command, given_ids, ids_option, max_rows_option, progress_option, quiet_option
from spann.cli.progress import progress_report
from spann.cli.text import say
from spann.types import ELEMENT_TYPES
from spann.vectors import convert as write
from spann.vectors import open_source


@click.command(cls=Command)
@click.argument("vectors", type=FILE)
@click.argument("output", type=FILE)
@click.option(
    "--dtype",
    type=click.Choice([*ELEMENT_TYPES, "bfloat16"]),
    help="Type of the elements; a value that it cannot hold is refused. Default: unchanged, or the type of the format.",
)
@ids_option
@max_rows_option("VECTORS")
@progress_option
@quiet_option
def convert(
    vectors: Path,
    output: Path,
    dtype: str | None,
    ids: Path | None,
    max_rows: int | None,
    progress_form: str,
    quiet: bool,
) -> None:
    """Write VECTORS, of any format that can be read, to OUTPUT.

    OUTPUT is .fbin, .f16bin, .bf16bin, .u8bin, .i8bin, .fvecs, .bvecs, .npy or .parquet. Only .parquet can hold ids,
    too.
    """
    with open_source(vectors, max_rows=max_rows) as source, progress_report(quiet, progress_form) as progress:
        write(source, output, dtype, progress, ids=given_ids(ids, max_rows))
        say(f"{output}: {source.count} vectors of dimension {source.dim}")
