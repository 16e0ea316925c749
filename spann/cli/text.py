"""Text for people: tables, sizes, and reports of measurements."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from spann.errors import StorageError
from spann.progress import escaped, size
from spann.system import reason


def say(*lines: str, err: bool = False) -> None:
    """Prints lines for people on standard output or standard error. All text of the program goes through here.

    Files and their names may hold any characters. Those that would move the cursor, begin a line or reverse text are
    shown as Python writes them. So are characters that the terminal's encoding lacks.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "\n".join(map(escaped, lines))
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    if err:
        with contextlib.suppress(OSError):  # there is nowhere left to report that
            click.echo(text, err=True)
    else:
        _put(text)


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Prints a JSON document on standard output. A value that JSON cannot hold, such as infinity, is an error."""
    _put(json.dumps(document, indent=indent, allow_nan=False))


def put_lines(lines: bytes) -> None:
    """Writes lines of bytes to standard output."""
    _put(lines, nl=False)


def _put(text: str | bytes, *, nl: bool = True) -> None:
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"standard output cannot be written: {reason(error)}") from error


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: columns aligned to the right, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]


def runs_table(report: dict[str, Any]) -> list[str]:
    """Lines of a table of the report of `spann.measuring.evaluate`: one for each run."""
    runs = report["runs"]
    k = runs[0]["settings"]["k"]
    aimed = any(run["settings"].get("target_recall") for run in runs)
    header = [
        *(["target"] if aimed else []),
        "postings",
        "threads",
        f"recall@{k}",
        "QPS",
        "mean ms",
        "p50",
        "p95",
        "p99",
        "read",
        "pages",
        "KiB",
        "CPU us",
    ]
    rows = []
    for run in runs:
        settings, latency, cost = run["settings"], run["latency_ms"], run["per_query"]
        rows.append(
            [
                *([f"{settings['target_recall']:g}"] if aimed else []),
                str(settings["max_postings"] or "default"),
                str(settings["threads"]),
                f"{run['recall']:.4f}",
                f"{run['qps']:.0f}",
                *(f"{latency[name]:.2f}" for name in ("mean", "p50", "p95", "p99")),
                f"{cost['postings_read']:.1f}",
                f"{cost['pages_read']:.1f}",
                f"{cost['bytes_read'] / 1024:.0f}",
                f"{cost['cpu_us']:.0f}",
            ]
        )
    return table(header, rows)


SUMMARY = ("count", "dim", "dtype", "metric", "postings", "disk_bytes", "open_memory_most", "open_memory_least",
           "replicas_mean")  # fmt: skip
"""Entries of an index's info that sum up a build."""


def summary(info: dict[str, Any]) -> str:
    """One line on an index."""
    most, least = size(info["open_memory_most"]), size(info["open_memory_least"])
    memory = most if most == least else f"{least} to {most}"
    return (
        f"{info['count']} {info['dtype']} vectors of dimension {info['dim']} ({info['metric']}) in {info['postings']} "
        f"postings; {size(info['disk_bytes'])} on disk, {memory} of memory when open"
    )
