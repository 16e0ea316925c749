"""Columns of an index: from every form they are given in, to disk, and back with results."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import spann
from spann.errors import CorruptionError, InputError
from spann.filters import evaluate, resolve
from spann.filters.parse import parse
from spann.search.columns import IndexColumns
from spann.store.reader import IndexReader

N = 3000
DAY = datetime.date(2024, 1, 1)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(N, 20)).astype(np.float32)


def table():
    rng = np.random.default_rng(1)
    words = [f"word{i}" for i in range(300)]
    return {
        "price": pa.array(rng.random(N), pa.float32(), mask=rng.random(N) < 0.1),
        "n": pa.array(np.arange(N, dtype=np.int64) - 5),
        "small": pa.array(rng.integers(0, 200, N).astype(np.uint8)),
        "ok": pa.array(rng.random(N) < 0.5, mask=rng.random(N) < 0.1),
        "lang": pa.array([None if i % 11 == 0 else words[i % 300] for i in range(N)]).dictionary_encode(),
        "day": pa.array([DAY + datetime.timedelta(days=i % 50) for i in range(N)]),
        "at": pa.array([1_700_000_000_000 + i for i in range(N)], pa.timestamp("ms", "Europe/Paris")),
        "tags": pa.array([None if i % 13 == 0 else words[: i % 4] + words[:1] * (i % 2) for i in range(N)]),
    }


TEXTS = [None if i % 7 == 0 else f"text {i} " + "é" * (i % 5) for i in range(N)]
TABLE = pa.table(table())


def build(vectors, path, kind, **given):
    params = spann.BuildParams(calibration_queries=0, code_bits=0 if kind == "classic" else 2, seed=3)
    ids = np.random.default_rng(2).permutation(10 * N)[:N] if kind != "rows" else None
    spann.build(vectors, path, ids=ids, params=params, **given).close()
    return IndexColumns(IndexReader.open(path)), ids


@pytest.mark.parametrize("kind", ["rows", "given", "classic"])
def test_values_come_back_by_id(tmp_path, vectors, kind):
    path = tmp_path / "a.spann"
    columns, ids = build(vectors, path, kind, attributes=TABLE, payload={"title": TEXTS})
    assert spann.verify(path) == []
    asked = np.arange(N) if ids is None else ids
    found = columns.select([*TABLE.column_names, "title"], asked.reshape(-1, 3))
    for name in TABLE.column_names:
        wanted = TABLE.column(name).to_pylist()
        values = found[name].reshape(-1)
        for row in range(0, N, 7):
            value = wanted[row]
            if value is None:
                assert np.ma.is_masked(values[row])
            elif name == "at":
                utc = value.astimezone(datetime.UTC).replace(tzinfo=None)
                assert values[row] == np.datetime64(utc)
            elif name == "tags":
                assert values[row] == tuple(sorted(set(value)))
            else:
                assert values[row] == (np.float32(value) if name == "price" else value)
    titles = found["title"].reshape(-1)
    assert [None if np.ma.is_masked(title) else title for title in titles] == TEXTS
    missing = columns.select(["n"], np.array([[-1, 10 * N + 1]]))["n"]
    assert missing.mask.all()


@pytest.mark.parametrize("pinned", [0, 1 << 20])
def test_filters_match_stored_rows(tmp_path, vectors, pinned):
    columns, ids = build(vectors, tmp_path / "a.spann", "given", attributes=TABLE)
    assert columns.pin(pinned) <= pinned
    wanted = {
        "n < 100 AND ok": [i for i in range(105) if TABLE["ok"][i].as_py()],
        "lang = 'word5' OR lang IS NULL": [i for i in range(N) if i % 11 == 0 or i % 300 == 5],
        "list_contains(tags, 'word2')": [i for i in range(N) if i % 13 and i % 4 == 3],
        "tags IS NULL": list(range(0, N, 13)),
        "day = DATE '2024-01-03'": list(range(2, N, 50)),
    }
    of_rows = columns.ids()
    for sql, rows in wanted.items():
        places = evaluate(resolve(parse(sql), columns.schema), columns)
        assert sorted(of_rows[places.list].tolist()) == sorted(ids[rows].tolist()), sql


def test_columns_come_in_every_form(tmp_path, vectors):
    forms = {
        "dict": {"n": np.arange(N), "lang": ["a", None, "b"] * 1000},
        "pandas": pd.DataFrame({"n": np.arange(N), "lang": ["a", None, "b"] * 1000}),
        "polars": pl.DataFrame({"n": np.arange(N), "lang": ["a", None, "b"] * 1000}),
        "batches": pa.table({"n": np.arange(N), "lang": ["a", None, "b"] * 1000}).to_reader(100),
    }
    for name, given in forms.items():
        columns, _ = build(vectors, tmp_path / name, "rows", attributes=given)
        assert [(c.name, c.kind, c.nulls, c.words) for c in columns.schema.values()] == [
            ("n", "int64", False, 0),
            ("lang", "string", True, 2),
        ]
        assert columns.select(["lang"], np.array([2]))["lang"].tolist() == ["b"]


def test_names_are_columns_of_the_vectors_own_table(tmp_path, vectors):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 20)
    held = pa.table({"id": np.arange(N) + 7, "vector": lists, "n": np.arange(N), "title": TEXTS})
    pq.write_table(held, tmp_path / "v.parquet", row_group_size=700)
    for name, source in (("file", tmp_path / "v.parquet"), ("table", held)):
        path = tmp_path / f"{name}.spann"
        params = spann.BuildParams(calibration_queries=0)
        spann.build(source, path, attributes=["n"], payload="title", params=params).close()
        columns = IndexColumns(IndexReader.open(path))
        found = columns.select(["n", "title"], np.array([7, 8, 9]))
        assert found["n"].tolist() == [0, 1, 2]
        assert found["title"].tolist() == TEXTS[:3]
        with pytest.raises(InputError, match="no column 'm'"):
            spann.build(source, path, attributes=["m"], overwrite=True)


def test_bytes_do_not_depend_on_the_form(tmp_path, vectors):
    given = {name: TABLE.column(name) for name in TABLE.column_names}
    for name, attributes in (("one", TABLE), ("other", given)):
        build(vectors, tmp_path / name, "given", attributes=attributes)
    for file in (tmp_path / "one").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "other" / file.relative_to(tmp_path / "one")).read_bytes()


def test_a_build_again_is_known(tmp_path, vectors):
    path, params = tmp_path / "a.spann", spann.BuildParams(calibration_queries=0)
    spann.build(vectors, path, attributes={"n": np.arange(N)}, params=params).close()
    with pytest.warns(spann.errors.RepeatWarning):
        spann.build(vectors, path, attributes={"n": np.arange(N)}, params=params).close()
    with pytest.raises(spann.ExistsError):
        spann.build(vectors, path, attributes={"n": np.arange(N) + 1}, params=params)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": np.arange(5)}, ["5 values", str(N)]),
        ({"": np.arange(N)}, ["no name"]),
        ({3: np.arange(N)}, ["no name"]),
        ({"n": np.zeros((N, 2))}, ["shape"]),
        ({"n": [1, "a"] * (N // 2)}, ["one type"]),
        ({"n": [{"a": 1}] * N}, ["struct", "fields"]),
        ({"n": pa.nulls(N)}, ["no values"]),
        ({"n": pa.array([1] * N, pa.decimal128(5))}, ["decimal", "float64"]),
        ({"t": [["a", None]] * N}, ["row 0", "null"]),
        ({"t": pa.array([1] * N, pa.timestamp("ns"))}, ["rows 0"]),
        (["n"], ["no column 'n'"]),
        (3, ["int"]),
    ],
)
def test_bad_columns_are_refused_before_any_work(tmp_path, vectors, given, words):
    with pytest.raises(InputError) as found:
        spann.build(vectors, tmp_path / "a.spann", attributes=given)
    assert all(word in str(found.value) for word in words), found.value
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_given_once(tmp_path, vectors):
    with pytest.raises(InputError, match="given twice"):
        spann.build(vectors, tmp_path / "a.spann", attributes={"n": np.arange(N)}, payload={"n": np.arange(N)})


def test_damage_of_columns_is_found(tmp_path, vectors):
    path = tmp_path / "a.spann"
    columns, _ = build(vectors, path, "rows", attributes=TABLE)
    for file in sorted((path / "attributes").rglob("c/*")):
        sound = file.read_bytes()
        if not sound:
            continue
        file.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
        assert spann.verify(path)
        file.write_bytes(sound)
    values = path / "attributes/c1/values/c/0"
    values.write_bytes(b"\xff" + values.read_bytes()[1:])
    with pytest.raises(CorruptionError, match="checksum"):
        columns.select(["n"], np.arange(N))


def test_vectors_without_columns_are_not_appended(tmp_path, vectors):
    build(vectors, tmp_path / "a.spann", "rows", attributes=TABLE)
    with pytest.raises(InputError, match="columns 'price'"):
        spann.append(tmp_path / "a.spann", vectors[:10])


def test_the_plan_knows_the_columns(vectors):
    plain, more = spann.plan(vectors), spann.plan(vectors, attributes=TABLE, payload={"t": TEXTS})
    assert more.disk_bytes > plain.disk_bytes + N * 40
    assert "attributes" in more.stages
    assert "attributes" not in plain.stages
