"""`spann append`: what it adds, and what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result

import spann

Run = Callable[..., Result]
Refused = Callable[..., str]


def test_adds_and_tells(run: Run, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "index.spann", tmp_path / "i")
    result = run("append", tmp_path / "i", data / "queries.npy", "--max-rows", 15)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'i'}: 15 vectors added in ")
    assert "now 3015 float32 vectors of dimension 16 (l2) in " in result.stdout
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
        "scan", "partition", "cluster", "assign", "layout", "arrange", "write", "publish"
    ]  # fmt: skip
    with spann.open(tmp_path / "i") as index:
        ids, distances = index.search(np.load(data / "queries.npy")[:15], 1)
    assert ids.ravel().tolist() == list(range(3000, 3015))
    assert not distances.any()


def test_json_and_ids(run: Run, data: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(3000) * 3)
    np.save(tmp_path / "more.npy", np.arange(20) + 10_000)
    assert run("build", data / "base.npy", tmp_path / "i", "--ids", tmp_path / "ids.npy", "-q").exit_code == 0
    command = ("append", tmp_path / "i", data / "queries.npy", "--ids", tmp_path / "more.npy", "--json", "-q")
    result = run(*command)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["added"], report["count"], report["generation"]) == (20, 3020, 1)
    assert report["appended_postings"] > 0
    assert run("verify", tmp_path / "i", "-q").exit_code == 0


def test_refusals(refused: Refused, data: Path, tmp_path: Path) -> None:
    assert "no index at" in refused(2, "append", tmp_path / "none", data / "queries.npy")
    assert "does not exist" in refused(2, "append", data / "index.spann", tmp_path / "none.npy")
    np.save(tmp_path / "wide.npy", np.zeros((3, 17), np.float32))
    assert "dimension 17" in refused(2, "append", data / "index.spann", tmp_path / "wide.npy")
