"""A small collection with its index and truth, and a way to run commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from spann.cli import cli
from spann.testing import clustered

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    def run_(*args: object) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args])

    return run_


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """base.npy (3000, 16) float32, queries.npy (20, 16), truth.ibin of k 10, index.spann."""
    path = tmp_path_factory.mktemp("cli")
    base, queries = clustered(3000, 16, 20, 1)
    np.save(path / "base.npy", base)
    np.save(path / "queries.npy", queries)
    for args in (
        ("build", path / "base.npy", path / "index.spann", "--quiet"),
        ("truth", path / "base.npy", path / "queries.npy", "-k", 10, "-o", path / "truth.ibin", "--quiet"),
    ):
        result = run(*args)
        assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs a command that must fail with `code` and print one line on standard error, which is returned."""

    def refused_(code: int, *args: object) -> str:
        result = run(*args)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("spann: error: ")
        return lines[0]

    return refused_
