"""Tables in documents have the figures of the results that they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_tables_are_those_of_the_results(file):
    text = file.read_text(encoding="utf-8")
    assert tables.fill(text) == text, "run scripts/tables"


def test_every_table_is_in_a_document():
    placed = [place[1] for file in DOCUMENTS for place in tables.PLACE.findall(file.read_text(encoding="utf-8"))]
    assert sorted(placed) == sorted(tables.tables())


def test_a_wrong_figure_is_replaced():
    text = "Before.\n\n<!-- table batch -->\n| all codes pinned | 1 |\n<!-- end -->\n\nAfter.\n"
    filled = tables.fill(text)
    assert filled.startswith("Before.\n\n<!-- table batch -->\n| SIFT | queries |")
    assert "| all codes pinned | 100,000 | 10,910 | 13,195 |" in filled
    assert filled.endswith("|\n<!-- end -->\n\nAfter.\n")


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        tables.fill("<!-- table nothing -->\n|\n<!-- end -->\n")


def test_the_script_tells_what_is_out_of_date():
    done = subprocess.run([sys.executable, ROOT / "scripts/tables", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
