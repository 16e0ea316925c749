"""The measured comparison as tables in markdown and as plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]

TARGETS = (0.90, 0.95, 0.98)

_CURVES: tuple[tuple[str, Callable[[Result], float | None]], ...] = (
    ("QPS 1 thread", lambda p: p["qps_1"]),
    ("QPS {threads} threads", lambda p: p["qps"]),
    ("latency ms", lambda p: p["latency_ms"]["mean"]),
    ("p99 ms", lambda p: p["latency_ms"]["p99"]),
    ("reads", lambda p: p["reads"].get("reads")),
    ("KiB read", lambda p: p["reads"]["bytes"] / 1024),
    ("CPU us", lambda p: p["cpu_us"]),
)
"""Columns with a value for each point of a sweep. Of the first two the largest is best, of the others the smallest."""


def at_recall(points: list[Result], target: float, value: Callable[[Result], float | None]) -> float | None:
    """`value` at a recall; None if the sweep does not reach it.

    It is interpolated in recall between two neighbouring points of the `sweep`. If both values are positive, their
    logarithms are interpolated. Below the first point it is the value of that point.
    """
    front = sweep(points)
    for low, high in zip([None, *front], front, strict=False):
        if high["recall"] >= target:
            b = value(high)
            a = value(low) if low is not None else b
            if low is None or a is None or b is None:
                return b
            share: float = (target - low["recall"]) / (high["recall"] - low["recall"])
            if a > 0 and b > 0:
                return math.exp(math.log(a) * (1 - share) + math.log(b) * share)
            return float(a * (1 - share) + b * share)
    return None


def sweep(points: list[Result]) -> list[Result]:
    """The points that make a curve, by recall. If one setting varies, these are all points, so no slow moment of the
    machine drops one. If several vary, these are the points that no other beats in both recall and QPS."""
    names = {name for p in points for name in p["settings"]}
    if sum(len({p["settings"].get(name) for p in points}) > 1 for name in names) <= 1:
        return sorted(points, key=lambda p: p["recall"])
    front: list[Result] = []
    for point in sorted(points, key=lambda p: (-p["recall"], -p["qps"])):
        if not front or (point["qps"] > front[-1]["qps"] and point["recall"] < front[-1]["recall"]):
            front.append(point)
    return front[::-1]


def markdown(out: Result) -> str:
    """The whole report."""
    count, threads = out["data"]["count"], out["threads"]
    lines = [
        f"Measured {out['date']} at commit {out['commit']}: {count:,} vectors of {out['data']['dim']} dimensions "
        f"({out['data']['dtype']}), {out['data']['queries']:,} queries, recall@{out['k']}. "
        f"{out['machine']['processor']}, {out['machine']['cores']} cores. {out['rounds']} rounds, medians.",
        "",
        "Values at a recall are interpolated in recall between neighbouring points of a series (of its best ones where "
        "several settings vary); `-`: not reached. Bold: best of the column in its group. "
        "DiskANN in the ratio is its best series at that recall.",
        "",
    ]
    for target in TARGETS:
        lines += [f"### Recall@{out['k']} {target:.2f}", "", *curve_table(out["series"], target, threads), ""]
    lines += ["### Memory, disk, build", "", *cost_table(out["series"], count), ""]
    failed = [s for s in out["series"] if "error" in s]
    if failed:
        lines += ["### Failed", "", *(f"- {s['name']}: {s['error']}" for s in failed), ""]
    lines += ["### Notes", "", *notes(out), ""]
    return "\n".join(lines)


def notes(out: Result) -> list[str]:
    """Lines of the list of notes on series, on the system, and of versions."""
    found = [f"- {s['name']}: {s['note']}" for s in out["series"] if s["note"]]
    found += [f"- This system has no {name}." for name, there in out["machine"]["offers"].items() if not there]
    versions = {k: v for s in out["series"] for k, v in s.get("versions", {}).items() if k not in ("python", "numpy")}
    return [*found, f"- Versions: {', '.join(f'{k} {v.strip()}' for k, v in sorted(versions.items()))}."]


def _groups(series: list[Result]) -> list[tuple[str, list[Result]]]:
    return [("from disk", [s for s in series if s["cold"]]), ("in memory", [s for s in series if not s["cold"]])]


def curve_table(series: list[Result], target: float, threads: int) -> list[str]:
    """Lines of the table of speed and cost at the recall `target`."""
    names = [name.format(threads=threads) for name, _ in _CURVES]
    lines = _head(["", *names[:2], "to DiskANN", *names[2:]])
    reference = max(
        (q for s in series if s["peer"] == "diskann" for q in [_value(s, target, lambda p: p["qps"])] if q),
        default=None,
    )
    for title, members in _groups(series):
        if members:
            lines.append(f"| *{title}* |" + " |" * (len(_CURVES) + 1))
        cells: list[list[float | None]] = []
        for s in members:
            values = [_value(s, target, value) for _, value in _CURVES]
            qps = values[1]
            cells.append([*values[:2], qps / reference if qps and reference else None, *values[2:]])
        best = _best(cells, [max, max, max, *[min] * (len(_CURVES) - 2)])
        for s, row in zip(members, cells, strict=True):
            lines.append(_row(s, row, best))
    return lines


def _value(series: Result, target: float, value: Callable[[Result], float | None]) -> float | None:
    return at_recall(series["points"], target, value) if "points" in series else None


def cost_table(series: list[Result], count: int) -> list[str]:
    """Lines of the table of memory, disk and build."""
    lines = _head(
        [
            "",
            "memory B/vector",
            "by its own account",
            "peak RSS MiB",
            "index MB",
            "build s",
            "build CPU s",
            "build peak MiB",
        ]
    )
    for title, members in _groups(series):
        if members:
            lines.append(f"| *{title}* |" + " |" * 7)
        cells = [_static(s, count) for s in members]
        best = _best(cells, [min] * 7)
        for s, row in zip(members, cells, strict=True):
            lines.append(_row(s, row, best))
    return lines


def _static(series: Result, count: int) -> list[float | None]:
    memory, build = series.get("memory"), series.get("build", {}).get("process")
    own = series.get("own_memory_bytes")
    return [
        memory["anonymous"] / count if memory else None,
        own / count if own else None,
        memory["peak_rss"] / 2**20 if memory else None,
        series["index_bytes"] / 1e6 if "index_bytes" in series else None,
        *([build["wall_s"], build["cpu_s"], build["peak_rss"] / 2**20] if build else [None] * 3),
    ]


def _best(cells: list[list[float | None]], kinds: Sequence[Callable[..., float]]) -> list[float | None]:
    out: list[float | None] = []
    for column, kind in enumerate(kinds):
        known = [v for row in cells if (v := row[column]) is not None]
        out.append(kind(known) if len(known) > 1 else None)
    return out


def _head(names: list[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _row(series: Result, values: list[float | None], best: list[float | None]) -> str:
    name = series["name"] + (" (failed)" if "error" in series else "")
    cells = []
    for value, top in zip(values, best, strict=True):
        text = "-" if value is None else _number(value)
        cells.append(f"**{text}**" if value is not None and top is not None and text == _number(top) else text)
    return f"| {name} | " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plots(out: Result, stem: Path) -> list[Path]:
    """Draws the plots `stem`-*.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    done = [s for s in out["series"] if "points" in s]
    colour = {s["name"]: plt.get_cmap("tab20")(i % 20) for i, s in enumerate(done)}
    files = []

    def save(figure: Any, name: str) -> None:
        file = stem.with_name(f"{stem.name}-{name}.png")
        figure.savefig(file, dpi=120, bbox_inches="tight")
        plt.close(figure)
        files.append(file)

    k, threads = out["k"], out["threads"]
    curves: tuple[tuple[str, str, Callable[[Result], float | None]], ...] = (
        ("qps", f"queries per second, {threads} threads", lambda p: p["qps"]),
        ("latency", "mean latency of single queries, ms", lambda p: p["latency_ms"]["mean"]),
        ("reads", "reads per query", lambda p: p["reads"].get("reads")),
    )
    for name, label, value in curves:
        figure, axes = plt.subplots(figsize=(8, 5.5))
        for s in done:
            places = [(p["recall"], v) for p in sweep(s["points"]) if (v := value(p)) and p["recall"] >= 0.8]
            style = "o-" if s["cold"] else "s--"
            if places and (s["cold"] or name != "reads"):
                axes.plot(*zip(*places, strict=True), style, color=colour[s["name"]], label=s["name"], markersize=4)
        axes.set(xlabel=f"recall@{k}", ylabel=label, yscale="log")
        axes.grid(alpha=0.3, which="both")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
        save(figure, name)
    bars: tuple[tuple[str, str, int], ...] = (
        ("memory", "memory of the open index, bytes per vector", 0),
        ("build", "build, CPU seconds", 5),
        ("size", "index on disk, MB", 3),
    )
    for name, label, column in bars:
        figure, axes = plt.subplots(figsize=(8, 0.4 * len(done) + 1))
        values = [_static(s, out["data"]["count"])[column] or 0 for s in done]
        bar = axes.barh([s["name"] for s in done], values, color=[colour[s["name"]] for s in done])
        axes.bar_label(bar, labels=[_number(v) for v in values], padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel=label)
        axes.margins(x=0.12)
        save(figure, name)
    return files
