"""What the documentation says is what the code does."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

import spann

ROOT = Path(__file__).parents[2]
KINDS = (spann.BuildParams, spann.SearchParams)


def rows():
    """The cells of every table line of docs/PARAMETERS.md that begins with a name in backticks, by that name."""
    text = (ROOT / "docs" / "PARAMETERS.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\|\s*`\w+`\s*\|", line)]
    found = {}
    for line in lines:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        name = cells[0].strip("`")
        assert name not in found, f"{name} is described twice"
        found[name] = cells[1:]
    return found


def test_every_parameter_is_documented_and_nothing_else():
    assert set(rows()) == {f.name for kind in KINDS for f in dataclasses.fields(kind)}


@pytest.mark.parametrize("name", [f.name for kind in KINDS for f in dataclasses.fields(kind)])
def test_default_range_unit_and_reason(name):
    (field,) = (f for kind in KINDS for f in dataclasses.fields(kind) if f.name == name)
    default, span, unit, reason = rows()[name]
    assert default == f"`{field.default!r}`"
    assert span.replace("`", "") == f"{field.metadata['low']} to {field.metadata['high']}"
    assert unit == field.metadata["unit"]
    assert len(reason.split()) >= 3


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == spann.__version__
