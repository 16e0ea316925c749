"""Ids out of files: NumPy, a column of Parquet, a dataset of HDF5."""

from __future__ import annotations

import numpy as np
import pytest

import spann
from spann.errors import InputError, MissingError
from spann.vectors import convert, open_source, read_ids

h5py = pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(6)
X = RNG.random((500, 8), dtype=np.float32)
IDS = RNG.permutation(500) * 3 + 7


def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=200)
    return path


def write_hdf5(path, **tables):
    with h5py.File(path, "w") as file:
        for name, values in tables.items():
            file[name.replace("__", "/")] = values
    return path


def lists(x):
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "uint32"])
def test_every_type_from_every_format(tmp_path, dtype):
    ids = IDS.astype(dtype)
    np.save(tmp_path / "ids.npy", ids)
    parquet = write_parquet(tmp_path / "a.parquet", id=ids, rank=np.arange(500), emb=lists(X))
    hdf5 = write_hdf5(tmp_path / "a.hdf5", train=X, ids=ids, deep__names=ids, other=np.arange(3))
    for path in (tmp_path / "ids.npy", parquet, f"{parquet}#id", hdf5, f"{hdf5}#ids", f"{hdf5}#deep/names"):
        found = read_ids(path)
        assert found.values.dtype == dtype
        np.testing.assert_array_equal(found.values, ids)
    np.testing.assert_array_equal(read_ids(f"{parquet}#rank").values, np.arange(500))


def test_the_only_column_of_integers_needs_no_name(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", number=IDS, text=["a"] * 500)
    np.testing.assert_array_equal(read_ids(path).values, IDS)
    path = write_hdf5(tmp_path / "a.h5", number=IDS, weight=np.ones(500))
    np.testing.assert_array_equal(read_ids(path).values, IDS)


def test_build_and_append_take_ids_of_the_file_of_the_vectors(tmp_path):
    more = IDS + 5000
    base = write_parquet(tmp_path / "base.parquet", id=IDS, emb=lists(X))
    added = write_hdf5(tmp_path / "more.hdf5", train=X, id=more)
    with spann.build(base, tmp_path / "i", ids=f"{base}#id") as index:
        np.testing.assert_array_equal(index.search(X[:20], 1).ids[:, 0], IDS[:20])
    with spann.append(tmp_path / "i", added, ids=added) as index:
        found = index.search(X[:20], 2).ids
        np.testing.assert_array_equal(np.sort(found), np.sort(np.stack([IDS[:20], more[:20]], axis=1)))
    with pytest.raises(InputError, match=rf"is in the index already \(dataset 'id' of {added}\)"):
        spann.append(tmp_path / "i", added, ids=added, again=True)


def test_converted_ids_come_back(tmp_path):
    convert(open_source(X), tmp_path / "a.parquet", ids=IDS)
    np.testing.assert_array_equal(read_ids(tmp_path / "a.parquet#id").values, IDS)
    with open_source(tmp_path / "a.parquet") as source:
        np.testing.assert_array_equal(source.read(0, 500), X)
        convert(source, tmp_path / "b.parquet", ids=tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_ids(tmp_path / "b.parquet").values, IDS)
    with pytest.raises(InputError, match=r"a.fbin: .fbin cannot hold ids; .parquet can"):
        convert(open_source(X), tmp_path / "a.fbin", ids=IDS)
    with pytest.raises(InputError, match="id 7 is given to more than one row"):
        convert(open_source(X), tmp_path / "c.parquet", ids=np.full(500, 7))
    assert not (tmp_path / "c.parquet").exists()


@pytest.mark.parametrize("blocks", [999, 8 << 20])
def test_blocks_of_ids_stay_with_their_vectors(tmp_path, monkeypatch, blocks):
    monkeypatch.setattr("spann.vectors.conversion.BLOCK_BYTES", blocks)
    convert(open_source(X), tmp_path / "a.parquet", ids=IDS)
    np.testing.assert_array_equal(read_ids(tmp_path / "a.parquet").values, IDS)


def test_what_cannot_be_read(tmp_path):
    columns = {"id": IDS, "n": IDS, "text": ["a"] * 500, "x": np.ones(500), "short": IDS.astype(np.int16)}
    parquet = write_parquet(tmp_path / "a.parquet", **columns, gap=pa.array([*range(300), None, *range(199)]))
    several = write_parquet(tmp_path / "several.parquet", a=IDS, b=IDS)
    none = write_parquet(tmp_path / "none.parquet", a=np.ones(5))
    hdf5 = write_hdf5(tmp_path / "a.hdf5", train=X, x=np.ones(500), text=np.array([b"a"] * 5))
    np.save(tmp_path / "flat.npy", X)
    (tmp_path / "bad.parquet").write_text("no")
    (tmp_path / "folder").mkdir()
    types = "ids must be int64, uint64, int32 or uint32"
    for path, words in (
        (f"{parquet}#none", "a.parquet has no column 'none'; it has id, n, text, x, short, gap"),
        (f"{parquet}#x", rf"column 'x' of {parquet} holds double: {types}"),
        (f"{parquet}#short", "holds int16"),
        (f"{parquet}#gap", rf"row 300 of column 'gap' of {parquet} is null"),
        (several, "has several columns of integers, a, b; name that of the ids as FILE#COLUMN"),
        (none, "has no column of integers"),
        (f"{hdf5}#x", rf"dataset 'x' of {hdf5} holds float64: {types}"),
        (f"{hdf5}#text", "holds |S1"),
        (f"{hdf5}#train", "has no 1-D dataset 'train'"),
        (hdf5, "has no dataset of integers; name that of the ids as FILE#DATASET"),
        (tmp_path / "flat.npy", "holds 2-D float32: ids must be 1-D"),
        (tmp_path / "bad.parquet", "is not a Parquet file"),
        (tmp_path / "folder", "has no files"),
        (tmp_path / "a.csv", "does not exist"),
    ):
        with pytest.raises((InputError, MissingError), match=words):
            read_ids(path)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(InputError, match=r"'.csv' is unknown; ids come from .npy .hdf5 .parquet .feather files"):
        read_ids(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (IDS[:400], r"ids are \(400,\) int64 \({origin}\); array needs \(500,\) integers"),
        (np.where(IDS[77] == IDS, -4, IDS), r"id -4 of row 77 of array is not at least 0 \({origin}\)"),
        (
            np.where(IDS[77] == IDS, IDS[3], IDS),
            r"to more than one row of array; ids must differ \({origin}\)",
        ),
        (IDS.astype(np.uint64) + np.uint64(1 << 63), r"of row 0 of array is not below 2\*\*63 \({origin}\)"),
    ],
)
def test_errors_name_file_and_column(tmp_path, ids, words):
    path = write_parquet(tmp_path / "a.parquet", name=ids)
    with pytest.raises(InputError, match=words.format(origin=f"column 'name' of {path}")):
        spann.build(X, tmp_path / "i", ids=f"{path}#name")
    assert not (tmp_path / "i").exists()
