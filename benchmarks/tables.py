"""Tables of the documents, made of the results of benchmarks.

A document marks a table by `<!-- table NAME -->` and `<!-- end -->`. `tables()` gives the lines between them for each
name. `scripts/tables` writes them.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import classic, curves
from benchmarks.compare import report

RESULTS = Path(__file__).parent / "results"
PLACE = re.compile(r"(<!-- table ([\w.-]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)

Result = dict[str, Any]


def fill(text: str) -> str:
    """The document with every table made anew. Raises `KeyError` for an unknown name."""
    known = tables()
    return PLACE.sub(lambda place: f"{place[1]}{known[place[2]]()}{place[3]}", text)


def tables() -> dict[str, Callable[[], str]]:
    """The function that makes each table, by name."""
    found: dict[str, Callable[[], str]] = {"summary": summary}
    for data in ("sift", "minilm"):
        for target in report.TARGETS:
            found[f"{data}-{target:.2f}"] = lambda data=data, target=target: speeds(data, target)
        found[f"{data}-costs"] = lambda data=data: costs(data)
        found[f"{data}-notes"] = lambda data=data: notes(data)
    found |= {"batch": batch, "targets": targets, "ranges": ranges, "promises": promises}
    found |= {"codes-sift": lambda: codes(0), "codes-minilm": lambda: codes(1)}
    found |= {"classic": classic_targets, "classic-runs": classic_runs}
    found |= {"scaling": scaling, "builds": builds, "stages": stages, "searches": searches, "hnsw": hnsw}
    return found


@cache
def load(name: str) -> Any:
    """A result, by the name of its file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(header: list[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    """A table in markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def summary() -> str:
    return curves.table(list(curves.chosen(curves.series_of(load("compare-sift")))))


def speeds(data: str, target: float) -> str:
    out = load(f"compare-{data}")
    return "\n".join(report.curve_table(out["series"], target, out["threads"]))


def costs(data: str) -> str:
    out = load(f"compare-{data}")
    return "\n".join(report.cost_table(out["series"], out["data"]["count"]))


def notes(data: str) -> str:
    wrap = textwrap.TextWrapper(width=120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrap.fill(line) for line in report.notes(load(f"compare-{data}")))


def batch() -> str:
    out = load("batch")
    qps = out["median_qps"]
    reads = {run["order"]: run["reads_per_query"] for run in out["runs"]}
    header = ["SIFT", "queries", "query-major QPS", "posting-major QPS", "ratio", "reads per query", "posting-major"]
    row = ["all codes pinned", f"{out['queries']:,}", f"{qps['query']:,.0f}", f"{qps['posting']:,.0f}"]
    return markdown(header, [[*row, f"{out['ratio']:.1f}", f"{reads['query']:.1f}", f"{reads['posting']:.2f}"]])


def targets() -> str:
    cells: dict[tuple[str, int], dict[float, str]] = {}
    for cell in load("targets")["targets"]:
        row = cells.setdefault((cell["data"], cell["k"]), {})
        row[cell["target"]] = f"{cell['recall']:.3f}, {cell['cost']:.0f}"
    asked = list(next(iter(cells.values())))
    return markdown(
        ["", "k", *(f"{target:.2f}" for target in asked)],
        [[data, str(k), *(row[target] for target in asked)] for (data, k), row in cells.items()],
    )


def ranges() -> str:
    rows = []
    for data, cells in load("targets")["ranges"].items():
        found = {c["median_results"]: c for c in cells if "median_results" in c}
        precision = [(c["average_precision"], c["cost"] / c["cost_as_many"]) for c in found.values()]
        rows.append([data, *(f"{share:.3f}, {ratio:.2f}" for share, ratio in precision)])
    return markdown(["", *map(str, found)], rows)


def promises() -> str:
    """Cells whose recall is more than 0.01 below their target."""
    rows = []
    for run in load("promises"):
        for cell in run["cells"]:
            if cell["recall"] < cell["target"] - 0.01:
                row = [run["family"], run["metric"], run["kind"], str(cell["k"]), f"{cell['target']:g}"]
                rows.append([*row, f"{cell['recall']:.3f}", f"{cell['error']:.3f}"])
    return markdown(["family", "metric", "kind", "k", "target", "had", "standard error"], rows)


def codes(number: int) -> str:
    data = load("codes")["data"][number]
    ratio = data["ceiling"] / data["targets"]["ceiling"]
    rows = []
    for name, method in data["methods"].items():
        reference = [t * ratio for t in data["targets"].get(name.removeprefix("faiss "), []) if t is not None]
        shown = name if name.startswith(("RaBitQ", "OSQ")) else f"faiss {name}"
        recalls = [f"{recall:.3f}" for recall in method["recall"]]
        rows.append([shown, str(method["bytes"]), *recalls, " / ".join(f"{r:.3f}" for r in reference)])
    return markdown([data["name"], "bytes", "15", "20", "30", "50", "reference"], rows)


def classic_targets() -> str:
    found = classic.rows(load("classic"))
    rows = []
    for name, unit, target, ceiling, reference in classic.TABLE:
        measured = f"{found[name]:.4g} {unit}".strip()
        rows.append([name, measured, f"{'<=' if ceiling else '>='} {target}", reference])
    return markdown(["what", "measured", "must reach", "reference"], rows)


def classic_runs() -> str:
    rows = []
    for io, runs in load("classic")["runs"].items():
        for run in sorted(runs, key=lambda r: (r["settings"]["max_postings"], r["settings"]["threads"])):
            settings, cost, ms = run["settings"], run["per_query"], run["latency_ms"]
            row = [io, str(settings["threads"]), str(settings["max_postings"]), f"{run['recall']:.4f}"]
            row += [f"{run['qps']:.0f}", f"{ms['mean']:.2f}", f"{ms['p99']:.2f}"]
            rows.append([*row, f"{cost['pages_read']:.1f}", f"{cost['bytes_read'] / 1024:.0f}"])
    return markdown(["io", "threads", "postings", "recall@10", "QPS", "mean ms", "p99 ms", "pages", "KiB"], rows)


def measured() -> list[Result]:
    """Results of collections that were built and searched, by size."""
    found: list[Result] = [*load("scaling")["results"], *load("scaling-30m")["results"]]
    return sorted(found, key=lambda out: out["count"])


def scaling() -> str:
    two = load("scaling")["results"]
    facts: dict[str, Callable[[Result], str]] = {
        "build": lambda o: f"{o['build']['seconds']:.0f} s",
        "memory to build": lambda o: f"{o['build']['peak_rss'] / 2**20:.0f} MiB",
        "index on disk": lambda o: f"{o['search']['disk_bytes'] / 1e6:,.0f} MB",
        "memory when open, all codes": lambda o: f"{o['search']['open_memory_bytes'] / 1e6:,.0f} MB",
        "queries a second at recall@10 0.95, 2 threads": lambda o: f"{o['search']['at']['0.95']['qps']:,.0f}",
    }
    header = ["SIFT, 2 cores", *(f"{out['count'] // 1_000_000} million" for out in two)]
    return markdown(header, [[name, *map(fact, two)] for name, fact in facts.items()])


def builds() -> str:
    """Measured builds, with the predictions in brackets. A result of an earlier plan has none."""
    header = ["vectors", "build, s", "index, MB", "temporary, MB", "peak RSS, MiB", "open, B a vector"]
    rows = []
    for out in measured():
        plan, build, search = out["plan"], out["build"], out["search"]
        facts = [
            (f"{build['seconds']:.0f}", f"{plan['seconds']:.0f}"),
            (f"{search['disk_bytes'] / 1e6:,.0f}", f"{plan['disk_bytes'] / 1e6:,.0f}"),
            (f"{build['temporary_bytes'] / 1e6:,.0f}", f"{plan['temporary_bytes'] / 1e6:,.0f}"),
            (f"{build['peak_rss'] / 2**20:,.0f}", f"{plan['memory_bytes'] / 2**20:,.0f}"),
            (f"{search['open_memory_bytes_per_vector']:.2f}", f"{plan['open_memory_bytes'] / out['count']:.2f}"),
        ]
        again = "resume" in out
        row = [f"{out['count']:,}", *(f"{real} ({predicted})" if again else real for real, predicted in facts)]
        rows.append([*row, f"{100 * out['resume']['seconds'] / build['seconds']:.0f} %" if again else ""])
    return markdown([*header, "to finish after a kill at half time"], rows)


def stages() -> str:
    names = ["scan", "partition", "cluster", "refine", "assign", "graph", "layout", "arrange", "write", "truth"]
    names.append("calibrate")
    rows = []
    for out in measured():
        seconds = [out["build"]["stages"][name] for name in names]
        rows.append([f"{out['count']:,}", *(f"{s:.0f}" if s >= 100 else f"{s:.1f}" for s in seconds)])
    return markdown(["vectors", *names], rows)


def searches() -> str:
    header = ["recall@10", "vectors", "pages", "reads", "codes scored", "centroids scored", "computing, us"]
    rows = []
    for target in ("0.95", "0.98"):
        for out in measured():
            at = out["search"]["at"][target]
            row = [target, f"{out['count']:,}", f"{at['pages_read']:.1f}", f"{at['reads']:.1f}"]
            row += [f"{at['estimates']:,.0f}", f"{at['centroid_distances']:,.0f}", f"{at['compute_us']:.0f}"]
            rows.append([*row, f"{at['cpu_us']:.0f}", f"{at['qps']:,.0f}"])
    return markdown([*header, "processor, us", "QPS"], rows)


def hnsw() -> str:
    rows = []
    for out in load("hnsw"):
        at = out["at"]["0.95"]
        row = [f"{out['count']:,}", f"{at['compared']:,.0f}", f"{at['cpu_us']:.0f}"]
        rows.append([*row, f"{out['build_seconds']:,.0f}"])
    return markdown(["vectors", "compared", "processor, us", "build, s"], rows)
