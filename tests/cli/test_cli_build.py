"""`spann build`: the index, the report, and the precedence of parameters."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import spann

Run = Callable[..., Result]
Refused = Callable[..., str]


def test_prints_a_line(run: Run, data: Path, tmp_path: Path) -> None:
    result = run("build", data / "base.npy", tmp_path / "i")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{tmp_path / 'i'}: 3000 float32 vectors of dimension 16 (l2) in ")
    # A log gets the plan, and a line for each finished stage.
    first, *stages = result.stderr.splitlines()
    assert first.startswith("spann: plan: about 0:0")
    assert stages
    assert all(line.startswith("spann: ") and line.endswith(" s") for line in stages)
    assert "\r" not in result.stderr


def test_quiet_json(run: Run, data: Path, tmp_path: Path) -> None:
    result = run("build", data / "base.npy", tmp_path / "i", "--metric", "cosine", "--quiet", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["path"] == str(tmp_path / "i")
    assert {key: report[key] for key in ("count", "dim", "dtype", "metric")} == {
        "count": 3000,
        "dim": 16,
        "dtype": "float32",
        "metric": "cosine",
    }
    assert report["seconds"] > 0
    assert report["postings"] > 0
    assert set(report["posting_length"]) == {"mean", "std", "min", "max", "bound"}


def parameters(index: Path) -> dict[str, object]:
    with spann.open(index) as opened:
        return {**opened.info()["parameters"], "metric": opened.metric.value}


def test_options_win_over_the_file_and_the_file_over_defaults(run: Run, data: Path, tmp_path: Path) -> None:
    preset = tmp_path / "preset.toml"
    preset.write_text(
        '[build]\nmetric = "cosine"\nmax_replicas = 3\nseed = 5\nepsilon1 = 0.5\n[search]\nmax_postings = 7\n'
    )
    args = ("build", data / "base.npy", tmp_path / "a", "--config", preset, "--quiet")
    assert run(*args, "--seed", 6, "--posting-size", 20).exit_code == 0
    found = parameters(tmp_path / "a")
    expected = {"metric": "cosine", "max_replicas": 3, "seed": 6, "epsilon1": 0.5, "posting_size": 20}
    assert {name: found[name] for name in expected} == expected
    assert run(*args, "--overwrite", "--metric", "l2", "--epsilon1", 0.25, "--code-bits", "auto").exit_code == 0
    found = parameters(tmp_path / "a")
    assert (found["metric"], found["epsilon1"], found["seed"]) == ("l2", 0.25, 5)


def test_presets_of_the_package_are_used(run: Run, refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    args = ("build", data / "base.npy", tmp_path / "a", "-q", "--preset", "balanced-8k")
    assert run(*args, "--posting-size", 99).exit_code == 0
    found = parameters(tmp_path / "a")
    assert (found["max_replicas"], found["code_bits"], found["posting_size"]) == (1, 0, 99)
    (tmp_path / "my.toml").touch()
    for both in (("--config", tmp_path / "my.toml"), ("--config", tmp_path / "my.toml", "--preset", "default")):
        assert "--preset and --config were both given" in refused(2, *args, *both)
    assert "'large' is not one of" in refused(2, "plan", data / "base.npy", "--preset", "large")


def test_ids(run: Run, data: Path, tmp_path: Path) -> None:
    ids = np.arange(3000, dtype=np.int64) * 2 + (1 << 40)
    np.save(tmp_path / "ids.npy", ids)
    assert run("build", data / "base.npy", tmp_path / "i", "--ids", tmp_path / "ids.npy", "-q").exit_code == 0
    with spann.open(tmp_path / "i") as index:
        found, _ = index.search(np.load(data / "base.npy")[:5], 1)
    np.testing.assert_array_equal(found[:, 0], ids[:5])


def test_max_rows(run: Run, data: Path, tmp_path: Path) -> None:
    result = run("build", data / "base.npy", tmp_path / "i", "--max-rows", 100, "--json", "-q")
    assert json.loads(result.stdout)["count"] == 100


def test_an_existing_index_is_kept(refused: Refused, run: Run, data: Path, tmp_path: Path) -> None:
    assert run("build", data / "base.npy", tmp_path / "i", "-q").exit_code == 0
    assert str(tmp_path / "i") in refused(2, "build", data / "base.npy", tmp_path / "i", "-q", "--seed", 3)
    result = run("build", data / "base.npy", tmp_path / "i", "-q", "--overwrite", "--max-rows", 50, "--json")
    assert json.loads(result.stdout)["count"] == 50


def test_unusable_input_is_2(refused: Refused, data: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.arange(5, dtype=np.int64))
    np.save(tmp_path / "float.npy", np.arange(3000, dtype=np.float32))
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "odd.toml").write_text("[build]\nmax_replicas = 100\n")
    (tmp_path / "unknown.toml").write_text("[build]\nreplicas = 100\n")
    (tmp_path / "metric.toml").write_text('[build]\nmetric = "jaccard"\n')
    base, out = data / "base.npy", tmp_path / "i"
    for args, message in [
        (("build", tmp_path / "none.npy", out), "none.npy does not exist"),
        (("build", base, out, "--max-replicas", 0), "max_replicas is 0; it must be a whole number from 1 to 64"),
        (("build", base, out, "--centroids", 0.9), "centroids is 0.9"),
        (("build", base, out, "--code-bits", 5), "code_bits is 5; it must be one of 0, 1, 2, 3, 4, 8"),
        (("build", base, out, "--config", tmp_path / "none.toml"), "configuration file"),
        (("build", base, out, "--config", tmp_path / "odd.toml"), "odd.toml: [build] max_replicas is 100"),
        (("build", base, out, "--config", tmp_path / "unknown.toml"), "[build] has no parameter 'replicas'"),
        (("build", base, out, "--config", tmp_path / "metric.toml"), "metric 'jaccard' is unknown"),
        (("build", base, out, "--ids", tmp_path / "none.npy"), "none.npy does not exist"),
        (("build", base, out, "--ids", tmp_path / "text.npy"), "text.npy does not start with a valid .npy header"),
        (
            ("build", base, out, "--ids", tmp_path / "float.npy"),
            "float.npy holds float32: ids must be int64",
        ),
        (("build", base, out, "--ids", tmp_path / "short.npy"), "ids"),
        (("build", base, out, "--max-rows", 5000), "max_rows 5000 is larger than the 3000 rows"),
    ]:
        assert message in refused(2, *args, "-q")
        assert not out.exists()


def test_a_full_disk_is_1(data: Path, tmp_path: Path) -> None:
    def cap_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    done = subprocess.run(
        [sys.executable, "-m", "spann.cli", "build", data / "base.npy", tmp_path / "i", "-q"],
        cwd=Path(__file__).parents[2],
        preexec_fn=cap_files,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("spann: error: ")
    assert done.stderr.count("\n") == 1
    assert "unexpected" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_is_1(refused: Refused, data: Path) -> None:
    assert "cannot be written" in refused(
        1, "truth", data / "base.npy", data / "queries.npy", "-k", 5, "-q", "-o", "/proc/t.ibin"
    )


def test_progress_as_json_lines(run: Run, data: Path, tmp_path: Path) -> None:
    result = run("build", data / "base.npy", tmp_path / "i", "--progress", "json")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert {tuple(line) for line in lines} == {("stage", "done", "total", "seconds", "rate", "eta_seconds")}
    assert list(dict.fromkeys(line["stage"] for line in lines))[:3] == ["scan", "partition", "cluster"]
    assert lines[-1]["stage"] == "publish"
    assert all(0 <= line["done"] <= line["total"] for line in lines)


def test_plan(run: Run, data: Path, tmp_path: Path) -> None:
    found = json.loads(run("plan", data / "base.npy", "--code-bits", "2", "--memory-limit", "2GiB", "--json").stdout)
    assert (found["count"], found["dim"], found["code_bits"]) == (3000, 16, 2)
    assert found["memory_bytes"] <= found["memory_limit"] == 2 << 30
    built = json.loads(run("build", data / "base.npy", tmp_path / "i", "--code-bits", "2", "--json", "-q").stdout)
    assert found["disk_bytes"] == pytest.approx(built["disk_bytes"], rel=0.4)  # small files count here
    text = run("plan", data / "base.npy").stdout
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        "vectors", "codes", "centroids", "index on disk", "temporary disk", "memory to build", "time to build",
        "memory when open",
    ]  # fmt: skip


def test_too_little_memory(refused: Refused, data: Path, tmp_path: Path) -> None:
    for command in (("plan", data / "base.npy"), ("build", data / "base.npy", tmp_path / "i")):
        assert "memory_limit is 5000000 bytes" in refused(2, *command, "--memory-limit", "5MB")
    assert "memory_limit is 'much'" in refused(2, "plan", data / "base.npy", "--memory-limit", "much")
    assert not (tmp_path / "i").exists()
