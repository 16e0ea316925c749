"""The wrappers of `benchmarks/harness`, put into stand-ins or copies of what they are for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _installer():
    spec = importlib.util.spec_from_file_location("install", ROOT / "benchmarks" / "harness" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def installer():
    return _installer()


@pytest.fixture
def stand_in(tmp_path, monkeypatch, installer):
    """Makes the files of a harness, installs spann in it, and goes there; its modules are forgotten in the end."""
    before = set(sys.modules)

    def stand_in_(harness, files):
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            for folder in file.parent.relative_to(tmp_path).parents:
                (tmp_path / folder / "__init__.py").touch()
            (file.parent / "__init__.py").touch()
        installer.install(harness, tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    yield stand_in_
    tops = ("ann_benchmarks", "benchmark", "vectordb_bench")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in tops:
            del sys.modules[name]


@pytest.fixture
def checkout(tmp_path, installer):
    """A copy of the checkout that an environment variable names, with spann installed in it, and a way to run it."""

    def checkout_(variable, harness):
        place = os.environ.get(variable)
        if not place:
            pytest.skip(f"{variable} names no checkout of {harness}")
        copy = tmp_path / "checkout"
        ignored = shutil.ignore_patterns(".git", "data", "results", "website")
        shutil.copytree(place, copy, ignore=ignored)
        for folder in ("data", "results"):
            (copy / folder).mkdir(exist_ok=True)
        installer.install(harness, copy)
        return copy

    return checkout_


@pytest.fixture
def run_in():
    def run_(place, *words, **more):
        environment = os.environ | {"PYTHONPATH": f"{place}{os.pathsep}{ROOT}"} | more
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=place, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    return run_
