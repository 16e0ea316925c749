"""The installed package is whole: its name, the files beside the code, and the libraries that the code imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import spann
from spann.config import PRESETS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted((ROOT / "spann").rglob("*.py"))

DISTRIBUTIONS = {"faiss": "faiss-cpu", "sklearn": "scikit-learn"}
"""Where the distribution has another name than the module."""


def requirements(lines):
    return {re.match(r"[\w-]+", line)[0] for line in lines}


def test_the_distribution_has_a_name_of_its_own():
    assert PROJECT["project"]["name"] == "spann-index"
    assert PROJECT["project"]["scripts"] == {"spann": "spann.cli:main"}


@pytest.mark.parametrize("folder", ["spann", "docs", "benchmarks", "scripts", "tests", "."])
def test_nothing_tells_people_to_install_another_project(folder):
    files = (ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*")
    texts = [file for file in files if file.suffix in (".py", ".md", ".toml", ".yml", "") and file.is_file()]
    assert texts
    for file in texts:
        text = file.read_text(encoding="utf-8", errors="ignore")
        assert not re.search(r"pip install[^\n`]*['\" ]spann(\[|['\"`\s]|$)", text, re.MULTILINE), file


def test_files_beside_the_code_are_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["spann"]
    beside = {file for pattern in patterns for file in (ROOT / "spann").glob(pattern)}
    made = (".py", ".pyi", ".pyc", ".so")  # setuptools takes the first two by itself
    kept = {file for file in (ROOT / "spann").rglob("*") if file.is_file() and file.suffix not in made}
    assert kept == beside
    assert {file.stem for file in beside if file.suffix == ".toml"} == set(PRESETS)
    for directory in {file.parent for file in SOURCES}:
        assert (directory / "__init__.py").exists(), f"{directory} is no package, so it would not be installed"


def imported(file):
    """Top-level names of all modules that a file imports from elsewhere."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_library_that_is_imported_is_declared():
    project = PROJECT["project"]
    declared = requirements(project["dependencies"])
    declared |= requirements(line for lines in project["optional-dependencies"].values() for line in lines)
    used = {name for file in SOURCES for name in imported(file)} - sys.stdlib_module_names - {"spann"}
    assert {DISTRIBUTIONS.get(name, name) for name in used} <= declared
    assert {"numpy", "click", "faiss"} <= used


def test_wheels_are_for_the_python_that_the_code_is_for():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert '"Py_LIMITED_API", "0x030B0000"' in setup
    assert '"py_limited_api": "cp311"' in setup
    wheels = PROJECT["tool"]["cibuildwheel"]
    assert wheels["build"] == "cp311-manylinux*"
    assert {wheels[f"manylinux-{arch}-image"] for arch in wheels["archs"]} == {"manylinux_2_28"}


def test_the_source_distribution_has_what_a_build_and_its_tests_need():
    taken = re.findall(r"^(?:include|graft) (.+)$", (ROOT / "MANIFEST.in").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for line in taken for name in line.split()}
    assert {"ext", "tests", "scripts", "docs", "benchmarks", "README.md", "LICENSE", "CHANGELOG.md"} <= listed
    for name in listed:
        assert (ROOT / name).exists(), name
    assert spann.__version__ == PROJECT["project"]["version"]
