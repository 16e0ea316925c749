"""`spann info`, `spann verify` and `spann config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.options import FILE, Command, json_option, quiet_option
from spann.cli.plot import check_plot, draw_index
from spann.cli.progress import progress_report
from spann.cli.text import print_json, put_lines, say
from spann.config import PRESETS, preset_file
from spann.progress import size
from spann.store.arrays import Problem

_BAR = 40
"""Characters of the longest bar of the histogram."""


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.option(
    "--plot",
    type=FILE,
    metavar="FILE",
    help="Draw posting lengths, replicas and calibration to a .png, .svg or .pdf. Default: do not.",
)
@json_option
def info(index: Path, plot: Path | None, as_json: bool) -> None:
    """Show what INDEX holds, how it was made, and what it takes."""
    if plot is not None:
        check_plot(plot)
    with spann.open(index) as opened:
        found = opened.info()
    if plot is not None:
        draw_index(found, plot)
    if as_json:
        print_json(found)
    else:
        say(*_info_text(found))


def _info_text(info: dict[str, Any]) -> list[str]:
    length = info["posting_length"]
    facts = {
        "vectors": f"{info['count']}",
        "dimension": f"{info['dim']}",
        "element type": info["dtype"],
        "metric": info["metric"],
        "centroids": f"{info['centroids']}",
        "postings": f"{info['postings']}",
        "posting length": f"{length['mean']:.1f} ± {length['std']:.1f}, {length['min']} to {length['max']}, "
        f"bound {length['bound']}",
        "postings per vector": f"{info['replicas_mean']:.2f}",
        "on disk": size(info["disk_bytes"]),
        "memory when open": size(info["open_memory_bytes"]),
        "generation": f"{info['generation']}, {info['appended_postings']} postings appended",
        **_updates_facts(info["updates"]),
        "calibrated": "; ".join([_calibration_text(info["calibration"]), *info["recall_doubts"]]),
        "format version": f"{info['format_version']}",
        "created by": info["created_by"],
        **{f"  {name}": _parameter_text(name, value, info) for name, value in info["parameters"].items()},
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
    return [*lines, "", "postings by length", *_histogram(length["histogram"])]


def _updates_facts(updates: dict[str, Any] | None) -> dict[str, str]:
    if updates is None:
        return {}
    return {
        "rows": f"{updates['live_rows']} live, {updates['dead_rows']} dead, {updates['worn']:.0%} dead or appended",
        "log": f"{updates['logged_operations']} operations, {size(updates['log_bytes'])}; flushed at "
        f"{updates['flushed_at']} operations",
    }


def _parameter_text(name: str, value: Any, info: dict[str, Any]) -> str:
    if value is not None:
        return str(value)
    used = info["calibration"]["queries"] if name == "calibration_queries" and info["calibration"] else None
    return "default" if used is None else f"default ({used} used)"


def _calibration_text(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return "no"
    whose = "of the collection" if calibration["origin"] == "base" else "given"
    return f"for k {', '.join(sorted(calibration['curves'], key=int))}, with {calibration['queries']} queries {whose}"


def _histogram(histogram: dict[str, list[int]]) -> list[str]:
    """A line for each range of lengths that has postings."""
    counts, edges = histogram["counts"], histogram["edges"]
    used = [(low, high, count) for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True) if count]
    most = max(counts)
    return [
        f"  {f'{low} to {max(low, high - 1)}':>14}  {count:>10}  {'#' * round(_BAR * count / most)}"
        for low, high, count in used
    ]


@click.command(cls=Command)
@click.argument("index", type=FILE)
@json_option
@quiet_option
@click.pass_context
def verify(ctx: click.Context, index: Path, as_json: bool, quiet: bool) -> None:
    """Read all of INDEX and check every checksum and invariant.

    The exit code is 0 if all is well, 1 if something is damaged or does not belong there, and 2 if files are only
    missing.
    """
    with progress_report(quiet) as progress:
        problems = spann.verify(index, progress)
    if as_json:
        listed = [{"kind": p.kind, "path": str(p.path), "detail": p.detail} for p in problems]
        print_json({"path": str(index), "ok": not problems, "problems": listed})
    for problem in problems:
        say(f"spann: {problem.kind}: {_sentence(problem)}", err=True)
    if problems:
        ctx.exit(2 if all(problem.kind == "missing" for problem in problems) else 1)
    if not as_json:
        say(f"{index}: ok")


def _sentence(problem: Problem) -> str:
    """The file and the detail of the problem, on one line. Many details already begin with the file."""
    detail = " ".join(problem.detail.split())
    return detail if detail.startswith(str(problem.path)) else f"{problem.path}: {detail}"


@click.command(cls=Command)
@click.argument("name", type=click.Choice(PRESETS), default="default")
def config(name: str) -> None:
    """Print the parameters of the preset NAME, as a file for --config to copy and change.

    Without NAME it prints every parameter with its default.
    """
    put_lines(preset_file(name).read_bytes())
