"""`spann add`, `upsert`, `delete`, `get`, `flush`, `optimize` and `snapshot`: what they do and say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import spann
from spann.cli import cli

Run = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture
def index(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data / "index.spann", tmp_path / "i")
    return tmp_path / "i"


def test_vectors_come_are_replaced_and_go(run: Run, data: Path, index: Path, tmp_path: Path) -> None:
    queries = np.load(data / "queries.npy")
    np.save(tmp_path / "ids.npy", np.arange(20) + 2990)
    added = run("add", index, data / "queries.npy", "--max-rows", 5)
    assert added.exit_code == 0, added.output
    assert added.stdout.startswith(f"{index}: added 5, first id 3000, last id 3004; now 3005 vectors")
    result = run("upsert", index, data / "queries.npy", "--ids", tmp_path / "ids.npy", "--json")
    told = json.loads(result.stdout)
    assert (told["inserted"], told["replaced"], told["count"], told["sequence"]) == (5, 15, 3010, 2)
    assert "deleted 2" in run("delete", index, 3, 4, 99999).stdout
    piped = CliRunner().invoke(cli, ["delete", str(index), "--ids", "-"], input="5\n6 7\n")
    assert "deleted 3; now 3005 vectors" in piped.stdout
    shown = [json.loads(line) for line in run("get", index, 2990, 1).stdout.splitlines()]
    assert [one["id"] for one in shown] == [2990, 1]
    np.testing.assert_allclose(shown[0]["vector"], queries[0], rtol=1e-6)
    run("get", index, "--ids", tmp_path / "ids.npy", "-o", tmp_path / "got.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "got.npy"), queries)
    facts = json.loads(run("info", index, "--json").stdout)["updates"]
    assert (facts["logged_operations"], facts["logged_vectors"], facts["next_id"]) == (30, 20, 3010)
    assert "30 operations" in run("info", index).stdout
    assert run("verify", index, "-q").exit_code == 0


def test_upkeep(run: Run, index: Path, tmp_path: Path) -> None:
    run("delete", index, *range(100))
    assert "operations 100, rebuilt no" in run("flush", index, "-q").stdout
    assert run("snapshot", index, tmp_path / "copy").stdout == f"{tmp_path / 'copy'}: a copy of {index}\n"
    told = json.loads(run("optimize", index, "--purge", "--json", "-q").stdout)
    assert (told["rebuilt"], told["dead"], told["count"]) == (True, 0, 2900)
    for path in (index, tmp_path / "copy"):
        assert run("verify", path, "-q").exit_code == 0
        with spann.open(path) as opened:
            assert len(opened) == 2900


def test_refusals(refused: Refused, data: Path, index: Path) -> None:
    assert "no vector has id 99999, so none is deleted" in refused(2, "delete", index, 1, 99999, "--missing", "raise")
    assert "give either IDS or --ids" in refused(2, "delete", index)
    assert "no vector has id 99999" in refused(2, "get", index, 99999)
    assert "--ids is missing" in refused(2, "upsert", index, data / "queries.npy")
    assert "no index at" in refused(2, "flush", index.with_name("none"))
    assert "exists already" in refused(2, "snapshot", index, data / "index.spann")
