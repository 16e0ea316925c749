"""Options that several commands share. Parameters come from options, a preset file, and defaults."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from spann.cli.text import say
from spann.config import PRESETS, BuildParams, SearchParams, load_toml, preset_file
from spann.errors import InputError, RepeatWarning
from spann.types import Metric

Params = TypeVar("Params", BuildParams, SearchParams)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FILE = click.Path(path_type=Path)
"""A path that the library checks, because its messages say more than those of click."""

COUNT = click.IntRange(min=1)


class _Recall(click.FloatRange):
    """A number between 0 and 1. The ranges of click let NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value} is not in the range 0<x<1.", param, ctx)
        return found


RECALL = _Recall(0, 1, min_open=True, max_open=True)


@dataclass
class State:
    """Whether to show tracebacks. The program knows it before a command runs."""

    debug: bool = False


class DebugOption(click.Option):
    """The option `--debug`, accepted before and after the name of the command."""

    def __init__(self) -> None:
        super().__init__(
            ["--debug"],
            is_flag=True,
            # Parsed before other options, so that it holds for their errors.
            is_eager=True,
            expose_value=False,
            callback=self._remember,
            help="Show the traceback of an error.",
        )

    @staticmethod
    def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.ensure_object(State).debug |= value


@contextmanager
def done_once() -> Iterator[list[str]]:
    """Leaves the block if its work was done before, and prints that. The list then holds the message."""
    said: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RepeatWarning)
            yield said
    except RepeatWarning as warning:
        said.append(str(warning))
        say(f"spann: {warning}", err=True)


class Command(click.Command):
    """A command that accepts `--debug`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(DebugOption())

    def get_short_help_str(self, limit: int = 0) -> str:
        """The whole first sentence; click would cut it."""
        return inspect.cleandoc(self.short_help or self.help or "").replace("\n", " ").partition(". ")[0].rstrip(".")


def number_list(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Callback of an option with whole numbers of at least 1, separated by commas: 16,32,64."""
    if value is None:
        return None
    return tuple(int(COUNT(part, param, ctx)) for part in value.split(","))


def recall_list(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Callback of an option with recalls, separated by commas: 0.9,0.95."""
    if value is None:
        return None
    return tuple(float(RECALL(part, param, ctx)) for part in value.split(","))


threads_option = click.option(
    "--threads", type=COUNT, metavar="T", help="Threads. Default: as many as there are processors."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output. Default: text.")
memory_limit_option = click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory that the process may take, such as 800MB or 4GiB. With less it uses fewer threads; a build that "
    "cannot fit is refused before it starts. Default: half of the memory available.",
)
progress_option = click.option(
    "--progress",
    "progress_form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Form of the progress on standard error; json is one object a line, with stage, done, total, seconds, rate "
    "and eta_seconds. Default: text.",
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress on standard error. Default: show it.")


def _preset(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None:
        ctx.meta[_PRESET] = preset_file(name)


def _config(ctx: click.Context, _: click.Parameter, file: Path | None) -> Path | None:
    preset: Path | None = ctx.meta.get(_PRESET)
    if file is not None and preset is not None:
        raise click.UsageError("--preset and --config were both given; each names a file of parameters, so give one")
    return file or preset


_PRESET = "spann.preset"


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config FILE` and `--preset NAME`. Either one becomes the argument `config`."""
    named = click.option(
        "--preset",
        type=click.Choice(PRESETS),
        is_eager=True,  # before --config, whose value it becomes
        expose_value=False,
        callback=_preset,
        help="Parameters that come with spann, shown by `spann config NAME`; options win over them. Default: none.",
    )
    given = click.option(
        "--config",
        type=FILE,
        metavar="FILE",
        callback=_config,
        help="A TOML file of parameters, such as `spann config` prints; options win over it. Default: none.",
    )
    return named(given(command))


io_option = click.option(
    "--io",
    type=click.Choice(["auto", "direct", "buffered"]),
    default="auto",
    help="How postings are read: direct bypasses the page cache, buffered uses it, auto is direct if the postings "
    "are larger than the memory available. Default: auto.",
)
check_option = click.option(
    "--no-check",
    is_flag=True,
    help="Do not check checksums of postings and pages read. Faster, but damage goes unnoticed. Default: check.",
)


def max_rows_option(what: str) -> Decorator:
    return click.option(
        "--max-rows", type=COUNT, metavar="N", help=f"Read only the first N vectors of {what}. Default: all."
    )


class _MetricChoice(click.Choice[str]):
    """The name of a metric, also as other libraries call it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return Metric.parse(value).value
        except InputError as error:
            self.fail(str(error), param, ctx)


def metric_option() -> Decorator:
    return click.option(
        "--metric",
        type=_MetricChoice([metric.value for metric in Metric]),
        help="Euclidean distance, 1 - cosine, inner product, or differing bits of binary vectors. euclidean, angular "
        "and dot are known, too. Default: what the file says (HDF5 of ann-benchmarks), else l2.",
    )


def k_option(default: int = 10) -> Decorator:
    return click.option(
        "-k", type=COUNT, default=default, metavar="K", help=f"Neighbours of each query. Default: {default}."
    )


memory_budget_option = click.option(
    "--memory-budget",
    default="auto",
    metavar="SIZE|auto|none",
    help="Memory that the open index may take, such as 44MB or 2GiB: it pins as many codes as fit. auto is half of the "
    "memory available, none pins nothing. Default: auto.",
)


order_option = click.option(
    "--order",
    type=click.Choice(["auto", "query", "posting"]),
    default=None,
    help="Search query by query, or a batch posting by posting, so that one read serves many queries. Default: auto, "
    "by the size of the batch; for eval: query.",
)


def search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--epsilon2`, `--navigate`, `--rerank`, `--error-bound` and `--in-flight`."""
    for option in (
        click.option(
            "--in-flight",
            type=COUNT,
            metavar="N",
            help="Queries that a thread works on at once: 1 for the lowest latency. Default: 8.",
        ),
        click.option(
            "--error-bound",
            type=float,
            metavar="X",
            help="Re-rank a candidate only while its estimate minus X standard errors is below the k-th result. "
            f"Default: {SearchParams.error_bound}.",
        ),
        click.option(
            "--rerank",
            type=int,
            metavar="N",
            help="The most candidates found by their codes that are re-ranked exactly. Default: 10 times K, at least "
            "100.",
        ),
        click.option(
            "--navigate",
            type=int,
            metavar="N",
            help="Candidates kept while seeking the nearest centroids, at least 64. Default: 3 times the postings; "
            "with codes, as many as postings.",
        ),
        click.option(
            "--epsilon2",
            type=float,
            metavar="X",
            help="Score only postings whose vectors are expected at most (1 + X) times as far as those of the 16th. "
            "Default: inf.",
        ),
    ):
        command = option(command)
    return command


def parameters(kind: type[Params], config: Path | None, **options: Any) -> tuple[Params, dict[str, Any]]:
    """The parameters from defaults, the preset file and options, in rising precedence. An option that is None was not
    given.

    Also returns other entries of the preset's table: in [build], the metric.
    """
    table = "build" if kind is BuildParams else "search"
    preset = load_toml(config)[table] if config else {}
    rest = {name: preset.pop(name) for name in ("metric",) if name in preset}
    try:
        params = kind().with_(**preset)
    except InputError as error:
        raise InputError(f"{config}: [{table}] {error}") from error
    return params.with_(**{name: value for name, value in options.items() if value is not None}), rest
