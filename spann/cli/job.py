"""Common to the commands that are jobs: options, output in parts or in one file, and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from spann.cli.options import COUNT, Decorator, progress_option, quiet_option
from spann.cli.progress import progress_report
from spann.cli.text import say
from spann.errors import InputError
from spann.jobs import PART_ROWS, OutputFolder, Shard
from spann.jobs.output import Description
from spann.jobs.parts import Part
from spann.store.names import NameTable
from spann.vectors.sinks import WRITERS, check_path

PARTS = ".parts"
"""Ending of the folder beside a single output file, in which its parts are made."""


TABLES = (".parquet", ".jsonl", ".csv")
"""Extensions of files that have columns."""


class FolderPath(type(Path())):  # type: ignore[misc]
    """A path that was given with a slash at its end."""


def output_path(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | None:
    """Callback of an option whose value is a path that may be a folder."""
    if value is None:
        return None
    return FolderPath(value) if value.endswith("/") else Path(value)


def is_folder(output: Path) -> bool:
    """Whether the output is a folder of parts rather than one file."""
    return isinstance(output, FolderPath) or not output.suffix or output.is_dir()


@dataclass(frozen=True)
class JobOptions:
    """How a job runs. Only `layout` and `part_rows` change the bytes of its output."""

    layout: str
    shard: Shard
    part_rows: int
    memory_limit: str | None
    restart: bool
    quiet: bool
    progress_form: str

    @classmethod
    def take(cls, options: dict[str, Any]) -> JobOptions:
        """Takes these options out of the options of a command."""
        taken = {name: options.pop(name) for name in cls.__dataclass_fields__ if name in options}
        shard = Shard() if taken.get("shard") is None else Shard.parse(taken["shard"])
        return cls(**{"layout": "wide", "part_rows": PART_ROWS, **taken, "shard": shard})

    @property
    def asked(self) -> bool:
        """Whether an option was given that needs output in parts."""
        return self.layout != "wide" or self.shard.of > 1 or self.memory_limit is not None or self.restart

    def progress(self) -> Any:
        return progress_report(self.quiet, self.progress_form)


def job_options(layout: bool = True) -> Decorator:
    """Adds the options of `JobOptions` to a command."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = [
            click.option(
                "--shard",
                metavar="I/N",
                help="Make only the I-th of N shares of the parts, such as 3/16, on machines that share OUT. Default: "
                "all.",
            ),
            click.option(
                "--part-rows",
                type=COUNT,
                default=PART_ROWS,
                metavar="N",
                help=f"Vectors in a part, if the input is not in parts. Default: {PART_ROWS}.",
            ),
            click.option(
                "--memory-limit",
                metavar="SIZE",
                help="Memory that the process may take, such as 800MB or 4GiB, for any number of queries. Default: "
                "half of the memory available.",
            ),
            click.option(
                "--restart", is_flag=True, help="Begin anew, whatever a job left in OUT. Default: resume the same job."
            ),
            progress_option,
            quiet_option,
        ]
        if layout:
            options.insert(
                0,
                click.option(
                    "--layout",
                    type=click.Choice(["wide", "long"]),
                    default="wide",
                    help="wide: a row for each query, with lists; long: a row for each neighbour. Default: wide.",
                ),
            )
        for option in reversed(options):
            command = option(command)
        return command

    return add


def checked_output(output: Path, options: JobOptions, kinds: Sequence[str] = tuple(WRITERS)) -> None:
    """Refuses an unusable output before any work is done. `kinds` are the allowed extensions of files."""
    if is_folder(output):
        return
    check_path(output, kinds)
    if options.layout == "long" and output.suffix.lower() not in TABLES:
        raise InputError(f"{output}: --layout long is for {', '.join(TABLES)} and folders")
    if options.shard.of > 1:
        raise InputError(f"{output} is one file; --shard needs a folder that machines fill together (-o OUT/)")


def check_names(names: NameTable | None, output: Path) -> None:
    """Refuses an output of integers for an index whose vectors have names."""
    if names is not None and not is_folder(output) and output.suffix.lower() not in TABLES:
        raise InputError(
            f"{output}: the ids of the index are {names.kind}, which {output.suffix} files cannot hold; write "
            f"{' or '.join(TABLES)}"
        )


def run_job(
    job: Description,
    parts: Sequence[Part],
    output: Path,
    options: JobOptions,
    work: Callable[[OutputFolder], int],
    finish: Callable[[list[Path], Path], None],
) -> dict[str, Any]:
    """Makes the missing parts of a job, and completes the output if all are there. Returns the report. `work` makes the
    missing parts in a folder, and returns their number of vectors. `finish` merges all parts into one file."""
    start = time.perf_counter()
    one = not is_folder(output)
    folder = OutputFolder.open(Path(f"{output}{PARTS}") if one else output, job, len(parts), restart=options.restart)
    there = len(parts) - len(folder.missing(Shard()))
    if there and not options.quiet and options.progress_form == "text":
        what = "resuming" if there < len(parts) else "nothing is left to do"
        say(f"spann: {what}: {there} of {len(parts)} parts are there", err=True)
    done = work(folder)
    complete = folder.finish({"rows": sum(part.rows for part in parts)})
    if one:
        finish([folder.file(number) for number in range(len(parts))], output)
        folder.remove()
    seconds = time.perf_counter() - start
    return {
        "rows": done,
        "parts": len(parts),
        "complete": complete,
        "seconds": seconds,
        "rate": done / seconds,
        "output": str(output),
    }


def tell(report: dict[str, Any], what: str) -> str:
    """A line of text on a job that ran."""
    left = "" if report["complete"] else "; parts of other shards are missing"
    return (
        f"{report['output']}: {report['rows']} {what} in {report['seconds']:.1f} s ({report['rate']:.0f} per second)"
        f"{left}"
    )
