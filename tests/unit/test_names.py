"""Ids that are no integers: texts, UUIDs and bytes, from every source, in every result, and found damaged."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import uuid
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

import spann
from spann.cli.app import cli
from spann.errors import CorruptionError, InputError
from spann.format.names import BYTES, ENDS
from spann.store import names as table_of_names
from spann.store.reader import IndexReader
from spann.vectors import convert, open_source, read_ids

ROWS = 240
X = np.random.default_rng(8).random((ROWS, 8), dtype=np.float32)
TEXTS = [f"doc/{row * 7919 % 1000:03}-{'é' * (row % 5)}" for row in range(ROWS)]
UUIDS = [uuid.UUID(int=row * 7919) for row in range(ROWS)]
BLOBS = [text.encode() + b"\xff\x00" for text in TEXTS]
NAMES: dict[str, list[Any]] = {"text": TEXTS, "uuid": UUIDS, "bytes": BLOBS}
QUICK = spann.BuildParams(calibration_queries=0)


def typed(kind: str) -> pa.Array:
    if kind == "uuid":
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in UUIDS], pa.binary(16)))
    return pa.array(NAMES[kind])


def table(kind: str = "text") -> pa.Table:
    return pa.table({"id": typed(kind), "vector": pa.array(X.tolist(), pa.list_(pa.float32()))})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "x"
    spann.build(table(), path, params=QUICK).close()
    return path


def lines(given: pa.Table, path: Path) -> Path:
    path.write_text("\n".join(map(json.dumps, given.to_pylist())))
    return path


def ipc_file(given: pa.Table, path: Path) -> Path:
    with ipc.new_file(path, given.schema) as file:
        file.write_table(given, max_chunksize=31)
    return path


def parquet(given: pa.Table, path: Path) -> Path:
    pq.write_table(given, path, row_group_size=50)
    return path


SOURCES = {
    "parquet": lambda p: parquet(table(), p / "a.parquet"),
    "large texts": lambda p: table().set_column(0, "id", table()["id"].cast(pa.large_string())),
    "views": lambda p: table().set_column(0, "id", table()["id"].cast(pa.string_view())),
    "dictionary": lambda p: parquet(table().set_column(0, "id", table()["id"].dictionary_encode()), p / "a.parquet"),
    "feather": lambda p: ipc_file(table(), p / "a.arrow"),
    "jsonl": lambda p: lines(table(), p / "a.jsonl"),
    "orc": lambda p: (orc.write_table(table(), p / "a.orc"), p / "a.orc")[1],
    "csv": lambda p: (pd.DataFrame({"id": TEXTS, "vector": X.tolist()}).to_csv(p / "a.csv", index=False), p / "a.csv")[
        1
    ],
    "batches": lambda p: iter(table().to_batches(17)),
    "pandas": lambda p: pd.DataFrame({"id": TEXTS, "vector": list(X)}),
    "polars": lambda p: pl.DataFrame(table()),
}


@pytest.mark.parametrize("form", SOURCES)
def test_texts_come_with_every_form(form: str, tmp_path: Path, built: Path) -> None:
    with open_source(SOURCES[form](tmp_path)) as source:
        assert source.named
        np.testing.assert_array_equal(source.read(0, ROWS), X)
        with spann.build(source, tmp_path / "x", params=QUICK) as index:
            assert index.search(X[:40], 1).ids[:, 0].tolist() == TEXTS[:40]
    # However they come, the index is the same, byte for byte.
    assert IndexReader.open(tmp_path / "x").attributes["checksum"] == IndexReader.open(built).attributes["checksum"]


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("form", ["list", "array", "arrow", "parquet"])
def test_names_given_apart(kind: str, form: str, tmp_path: Path) -> None:
    given: Any = NAMES[kind]
    if form == "array":
        given = np.array(given, object)
    elif form == "arrow":
        given = typed(kind)
    elif form == "parquet":
        given = f"{parquet(table(kind), tmp_path / 'ids.parquet')}#id"
    with spann.build(X, tmp_path / "x", ids=given, params=QUICK) as index:
        found = index.search(X[:9], 2)
        assert found.ids[:, 0].tolist() == NAMES[kind][:9]
        assert found.to_arrow()["id"].type == typed(kind).type
        assert found.to_arrow()["id"].to_pylist()[::2] == NAMES[kind][:9]
        assert index.info()["ids"] == kind
        assert index.numbered.search(X[:9], 1).ids[:, 0].tolist() == list(range(9))
    assert spann.verify(tmp_path / "x") == []


def test_every_result_has_names(built: Path) -> None:
    with spann.open(built) as index:
        found = index.search(X[:3], ROWS + 2)
        assert found.ids[0, -1] is None
        assert len(found[0][0]) == ROWS
        assert found.to_list()[0]["id"] == TEXTS[0]
        assert found.to_pandas()["id"][0] == TEXTS[0]
        assert found.to_polars()["id"][0] == TEXTS[0]
        assert pl.DataFrame(found)["id"][0] == TEXTS[0]
        assert "doc/" in repr(found)
        assert index.search_range(X[:2], 1e-4).of(1)[0].tolist() == [TEXTS[1]]
        assert next(index.iterate(X[5], 1))[0].tolist() == [TEXTS[5]]
        assert asyncio.run(index.search_async(X[4], 1)).ids.tolist() == [[TEXTS[4]]]
        assert next(index.search_batches([X[:2]], 1)).ids.tolist() == [[TEXTS[0]], [TEXTS[1]]]
        ids, vectors = next(index.vectors())
        assert {one: tuple(vector) for one, vector in zip(ids, vectors.tolist(), strict=True)} == {
            one: tuple(vector) for one, vector in zip(TEXTS, X.tolist(), strict=True)
        }
        assert index.knn_graph(2, mode="arrays")[0].shape == (ROWS, 2)
        joined = spann.join(index, index, k=1)
        assert dict(zip(joined.ids, joined.neighbours[:, 0], strict=True)) == dict(zip(TEXTS, TEXTS, strict=True))
        assert joined.columns()["neighbor"][0] == TEXTS[0]
        again = pickle.loads(pickle.dumps(index))
        assert again.search(X[7], 1).ids[0, 0] == TEXTS[7]
        assert index.names is not None
        assert index.info()["open_memory"]["names"] == 4 * sum(
            IndexReader.open(built).layout(name).chunks for name in (ENDS, BYTES)
        )


def test_duplicates_have_names(tmp_path: Path) -> None:
    x = X.copy()
    x[100], x[101] = x[5], x[5]
    with spann.build(x, tmp_path / "x", ids=TEXTS, params=QUICK) as index:
        found = index.duplicates(0.0)
        assert found.filtered.tolist() == [TEXTS[100], TEXTS[101]]
        assert len(found.selected) == ROWS - 2
        rows = found.to_arrow().to_pylist()
        assert rows[100] == {"id": TEXTS[100], "group": TEXTS[5], "keep": False, "nearest": TEXTS[5], "distance": 0.0}
        assert rows[0]["nearest"] is None
        assert found.columns()["nearest"][0] is None
        assert found.to_pandas()["group"][101] == TEXTS[5]


def run(*args: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(arg) for arg in args])
    return int(ended.value.code or 0)


def test_files_of_results(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "q.npy", X[:6])
    os.chdir(tmp_path)
    for suffix in (".parquet", ".jsonl", ".csv"):
        for more in ([], ["--part-rows", 4], ["--part-rows", 4, "--layout", "long"]):
            out = tmp_path / f"near{suffix}"
            assert run("search", built, "q.npy", "-k", 2, "-o", out, "-q", "--threads", 1, *more) == 0
            text = out.read_text() if suffix != ".parquet" else str(pq.read_table(out).to_pylist())
            assert all(json.dumps(one)[1:-1] in text or one in text for one in TEXTS[:6]), (suffix, more)
            assert len(pd.read_csv(out)) == 12 if suffix == ".csv" else True
    for suffix in (".npz", ".ibin"):
        assert run("search", built, "q.npy", "-o", f"near{suffix}") == 2
        assert "the ids of the index are text, which" in capsys.readouterr().err
    assert run("knn-graph", built, "-k", 2, "-o", "g.parquet", "-q") == 0
    assert set(pq.read_table("g.parquet")["id"].to_pylist()) == set(TEXTS)
    assert run("knn-graph", built, "-k", 2, "-o", "g.npz", "-q") == 0
    assert run("join", built, built, "-o", "j.parquet", "-q") == 0
    assert [[one] for one in pq.read_table("j.parquet")["id"].to_pylist()] == pq.read_table("j.parquet")[
        "neighbors"
    ].to_pylist()
    assert run("assign", built, "-o", "c.parquet", "-q") == 0
    assert set(pq.read_table("c.parquet")["id"].to_pylist()) == set(TEXTS)
    assert run("dedup", built, "--radius", 0.01, "-o", "d.parquet", "-q") == 0
    assert pq.read_table("d.parquet")["id"].to_pylist() == TEXTS
    parquet(table(), tmp_path / "base.parquet")
    assert run("truth", "base.parquet", "q.npy", "-k", 5, "-o", "t.npz", "-q") == 0
    capsys.readouterr()
    assert run("eval", built, "q.npy", "t.npz", "-k", 5, "--max-postings", 64, "--json", "-q") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["recall"] == 1.0
    assert run("search", built, "q.npy", "-k", 1) == 0
    assert TEXTS[0] in capsys.readouterr().out


def test_appended_names(built: Path, tmp_path: Path) -> None:
    spann.build(X, tmp_path / "x", ids=TEXTS, params=QUICK).close()
    more = [f"more {row}" for row in range(50)]
    with spann.append(tmp_path / "x", X[:50] + 2, ids=more) as index:
        assert index.search(X[:50] + 2, 1).ids[:, 0].tolist() == more
        assert index.search(X[:50], 1).ids[:, 0].tolist() == TEXTS[:50]
    assert spann.verify(tmp_path / "x") == []
    with pytest.warns(spann.RepeatWarning):
        spann.append(tmp_path / "x", X[:50] + 2, ids=more).close()
    for ids, words in (
        (["a", "b", "c", TEXTS[9]], f"id {TEXTS[9]!r} of row 3 of array is in the index already"),
        (["a", "b", "a", "c"], "id 'a' is given to rows 0 and 2 of array; ids must differ"),
        ([1, 2, 3, 4], "array has integers as ids; the ids of the index are text"),
        (UUIDS[:4], "array has uuid as ids; the ids of the index are text"),
        (None, "array has no ids as ids; the ids of the index are text"),
        (more[:3], "there are 3 ids; array has 4 vectors"),
    ):
        with pytest.raises(InputError, match=words):
            spann.append(tmp_path / "x", X[:4] + 3, ids=ids)
    spann.build(X, tmp_path / "rows", params=QUICK).close()
    with pytest.raises(InputError, match=r"has ids.*, and the index numbers its vectors by row: leave them out"):
        spann.append(tmp_path / "rows", X[:4] + 3, ids=list("abcd"))
    spann.build(X, tmp_path / "given", ids=np.arange(ROWS), params=QUICK).close()
    with pytest.raises(InputError, match="array has text as ids: the vectors of the index have ids that were given"):
        spann.append(tmp_path / "given", X[:4] + 3, ids=list("abcd"))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["a"] * ROWS, "id 'a' is given to rows 0 and 1 of array; ids must differ"),
        ([UUIDS[3], *UUIDS[1:]], "id 00000000-0000-0000-0000-0000000.* is given to rows 0 and 3 of array"),
        ([*TEXTS[:9], None, *TEXTS[10:]], "row 9 of ids is None; the first id is 'doc/"),
        ([*TEXTS[:9], 7, *TEXTS[10:]], "row 9 of ids is 7"),
        ([*TEXTS[:9], "", *TEXTS[10:]], "row 9 of ids has an id of 0 bytes; it must have 1 to 65535"),
        ([*TEXTS[:9], "x" * 70_000, *TEXTS[10:]], "row 9 of ids has an id of 70000 bytes"),
        (["\ud800", *TEXTS[1:]], "ids hold a text that is not Unicode"),
        (TEXTS[1:], f"there are {ROWS - 1} ids; array has {ROWS} vectors"),
    ],
)
def test_names_that_cannot_be(ids: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        spann.build(X, tmp_path / "x", ids=ids, params=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_columns_that_cannot_be_names(tmp_path: Path) -> None:
    gap = table().set_column(0, "id", pa.array([*TEXTS[:70], None, *TEXTS[71:]]))
    for given in (gap, parquet(gap, tmp_path / "a.parquet"), iter(gap.to_batches(20))):
        with pytest.raises(InputError, match=r"row 70 of column 'id' of .* is null: every vector needs an id"):
            spann.build(given, tmp_path / "x", params=QUICK)
    real = table().set_column(0, "id", pa.array(np.arange(ROWS) / 2))
    with pytest.raises(InputError, match=r"holds double: ids must be int64, .*; --no-ids \(ids=False\) numbers"):
        spann.build(real, tmp_path / "x", params=QUICK)
    spann.build(real, tmp_path / "x", ids=False, params=QUICK).close()
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["ids"] = TEXTS
    with pytest.raises(InputError, match="holds object: ids must be int64"):
        read_ids(f"{tmp_path}/a.hdf5#ids")


def test_names_are_compared_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In several parts, with hashes that are often equal."""
    monkeypatch.setattr(table_of_names, "PARTITION_BYTES", 1000)
    monkeypatch.setattr(table_of_names, "FOUND_AT_ONCE", 8)
    plain = table_of_names._hashes
    monkeypatch.setattr(table_of_names, "_hashes", lambda *args: plain(*args) // np.uint64(1 << 58))
    names = pa.array([f"{row:04}".encode() for row in range(900)], pa.large_binary())
    chunks = [names[at : at + 70] for at in range(0, 900, 70)]
    assert table_of_names.find_repeated(lambda: iter(chunks), 900, tmp_path) is None
    for twice in (0, 450, 898):
        again = [*chunks, pa.array([names[twice].as_py()], pa.large_binary())]
        assert table_of_names.find_repeated(lambda again=again: iter(again), 901, tmp_path) == (
            f"{twice:04}".encode(),
            twice,
            900,
        )
    assert list(tmp_path.iterdir()) == []


def test_many_names_lie_in_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_of_names, "FOUND_AT_ONCE", 100)
    rng = np.random.default_rng(0)
    names = [f"{row}-{'x' * rng.integers(0, 9000)}" for row in range(400)]
    x = rng.random((400, 4), dtype=np.float32)
    with spann.build(x, tmp_path / "x", ids=names, params=QUICK) as index:
        assert index.names is not None
        some = rng.integers(-1, 400, (20, 9))
        assert index.names.objects(some).tolist() == [[None if n < 0 else names[n] for n in row] for row in some]
        with pytest.raises(CorruptionError, match="has 400 names, and none for id 400"):
            index.names.objects(np.array([3, 400]))
        every = [one.decode() for chunk in index.names.chunks() for one in chunk.to_pylist()]
        assert every == names
    with spann.open(tmp_path / "x", check=False) as index:
        assert index.search(x[9], 1).ids[0, 0] == names[9]


