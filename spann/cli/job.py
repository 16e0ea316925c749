"""What the commands that are jobs have in common: options, output in parts or in one file, and what is told of them."""

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
from spann.vectors.sinks import WRITERS, check_path

PARTS = ".parts"
"""What the name of a single file of output has at its end while it is made, in parts, in a folder beside it."""


TABLES = (".parquet", ".jsonl")
"""Files that have columns."""


class FolderPath(type(Path())):  # type: ignore[misc]
    """A path that was given with a slash at its end."""


def output_path(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | None:
    """Callback of an option whose value is a path that may be a folder."""
    if value is None:
        return None
    return FolderPath(value) if value.endswith("/") else Path(value)


def is_folder(output: Path) -> bool:
    """Whether parts are to go there, rather than one file."""
    return isinstance(output, FolderPath) or not output.suffix or output.is_dir()


@dataclass(frozen=True)
class JobOptions:
    """How a job is run; nothing here changes the bytes of its output but `layout` and `part_rows`."""

    layout: str
    shard: Shard
    part_rows: int
    memory_limit: str | None
    restart: bool
    quiet: bool
    progress_form: str

    @classmethod
    def take(cls, options: dict[str, Any]) -> JobOptions:
        """Out of the options of a command."""
        taken = {name: options.pop(name) for name in cls.__dataclass_fields__ if name in options}
        shard = Shard() if taken.get("shard") is None else Shard.parse(taken["shard"])
        return cls(**{"layout": "wide", "part_rows": PART_ROWS, **taken, "shard": shard})

    @property
    def asked(self) -> bool:
        """Whether any of them was given that needs parts."""
        return self.layout != "wide" or self.shard.of > 1 or self.memory_limit is not None or self.restart

    def progress(self) -> Any:
        return progress_report(self.quiet, self.progress_form)


def job_options(layout: bool = True) -> Decorator:
    """The options of `JobOptions`."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = [
            click.option(
                "--shard",
                metavar="I/N",
                help="Do only the I-th of N shares of the parts, as 3/16, on machines that share OUT. Default: all.",
            ),
            click.option(
                "--part-rows",
                type=COUNT,
                default=PART_ROWS,
                metavar="N",
                help=f"Vectors in a part, where they do not come in parts. Default: {PART_ROWS}.",
            ),
            click.option(
                "--memory-limit",
                metavar="SIZE",
                help="Memory the process may take, as 800MB or 4GiB, however many queries there are. Default: half of "
                "what is available.",
            ),
            click.option(
                "--restart", is_flag=True, help="Begin anew, whatever is in OUT of a job. Default: go on with the same."
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
                    help="A row for each query, with lists, or a row for each neighbour. Default: wide.",
                ),
            )
        for option in reversed(options):
            command = option(command)
        return command

    return add


def checked_output(output: Path, options: JobOptions, kinds: Sequence[str] = tuple(WRITERS)) -> None:
    """Refuses, before any work is done, an output that cannot be; `kinds` are the extensions of files that can."""
    if is_folder(output):
        return
    check_path(output, kinds)
    if options.layout == "long" and output.suffix.lower() not in TABLES:
        raise InputError(f"{output}: --layout long is for {', '.join(TABLES)} and folders")
    if options.shard.of > 1:
        raise InputError(f"{output} is one file: --shard is for a folder, which machines fill together (-o OUT/)")


def run_job(
    job: Description,
    parts: Sequence[Part],
    output: Path,
    options: JobOptions,
    work: Callable[[OutputFolder], int],
    finish: Callable[[list[Path], Path], None],
) -> dict[str, Any]:
    """Does what is missing of a job, and ends the output if all is there; returns what is to be told of it. `work`
    makes the parts that are missing in a folder and returns how many vectors those are of, `finish` makes one file of
    them all."""
    start = time.perf_counter()
    one = not is_folder(output)
    folder = OutputFolder.open(Path(f"{output}{PARTS}") if one else output, job, len(parts), restart=options.restart)
    there = len(parts) - len(folder.missing(Shard()))
    if there and not options.quiet and options.progress_form == "text":
        what = "going on" if there < len(parts) else "nothing is left to do"
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
    """One line on a job that ran."""
    left = "" if report["complete"] else "; parts of other shards are missing"
    return (
        f"{report['output']}: {report['rows']} {what} in {report['seconds']:.1f} s ({report['rate']:.0f} per second)"
        f"{left}"
    )
