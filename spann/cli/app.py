"""The program's entry: its list of commands, and what becomes of every error.

Exit codes: 0 done; 1 the work failed (corrupt index, full disk, unmet check); 2 wrong usage or unusable input; 130
interrupted. An error is one line on standard error; `--debug` adds the traceback.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

import click

import spann
from spann.cli.append import append
from spann.cli.build import build, plan
from spann.cli.convert import convert
from spann.cli.demo import demo
from spann.cli.evaluate import evaluate
from spann.cli.inspect import config, info, verify
from spann.cli.options import DebugOption, State
from spann.cli.search import search
from spann.cli.truth import truth
from spann.cli.tune import tune
from spann.errors import SpannError


class _Interrupted(Exception):
    """Stands for KeyboardInterrupt, which click would turn into an Abort with a message of its own."""


class _Program(click.Group):
    """A group that ends the process with the exit code of the error that it reports."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        state = extra.setdefault("obj", State())
        # Scripts and tests that read messages see the program's name however it was started.
        extra["prog_name"] = "spann"
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except Exception as error:
            if state.debug:
                traceback.print_exc()
            code, message = _report(error)
            message = "; ".join([message, *getattr(error, "__notes__", ())])
            click.echo(f"spann: error: {' '.join(message.split())}", err=True)
        # A command that ends by `ctx.exit` hands its code back here.
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error


def _report(error: Exception) -> tuple[int, str]:
    """Exit code and message of an error."""
    match error:
        case _Interrupted() | click.Abort():
            return 130, "interrupted"
        case SpannError():
            return error.exit_code, str(error)
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "spann"
            return error.exit_code, f"{error.format_message()} (see {path} --help)"
        case click.ClickException():
            return error.exit_code, error.format_message()
        case MemoryError():
            return 1, f"not enough memory: {error}" if str(error) else "not enough memory"
        case OSError():
            return 1, f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        case _:
            return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)"


@click.group(
    cls=_Program,
    params=[DebugOption()],
    # A missing command is an error like any other, not a page of help.
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(spann.__version__, prog_name="spann", message="%(prog)s %(version)s")
def cli() -> None:
    """Approximate nearest-neighbour search for vector collections too large for memory.

    Vectors are read from .fbin .f16bin .bf16bin .u8bin .i8bin .fvecs .bvecs .npy .hdf5 .parquet files, Zarr arrays and
    folders of VectorDBBench.
    """


for _command in (build, plan, append, tune, search, info, verify, truth, evaluate, convert, config, demo):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the program on the arguments of the process, and end it."""
    cli.main()
