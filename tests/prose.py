"""The sentences of documents, docstrings and comments, for the test of their words."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

BANNED = re.compile(
    r"\bof which\b|\bsuch that are\b|\bone that\b|\bin force\b|\b(is|are) owed\b|\bgoes on with\b|\bgone on with\b"
    r"|\bwhat is (\w+ )?is\b"
)
"""Phrases that send a reader back to look for their noun."""


def document(text: str) -> list[str]:
    """The sentences of a document in Markdown. A link counts as its text, code as a word for each blank in it."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^( {4}|\||#|!\[|\[\^?\w+\]:).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^ *([-*]|\d+\.) ", "\n", text, flags=re.MULTILINE)
    return sentences(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("**", ""))


def sentences(text: str) -> list[str]:
    """The sentences of paragraphs. Blank lines end a paragraph."""
    blocks = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    found = [sentence for block in blocks for sentence in re.split(r"(?<=[.?!])\)?\s+(?=[^a-z])", block)]
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def length(sentence: str) -> int:
    """How many words a sentence has. Signs that stand alone do not count."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def remarks(file: Path) -> Iterator[tuple[int, str]]:
    """The docstrings and comments of a source file, each with its line: paragraphs, without examples and tables."""
    text = file.read_text(encoding="utf-8")
    if file.suffix in (".c", ".h", ".inc"):
        found = _blocks(r"/\*(.*?)\*/|//([^\n]*)", text)
    elif file.suffix in (".pyx", ".pxd"):
        found = [*_blocks(r'"""(.*?)"""', text), *_blocks(r"((?:^ *#[^\n]*\n)+)", text)]
    else:
        found = [*_docstrings(text), *_comments(text)]
    for line, remark in found:
        yield line, _paragraphs(remark)


def _blocks(pattern: str, text: str) -> list[tuple[int, str]]:
    matches = re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, m.start()) + 1, next(filter(None, m.groups()), "")) for m in matches]


def _docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings, and strings that explain a constant or a field."""
    bodies = [ast.parse(source).body]
    while bodies:
        for part in bodies.pop():
            text = part.value.value if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) else None
            if isinstance(text, str):
                yield part.lineno, text
            body = getattr(part, "body", None)
            if isinstance(body, list):
                bodies.append(body)


def _comments(text: str) -> list[tuple[int, str]]:
    """Comments, those on lines of their own joined as far as they follow each other."""
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    alone = [t.line.lstrip().startswith("#") for t in tokens]
    found = [(t.start[0], t.string.lstrip("# ")) for t in tokens]
    joined = found[:1]
    for number, (one, other) in enumerate(pairwise(found)):
        if alone[number] and alone[number + 1] and other[0] == one[0] + 1:
            joined[-1] = joined[-1][0], f"{joined[-1][1]}\n{other[1] or ' '}"
        else:
            joined.append(other)
    return [remark for remark in joined if not remark[1].startswith(("noqa", "type:", "fmt:", "!", "shellcheck"))]


def _paragraphs(remark: str) -> str:
    """A remark without examples, tables and rules, and with each item and parameter as a paragraph."""
    remark = re.sub(r"^[ \t]*(\*|#)[ \t]?", "", remark, flags=re.MULTILINE)
    remark = re.sub(r"^ *>>> .*?(?=^ *$|\Z)", "", remark, flags=re.DOTALL | re.MULTILINE)
    remark = re.sub(r"^.*\S   +\S.*$|^ *[-=]{3}.*$", "\n", remark, flags=re.MULTILINE)
    remark = re.sub(r"^ {4,}\S+( \S+)* : .*$|^.*:\n(?=\n    )", "\n", remark, flags=re.MULTILINE)
    return re.sub(r"^ *([-*]|\d+\.) ", "\n", remark, flags=re.MULTILINE)
