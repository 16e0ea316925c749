"""Functions take few arguments by position; more are given by name, or as one object."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "spann"
MOST = 6
FREE = ("cli", "_kernels")
"""Packages whose functions mirror a command line, or a call of C."""


def functions():
    """(place, positional parameters) of every function outside of the packages that are free."""
    for file in sorted(ROOT.rglob("*.py")):
        name = file.relative_to(ROOT)
        if name.parts[0] in FREE:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [parameter.arg for parameter in (*node.args.posonlyargs, *node.args.args)]
                yield f"{name}:{node.lineno} {node.name}", given[given[:1] in (["self"], ["cls"]) :]


def test_no_function_takes_many_arguments_by_position():
    found = list(functions())
    assert len(found) > 500
    assert [place for place, given in found if len(given) > MOST] == []
