"""The entry of the program: its commands, and its exit codes and error texts.

Exit codes: 0 done; 1 the work failed (corrupt index, full disk, unmet check); 2 wrong usage or unusable input; 130
interrupted; 141 nobody reads the output any more. An error is one line on standard error; `--debug` adds the traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from typing import Any, NoReturn

import click

import spann
from spann.cli.append import append
from spann.cli.build import build, plan
from spann.cli.convert import convert
from spann.cli.demo import demo
from spann.cli.evaluate import evaluate
from spann.cli.inspect import config, info, verify
from spann.cli.jobs import assign, dedup, join, knn_graph
from spann.cli.options import DebugOption, State
from spann.cli.report import report
from spann.cli.search import search
from spann.cli.text import say
from spann.cli.truth import truth
from spann.cli.tune import tune
from spann.cli.update import add, delete, flush, get, optimize, snapshot, upsert
from spann.errors import InputError, NarrowingWarning, RecallWarning, SpannError


class _Interrupted(Exception):
    """Stands in for KeyboardInterrupt, which click would turn into an Abort with its own message."""


class _Unread(Exception):
    """Stands in for BrokenPipeError, at which click would end the process itself."""


class _Program(click.Group):
    """A group of commands. It reports an error and ends the process with its exit code."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        state = extra.setdefault("obj", State())
        # Messages show this program name however the program was started.
        extra["prog_name"] = "spann"
        extra["standalone_mode"] = False
        try:
            if sys.stdout is None:
                raise InputError("standard output is closed; send it to /dev/null to see nothing")
            with warnings.catch_warnings():
                for kind in (RecallWarning, NarrowingWarning):
                    warnings.simplefilter("always", kind)
                warnings.showwarning = _show_warning
                code = super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = error.exit_code
        except _Unread:
            _drop_output()
            code = 141
        except Exception as error:
            if state.debug:
                say(*traceback.format_exc().splitlines(), err=True)
            code, message = _report(error)
            message = "; ".join([message, *getattr(error, "__notes__", ())])
            say(f"spann: error: {' '.join(message.split())}", err=True)
            _drop_output()
        # A command that ends by `ctx.exit` hands its code back here.
        sys.exit(code if isinstance(code, int) else 0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except BrokenPipeError as error:
            raise _Unread from error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    kind = "note" if isinstance(message, NarrowingWarning) else "warning"
    say(f"spann: {kind}: {' '.join(str(message).split())}", err=True)


def _drop_output() -> None:
    """Discards the rest of standard output if it cannot be written. Python would fail to write it again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    no_args_is_help=True,
    # A variable can give each option: SPANN_BUILD_THREADS is --threads of `spann build`.
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SPANN"},
)
@click.version_option(spann.__version__, prog_name="spann", message="%(prog)s %(version)s")
def cli() -> None:
    """Approximate nearest-neighbour search for vector collections too large for memory.

    Vectors are read from .parquet .feather .orc .csv .jsonl .npy .hdf5 .fbin .f16bin .bf16bin .u8bin .i8bin .fvecs
    .bvecs files, folders and patterns of these, Zarr arrays and folders of VectorDBBench.
    """


# In the order of work; the help lists them in this order.
for _command in (
    *(demo, plan, build, search, tune, append, add, upsert, delete, get, flush, optimize, snapshot),
    *(knn_graph, dedup, join, assign),
    *(info, verify, truth, evaluate, report, convert, config),
):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the program on the arguments of the process, and end it."""
    # If one is closed, the next file opened would take its number, and text would go into that file.
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    cli.main()
