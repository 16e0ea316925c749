"""What the commands read: folders, patterns, columns, formats; and which ids they go by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import spann
from spann.cli.app import cli

ROWS = 160
X = np.random.default_rng(2).random((ROWS, 8))
OFF = ("--calibration-queries", "0", "-q")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two parts of Parquet as pandas and Hugging Face write them: float64 lists, texts as ids."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for number, rows in enumerate((slice(0, 100), slice(100, ROWS))):
        count = len(X[rows])
        table = pa.table(
            {
                "doc": [f"doc {row}" for row in range(rows.start, rows.start + count)],
                "id": np.arange(rows.start, rows.start + count) + 1000,
                "embedding": pa.array(X[rows].tolist()),
                "title": pa.array(X[rows, :2].tolist()),
            }
        )
        pq.write_table(table, tmp_path / "docs" / f"train-{number:05}-of-00002.parquet")
    np.save(tmp_path / "q.npy", X[:5])
    return tmp_path


def run(*args: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(arg) for arg in args])
    return int(ended.value.code or 0)


def nearest(index: str) -> list[Any]:
    with spann.open(index) as opened:
        found: list[Any] = opened.search(X[:5], 1).ids[:, 0].tolist()
        return found


@pytest.mark.parametrize(
    ("base", "options", "ids"),
    [
        (["docs"], ["--column", "embedding"], 1000),
        (["docs#embedding"], [], 1000),
        (["docs/*.parquet"], ["--column", "embedding"], 1000),
        (["docs/train-00000-of-00002.parquet", "docs/train-00001-of-00002.parquet"], ["--column", "embedding"], 1000),
        (["docs"], ["--column", "embedding", "--no-ids"], 0),
        (["docs"], ["--column", "embedding", "--id", "doc"], "doc"),
        (["docs"], ["--column", "embedding", "--ids", "docs#doc"], "doc"),
    ],
)
def test_a_folder_of_parquet(base: list[str], options: list[str], ids: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", *base, "x", *options, *OFF) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("spann: note: docs")
    assert told.endswith("holds float64, which becomes float32: an index holds no wider numbers")
    expected = [f"doc {row}" for row in range(5)] if ids == "doc" else [ids + row for row in range(5)]
    assert nearest("x") == expected
    assert run("plan", *base, "--column", "embedding", "--json") == 0
    assert json.loads(capsys.readouterr().out)["count"] == ROWS


def test_queries_from_a_folder_with_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "docs#embedding", "x", *OFF) == 0
    assert run("search", "x", "docs", "--column", "embedding", "--query-id", "doc", "-k", 1, "-o", "near/", "-q") == 0
    parts = sorted(Path("near").glob("part-*.parquet"))
    assert len(parts) == 2
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert [row["ids"][0] for row in rows] == list(range(1000, 1000 + ROWS))
    assert rows[7]["query_id"] == "doc 7"
    assert run("search", "x", "docs#embedding", "-k", 1, "-o", "all.parquet", "-q") == 0
    assert pq.read_table("all.parquet").num_rows == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".arrow", ".parquet"])
def test_queries_of_every_kind_of_file(suffix: str) -> None:
    assert run("build", "docs#embedding", "x", *OFF) == 0
    path, rows = Path(f"q{suffix}"), X[:5].tolist()
    if suffix == ".csv":
        path.write_text("embedding\n" + "".join(f'"{row}"\n' for row in rows))
    elif suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({"id": f"q{number}", "values": row}) + "\n" for number, row in enumerate(rows))
        )
    else:
        table = pa.table({"embedding": pa.array(rows)})
        pq.write_table(table, path) if suffix == ".parquet" else feather.write_feather(table, path)
    for out in ("near.jsonl", "near.csv"):
        assert run("search", "x", path, "-k", 1, "-o", out, "-q") == 0
    assert [json.loads(line)["ids"] for line in Path("near.jsonl").read_text().splitlines()] == [
        [1000 + row] for row in range(5)
    ]
    assert len(Path("near.csv").read_text().splitlines()) == 6


def test_files_without_an_extension(capsys: pytest.CaptureFixture[str]) -> None:
    x = X.astype(np.float32)
    Path("base.1B.fbin.crop").write_bytes(np.array([1000, 8], "<u4").tobytes() + x.tobytes())
    assert run("build", "base.1B.fbin.crop", "x", *OFF) == 2
    assert "--format (format=) says what it is" in capsys.readouterr().err
    assert run("build", "base.1B.fbin.crop", "x", "--format", "fbin", *OFF) == 2
    assert f"to use those, pass --max-rows {ROWS}" in capsys.readouterr().err
    assert run("build", "base.1B.fbin.crop", "x", "--format", "fbin", "--max-rows", ROWS, *OFF) == 0
    assert nearest("x") == [0, 1, 2, 3, 4]


def test_a_file_of_ann_benchmarks_is_base_queries_and_truth(capsys: pytest.CaptureFixture[str]) -> None:
    x = X.astype(np.float32)
    near = np.argsort(1 - (x[:9] @ x.T) / np.linalg.norm(x[:9], axis=1)[:, None] / np.linalg.norm(x, axis=1), axis=1)
    with h5py.File("sift.hdf5", "w") as file:
        file["train"], file["test"], file["neighbors"] = x, x[:9], near[:, :5].astype("i4")
        file.attrs["distance"] = "angular"
    assert run("build", "sift.hdf5", "x", *OFF) == 0
    assert run("eval", "x", "sift.hdf5", "sift.hdf5", "-k", 5, "--json", "-q") == 0
    found = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert found["runs"][0]["recall"] == 1.0
    with spann.open("x") as index:
        assert index.metric is spann.Metric.COSINE
    assert run("build", "sift.hdf5", "y", "--metric", "euclidean", *OFF) == 2
    assert "says that its metric is cosine, and l2 was asked for" in capsys.readouterr().err
    assert run("truth", "sift.hdf5", "sift.hdf5", "-k", 5, "-o", "t.npz", "-q") == 0
    assert run("eval", "x", "sift.hdf5", "t.npz", "-k", 5, "-q") == 0


def test_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for args, words in (
        (["docs", "x", "--column", "text"], "has no list column 'text'"),
        (["docs#embedding", "x", "--id", "no"], "has no column 'no' of ids; it has doc, id, title"),
        (["q.npy", "x", "--id", "id"], "has no column 'id' of ids; it has no columns but the vectors"),
        (["docs#embedding", "x", "--id", "doc", "--no-ids"], "--id and --no-ids were given"),
        (["none/*.parquet", "x"], "no file matches none/*.parquet"),
        (["s3:/x", "x"], "does not exist"),
        (["q.npy", "x", "--column", "a"], "has no columns, so no 'a'"),
    ):
        assert run("build", *args, *OFF) == 2, args
        assert words in capsys.readouterr().err
    assert not Path("x").exists()
