"""`spann report`: one whole, well-formed page on the index and its searches."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import spann
from spann.progress import size
from spann.testing import clustered

Run = Callable[..., Result]
Refused = Callable[..., str]

pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """Tags that are open, headings, and the rows of tables as lists of text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "rect", "use", "path", "br", "line"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: object) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_report_of_an_index(run: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    result = run("report", data / "index.spann", "-o", out, "-q")
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.headings == [
        "index.spann",
        "Planned and measured",
        "Disk",
        "Memory when open",
        "Postings",
        "Parameters",
    ]
    assert not re.search(r"(src|href)=.http|<script|<link", text), "everything is in the file"
    with spann.open(data / "index.spann") as index:
        info = index.info()
    rows = {row[0]: row[1:] for row in reversed(page.rows)}  # the first of a name counts
    assert rows["vectors"] == ["3,000"]
    assert rows["disk"][1] == size(info["disk_bytes"])
    assert rows["centroids"][0] == rows["centroids"][1]
    assert rows["postings/pages"][0] == size(info["disk"]["postings/pages"])
    assert rows["seed"] == ["0"]
    assert text.count("<svg") == len(info["disk"]) + len(info["open_memory"]) + 1


def test_report_of_searches(run: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    args = ("report", data / "index.spann", data / "queries.npy", data / "truth.ibin", "-o", out, "-q")
    assert run(*args).exit_code == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert "Searches for 10 neighbours" in page.headings
    at = next(i for i, row in enumerate(page.rows) if row[:2] == ["postings", "recall@10"])
    recalls = [float(row[1]) for row in page.rows[at + 1 : at + 7]]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.9


def test_report_uses_calibrated_recalls(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spann.cli.report.TARGETS", (0.8, 0.9, 0.999999))
    base, queries = clustered(2500, 32, 30, 1, "uint8")
    np.save(tmp_path / "b.npy", base)
    np.save(tmp_path / "q.npy", queries)
    spann.build(base, tmp_path / "a<b", params=spann.BuildParams(calibration_queries=300)).close()
    assert run("truth", tmp_path / "b.npy", tmp_path / "q.npy", "-o", tmp_path / "t.ibin", "-q").exit_code == 0
    args = ("report", tmp_path / "a<b", tmp_path / "q.npy", tmp_path / "t.ibin", "-q", "-o", tmp_path / "r.html")
    assert run(*args).exit_code == 0
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.headings[0] == "a<b"
    at = next(i for i, row in enumerate(page.rows) if row[:2] == ["postings", "recall@10"])
    with spann.open(tmp_path / "a<b") as index:
        assert page.rows[at + 1][0] == str(index.params_for(0.8).max_postings)


def test_refuses(refused: Refused, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries, out = data / "index.spann", data / "queries.npy", tmp_path / "r.html"
    assert "QUERIES were given without TRUTH" in refused(2, "report", index, queries, "-o", out)
    assert "extension '.pdf'" in refused(2, "report", index, "-o", tmp_path / "r.pdf")
    assert "Missing option '-o'" in refused(2, "report", index)
    assert "no index at" in refused(2, "report", tmp_path / "none", "-o", out)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "spann report needs matplotlib: pip install 'spann-index[plot]'" in refused(2, "report", index, "-o", out)
    assert not out.exists()


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")])
def test_the_suffix_of_a_plot_decides_its_format(
    run: Run, data: Path, tmp_path: Path, suffix: str, start: bytes
) -> None:
    assert run("info", data / "index.spann", "--plot", tmp_path / f"p{suffix}").exit_code == 0
    assert (tmp_path / f"p{suffix}").read_bytes().startswith(start)
