"""`spann report`: one HTML file on an index and its searches, with drawings inside."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import spann
from spann.cli.inputs import SOURCE
from spann.cli.options import FILE, Command, k_option, memory_budget_option, quiet_option
from spann.cli.plot import check_library, curves, index_figure, svg
from spann.cli.progress import progress_report
from spann.cli.text import say
from spann.config import BuildParams, SearchParams
from spann.errors import StorageError
from spann.measuring import evaluate as measure
from spann.progress import size
from spann.vectors import UnreadSource, open_queries, read_truth
from spann.vectors.sinks import check_path

TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
"""Recalls to measure searches at, if the calibration knows them."""

POSTINGS = (4, 8, 16, 32, 64, 128)
"""Numbers of postings to measure instead, without a calibration."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd }
th { text-align: left; font-weight: 600 } td { text-align: right } svg { max-width: 100%; height: auto }
"""


@click.command(cls=Command)
@click.argument("index", type=FILE)
@click.argument("queries", type=SOURCE, required=False)
@click.argument("truth", type=FILE, required=False)
@click.option("-o", "--output", type=FILE, required=True, metavar="OUT", help="The .html file to write.")
@k_option()
@memory_budget_option
@quiet_option
def report(
    index: Path, queries: str | None, truth: Path | None, output: Path, k: int, memory_budget: str, quiet: bool
) -> None:
    """Write an HTML page on INDEX: sizes, posting lengths, and the plan against the result.

    With QUERIES, and TRUTH from `spann truth`, it also measures recall, speed and latencies of searches.
    """
    if queries is not None and truth is None:
        raise click.UsageError("QUERIES were given without TRUTH; `spann truth` makes it")
    check_path(output, (".html",))
    check_library("spann report")
    runs = None
    with spann.open(index, memory_budget=memory_budget) as opened:
        info = opened.info()
        if queries is not None and truth is not None:
            known = read_truth(truth)
            with open_queries(queries) as source, progress_report(quiet) as progress:
                vectors = source.read(0, source.count)
                settings = _settings(opened, k)
                runs = measure(opened, vectors, known, k, settings, (1,), truth_name=str(truth), progress=progress)
    page = "".join(_page(info, runs))
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror}") from error
    say(f"{output}: {size(len(page.encode()))}")


def _settings(index: spann.Index, k: int) -> list[SearchParams]:
    """A setting for each recall that the calibration knows, or for each number of postings."""
    if index.calibration is not None and (known := [goal for goal in TARGETS if index.calibration.reaches(goal, k)]):
        return [index.params_for(goal, k) for goal in known]
    return [SearchParams(max_postings=count) for count in POSTINGS]


def _page(info: dict[str, Any], runs: dict[str, Any] | None) -> Iterator[str]:
    name = html.escape(Path(info["path"]).name)
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
    yield f"<style>{STYLE}</style></head><body><h1>{name}</h1>"
    yield html_table(
        ("", ""),
        [
            ("vectors", f"{info['count']:,}"),
            ("dimension", f"{info['dim']}"),
            ("element type", info["dtype"]),
            ("metric", info["metric"]),
            ("codes", f"{info['code_bits']} bits a dimension" if info["code_bits"] else "none"),
            ("postings", f"{info['postings']:,}"),
            ("postings per vector", f"{info['replicas_mean']:.2f}"),
            ("generation", f"{info['generation']}"),
            ("made by", info["created_by"]),
        ],
    )
    yield "<h2>Planned and measured</h2>"
    yield "<p>The prediction of <code>spann plan</code> for such a build, and the index itself.</p>"
    yield html_table(("", "planned", "measured"), _planned(info))
    yield "<h2>Disk</h2>" + _shares(info["disk"])
    yield "<h2>Memory when open</h2>" + _shares(info["open_memory"])
    yield "<h2>Postings</h2>" + svg(index_figure(info))
    if runs is not None:
        k = runs["runs"][0]["settings"]["k"]
        yield f"<h2>Searches for {k} neighbours</h2>" + svg(curves(runs))
        yield "<p>A latency is the time of one query, while its thread works on others too.</p>"
        yield html_table(("postings", f"recall@{k}", "queries per second", "mean ms", "p50", "p95", "p99"), _runs(runs))
    yield "<h2>Parameters</h2>"
    yield html_table(("", ""), [(key, "default" if value is None else f"{value}") for key, value in _parameters(info)])
    yield "</body></html>\n"


def _parameters(info: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(info["parameters"].items())


def _planned(info: dict[str, Any]) -> list[tuple[str, str, str]]:
    plan = spann.plan(
        UnreadSource("the index", info["count"], info["dim"], info["dtype"]),
        metric=info["metric"],
        params=BuildParams(**info["parameters"]),
        memory_limit=sys.maxsize,
    )
    return [
        ("centroids", f"{plan.centroids:,}", f"{info['centroids']:,}"),
        ("disk", size(plan.disk_bytes), size(info["disk_bytes"])),
        ("memory when open, most", size(plan.open_memory_bytes), size(info["open_memory_most"])),
        ("memory when open, least", size(plan.open_memory_least), size(info["open_memory_least"])),
    ]


def _shares(sizes: dict[str, int]) -> str:
    """A table of sizes, the largest first, with bars."""
    whole = max(1, sum(sizes.values()))
    rows = []
    for name, taken in sorted(sizes.items(), key=lambda item: -item[1]):
        width = 240 * taken / whole
        bar = f'<svg width="240" height="10"><rect width="{width:.1f}" height="10" fill="#1f77b4"/></svg>'
        rows.append(
            f"<tr><th>{html.escape(name)}</th><td>{size(taken)}</td><td>{taken / whole:.1%}</td><td>{bar}</td></tr>"
        )
    return f"<table>{''.join(rows)}<tr><th>in all</th><td>{size(sum(sizes.values()))}</td></tr></table>"


def _runs(report: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (
            f"{run['settings']['max_postings']}",
            f"{run['recall']:.4f}",
            f"{run['qps']:,.0f}",
            *(f"{run['latency_ms'][part]:.2f}" for part in ("mean", "p50", "p95", "p99")),
        )
        for run in report["runs"]
    ]


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = (
        f"<tr><th>{html.escape(first)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if any(header) else ''}{''.join(lines)}</table>"
