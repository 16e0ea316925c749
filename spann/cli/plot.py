"""Drawings: recall against speed and cost, and what an index looks like."""

from __future__ import annotations

import importlib.util
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

from spann.errors import InputError, StorageError
from spann.vectors.sinks import check_path


def check_plot(path: Path) -> None:
    """Refuse, before anything is measured, a plot that could not be drawn or written."""
    check_path(path, (".png",))
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install 'spann[plot]'")


PANELS = {
    "queries per second": "qps",
    "CPU time of a query, us": "cpu_us",
    "4 KiB pages read for a query": "pages_read",
    "reads for a query": "reads",
    "codes scored for a query": "estimates",
    "vectors scored exactly for a query": "distances",
}
"""What is drawn against recall, and the entry of a run that says it; a cost that no run had is left out."""


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw what `spann.tune.evaluate` returned to the PNG file `path`."""
    _save(curves(report), path)


def curves(report: dict[str, Any]) -> Any:
    """Recall against speed and against each cost of a query, a panel for each, in it a line for each number of threads:
    a matplotlib Figure."""
    # Without pyplot, which would look for a display, and only here: it takes longer to import than most commands run.
    from matplotlib.figure import Figure

    lines: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for run in sorted(report["runs"], key=lambda run: run["recall"]):
        lines[run["settings"]["threads"]].append({"qps": run["qps"], **run["per_query"], **run})
    every = [run for runs in lines.values() for run in runs]
    panels = {label: name for label, name in PANELS.items() if any(run[name] for run in every)}
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(10.5, 3.6 * rows), layout="constrained")
    places = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (label, name) in zip(places, panels.items(), strict=False):
        for threads, runs in sorted(lines.items()):
            recall, value = [run["recall"] for run in runs], [run[name] for run in runs]
            axes.plot(recall, value, marker="o", label=f"{threads} thread{'s' if threads > 1 else ''}")
            for run, x, y in zip(runs, recall, value, strict=True):
                label_of = str(run["settings"]["max_postings"] or "default")
                axes.annotate(label_of, (x, y), textcoords="offset points", xytext=(5, 5), fontsize="small")
        axes.set_yscale("log" if all(run[name] for run in every) else "linear")
        axes.margins(0.1)
        axes.set_ylabel(label)
        axes.grid(visible=True, which="both", alpha=0.3)
    for axes in places[len(panels) :]:
        axes.remove()
    figure.supxlabel(f"recall@{report['runs'][0]['settings']['k']} (labels: postings scored at most)")
    places[0].legend()
    return figure


def draw_index(info: dict[str, Any], path: Path) -> None:
    """Draw the postings of an index by length and by replicas (closure), and its calibration if it has one."""
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
        for k, rows in calibration["curves"].items():
            axes[2].plot([row[postings] for row in rows], [row[recall] for row in rows], marker=".", label=f"k {k}")
        axes[2].set_xscale("log")
        axes[2].set_xlabel("postings scored")
        axes[2].set_ylabel("recall")
        axes[2].grid(visible=True, alpha=0.3)
        axes[2].legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png")
    try:
        path.write_bytes(image.getvalue())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
