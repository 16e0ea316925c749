"""Drawings: recall against speed and cost, and the postings of an index."""

from __future__ import annotations

import importlib.util
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

from spann.errors import InputError, StorageError
from spann.vectors.sinks import check_path

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Refuses a plot that could not be drawn or written, before anything is measured."""
    check_path(path, FORMATS)
    check_library("--plot")


def check_library(what: str) -> None:
    """Raises `InputError` if matplotlib, which `what` needs, is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(f"{what} needs matplotlib: pip install 'spann-index[plot]'")


PANELS = {
    "Speed (queries a second)": "qps",
    "Processor time of a query (µs)": "cpu_us",
    "Pages of 4 KiB read by a query": "pages_read",
    "Reads by a query": "reads",
    "Codes scored by a query": "estimates",
    "Vectors scored exactly by a query": "distances",
}
"""Title of each panel, and the entry of a run that it shows. A panel without values is left out."""

WIDE = 5.0
"""A panel whose largest value is so many times its smallest has a logarithmic axis."""


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws the report of an evaluation to the file `path`."""
    _save(curves(report), path)


def curves(report: dict[str, Any]) -> Any:
    """A matplotlib Figure: a panel for speed and for each cost of a query, against recall; a line for each number of
    threads. A run that another beats in both recall and the panel's value is a point off the line."""
    # Without pyplot, which would look for a display. Imported only here, because it takes longer than most commands
    # run.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lines: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for run in sorted(report["runs"], key=lambda run: run["recall"]):
        lines[run["settings"]["threads"]].append({"qps": run["qps"], **run["per_query"], **run})
    every = [run for runs in lines.values() for run in runs]
    panels = {title: name for title, name in PANELS.items() if any(run[name] for run in every)}
    rows, k = -(-len(panels) // 2), report["runs"][0]["settings"]["k"]
    figure = Figure(figsize=(10.5, 0.6 + 3.2 * rows), layout="constrained")
    figure.suptitle(f"What recall@{k} costs (numbers: postings scored at most)")
    places = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (title, name) in zip(places, panels.items(), strict=False):
        for place, (threads, runs) in enumerate(sorted(lines.items())):
            best = _front(runs, name)
            label = f"{threads} thread{'s' if threads > 1 else ''}"
            (line,) = axes.plot([run["recall"] for run in best], [run[name] for run in best], marker="o", label=label)
            rest = [run for run in runs if run not in best]
            axes.plot([run["recall"] for run in rest], [run[name] for run in rest], ".", color=line.get_color())
            for run in best if place == 0 else []:
                text, at = str(run["settings"]["max_postings"] or "default"), (run["recall"], run[name])
                axes.annotate(text, at, textcoords="offset points", xytext=(4, -11), fontsize="small")
        values = [run[name] for run in every]
        if min(values) > 0 and max(values) >= WIDE * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.margins(0.1)
        else:
            axes.margins(0.1)
            axes.set_ylim(0, 1.15 * max(values))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel(f"recall@{k}", fontsize="small")
        axes.grid(visible=True, which="both", alpha=0.3)
    for axes in places[len(panels) :]:
        axes.remove()
    places[0].legend()
    return figure


def _front(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The Pareto front of `runs`, by rising recall: no other run beats them in both recall and the value of `name`."""
    sign = -1.0 if name == "qps" else 1.0
    best: list[dict[str, Any]] = []
    for run in sorted(runs, key=lambda run: (-run["recall"], sign * run[name])):
        if not best or sign * run[name] < sign * best[-1][name]:
            best.append(run)
    return best[::-1]


def draw_index(info: dict[str, Any], path: Path) -> None:
    """Draws the postings of an index by length and by replicas, and its calibration if it has one."""
    _save(index_figure(info), path)


def index_figure(info: dict[str, Any]) -> Any:
    """The drawing of `draw_index` as a matplotlib Figure."""
    from matplotlib.figure import Figure

    calibration = info["calibration"]
    figure = Figure(figsize=(11 if calibration else 7.5, 3.8), layout="constrained")
    axes = figure.subplots(1, 3 if calibration else 2)
    for place, name, label in (
        (axes[0], "posting_length", "entries of a posting"),
        (axes[1], "posting_replicas", "of these, replicas"),
    ):
        histogram = info[name]["histogram"]
        place.stairs(histogram["counts"], histogram["edges"], fill=True)
        place.set_xlabel(label)
        place.set_ylabel("postings")
    if calibration:
        recall, postings = (calibration["columns"].index(name) for name in ("recall", "postings"))
        for k, rows in sorted(calibration["curves"].items(), key=lambda curve: int(curve[0])):
            axes[2].plot([row[postings] for row in rows], [row[recall] for row in rows], marker=".", label=f"k {k}")
        axes[2].set_xscale("log")
        axes[2].set_xlabel("postings scored")
        axes[2].set_ylabel("recall")
        axes[2].grid(visible=True, alpha=0.3)
        axes[2].legend()
    return figure


def svg(figure: Any) -> str:
    """A figure as an SVG element of an HTML page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _save(figure: Any, path: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix.lower()[1:])
    try:
        path.write_bytes(image.getvalue())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
