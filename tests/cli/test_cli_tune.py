"""`spann tune`, and searches that follow it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from spann.testing import clustered

Run = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def tuned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tune")
    base, queries = clustered(3000, 16, 250, 1)
    np.save(path / "base.npy", base)
    np.save(path / "queries.npy", queries)
    command = ("build", path / "base.npy", path / "i", "-q", "--code-bits", 2, "--posting-size", 20)
    assert run(*command, "--calibration-queries", 200).exit_code == 0
    return path


def test_shows_settings(run: Run, tuned: Path) -> None:
    shown = run("tune", tuned / "i", "--show", "-k", "1,10", "--target", "0.9,0.95")
    assert shown.exit_code == 0, shown.output
    first, header, *rows = shown.stdout.splitlines()
    assert first == f"{tuned / 'i'}: calibrated with 200 queries (base)"
    assert header.split()[0] == "k"
    assert [row.split()[:2] for row in rows] == [["1", "0.9"], ["1", "0.95"], ["10", "0.9"], ["10", "0.95"]]


def test_calibrates_with_queries(run: Run, tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "i", tmp_path / "i")
    result = run("tune", tmp_path / "i", tuned / "queries.npy", "--json", "-q")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["origin"], report["queries"]) == ("given", 250)
    assert {setting["target_recall"] for setting in report["settings"]} >= {0.8, 0.9, 0.95}
    assert run("verify", tmp_path / "i", "-q").exit_code == 0
    found = run("search", tmp_path / "i", tuned / "queries.npy", "--target-recall", 0.9, "--json")
    assert found.exit_code == 0, found.output


def test_warns_of_queries_from_elsewhere(run: Run, tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "i", tmp_path / "i")
    np.save(tmp_path / "far.npy", np.load(tuned / "queries.npy") + np.float32(2))
    result = run("tune", tmp_path / "i", tmp_path / "far.npy", "-q")
    assert result.exit_code == 0, result.output
    assert "spann: warning: the queries are unlike the collection" in result.stderr


def test_refusals(refused: Refused, data: Path, tuned: Path) -> None:
    assert "is not calibrated" in refused(2, "tune", data / "index.spann", "--show")
    assert "a calibration needs at least" in refused(2, "tune", tuned / "i", "--count", 10, "-q")
    assert "no index at" in refused(2, "tune", tuned / "none")


def test_info_tells_and_draws(run: Run, tuned: Path, tmp_path: Path) -> None:
    shown = run("info", tuned / "i")
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("calibrated ")]
    assert line.endswith(" for k 1, 3, 10, 30, 100, 300, 1000, with 200 queries of the collection")
    pytest.importorskip("matplotlib")
    assert run("info", tuned / "i", "--plot", tmp_path / "i.png").exit_code == 0
    assert (tmp_path / "i.png").read_bytes()[:4] == b"\x89PNG"
