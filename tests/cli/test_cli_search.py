"""`spann search`, `info` and `verify` on a small index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import spann
from spann.cli import cli
from spann.testing import exact_neighbours
from spann.vectors import read_truth

Run = Callable[..., Result]
Refused = Callable[..., str]


@pytest.fixture
def copied(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data / "index.spann", tmp_path / "copy.spann"))


def largest(index: Path) -> Path:
    return max((path for path in index.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_results_of_every_format_agree(run: Run, data: Path, tmp_path: Path) -> None:
    args = ("search", data / "index.spann", data / "queries.npy", "-k", 5, "--max-postings", 1000)
    for name in ("r.npz", "r.ibin", "r.jsonl"):
        result = run(*args, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("20 queries in ")
        assert result.stderr == ""
    expected, distances = exact_neighbours(np.load(data / "base.npy"), np.load(data / "queries.npy"), 5)
    with np.load(tmp_path / "r.npz") as stored:
        np.testing.assert_array_equal(stored["ids"], expected)
        np.testing.assert_allclose(stored["distances"], distances, rtol=1e-5)
    np.testing.assert_array_equal(read_truth(tmp_path / "r.ibin").ids, expected)
    lines = (tmp_path / "r.jsonl").read_text()
    assert [json.loads(line)["ids"] for line in lines.splitlines()] == expected.tolist()
    piped = run(*args, "-o", "-")
    assert piped.stdout == lines
    assert piped.stderr.startswith("20 queries in ")


def test_statistics(run: Run, data: Path, tmp_path: Path) -> None:
    preset = tmp_path / "p.toml"
    preset.write_text("[search]\nmax_postings = 3\n")
    args = ("search", data / "index.spann", data / "queries.npy", "--json", "--config", preset, "--max-rows", 4)
    report = json.loads(run(*args).stdout)
    assert set(report) == {"queries", "k", "seconds", "qps", "latency_ms", "per_query", "output"}
    assert (report["queries"], report["k"], report["output"]) == (4, 10, None)
    assert set(report["latency_ms"]) == {"mean", "p50", "p95", "p99"}
    assert 0 < report["per_query"]["postings_scored"] <= 3
    wider = json.loads(run(*args, "--max-postings", 2, "--io", "buffered", "--no-check", "--threads", 2).stdout)
    assert 0 < wider["per_query"]["postings_scored"] <= 2
    unpinned = json.loads(run(*args, "--memory-budget", "none", "--in-flight", 1, "--order", "query").stdout)
    assert 0 < unpinned["per_query"]["postings_read"] <= 3


def test_fewer_vectors_than_k(run: Run, data: Path, tmp_path: Path) -> None:
    assert run("build", data / "base.npy", tmp_path / "i", "--max-rows", 3, "-q").exit_code == 0
    result = run("search", tmp_path / "i", data / "queries.npy", "-k", 5, "-o", tmp_path / "r.npz")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "r.npz") as stored:
        np.testing.assert_array_equal(np.sort(stored["ids"], axis=1), [[-1, -1, 0, 1, 2]] * 20)


def test_limits_of_distance(run: Run, refused: Refused, data: Path, tmp_path: Path) -> None:
    args = ("search", data / "index.spann", data / "queries.npy", "-k", 5, "--max-postings", 1000)
    expected, distances = exact_neighbours(np.load(data / "base.npy"), np.load(data / "queries.npy"), 20)
    radius, inner = float(distances[0, 9:11].mean()), float(distances[0, 2:4].mean())
    result = run(*args, "--radius", radius, "--inner", inner, "-o", tmp_path / "r.npz")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "r.npz") as stored:
        np.testing.assert_array_equal(stored["ids"][0], expected[0, 3:8])
        inside = stored["distances"][stored["ids"] >= 0]
        assert ((inside > inner) & (inside <= radius)).all()
        assert np.isinf(stored["distances"][stored["ids"] < 0]).all()
    lines = run(*args, "--radius", radius, "-o", "-").stdout.splitlines()
    assert json.loads(lines[0])["ids"] == expected[0, :5].tolist()
    asked = json.dumps(np.load(data / "queries.npy")[0].tolist())
    words = ["search", str(data / "index.spann"), "-", "-k", "20", "--radius", str(radius), "-o", "-"]
    answered = CliRunner().invoke(cli, [*words, "--max-postings", "1000"], input=asked)
    assert json.loads(answered.stdout)["ids"] == expected[0, :10].tolist()
    assert "nothing can be there" in refused(2, *args, "--radius", 1, "--inner", 2, "-o", tmp_path / "x.npz")
    assert "must be a finite number" in refused(2, *args, "--radius", "nan", "-o", tmp_path / "x.npz")
    assert "--explain cannot explain --radius and --inner" in refused(2, *args, "--explain", "--inner", 1)


def test_search_refuses(refused: Refused, data: Path, tmp_path: Path) -> None:
    index, queries, out = data / "index.spann", data / "queries.npy", tmp_path / "r.npz"
    np.save(tmp_path / "narrow.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "nan.npy", np.full((2, 16), np.nan, np.float32))
    for args, message in [
        ((tmp_path / "none", queries, "-o", out), "no index at"),
        ((index, tmp_path / "none.npy", "-o", out), "none.npy does not exist"),
        ((index, queries, "-o", tmp_path / "r.txt"), "extension '.txt' is unknown"),
        ((index, queries, "-o", tmp_path / "none" / "r.npz"), "does not exist"),
        ((index, queries, "-o", out, "-k", 2_000_000), "2000000"),
        ((index, queries, "-o", out, "--epsilon2", -1), "epsilon2 is -1.0"),
        ((index, queries, "-o", out, "--max-postings", 0), "max_postings is 0"),
        ((index, tmp_path / "narrow.npy", "-o", out), "3"),
        ((index, tmp_path / "nan.npy", "-o", out), "nan"),
    ]:
        assert message in refused(2, "search", *args)
        assert not out.exists()


def test_info(run: Run, data: Path) -> None:
    result = run("info", data / "index.spann", "--json")
    report = json.loads(result.stdout)
    needed = ("count", "dim", "dtype", "metric", "postings", "disk_bytes", "open_memory_bytes", "replicas_mean")
    assert set(needed) <= set(report)
    assert {"mean", "std", "max", "bound", "histogram"} <= set(report["posting_length"])
    assert (report["count"], report["dim"], report["dtype"], report["metric"]) == (3000, 16, "float32", "l2")
    text = run("info", data / "index.spann").stdout
    for piece in ("3000", "float32", "memory when open", "max_replicas", "postings by length", "#"):
        assert piece in text


def test_verify_clean(run: Run, data: Path) -> None:
    result = run("verify", data / "index.spann", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{data / 'index.spann'}: ok\n", "")
    report = json.loads(run("verify", data / "index.spann", "--json").stdout)
    assert report == {"path": str(data / "index.spann"), "ok": True, "problems": []}


def test_verify_damaged_is_1(run: Run, copied: Path) -> None:
    victim = largest(copied)
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 4
    victim.write_bytes(content)
    result = run("verify", copied, "-q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("spann: damaged: ")
    assert str(victim) in result.stderr
    report = json.loads(run("verify", copied, "--json", "-q").stdout)
    assert not report["ok"]
    assert {problem["kind"] for problem in report["problems"]} == {"damaged"}
    assert report["problems"][0]["path"] == str(victim)


def test_verify_missing_is_2(run: Run, refused: Refused, copied: Path, tmp_path: Path) -> None:
    assert "no index at" in refused(2, "verify", tmp_path / "none")
    victim = largest(copied)
    victim.unlink()
    result = run("verify", copied, "-q")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("spann: missing: ")
    assert str(victim) in result.stderr


def test_verify_unexpected_is_1(run: Run, copied: Path) -> None:
    (copied / "stray").write_text("x")
    result = run("verify", copied, "-q")
    assert result.exit_code == 1
    assert result.stderr == f"spann: unexpected: {copied / 'stray'}: is not part of the index\n"


def test_parquet_results(run: Run, data: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    args = ("search", data / "index.spann", data / "queries.npy", "-k", 5, "--max-postings", 1000)
    for name in ("r.npz", "r.parquet"):
        assert run(*args, "-o", tmp_path / name).exit_code == 0
    table = parquet.read_table(tmp_path / "r.parquet")
    with np.load(tmp_path / "r.npz") as stored:
        assert table["ids"].to_pylist() == stored["ids"].tolist()
        assert table["distances"].to_pylist() == stored["distances"].tolist()
    assert table["query"].to_pylist() == list(range(20))


def answers(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_queries_from_standard_input(data: Path, tmp_path: Path) -> None:
    queries = np.load(data / "queries.npy")
    lines = [json.dumps(q.tolist() if i % 2 else {"vector": q.tolist()}) for i, q in enumerate(queries)]
    command = ["search", str(data / "index.spann"), "-", "-k", "4", "-o", "-", "--max-postings", "1000"]
    result = CliRunner().invoke(cli, command, input="\n".join(lines))
    assert result.exit_code == 0, result.output
    expected, _ = exact_neighbours(np.load(data / "base.npy"), queries, 4)
    assert [answer["ids"] for answer in answers(result.stdout)] == expected.tolist()
    assert [answer["query"] for answer in answers(result.stdout)] == list(range(20))
    some = CliRunner().invoke(cli, [*command, "--max-rows", "3"], input="\n".join(lines))
    assert len(answers(some.stdout)) == 3
    assert CliRunner().invoke(cli, command, input="").stdout == ""


def test_a_stream_is_answered_as_it_comes(data: Path) -> None:
    queries = np.load(data / "queries.npy")
    command = [sys.executable, "-m", "spann.cli", "search", str(data / "index.spann"), "-", "-o", "-", "-k", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for number in range(3):
            child.stdin.write(json.dumps(queries[number].tolist()).encode() + b"\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["query"] == number
        child.stdin.close()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2", "query 0 on standard input is not a JSON array"),
        ('{"v": [1]}', 'nor an object with one under "vector"'),
        ("[1, 2, 3]", r"has 3 numbers"),
        (json.dumps([float("nan")] * 16), "has nan at place 0, which is not a finite float32"),
    ],
)
def test_bad_lines(data: Path, line: str, message: str) -> None:
    command = ["search", str(data / "index.spann"), "-", "-o", "-"]
    result = CliRunner().invoke(cli, command, input=line)
    assert result.exit_code == 2
    assert message in result.stderr


def test_explanations(run: Run, data: Path) -> None:
    args = ("search", data / "index.spann", data / "queries.npy", "--explain", "--max-rows", 2, "--max-postings", 5)
    text = run(*args)
    assert text.exit_code == 0, text.output
    assert text.stdout.startswith("query 0\nsetting    max_postings 5")
    assert "stopped: max_postings reached" in text.stdout
    told = json.loads(run(*args, "--json").stdout)
    assert [one["query"] for one in told] == [0, 1]
    assert told[0]["postings_scored"] == 5


def test_targets_need_a_calibration_and_no_settings(refused: Refused, data: Path) -> None:
    args = ("search", data / "index.spann", data / "queries.npy", "-o", "-", "--target-recall", 0.9)
    assert "is not calibrated" in refused(2, *args)
    assert "both given" in refused(2, *args, "--max-postings", 5)
    assert "answered on standard output" in refused(2, "search", data / "index.spann", "-", "-o", "x.npz")


def test_without_an_output_the_first_results_are_shown(run: Run, data: Path, tmp_path: Path) -> None:
    result = run("search", data / "index.spann", data / "queries.npy")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["query", *(word for i in range(1, 6) for word in (f"{i}.", "id", "(distance)"))]
    with spann.open(data / "index.spann") as index:
        ids, distances = index.search(np.load(data / "queries.npy"), 10)[3]
    assert lines[4].split()[:3] == ["3", str(ids[0]), f"({distances[0]:.4g})"]
    assert lines[11] == "10 of 20 queries, 5 of 10 neighbours; -o OUT keeps all"
    assert lines[13].startswith("20 queries in ")
    assert " ms and " not in lines[13]
    few = run("search", data / "index.spann", data / "queries.npy", "--max-rows", 2, "-k", 3, "--order", "query")
    lines = few.stdout.splitlines()
    assert len(lines) == 5
    assert " ms and " in lines[4]
    none = run("search", data / "index.spann", data / "queries.npy", "--max-rows", 1, "--radius", 1e-6).stdout
    assert none.splitlines()[1].split() == ["0"]


def test_queries_from_a_pipe_are_answered_there(data: Path) -> None:
    queries = np.load(data / "queries.npy")[:2].tolist()
    text = "".join(json.dumps(query) + "\n" for query in queries)
    result = CliRunner().invoke(cli, ["search", str(data / "index.spann"), "-", "-k", "2"], input=text)
    assert [json.loads(line)["query"] for line in result.stdout.splitlines()] == [0, 1]


def test_json_lines_of_other_writers_are_read(data: Path) -> None:
    queries = np.load(data / "queries.npy")[:4].tolist()
    lines = [
        {"id": "a0", "embedding": queries[0]}, {"id": 7, "values": queries[1]}, {"emb": queries[2]},
        {"id": None, "vector": queries[3]},
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    result = CliRunner().invoke(cli, ["search", str(data / "index.spann"), "-", "-k", "2"], input=text)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer.get("id") for answer in answers] == ["a0", 7, None, None]
    assert [answer["query"] for answer in answers] == [0, 1, 2, 3]
    plain = "".join(json.dumps(query) + "\n" for query in queries)
    expected = CliRunner().invoke(cli, ["search", str(data / "index.spann"), "-", "-k", "2"], input=plain)
    assert [answer["ids"] for answer in answers] == [json.loads(line)["ids"] for line in expected.stdout.splitlines()]
