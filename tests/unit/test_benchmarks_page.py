"""The first table of docs/BENCHMARKS.md has the figures of the result that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks import curves

ROOT = Path(__file__).parents[2]


def cells(text: str) -> list[list[str]]:
    """The cells of each row of tables in markdown, without their first and without emphasis."""
    lines = [line for line in text.replace("*", "").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]


def test_the_first_table_is_that_of_the_result():
    page = (ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"benchmarks\.curves (\S+)", page)
    result = json.loads((ROOT / name).read_text(encoding="utf-8"))
    expected = cells(curves.table(list(curves.chosen(curves.series_of(result)))))
    shown = cells(page)
    assert shown[0] == expected[0]
    assert shown[2 : len(expected)] == expected[2:]
