"""First attempts of newcomers, with their own data and the habits of other libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import spann
from spann import config
from spann.testing import clustered

Run = Callable[..., Result]
Refused = Callable[..., str]


@pytest.mark.parametrize(("name", "metric"), [("dot", "ip"), ("L2", "l2"), ("Euclidean", "l2"), ("angular", "cosine")])
def test_other_names_of_metrics_are_accepted(run: Run, data: Path, tmp_path: Path, name: str, metric: str) -> None:
    planned = json.loads(run("plan", data / "base.npy", "--metric", name, "--json").stdout)
    assert planned["metric"] == metric
    (tmp_path / "my.toml").write_text(f'[build]\nmetric = "{name}"\n')
    planned = json.loads(run("plan", data / "base.npy", "--config", tmp_path / "my.toml", "--json").stdout)
    assert planned["metric"] == metric


def test_types_are_listed_in_full(refused: Refused, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((20, 4), np.complex64))
    message = refused(2, "build", tmp_path / "wide.npy", tmp_path / "i")
    assert "uint8, int8, float16, float32, bfloat16, bool" in message


def test_info_tells_what_was_used(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "FEWEST_CALIBRATION", 300)
    base, _ = clustered(2500, 64, 0, 1, "uint8")
    spann.build(base, tmp_path / "i").close()
    with spann.open(tmp_path / "i") as index:
        assert index.calibration is not None
        used = index.calibration.queries
    lines = [line.split(maxsplit=1) for line in run("info", tmp_path / "i").stdout.splitlines() if line]
    assert ["calibration_queries", f"default ({used} used)"] in lines
    assert ["centroids", "default"] in lines


def test_an_outdated_truth_after_an_append_is_reported(run: Run, tmp_path: Path) -> None:
    base, queries = clustered(2000, 16, 30, 1)
    for name, vectors in (("b", base[:1000]), ("m", base[1000:]), ("q", queries)):
        np.save(tmp_path / f"{name}.npy", vectors)
    index, args = tmp_path / "i", (tmp_path / "q.npy", tmp_path / "t.npz", "-q", "--max-postings", 1000)
    assert run("build", tmp_path / "b.npy", index, "-q").exit_code == 0
    assert run("truth", tmp_path / "b.npy", tmp_path / "q.npy", "-o", tmp_path / "t.npz", "-q").exit_code == 0
    before = run("eval", index, *args)
    assert "does not list them" not in before.stderr
    assert run("append", index, tmp_path / "m.npy", "-q").exit_code == 0
    after = run("eval", index, *args)
    assert "which lacks them. It belongs to other vectors, perhaps from before an append" in after.stderr
    assert json.loads(run("eval", index, *args, "--json").stdout)["runs"][0]["unknown"] > 0


def test_tune_refuses_too_few_queries(refused: Refused, data: Path) -> None:
    message = refused(2, "tune", data / "index.spann", data / "queries.npy", "--base", data / "base.npy", "-q")
    assert "give more, or none, and vectors of the index are taken" in message


def test_an_unsuitable_metric_for_a_graph_is_refused() -> None:
    pytest.importorskip("sklearn")
    from spann.neighbors import KNeighborsTransformer

    with pytest.raises(spann.InputError, match=r"metric 'manhattan' is unknown; it must be one of l2, cosine"):
        KNeighborsTransformer(metric="manhattan").fit(np.eye(4, dtype=np.float32))


def test_iterate_yields_batches_of_one_size(data: Path) -> None:
    with spann.open(data / "index.spann") as index:
        pages = [len(ids) for ids, _ in index.iterate(np.load(data / "queries.npy")[0], batch=7)]
    assert set(pages[:-1]) == {7}
    assert 1 <= pages[-1] <= 7
    assert sum(pages) >= 2900


def test_help_says_that_distances_are_not_squared() -> None:
    assert "0.3 here is 0.09 in faiss and hnswlib" in (spann.Index.search_range.__doc__ or "")
    assert "Euclidean for l2 (not squared)" in (spann.Index.search.__doc__ or "")
