"""`spann truth`, `eval` and `demo`, and the preset files."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import spann
from spann.cli.plot import PANELS, curves
from spann.config import PRESETS, BuildParams, SearchParams, load_toml, preset_file
from spann.measuring.evaluate import PER_QUERY
from spann.testing import clustered, exact_neighbours
from spann.vectors import read_truth, write_truth

Run = Callable[..., Result]
Refused = Callable[..., str]


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_truth(run: Run, data: Path, tmp_path: Path, metric: str) -> None:
    out = tmp_path / "t.npz"
    args = ("truth", data / "base.npy", data / "queries.npy", "-k", 7, "-o", out, "--metric", metric)
    result = run(*args, "--max-rows", 500, "--threads", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: 7 neighbours of 20 queries in ")
    assert result.stderr.startswith("spann: neighbours: ")
    ids, distances = exact_neighbours(np.load(data / "base.npy")[:500], np.load(data / "queries.npy"), 7, metric)
    known = read_truth(out)
    np.testing.assert_array_equal(known.ids, ids)
    assert known.distances is not None
    np.testing.assert_allclose(known.distances, distances**2 if metric == "l2" else distances, rtol=1e-5, atol=1e-7)


def test_truth_with_ids_fits_an_index_with_ids(run: Run, data: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(3000, dtype=np.int64)[::-1] + (1 << 33))
    base, queries, index, known = data / "base.npy", data / "queries.npy", tmp_path / "i", tmp_path / "t.npz"
    assert run("build", base, index, "--ids", tmp_path / "ids.npy", "-q").exit_code == 0
    assert run("truth", base, queries, "-o", known, "--ids", tmp_path / "ids.npy", "-q").exit_code == 0
    result = run("eval", index, queries, known, "--max-postings", 1000, "--json", "-q")
    assert json.loads(result.stdout)["runs"][0]["recall"] == 1.0


def test_truth_refuses_bad_arguments_before_it_works(refused: Refused, data: Path, tmp_path: Path) -> None:
    base, queries, ids = data / "base.npy", data / "queries.npy", tmp_path / "ids.npy"
    np.save(ids, np.arange(3))
    for args, message in [
        ((base, queries, "-o", tmp_path / "t.jsonl"), "extension '.jsonl' is unknown"),
        ((base, queries, "-o", tmp_path / "no" / "t.ibin"), "does not exist"),
        ((base, queries, "-o", tmp_path / "t.ibin", "-k", 3001), "k 3001 is outside 1 to 3000"),
        ((base, tmp_path / "none.npy", "-o", tmp_path / "t.ibin"), "none.npy does not exist"),
        ((base, queries, "-o", tmp_path / "t.npz", "--ids", ids, "-q"), "ids are (3,) int64 ("),
    ]:
        assert message in refused(2, "truth", *args)
    assert list(tmp_path.iterdir()) == [ids]


def test_eval_json_and_plot(run: Run, data: Path, tmp_path: Path) -> None:
    args = ("eval", data / "index.spann", data / "queries.npy", data / "truth.ibin", "-k", 5)
    options = ("--max-postings", "1,1000", "--threads", "1,2", "--io", "buffered", "--epsilon2", "1e5")
    options += ("--rerank", 70, "--error-bound", 2, "--in-flight", 4, "--memory-budget", "1GB")
    result = run(*args, *options, "--json", "--plot", tmp_path / "p.png", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    with spann.open(data / "index.spann") as index:
        assert report["open_memory_bytes"] == index.open_memory_bytes
    runs = report["runs"]
    assert [run["settings"] for run in runs] == [
        {
            "k": 5,
            "max_postings": n,
            "epsilon2": 1e5,
            "navigate": None,
            "rerank": 70,
            "error_bound": 2.0,
            "io": "buffered",
            "threads": t,
            "in_flight": 4,
            "order": "query",
        }
        for n in (1, 1000)
        for t in (1, 2)
    ]
    assert runs[0]["recall"] < 1.0
    assert runs[2]["recall"] == runs[3]["recall"] == 1.0
    for one in runs:
        assert set(one) == {"settings", "unknown", "recall", "qps", "latency_ms", "per_query"}
        assert set(one["latency_ms"]) == {"mean", "p50", "p95", "p99"}
        assert set(one["per_query"]) == {*PER_QUERY, "cpu_us", "compute_us"}
        assert one["per_query"]["cpu_us"] > 0
        assert one["qps"] > 0
        assert one["per_query"]["postings_read"] <= one["settings"]["max_postings"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_plot_has_a_panel_for_speed_and_each_cost() -> None:
    pytest.importorskip("matplotlib")
    cost = {"pages_read": 18.0, "reads": 13.0, "estimates": 9000.0, "distances": 70.0}

    def one(threads: int, postings: int | None, recall: float, factor: float, **rest: float) -> dict[str, object]:
        return {
            "settings": {"k": 10, "threads": threads, "max_postings": postings},
            "recall": recall,
            "qps": 1000 / factor,
            "per_query": {"cpu_us": 50 * factor, **{name: value * factor for name, value in cost.items()}, **rest},
        }

    runs = [one(1, 32, 0.95, 2.0), one(2, 16, 0.9, 1.0), one(1, 16, 0.9, 1.0), one(1, None, 0.99, 4.0)]
    panels = curves({"runs": runs}).axes
    assert [axes.get_title() for axes in panels] == list(PANELS)
    for axes, first in zip(panels, (1000.0, 50.0, *cost.values()), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert lines["1 thread"].get_xdata().tolist() == [0.9, 0.95, 0.99]
        worse = [1, 0.5, 0.25] if first == 1000 else [1, 2, 4]
        assert lines["1 thread"].get_ydata() == pytest.approx([first * times for times in worse])
        assert lines["2 threads"].get_ydata() == pytest.approx([first])
        assert [text.get_text() for text in axes.texts] == ["16", "32", "default"]
    # A run that another beats in both is a point beside the line.
    beaten = curves({"runs": [*runs, one(1, 64, 0.93, 3.0)]}).axes[0].get_lines()
    assert {line.get_label(): line for line in beaten}["1 thread"].get_xdata().tolist() == [0.9, 0.95, 0.99]
    assert [0.93] in [line.get_xdata().tolist() for line in beaten]
    # An index without codes in a process that has everything in memory.
    bare = curves({"runs": [one(1, 8, 0.9, 1.0, estimates=0.0, pages_read=0.0, reads=0.0)]}).axes
    assert [axes.get_title() for axes in bare] == [
        "Speed (queries a second)", "Processor time of a query (µs)", "Vectors scored exactly by a query"
    ]  # fmt: skip


def test_eval_table(run: Run, data: Path, tmp_path: Path) -> None:
    preset = tmp_path / "p.toml"
    preset.write_text("[search]\nmax_postings = 9\nepsilon2 = 3.0\n")
    args = ("eval", data / "index.spann", data / "queries.npy", data / "truth.ibin", "--config", preset)
    lines = run(*args).stdout.splitlines()
    assert lines[0].split()[:4] == ["postings", "threads", "recall@10", "QPS"]
    assert lines[1].split()[:2] == ["9", "1"]
    assert len(lines) == 2
    found = json.loads(run(*args, "--max-postings", "2", "--json").stdout)["runs"][0]["settings"]
    assert (found["max_postings"], found["epsilon2"]) == (2, 3.0)


def test_eval_refuses(refused: Refused, run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries, known = data / "index.spann", data / "queries.npy", data / "truth.ibin"
    wrong = tmp_path / "wrong.ibin"
    truth = read_truth(known)
    write_truth(wrong, truth.ids, np.linspace(0.1, 0.2, truth.ids.size, dtype=np.float32).reshape(truth.ids.shape))
    for args, message in [
        ((index, queries, known, "-k", 11), "k 11 is outside 1 to 10, the neighbours of each query in"),
        ((index, queries, known, "--max-rows", 5), "truth.ibin is for 20 queries and there are 5"),
        ((index, queries, wrong), "wrong.ibin was likely made with another metric than l2"),
        ((index, queries, known, "--plot", tmp_path / "p.gif"), "extension '.gif' is unknown"),
        ((index, queries, tmp_path / "none.ibin"), "none.ibin does not exist"),
    ]:
        assert message in refused(2, "eval", *args, "-q")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'spann-index[plot]'" in refused(2, "eval", index, queries, known, "--plot", tmp_path / "p.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_demo(run: Run, tmp_path: Path) -> None:
    result = run("demo", "--rows", 3000, "-q", "--keep", tmp_path / "kept", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("3000 float32 vectors of dimension 96 (l2) in ")
    assert [line.split()[0] for line in lines[3:9]] == ["4", "8", "16", "32", "64", "128"]
    recall = [float(line.split()[2]) for line in lines[3:9]]
    assert recall == sorted(recall)
    assert recall[-1] > 0.95
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "base.npy",
        "index.spann",
        "queries.npy",
        "truth.ibin",
    ]


def test_demo_cleans_up(run: Run, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = json.loads(run("demo", "--rows", 800, "--dtype", "uint8", "--json", "-q", "--threads", 1).stdout)
    assert len(report["runs"]) == 6
    assert not list(tmp_path.iterdir())
    assert "exists: --keep needs the name of a new directory" in refused(2, "demo", "--keep", tmp_path)


def test_default_preset_equals_the_defaults_of_the_code() -> None:
    file = preset_file("default")
    tables = tomllib.loads(file.read_text())
    assert tables["build"].pop("metric") == "l2"
    for table, kind in (("build", BuildParams), ("search", SearchParams)):
        known = {f.name: f.default for f in fields(kind)}
        assert tables[table] == {name: value for name, value in known.items() if value is not None}
        for name in known:
            assert f"{name} = " in file.read_text()


def test_presets_are_the_files_of_the_package() -> None:
    assert sorted(PRESETS) == sorted(file.stem for file in preset_file("default").parent.glob("*.toml"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    tables = load_toml(preset_file(name))
    tables["build"].pop("metric", None)
    assert BuildParams.preset(name) == BuildParams().with_(**tables["build"])
    assert SearchParams.preset(name) == SearchParams().with_(**tables["search"])


def test_config_prints_a_preset_unchanged(run: Run, refused: Refused) -> None:
    assert run("config").stdout == preset_file("default").read_text()
    assert run("config", "disk-only").stdout == preset_file("disk-only").read_text()
    assert "'tiny' is not one of" in refused(2, "config", "tiny")
    with pytest.raises(spann.InputError, match="preset 'tiny' is unknown; there are default, balanced-8k, "):
        BuildParams.preset("tiny")


def test_a_folder_of_vectordbbench_serves_every_command(run: Run, data: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    base, queries, folder = np.load(data / "base.npy"), np.load(data / "queries.npy"), tmp_path / "set"
    folder.mkdir()
    ids = np.random.default_rng(0).permutation(3000) + 7

    def lists(x: np.ndarray) -> object:
        return pa.array(x.tolist(), pa.list_(pa.from_numpy_dtype(x.dtype)))

    for number in range(2):
        rows = slice(1500 * number, 1500 * (number + 1))
        table = pa.table({"id": ids[rows], "emb": lists(base[rows])})
        pq.write_table(table, folder / f"shuffle_train-{number:02d}-of-2.parquet")
    pq.write_table(pa.table({"id": np.arange(20), "emb": lists(queries)}), folder / "test.parquet")
    known = ids[read_truth(data / "truth.ibin").ids]
    pq.write_table(pa.table({"id": np.arange(20), "neighbors_id": lists(known)}), folder / "neighbors.parquet")
    index = tmp_path / "i"
    for args in (
        ("plan", folder),
        ("build", folder, index, "-q"),
        ("search", index, folder, "-k", 10, "--max-postings", 1000, "-o", tmp_path / "r.npz"),
        ("truth", folder, folder, "-k", 10, "-o", tmp_path / "t.npz", "-q"),
    ):
        result = run(*args)
        assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load(tmp_path / "r.npz")["ids"], known)
    np.testing.assert_array_equal(np.load(tmp_path / "t.npz")["ids"], known)
    result = run("eval", index, folder, folder, "--max-postings", 1000, "--json", "-q")
    assert json.loads(result.stdout)["runs"][0]["recall"] == 1.0


def test_eval_at_recalls(run: Run, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, queries = clustered(3000, 16, 40, 1)
    np.save(tmp_path / "b.npy", base)
    np.save(tmp_path / "q.npy", queries)
    spann.build(base, tmp_path / "i", params=BuildParams(calibration_queries=300)).close()
    assert run("truth", tmp_path / "b.npy", tmp_path / "q.npy", "-o", tmp_path / "t.ibin", "-q").exit_code == 0
    args = ("eval", tmp_path / "i", tmp_path / "q.npy", tmp_path / "t.ibin", "-q", "--target-recall", "0.8,0.95")
    runs = json.loads(run(*args, "--threads", "1,2", "--json").stdout)["runs"]
    assert [(one["settings"]["target_recall"], one["settings"]["threads"]) for one in runs] == [
        (0.8, 1), (0.8, 2), (0.95, 1), (0.95, 2)
    ]  # fmt: skip
    with spann.open(tmp_path / "i") as index:
        assert runs[2]["settings"]["max_postings"] == index.params_for(0.95, 10).max_postings
    lines = run(*args).stdout.splitlines()
    assert lines[0].split()[:2] == ["target", "postings"]
    assert [line.split()[0] for line in lines[1:]] == ["0.8", "0.95"]
    assert "the target decides the settings" in refused(2, *args, "--max-postings", "8")
    assert "--target-recall and --rerank were both given" in refused(2, *args, "--rerank", "8")
    assert "is not in the range 0<x<1" in refused(2, *args[:-1], "0.9,1")
