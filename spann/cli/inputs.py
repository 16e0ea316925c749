"""Options that say what vectors are read from, for the commands that read a collection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from spann.cli.options import COUNT, FILE, Decorator
from spann.errors import InputError
from spann.vectors import GivenIds, VectorSource, open_source, read_ids
from spann.vectors.places import KINDS

SOURCE = click.Path(path_type=str)
"""A path, a folder, a pattern or a URI: what `open_source` takes."""

column_option = click.option(
    "--column", metavar="NAME", help="The column, or the dataset, that holds the vectors. Default: found by its name."
)
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(KINDS),
    help="What the files are, where their names do not tell. Default: by extension.",
)


@dataclass(frozen=True)
class Inputs:
    """How the vectors of a command are read."""

    column: str | None = None
    form: str | None = None
    max_rows: int | None = None
    ids: Path | None = None
    id_column: str | None = None
    no_ids: bool = False

    @classmethod
    def take(cls, options: dict[str, Any]) -> Inputs:
        """Out of the options of a command."""
        taken = cls(**{name: options.pop(name) for name in cls.__dataclass_fields__ if name in options})
        given = [
            option
            for option, value in (("--ids", taken.ids), ("--id", taken.id_column), ("--no-ids", taken.no_ids))
            if value
        ]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} were given: each says what the ids are, so give one")
        return taken

    def open(self, paths: Sequence[str], scratch: Path | None = None) -> VectorSource:
        """The vectors; files that are read in order are kept in the directory `scratch` meanwhile."""
        given = paths[0] if len(paths) == 1 else list(paths)
        return open_source(given, max_rows=self.max_rows, column=self.column or "", format=self.form, scratch=scratch)

    def ids_of(self, source: VectorSource) -> GivenIds | bool | None:
        """The ids that the options name, as `spann.build` takes them."""
        if self.no_ids:
            return False
        if self.ids is not None:
            return read_ids(self.ids).first(self.max_rows)
        if self.id_column is not None:
            if self.id_column not in source.columns:
                known = f"has {', '.join(source.columns)}" if source.columns else "has no columns but the vectors"
                raise InputError(f"{source.name} has no column {self.id_column!r} of ids; it {known}")
            return self.id_column
        return None


def input_options(what: str, *, ids: bool = True) -> Decorator:
    """The options of `Inputs`, of the vectors that the help calls `what`."""
    options = [
        column_option,
        format_option,
        click.option(
            "--max-rows", type=COUNT, metavar="N", help=f"Read only the first N vectors of {what}. Default: all."
        ),
    ]
    if ids:
        options += [
            click.option(
                "--id",
                "id_column",
                metavar="COLUMN",
                help=f"The column of {what} with the ids of the vectors. Default: id, where there is one.",
            ),
            click.option(
                "--ids",
                type=FILE,
                metavar="FILE[#COLUMN]",
                help="Ids of the vectors from another place: a .npy file, a column of a .parquet or .feather file, or "
                f"a dataset of an .hdf5 file. Default: of {what}.",
            ),
            click.option(
                "--no-ids",
                is_flag=True,
                help="Ids are the numbers of the rows, from 0, whatever columns there are. Default: as --id.",
            ),
        ]

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add