@pytest.mark.parametrize("name", [ENDS, BYTES])
def test_damaged_names_are_found(name: str, tmp_path: Path) -> None:
    spann.build(X, tmp_path / "x", ids=TEXTS, params=QUICK).close()
    shard = tmp_path / "x" / name / "c" / "0"
    data = bytearray(shard.read_bytes())
    data[11] ^= 1
    shard.write_bytes(data)
    assert [problem.kind for problem in spann.verify(tmp_path / "x")] == ["damaged"]
    with spann.open(tmp_path / "x") as index:
        with pytest.raises(CorruptionError, match=rf"{name}.* do not match their checksum"):
            index.search(X[:3], 2)
        assert index.numbered.search(X[:3], 1).ids[:, 0].tolist() == [0, 1, 2]


def forged(path: Path, lengths: list[int], data: bytes, kind: str = "text") -> Path:
    """An index with other names, whose checksums are right."""
    from spann.changing.generation import Generation

    spann.build(X, path, ids=TEXTS, params=QUICK).close()
    with Generation(path, created_by="test") as following:
        following.resume("test", {}, command="test", files={})
        following.rewrite(ENDS, np.cumsum(lengths).astype("<u8"))
        following.rewrite(BYTES, np.frombuffer(data, np.uint8))
        following.publish({"name_type": kind})
    return path


