"""`spann append`: the vectors that it adds, and its report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
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


def test_ids_of_columns_through_build_append_truth_and_convert(
    run: Run, refused: Refused, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    base, both = data / "base.npy", tmp_path / "base.parquet"
    np.save(tmp_path / "ids.npy", np.arange(3000, dtype=np.int32)[::-1] * 2)
    np.save(tmp_path / "more.npy", np.arange(20) + 10_000)
    assert run("convert", base, both, "--ids", tmp_path / "ids.npy", "-q").exit_code == 0
    assert run("build", both, tmp_path / "i", "--ids", f"{both}#id", "-q").exit_code == 0
    assert run("append", tmp_path / "i", data / "queries.npy", "--ids", tmp_path / "more.npy", "-q").exit_code == 0
    assert run("truth", both, data / "queries.npy", "-o", tmp_path / "t.npz", "--ids", both, "-q").exit_code == 0
    with spann.open(tmp_path / "i") as index:
        assert index.search(np.load(base)[:3], 1).ids.ravel().tolist() == [5998, 5996, 5994]
        assert index.search(np.load(data / "queries.npy")[:2], 1).ids.ravel().tolist() == [10_000, 10_001]
    assert set(np.load(tmp_path / "t.npz")["ids"].ravel() % 2) == {0}
    few = ("build", both, tmp_path / "few", "--ids", both, "--max-rows", 100, "-q")
    assert run(*few).exit_code == 0
    assert "base.parquet has no column 'x'; it has id, vector" in refused(2, *few[:4], f"{both}#x", "-q")
