"""Drawings: recall against queries per second, and what an index looks like."""

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


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw what `spann.tune.evaluate` returned to the PNG file `path`, a line for each number of threads."""
    # Without pyplot, which would look for a display, and only here: it takes longer to import than most commands run.
    from matplotlib.figure import Figure

    lines: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
    for run in report["runs"]:
        settings = run["settings"]
        lines[settings["threads"]].append((run["recall"], run["qps"], settings["max_postings"]))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for threads, points in sorted(lines.items()):
        recall, speed, _ = zip(*sorted(points), strict=True)
        axes.plot(recall, speed, marker="o", label=f"{threads} thread{'s' if threads > 1 else ''}")
        for x, y, postings in points:
            axes.annotate(str(postings), (x, y), textcoords="offset points", xytext=(5, 5), fontsize="small")
    axes.set_yscale("log")
    axes.set_xlabel(f"recall@{report['runs'][0]['settings']['k']} (labels: postings read at most)")
    axes.set_ylabel("queries per second")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    _save(figure, path)


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
