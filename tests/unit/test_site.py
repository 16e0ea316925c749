"""The site has every public name, every command with its options, and every document."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest

import spann
from spann.cli import cli

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
PAGES = {file.name: file.read_text(encoding="utf-8") for file in SITE.glob("*.md")}


def directives():
    """Each (full name, members) that a page documents."""
    text = "\n".join(PAGES.values())
    found = re.findall(r"^\.\. auto\w+:: ([\w.]+)(?:\(\))?\n((?:   :.*\n)*)", text, re.MULTILINE)
    return {name: re.findall(r"\w+", options.replace(":members:", "")) for name, options in found}


def test_every_public_name_is_on_a_page():
    assert {f"spann.{name}" for name in spann.__all__} - {"spann.__version__"} <= set(directives())


def test_every_method_of_an_index_is_on_a_page():
    """The page of `Index` takes its own methods, and others name those that it inherits."""
    inherited = {name for kind in spann.Index.__mro__[1:-1] for name in vars(kind) if not name.startswith("_")}
    found = directives()
    assert found["spann.Index"] == []
    methods = {f"spann.Index.{name}" for name in inherited - set(vars(spann.Index))}
    assert {name for name in methods if getattr(spann.Index, name.rpartition(".")[2]).__doc__} <= set(found)


def test_every_document_is_in_the_contents():
    listed = re.findall(r"<([\w./]+)>$", PAGES["index.md"], re.MULTILINE)
    named = {(SITE / f"{name}.md").resolve() for name in listed}
    assert all(file.exists() for file in named)
    assert {*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"} <= named


@pytest.fixture(scope="module")
def commands():
    return runpy.run_path(str(SITE / "commands.py"))["reference"]()


@pytest.mark.parametrize("name", cli.commands)
def test_commands_and_options_are_listed(commands, name):
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", commands, re.MULTILINE | re.DOTALL)
    for option in cli.commands[name].params:
        if isinstance(option, click.Option) and not option.hidden:
            assert max(option.opts, key=len) in section