@pytest.mark.parametrize(
    ("lengths", "data", "kind", "words"),
    [
        ([2] * ROWS, b"ab" * ROWS, "text", "vectors 0 and 1 have the same name"),
        ([2] * ROWS, b"".join(b"%c\xff" % row for row in range(ROWS)), "text", "name 0 is no text"),
        ([4] * ROWS, b"".join(b"%04d" % row for row in range(ROWS)), "uuid", "name 0 is no uuid"),
        (
            [4] * ROWS,
            b"".join(b"%04d" % row for row in range(ROWS)) + b"..",
            "bytes",
            "the names end at byte 960 of 962",
        ),
        ([4] * ROWS, b"0000" * (ROWS - 1), "bytes", "names end where they cannot"),
        ([4] * (ROWS - 1) + [0], b"0000" * (ROWS - 1), "bytes", "names end where they cannot"),
    ],
)
def test_forged_names_are_found(lengths: list[int], data: bytes, kind: str, words: str, tmp_path: Path) -> None:
    problems = spann.verify(forged(tmp_path / "x", lengths, data, kind))
    assert len(problems) == 1
    assert words in problems[0].detail


def test_conversion_and_plan_keep_names(tmp_path: Path) -> None:
    path = parquet(table("uuid"), tmp_path / "a.parquet")
    with open_source(path) as source:
        convert(source, tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet")["id"].to_pylist() == UUIDS
    named, plain = spann.plan(path), spann.plan(X)
    assert named.disk_bytes - plain.disk_bytes == pytest.approx(ROWS * 24, rel=0.01)
    assert named.open_memory_bytes > plain.open_memory_bytes


def test_a_calibration_of_named_vectors(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((4000, 8), dtype=np.float32)
    names = [f"n{row}" for row in range(4000)]
    spann.build(x, tmp_path / "x", ids=names, params=QUICK).close()
    with spann.calibrate(tmp_path / "x", x[::9] + np.float32(0.01), base=x) as index:
        assert index.search(x[3], 1, target_recall=0.9).ids[0, 0] == "n3"
