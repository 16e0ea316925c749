"""The scripts install spann once, and again when a source is newer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "environment.sh"


@pytest.fixture
def checkout(tmp_path):
    """A checkout of one native module, whose environment only counts installations."""
    for name in ("scripts", "ext/c", "spann/_kernels", ".venv/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "scripts")
    for name in ("pyproject.toml", "setup.py", "ext/_a.pyx", "ext/c/a.c"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1, 1))
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@" >>installs\ntouch spann/_kernels/_a.abi3.so\n')
    python.chmod(0o755)
    (tmp_path / ".venv/bin/activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    return tmp_path


def installs(checkout, *extras):
    """How often spann was installed for all of `extras`, one after the other."""
    for extra in extras:
        code = f'. scripts/environment.sh; environment {extra}; [ "$PWD" = "{checkout}" ]'
        (checkout / "run").write_text(f"set -euo pipefail\n{code}\n")
        where = {**os.environ, "PYTHON": "python3"}
        where.pop("SPANN_VENV", None)
        subprocess.run(["bash", "-c", f"cd {checkout}; bash scripts/../run"], env=where, check=True)
    log = checkout / "installs"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_each_extra_is_installed_once(checkout):
    assert installs(checkout, "test", "test") == 1
    assert installs(checkout, "plot", "test") == 2
    assert installs(checkout, "dev", "docs", "test") == 3


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "ext/_a.pyx", "ext/c/a.c"])
def test_a_newer_source_is_installed(checkout, name):
    assert installs(checkout, "test") == 1
    later = (checkout / ".venv/spann-test").stat().st_mtime + 10
    os.utime(checkout / name, (later, later))
    assert installs(checkout, "test") == 2


def test_a_missing_module_is_built(checkout):
    assert installs(checkout, "test") == 1
    (checkout / "spann/_kernels/_a.abi3.so").unlink()
    assert installs(checkout, "test") == 2


def test_the_environment_of_another_checkout_is_installed_for_this(checkout):
    assert installs(checkout, "test") == 1
    (checkout / ".venv/spann-test").write_text("/elsewhere\n")
    assert installs(checkout, "test") == 2
