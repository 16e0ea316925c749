"""Documents, docstrings and comments are written in short sentences."""

from __future__ import annotations

import statistics
from functools import cache
from pathlib import Path

import pytest

from tests.prose import BANNED, document, length, remarks, sentences

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")),
)
TREES = ("spann", "ext", "benchmarks", "tests", "docs/site")
KINDS = (".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".inc")
MEDIAN, LONG, SHARE = 16, 35, 0.02
"""Words of the median sentence at most; words of a long sentence, and the share of these at most."""


@cache
def remarks_of(tree):
    """(file, line, text) of every docstring and comment below a directory, but for files that Cython makes."""
    made = {file.with_suffix(".c") for file in (ROOT / "ext").glob("*.pyx")}
    files = [file for file in sorted((ROOT / tree).rglob("*")) if file.suffix in KINDS and file not in made]
    return [(file.relative_to(ROOT), line, text) for file in files for line, text in remarks(file)]


def check(found):
    long = [sentence for sentence in found if length(sentence) > LONG]
    assert statistics.median(map(length, found)) <= MEDIAN
    assert len(long) <= SHARE * len(found), "\n".join(long)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_sentences_of_documents_are_short(name):
    check(document((ROOT / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("tree", TREES)
def test_sentences_of_code_are_short(tree):
    check([sentence for _, _, text in remarks_of(tree) for sentence in sentences(text)])


@pytest.mark.parametrize("tree", TREES)
def test_remarks_name_what_they_are_about(tree):
    """No remark begins with "Of", and none has a phrase that stands for a noun somewhere else."""
    found = []
    for file, line, text in remarks_of(tree):
        text = " ".join(text.split())
        if text.startswith("Of ") or BANNED.search(text):
            found.append(f"{file}:{line}: {text[:100]}")
    assert found == []


def test_sentences_are_told_apart():
    text = "# Title\n\nOne [two](x.md) three. `Four` five:\n\n    code here\n\n- A 1.5 item.\n- It is 2.\n\n| a | b |\n"
    assert [length(sentence) for sentence in document(text)] == [3, 2, 3, 3]


def test_remarks_of_python_are_found(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        '"""One two.\n\n- Three four.\n- Five\n  six.\n\n>>> seven\neight\n\nNine.\n"""\n'
        'X = 1\n"""Ten."""\n# Eleven\n# twelve.\n\nY = "thirteen"  # fourteen\nZ = 2  # noqa: X1\n'
    )
    found = [sentence for _, remark in remarks(file) for sentence in sentences(remark)]
    assert found == ["One two.", "Three four.", "Five six.", "Nine.", "Ten.", "Eleven twelve.", "fourteen"]


def test_remarks_of_c_are_found(tmp_path):
    file = tmp_path / "x.c"
    file.write_text("/* One two\n * three. Four. */\nint five; /* six */\n// seven\n")
    assert [sentence for _, remark in remarks(file) for sentence in sentences(remark)] == [
        "One two three.",
        "Four.",
        "six",
        "seven",
    ]
