"""Documents are written in short sentences."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")),
)
MEDIAN, LONG, SHARE = 16, 35, 0.02
"""Words of the median sentence at most; words of a long sentence, and the share of these at most."""


def prose(text: str) -> list[str]:
    """The paragraphs and list items of a document, each in one line; no code, table, heading, picture or comment."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^( {4}|\||#|!\[|\[\^?\w+\]:).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^ *([-*]|\d+\.) ", "\n", text, flags=re.MULTILINE)
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a document's prose. A link counts as its text, code as a word for each blank in it."""
    found = []
    for block in prose(text):
        block = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", block).replace("**", "")
        found += re.split(r"(?<=[.?!])\)?\s+(?=[^a-z])", block)
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def length(sentence: str) -> int:
    """How many words a sentence has; signs that stand alone are none."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_sentences_are_short(name):
    found = sentences((ROOT / name).read_text(encoding="utf-8"))
    long = [sentence for sentence in found if length(sentence) > LONG]
    assert statistics.median(map(length, found)) <= MEDIAN
    assert len(long) <= SHARE * len(found), "\n".join(long)


def test_sentences_are_told_apart():
    text = "# Title\n\nOne [two](x.md) three. `Four` five:\n\n    code here\n\n- A 1.5 item.\n- It is 2.\n\n| a | b |\n"
    assert [length(sentence) for sentence in sentences(text)] == [3, 2, 3, 3]
