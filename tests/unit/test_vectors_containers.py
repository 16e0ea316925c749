"""HDF5 datasets and Parquet columns as sources of vectors."""

from __future__ import annotations

import numpy as np
import pytest

import spann
from spann.errors import InputError
from spann.vectors import open_source

h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(5)
X = RNG.random((1000, 12), dtype=np.float32)
ROWS = np.array([0, 999, 3, 3, 500, 251, 4])


def write_hdf5(path, **tables):
    with h5py.File(path, "w") as file:
        for name, values in tables.items():
            file[name.replace("__", "/")] = values
    return path


def write_parquet(path, columns, row_group=300):
    pq.write_table(pa.table(columns), path, row_group_size=row_group)
    return path


def fixed(x):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def check(source, x=X):
    with source:
        assert (source.count, source.dim, source.dtype) == (len(x), x.shape[1], x.dtype)
        np.testing.assert_array_equal(source.read(0, len(x)), x)
        np.testing.assert_array_equal(source.read(250, 650), x[250:650])
        np.testing.assert_array_equal(source.take(ROWS), x[ROWS])
        assert source.take(np.empty(0, np.int64)).shape == (0, x.shape[1])
        np.testing.assert_array_equal(np.concatenate([block for _, block in source.blocks(77)]), x)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_hdf5(tmp_path, dtype):
    x = (X * 100).astype(dtype)
    path = write_hdf5(tmp_path / "a.hdf5", train=x, test=x[:10], neighbors=np.zeros((10, 5), np.int32))
    check(open_source(path), x)
    check(open_source(path, max_rows=1000), x)
    assert open_source(path, max_rows=7).count == 7
    check(open_source(str(path) + "#train"), x)
    with open_source(str(path) + "#test") as source:
        assert source.count == 10
    with h5py.File(path) as file:
        check(open_source(file["train"]), x)


def test_hdf5_far_apart_rows_and_groups(tmp_path):
    x = RNG.random((20_000, 4), dtype=np.float32)
    path = write_hdf5(tmp_path / "a.h5", deep__inside=x)
    with open_source(f"{path}#deep/inside") as source:
        rows = RNG.integers(0, 20_000, 30)
        np.testing.assert_array_equal(source.take(rows), x[rows])


@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
def test_parquet(tmp_path, kind):
    column = fixed(X)
    if kind != "fixed":
        column = column.cast(pa.list_(pa.float32()) if kind == "list" else pa.large_list(pa.float32()))
    path = write_parquet(tmp_path / "a.parquet", {"id": np.arange(1000), "emb": column, "words": [["a"]] * 1000})
    check(open_source(path))
    check(open_source(f"{path}#emb"))
    assert open_source(path, max_rows=301).count == 301


def test_both_build_the_index_of_the_array(tmp_path):
    paths = [
        write_hdf5(tmp_path / "a.h5", train=X),
        write_parquet(tmp_path / "a.parquet", {"vector": fixed(X)}),
    ]
    with spann.build(X, tmp_path / "array") as index:
        expected = index.search(X[:20], 5)
    for path in paths:
        with spann.build(path, tmp_path / f"{path.name}.spann") as index:
            found = index.search(X[:20], 5)
        np.testing.assert_array_equal(found.ids, expected.ids)


def test_what_cannot_be_used(tmp_path):
    two = write_hdf5(tmp_path / "two.h5", a=X, b=X)
    none = write_hdf5(tmp_path / "none.h5", a=X[0])
    wide = write_hdf5(tmp_path / "wide.h5", train=X.astype(np.complex64))
    flat = write_parquet(tmp_path / "flat.parquet", {"x": np.arange(5)})
    lists = write_parquet(tmp_path / "lists.parquet", {"a": fixed(X), "b": fixed(X)})
    (tmp_path / "text.h5").write_text("no")
    (tmp_path / "text.parquet").write_text("no")
    for path, words in (
        (two, "its 2-D datasets are a, b"),
        (f"{two}#c", "has no 2-D dataset 'c'"),
        (none, "it has no 2-D dataset"),
        (wide, "complex64"),
        (flat, "it has no list column"),
        (lists, "its list columns are a, b"),
        (f"{lists}#x", "has no list column 'x'"),
        (tmp_path / "text.h5", "is not an HDF5 file"),
        (tmp_path / "text.parquet", "is not a Parquet file"),
    ):
        with pytest.raises(InputError, match=words):
            open_source(path)


@pytest.mark.parametrize("bad", ["null", "length", "element"])
def test_ragged_and_missing_vectors_name_the_row(tmp_path, bad):
    rows = [row.tolist() for row in X]
    rows[701] = {"null": None, "length": [1.0], "element": [None] * 12}[bad]
    path = write_parquet(tmp_path / "a.parquet", {"vector": pa.array(rows, pa.list_(pa.float32()))})
    with open_source(path) as source:
        source.read(0, 600)
        with pytest.raises(InputError, match="row 701"):
            source.read(600, 1000)
