"""The documents agree with the code."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import tomllib
from pathlib import Path

import pytest

import spann
from spann.building.sizes import DEFAULT_SIZES, Sizes

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


def constants():
    """(module, name, value as written) of every line of the table of constants."""
    text = (ROOT / "docs" / "PARAMETERS.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([\w.]+)\.(\w+)` \| `([^`]+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize(("module", "name", "value"), constants(), ids=lambda part: part)
def test_constants_are_what_the_table_says(module, name, value):
    found = _constant(module, name)
    number, _, shift = value.partition(" << ")
    if isinstance(found, tuple):
        expected = ast.literal_eval(value)
    else:
        expected = int(number) << int(shift) if shift else type(found)(number)
    assert found == expected


def _constant(module, name):
    if module == "building.sizes.Sizes":
        return getattr(DEFAULT_SIZES, name)
    return getattr(importlib.import_module(f"spann.{module}"), name)


def test_every_constant_of_the_build_is_in_the_table():
    listed = {f"{module}.{name}" for module, name, _ in constants()}
    assert {name for module, name, _ in constants() if module.endswith("Sizes")} == {
        field.name for field in dataclasses.fields(Sizes)
    }
    packages = [ROOT / "spann" / name for name in ("building", "changing")]
    files = sorted(file for package in packages for file in package.rglob("*.py"))
    assert files
    for file in files:
        if file.stem == "plan":  # constants of predictions change no index; docs/SCALING.md has how they were found
            continue
        for name, value in re.findall(
            r"^([A-Z][A-Z_]+) = ([\d_.]+(?: << \d+)?|\(\d.*\))$", file.read_text(), re.MULTILINE
        ):
            if not name.startswith("MAX_"):
                module = ".".join(file.relative_to(ROOT / "spann").with_suffix("").parts)
                assert f"{module}.{name}" in listed, f"{name} = {value}"


def test_sections_that_the_code_refers_to_exist():
    sources = [file for folder in ("spann", "ext") for file in (ROOT / folder).rglob("*")]
    found = 0
    for file in sources:
        if file.suffix not in (".py", ".pyx", ".h", ".inc", ".c") or file.match("ext/*.c"):
            continue
        for name, section in re.findall(r'docs/(\w+\.md)(?:, (?:section )?"?([A-Z]\w+))?', file.read_text()):
            document = (ROOT / "docs" / name).read_text(encoding="utf-8")
            assert not section or f"\n## {section}\n" in document, f"{file.name}: docs/{name}, {section}"
            found += 1
    assert found >= 5


def test_decisions_that_the_code_refers_to_exist():
    sources = [file for folder in ("spann", "ext") for file in (ROOT / folder).rglob("*.*") if file.suffix != ".so"]
    texts = {file: file.read_text(encoding="utf-8") for file in sources if file.suffix not in (".pyc", ".typed")}
    cited = {number for text in texts.values() for number in re.findall(r"docs/decisions/(\d{4})", text)}
    there = {file.name[:4] for file in (ROOT / "docs" / "decisions").glob("0*.md")}
    assert len(cited) > 10
    assert cited <= there


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == spann.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(spann.__version__)}\]", changelog, re.MULTILINE)


def test_owners_of_the_architecture_exist():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    owners = re.findall(r"^\| `([\w/.]+)` \|", text, re.MULTILINE)
    assert all((ROOT / owner).exists() for owner in owners)
    packages = {f"spann/{file.parent.name}" for file in (ROOT / "spann").glob("*/__init__.py")}
    assert packages <= set(owners)
