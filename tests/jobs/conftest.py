"""A small index, and queries of it in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import spann
from spann.cli import cli
from spann.testing import clustered

ROWS = (70, 0, 130, 41)
"""Rows of the parts. One part is empty: programs that write in parts leave such files."""


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    def run_(*args: object) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args])

    return run_


@pytest.fixture(scope="session")
def done(run: Callable[..., Result]) -> Callable[..., Result]:
    """Runs a command that must succeed."""

    def done_(*args: object) -> Result:
        result = run(*args)
        assert result.exit_code == 0, result.output
        return result

    return done_


@pytest.fixture
def refused(run: Callable[..., Result]) -> Callable[..., str]:
    """Runs a command that must end with 2 and one line on standard error, which is returned."""

    def refused_(*args: object) -> str:
        result = run(*args)
        assert result.exit_code == 2, result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        return lines[0]

    return refused_


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.spann of base.npy (3000, 16), queries.npy, and the same queries as four files in the folder parts."""
    path = tmp_path_factory.mktemp("jobs")
    base, queries = clustered(3000, 16, sum(ROWS), 1)
    np.save(path / "base.npy", base)
    np.save(path / "queries.npy", queries)
    spann.build(base, path / "index.spann", params=spann.BuildParams(seed=1)).close()
    (path / "parts").mkdir()
    for number, stop in enumerate(np.cumsum(ROWS)):
        write_part(path / "parts" / f"queries-{number}.parquet", queries, int(stop) - ROWS[number], int(stop))
    (path / "parts" / "_SUCCESS").touch()
    return path


def write_part(path: Path, queries: np.ndarray, start: int, stop: int) -> None:
    rows = queries[start:stop]
    table = {
        "qid": pa.array([f"q{i}" for i in range(start, stop)], pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1]),
        "lang": pa.array([("de", "en", None)[i % 3] for i in range(start, stop)], pa.string()),
    }
    pq.write_table(pa.table(table), path, row_group_size=33)
