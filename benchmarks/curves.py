"""The first plot of docs/BENCHMARKS.md, from a result of benchmarks.compare.

    python -m benchmarks.curves benchmarks/results/compare-sift.json docs/curves.svg

draws recall against queries a second from disk: spann, and the best series of each peer. It prints a table of their
costs, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.compare.report import at_recall, sweep

Series = dict[str, Any]

TARGET = 0.95
"""Recall at which series are compared, and which the table shows."""

SHOWN = 0.78
"""The least recall that the plot shows."""

COLOURS = {"spann": "#0b7285", "diskann": "#e8590c", "faiss": "#7048e8", "lance": "#868e96"}

COLUMNS: dict[str, Callable[[Series], str]] = {
    "queries a second": lambda s: f"{_at(s, lambda p: p['qps']):,.0f}",
    "ms alone": lambda s: f"{_at(s, lambda p: p['latency_ms']['mean']):.2f}",
    "reads": lambda s: f"{_at(s, lambda p: p['reads']['reads']):.0f}" if s["cold"] else "-",
    "memory, bytes a vector": lambda s: f"{s['memory']['anonymous'] / s['count']:.0f}",
    "index, MB": lambda s: f"{s['index_bytes'] / 1e6:,.0f}",
    "build, s": lambda s: f"{s['build']['process']['wall_s']:,.0f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("svg", type=Path)
    args = parser.parse_args()
    result = json.loads(args.result.read_text(encoding="utf-8"))
    series = list(chosen(series_of(result)))
    print(table(series))
    draw(result, [s for s in series if s["cold"]], args.svg)


def series_of(result: dict[str, Any]) -> list[Series]:
    """The measured series, each with the number of vectors."""
    return [{**s, "count": result["data"]["count"]} for s in result["series"] if "points" in s]


def chosen(series: list[Series]) -> Iterator[Series]:
    """All series of spann, and the fastest series of each peer at the target recall. Series from disk come first."""
    for cold in (True, False):
        peers: dict[str, list[Series]] = {}
        for s in series:
            if s["cold"] == cold:
                peers.setdefault(s["peer"], []).append(s)
        for peer, members in peers.items():
            yield from members if peer == "spann" else [max(members, key=lambda s: _at(s, lambda p: p["qps"]))]


def table(series: list[Series]) -> str:
    """A row for each series, a column for each cost at the target recall. Bold: the best from disk."""
    cells = [[value(s) for value in COLUMNS.values()] for s in series]
    best = []
    for number in range(len(COLUMNS)):
        known = [row[number] for s, row in zip(series, cells, strict=True) if s["cold"]]
        best.append((max if number == 0 else min)(known, key=lambda text: float(text.replace(",", ""))))
    lines = [f"|  | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for s, row in zip(series, cells, strict=True):
        shown = [f"**{text}**" if s["cold"] and text == top else text for text, top in zip(row, best, strict=True)]
        name = s["name"] if s["cold"] else f"*in memory:* {s['name'].removesuffix(' (in memory)')}"
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def draw(result: dict[str, Any], series: list[Series], path: Path) -> None:
    """Writes the plot to `path`. The same result gives the same file."""
    import matplotlib

    matplotlib.rcParams.update({"svg.hashsalt": "spann", "svg.fonttype": "none", "font.size": 11})
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for s in series:
        points = [(p["recall"], p["qps"]) for p in sweep(s["points"]) if p["recall"] >= SHOWN]
        second = s["peer"] == "spann" and s is not series[0]
        style: dict[str, Any] = {"color": COLOURS[s["peer"]], "linestyle": "--" if second else "-", "label": s["name"]}
        axes.plot(*zip(*points, strict=True), linewidth=2.2, marker="o", markersize=4, **style)
    axes.set(yscale="log", xlabel=f"recall@{result['k']}", ylabel=f"queries a second, {result['threads']} threads")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(f"{result['data']['count']:,} SIFT vectors, read from disk: higher and further right is better")
    axes.xaxis.set_major_locator(MultipleLocator(0.05))
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _at(series: Series, value: Callable[[Series], float]) -> float:
    """A value at the target recall; 0 if the series does not reach it."""
    return at_recall(series["points"], TARGET, value) or 0.0


if __name__ == "__main__":
    main()
