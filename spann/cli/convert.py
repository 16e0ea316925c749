"""`spann convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spann.cli.inputs import SOURCE, Inputs, input_options
from spann.cli.options import FILE, Command, progress_option, quiet_option
from spann.cli.progress import progress_report
from spann.cli.text import say
from spann.types import ELEMENT_TYPES
from spann.vectors import convert as write


@click.command(cls=Command)
@click.argument("vectors", type=SOURCE)
@click.argument("output", type=FILE)
@click.option(
    "--dtype",
    type=click.Choice([*ELEMENT_TYPES, "bfloat16"]),
    help="Type of the elements; a value that it cannot hold is refused. Default: unchanged, or the type of the format.",
)
@input_options("VECTORS")
@progress_option
@quiet_option
def convert(
    vectors: str,
    output: Path,
    dtype: str | None,
    progress_form: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Write VECTORS, of any format that can be read, to OUTPUT.

    OUTPUT is .fbin, .f16bin, .bf16bin, .u8bin, .i8bin, .fvecs, .bvecs, .npy or .parquet. Only .parquet can hold ids,
    too.
    """
    inputs = Inputs.take(options)
    with (
        inputs.open([vectors], output.absolute().parent) as source,
        progress_report(quiet, progress_form) as progress,
    ):
        write(source, output, dtype, progress, ids=inputs.ids_of(source))
        say(f"{output}: {source.count} vectors of dimension {source.dim}")
