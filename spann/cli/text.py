"""Text for people: tables, sizes, and reports of measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click


def print_json(document: Any) -> None:
    """One JSON document on standard output; what JSON cannot hold, as infinity, is an error rather than not JSON."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the right, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes with a unit of 1000: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def runs_table(report: dict[str, Any]) -> str:
    """What `spann.tune.evaluate` returned, a line for each run."""
    runs = report["runs"]
    k = runs[0]["settings"]["k"]
    header = [
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
"""Entries of an index's info that say in brief what was built."""


def summary(info: dict[str, Any]) -> str:
    """One line on an index."""
    most, least = size(info["open_memory_most"]), size(info["open_memory_least"])
    memory = most if most == least else f"{least} to {most}"
    return (
        f"{info['count']} {info['dtype']} vectors of dimension {info['dim']} ({info['metric']}) in {info['postings']} "
        f"postings; {size(info['disk_bytes'])} on disk, {memory} of memory when open"
    )
