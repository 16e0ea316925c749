"""Groups of near vectors are found completely, for every kind of index, in bounded time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

import spann
from spann.jobs.forest import EDGE, components, forest
from spann.jobs.own import OwnVectors
from spann.jobs.pairs import Pairs
from spann.jobs.reach import LADDER, Reach, choose_reach
from spann.testing import clustered

KINDS = [
    ("float32", "l2", None, None),
    ("float32", "l2", 0, 8),
    ("uint8", "l2", 2, 4),
    ("float32", "cosine", 4, 1),
    ("float16", "cosine", 0, 1),
    ("bit", "hamming", 0, None),
]


def distances(base, metric):
    """Distances of all pairs; that of a vector from itself is infinite."""
    x = base.astype(np.float64)
    if metric == "cosine":
        x /= np.linalg.norm(x, axis=1)[:, None]
    square = np.square(x[:, None] - x).sum(axis=2)
    out = {"l2": np.sqrt(square), "cosine": square / 2, "hamming": square}[metric]
    np.fill_diagonal(out, np.inf)
    return out


def groups(near, ids):
    """For each vector, the smallest id that it is connected with."""
    _, label = connected_components(csr_matrix(near))
    smallest = np.full(label.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, label, ids)
    return smallest[label]


@pytest.mark.parametrize(("dtype", "metric", "bits", "replicas"), KINDS)
def test_groups_are_those_of_all_pairs(tmp_path, dtype, metric, bits, replicas):
    base, _ = clustered(600, 24, 0, 1, "float32" if dtype == "bit" else dtype)
    rng = np.random.default_rng(2)
    base[50:150] = base[5]
    base[300:350] = base[rng.choice(300, 50)]
    if dtype != "uint8":
        base[300:350] += (rng.standard_normal((50, 24)) * 0.01).astype(base.dtype)
    base[(base == 0).all(axis=1)] = 1
    if dtype == "bit":
        base = base > 0
    ids = rng.permutation(600) * 3 + 7
    params = spann.BuildParams(code_bits=bits, posting_size=20)
    params = params if replicas is None else params.with_(max_replicas=replicas)
    spann.build(base[:500], tmp_path / "i", metric=metric, params=params, ids=ids[:500]).close()
    far = distances(base, metric)
    with spann.append(tmp_path / "i", base[500:], ids=ids[500:]) as index:
        for share in (0.0, 0.002, 0.02):
            radius = float(np.quantile(far, share)) * 1.001 + 1e-6
            found = index.duplicates(radius)
            columns = found.columns()
            order = np.argsort(ids)
            np.testing.assert_array_equal(found.ids, ids[order])
            np.testing.assert_array_equal(found.group, groups(far <= radius, ids)[order])
            nearest = far.min(axis=1)[order]
            np.testing.assert_allclose(
                columns["distance"], np.where(nearest <= radius, nearest, np.inf), rtol=1e-4, atol=1e-6
            )
            smaller = float(radius * 0.7)
            np.testing.assert_array_equal(
                found.rethreshold(smaller).group, groups(far <= np.float32(smaller), ids)[order]
            )


def test_the_report_counts_groups_and_copies(tmp_path):
    line = np.arange(200, dtype=np.float32)[:, None] * 10
    line[1], line[2], line[3], line[11] = 1, 1.5, 0, 101
    with spann.build(line, tmp_path / "i") as index:
        found, medoid = index.duplicates(1.0), index.duplicates(1.0, keep="medoid")
    assert found.filtered.tolist() == [1, 2, 3, 11]
    assert len(found.selected) == 196
    assert found.duplicate_ratio == pytest.approx(0.02)
    assert found.exact_duplicate_ratio == pytest.approx(0.005)
    assert found.report() == {
        "vectors": 200,
        "radius": 1.0,
        "groups": 2,
        "filtered": 4,
        "duplicate_ratio": found.duplicate_ratio,
        "exact_duplicate_ratio": found.exact_duplicate_ratio,
        "largest_group": 4,
    }
    assert found.rethreshold(0.5).filtered.tolist() == [2, 3]
    assert medoid.filtered.tolist() == [0, 2, 3, 11]  # 1 is nearest to the mean of 0, 1, 1.5 and 0
    assert found.to_arrow().slice(0, 5).to_pylist()[1:3] == [
        {"id": 1, "group": 0, "keep": False, "nearest": 2, "distance": 0.5},
        {"id": 2, "group": 0, "keep": False, "nearest": 1, "distance": 0.5},
    ]
    assert found.to_arrow().slice(4, 1).to_pylist() == [
        {"id": 4, "group": 4, "keep": True, "nearest": None, "distance": None}
    ]
    with pytest.raises(spann.InputError, match=r"radius is 2; it must be from 0 to 1\.0"):
        found.rethreshold(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": -1.0}, "radius is -1.0; it must be a number of at least 0"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"radius": 1.0, "keep": "last"}, "keep is 'last'; it must be one of first, medoid"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, arguments, message):
    with (
        spann.build(np.arange(10, dtype=np.float32)[:, None], tmp_path / "i") as index,
        pytest.raises(spann.InputError, match=message),
    ):
        index.duplicates(**arguments)


def test_inner_products_are_refused(tmp_path):
    with (
        spann.build(clustered(100, 8, 0)[0], tmp_path / "i", metric="ip") as index,
        pytest.raises(spann.InputError, match="under ip a large product does not mean that vectors are alike"),
    ):
        index.duplicates(1.0)


def test_thousands_of_copies_take_bounded_time(tmp_path):
    base, _ = clustered(12_000, 16, 0, 1)
    base[1000:11_000] = base[3]
    with spann.build(base, tmp_path / "i") as index:
        start = time.process_time()
        found = index.duplicates(1e-3)
        assert time.process_time() - start < 20
    assert found.filtered.tolist() == list(range(1000, 11_000))
    assert found.report()["largest_group"] == 10_001


def test_many_near_vectors_are_connected_by_few_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr("spann.jobs.pairs.DENSE", 10)
    monkeypatch.setattr("spann.jobs.groups.MOST_EDGES", 50)
    base, _ = clustered(400, 16, 0, 1)
    base[100:300] = base[3] + np.random.default_rng(1).standard_normal((200, 16)).astype(np.float32) * 0.01
    far = distances(base, "l2")
    with spann.build(base, tmp_path / "i") as index:
        found = index.duplicates(0.2)
    np.testing.assert_array_equal(found.group, groups(far <= np.float32(0.2), np.arange(400)))
    np.testing.assert_array_equal(found.rethreshold(0.05).group, groups(far <= np.float32(0.05), np.arange(400)))


def test_a_forest_connects_what_all_edges_do():
    rng = np.random.default_rng(0)
    edges = np.zeros(3000, EDGE)
    pair = np.sort(rng.integers(0, 500, (3000, 2)) * 10, axis=1)
    edges["a"], edges["b"], edges["distance"] = pair[:, 0], pair[:, 1], rng.integers(0, 20, 3000) / 10
    edges = edges[edges["a"] != edges["b"]]
    kept = forest(edges)
    assert len(kept) < 500
    for limit in (0.0, 0.1, 0.5, 2.0):
        np.testing.assert_array_equal(
            components(edges[edges["distance"] <= limit], 5000), components(kept[kept["distance"] <= limit], 5000)
        )
    np.testing.assert_array_equal(forest(edges[rng.permutation(len(edges))]), kept)


def test_the_command_writes_groups_and_resumes_after_a_kill(tmp_path, done, refused):
    base, _ = clustered(6000, 16, 0, 1)
    base[4000:4500] = base[:500] + np.float32(1e-3)
    spann.build(base, tmp_path / "i").close()
    args = ("dedup", tmp_path / "i", "--radius", 0.01, "--part-rows", 200, "--threads", 1)
    report = json.loads(done(*args, "-o", tmp_path / "whole.parquet", "--json", "-q").stdout)
    assert (report["filtered"], report["groups"], report["rows"]) == (500, 500, 6000)
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "spann.cli", *map(str, args), "-o", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not os.path.exists(f"{out}.parts/part-00001.parquet"):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert "holds the output of another job: its radius was" in refused(
        "dedup", tmp_path / "i", "--radius", 0.02, "--part-rows", 200, "-o", out
    )
    assert "parts are there" in done(*args, "-o", out).stderr
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    table = pq.read_table(out)
    assert table.schema.names == ["id", "group", "keep", "nearest", "distance"]
    filtered = table.filter([not keep for keep in table["keep"].to_pylist()])
    assert filtered["id"].to_pylist() == list(range(4000, 4500))
    assert filtered["group"].to_pylist() == list(range(500))


def near_copies(tmp_path):
    """An index of 4000 vectors. 400 of them have a near copy."""
    rng = np.random.default_rng(0)
    base = rng.random((4000, 16), dtype=np.float32)
    base[2000:2400] = base[:400] + rng.normal(0, 0.01, (400, 16)).astype(np.float32)
    return spann.build(base, tmp_path / "i", params=spann.BuildParams(calibration_queries=0))


def test_a_target_decides_how_many_cells_are_compared(tmp_path, monkeypatch):
    with near_copies(tmp_path) as index:
        exact = index.duplicates(0.1)
        pairs = Pairs(OwnVectors(index._opened()), index.centroids, index.metric, 0.1)
        found = choose_reach(pairs, 0.999)
        assert found.pairs > 50
        assert found.found >= 0.999
        least = choose_reach(pairs, 0.01)
        assert least.at_once == LADDER[0] <= found.at_once
        np.testing.assert_array_equal(index.duplicates(0.1, target=0.999).filtered, exact.filtered)
        # If a search misses, more cells are looked at until the share is reached.
        enough, none, plain = pairs.centroids, np.empty(0, EDGE), Pairs.between
        monkeypatch.setattr(Pairs, "between", lambda self, at: plain(self, at) if self._at_once == enough else none)
        assert choose_reach(pairs, 0.9) == Reach(enough, found.pairs, 1.0)
        for wrong in (0.0, 1.0, -1, np.nan):
            with pytest.raises(spann.InputError, match=r"target is .*; it must be between 0 and 1"):
                index.duplicates(0.1, target=wrong)
    with spann.build(np.arange(300, dtype=np.float32)[:, None], tmp_path / "j") as index:
        pairs = Pairs(OwnVectors(index._opened()), index.centroids, index.metric, 0.1)
        assert choose_reach(pairs, 0.9).pairs == 0


def test_the_command_takes_a_target_and_writes_a_page(tmp_path):
    near_copies(tmp_path).close()
    command = [sys.executable, "-m", "spann.cli", "dedup", "i", "--radius", "0.1", "-o", "g.parquet", "-q"]
    done = subprocess.run(
        [*command, "--target", "0.99", "--report", "g.html"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "pairs in a sample, 100.00% were found" in done.stdout
    page = (tmp_path / "g.html").read_text()
    assert "<td>400</td>" in page
    assert page.count("<tr><th>") > 20
    kept = pq.read_table(tmp_path / "g.parquet")
    assert sum(kept["keep"].to_pylist()) == 3600
    wrong = subprocess.run([*command, "--report", "g.txt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "extension '.txt' is unknown" in wrong.stderr
