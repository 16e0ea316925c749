"""Folders of VectorDBBench: vectors in parts, queries, and neighbours by id."""

from __future__ import annotations

import numpy as np
import pytest

import spann
from spann.errors import InputError, MissingError
from spann.testing import clustered, exact_neighbours
from spann.vectors import convert, open_queries, open_source, read_ids, read_truth, table_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

X, Q = clustered(1000, 12, 20, 9)
IDS = np.random.default_rng(9).permutation(1000) + 100
NEAR = IDS[exact_neighbours(X, Q, 15, "l2")[0]]


def lists(x):
    return pa.array(list(x), pa.list_(pa.from_numpy_dtype(x.dtype)))


def write(path, ids, x, **options):
    pq.write_table(pa.table({"id": ids, "emb": lists(x), "labels": ["a"] * len(x)}), path, **options)


def write_near(path, ids=None, near=NEAR):
    pq.write_table(pa.table({"id": np.arange(20) if ids is None else ids, "neighbors_id": lists(near)}), path)


@pytest.fixture(params=["train", "shuffle_train-of-1", "shuffle_train-of-3", "train-of-10"])
def folder(request, tmp_path):
    """A data set with row groups that no part nor piece is a multiple of."""
    base, _, parts = request.param.partition("-of-")
    path = tmp_path / "set"
    path.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(1000), int(parts or 1))):
        name = f"{base}-{number:02d}-of-{parts}" if parts not in ("", "1") else base
        write(path / f"{name}.parquet", IDS[rows], X[rows], row_group_size=77)
    write(path / "test.parquet", np.arange(20), Q)
    write_near(path / "neighbors.parquet")
    return path


@pytest.fixture(params=[100, 48 * 50, 8 << 20])
def pieces(request, monkeypatch):
    monkeypatch.setattr(table_source, "PIECE_BYTES", request.param)


@pytest.mark.usefixtures("pieces")
def test_all_parts_are_one_source(folder):
    with open_source(folder) as source:
        assert (source.count, source.dim, source.dtype) == (1000, 12, np.float32)
        np.testing.assert_array_equal(source.read(0, 1000), X)
        np.testing.assert_array_equal(source.read(390, 720), X[390:720])
        rows = np.array([999, 0, 5, 5, 334, 333, 998, 1, 700])
        np.testing.assert_array_equal(source.take(rows), X[rows])
        np.testing.assert_array_equal(np.concatenate([block for _, block in source.blocks(64)]), X)
        np.testing.assert_array_equal(source.own_ids().values, IDS)
    with open_source(folder, max_rows=345) as source:
        np.testing.assert_array_equal(source.read(300, 345), X[300:345])
        np.testing.assert_array_equal(source.own_ids().values, IDS[:345])
    with open_queries(folder) as source:
        np.testing.assert_array_equal(source.read(0, 20), Q)
    np.testing.assert_array_equal(read_truth(folder).ids, NEAR)
    np.testing.assert_array_equal(read_ids(folder).values, IDS)


def test_built_and_searched_by_the_ids_of_the_data_set(folder, tmp_path):
    with spann.build(folder, tmp_path / "i") as index:
        found = index.search(Q, 15, spann.SearchParams(max_postings=1000)).ids
        assert (np.sort(found) == np.sort(NEAR)).mean() > 0.99
    with spann.build(folder, tmp_path / "j", ids=np.arange(1000)) as index:
        assert index.search(X[:5], 1).ids.ravel().tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="is in the index already"):
        spann.append(tmp_path / "i", folder)
    convert(open_source(folder), tmp_path / "all.parquet")
    np.testing.assert_array_equal(read_ids(tmp_path / "all.parquet").values, IDS)
    convert(open_source(folder), tmp_path / "all.fbin")
    np.testing.assert_array_equal(open_source(tmp_path / "all.fbin").read(0, 1000), X)


def test_float64_becomes_float32(tmp_path):
    write(tmp_path / "train.parquet", IDS, X.astype(np.float64))
    write(tmp_path / "test.parquet", np.arange(20), Q.astype(np.float64))
    with pytest.warns(spann.NarrowingWarning, match="holds float64, which becomes float32"):
        base = open_source(tmp_path)
    for source, expected in ((base, X), (open_queries(tmp_path), Q)):
        assert source.dtype == np.float32
        np.testing.assert_array_equal(source.read(0, source.count), expected)
        np.testing.assert_array_equal(source.take(np.array([3, 1])), expected[[3, 1]])


def test_a_row_group_is_decoded_once_by_those_who_go_through_it(tmp_path, monkeypatch):
    """However large it is, and never whole."""
    monkeypatch.setattr(table_source, "PIECE_BYTES", 48 * 10)
    decoded = []
    rows = table_source.TableSource._rows

    def counting(self, chunk, first, name):
        decoded.append(len(chunk))
        return rows(self, chunk, first, name)

    monkeypatch.setattr(table_source.TableSource, "_rows", counting)
    write(tmp_path / "train.parquet", IDS, X)
    with open_source(tmp_path) as source:
        assert len(source._groups) == 1
        for start in (0, 20, 10, 60, 35):
            source.read(start, start + 25)
        assert sum(decoded) <= 100
        source.take(np.array([500, 120, 999]))
        assert sum(decoded) <= 1000
        assert max(decoded) <= 10
        assert len(source._kept) <= table_source.KEPT_PIECES


def test_a_row_group_is_never_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(table_source, "PIECE_BYTES", 1 << 18)
    x = np.random.default_rng(0).random((40_000, 256), dtype=np.float32)
    pq.write_table(
        pa.table({"emb": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 256)}), tmp_path / "a.parquet"
    )
    started, most = pa.total_allocated_bytes(), 0
    with open_source(tmp_path / "a.parquet") as source:
        assert len(source._groups) == 1
        for _ in source.blocks(1000):
            most = max(most, pa.total_allocated_bytes() - started)
    assert most < x.nbytes / 2


def test_neighbours_follow_the_order_of_the_queries(tmp_path):
    order = np.random.default_rng(0).permutation(20)
    write(tmp_path / "test.parquet", np.arange(20) * 7, Q)
    write_near(tmp_path / "neighbors.parquet", order * 7, NEAR[order])
    np.testing.assert_array_equal(read_truth(tmp_path).ids, NEAR)
    np.testing.assert_array_equal(read_truth(tmp_path / "neighbors.parquet").ids, NEAR[order])
    write_near(tmp_path / "neighbors.parquet", np.arange(20))
    with pytest.raises(InputError, match=r"other queries than those in test.parquet"):
        read_truth(tmp_path)
    (tmp_path / "test.parquet").unlink()
    np.testing.assert_array_equal(read_truth(tmp_path).ids, NEAR)


def test_lists_of_neighbours_of_different_length(tmp_path):
    table = pa.table({"neighbors_id": pa.chunked_array([[[3, 1, 2], []], [[9]]], pa.list_(pa.int64()))})
    pq.write_table(table, tmp_path / "n.parquet")
    assert read_truth(tmp_path / "n.parquet").ids.tolist() == [[3, 1, 2], [-1, -1, -1], [9, -1, -1]]


def test_calibrated_with_the_queries_of_a_folder(tmp_path):
    base, queries = clustered(3000, 12, 300, 3)
    write(tmp_path / "train.parquet", np.arange(3000), base)
    write(tmp_path / "test.parquet", np.arange(300), queries)
    spann.build(tmp_path, tmp_path / "i").close()
    with spann.calibrate(tmp_path / "i", tmp_path, base=tmp_path) as index:
        assert index.calibration.queries == 300
        assert index.calibration.origin == spann.calibrate(tmp_path / "i", queries, base=base).calibration.origin


@pytest.mark.parametrize("kind", [pa.list_(pa.uint32()), pa.large_list(pa.int64()), pa.list_(pa.int32(), 15)])
def test_neighbours_in_every_kind_of_list(tmp_path, kind):
    pq.write_table(pa.table({"neighbors_id": pa.array(NEAR.tolist(), kind)}), tmp_path / "n.parquet", row_group_size=7)
    np.testing.assert_array_equal(read_truth(tmp_path / "n.parquet").ids, NEAR)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train-00-of-10", "train-01-of-10", "train-07-of-10"], "3 of the 10 parts of train: train-02-of-10.parquet"),
        (["train-00-of-2", "train-01-of-3"], "has both train-00-of-2.parquet and train-01-of-3.parquet"),
        (["train", "train-00-of-2"], "has both train-00-of-2.parquet and train.parquet"),
        (["test"], "has no vectors to search: neither train.parquet nor shuffle_train.parquet"),
    ],
)
def test_parts_that_are_missing(tmp_path, files, words):
    for name in files:
        write(tmp_path / f"{name}.parquet", IDS, X)
    with pytest.raises(InputError, match=words):
        open_source(tmp_path)


def test_what_cannot_be_used(tmp_path):
    write(tmp_path / "train-00-of-2.parquet", IDS, X)
    write(tmp_path / "train-01-of-2.parquet", IDS, X.astype(np.float16))
    with pytest.raises(InputError, match=r"column 'emb' of .*train-01-of-2.parquet is list<.*halffloat"):
        open_source(tmp_path)
    ragged = [*X[:500].tolist(), [1.0], *X[501:].tolist()]
    pq.write_table(
        pa.table({"id": IDS, "emb": pa.array(ragged, pa.list_(pa.float32()))}), tmp_path / "train-01-of-2.parquet"
    )
    with (
        open_source(tmp_path) as source,
        pytest.raises(InputError, match=r"row 500 of .*train-01-of-2.parquet has 1 numbers where row 0 has 12"),
    ):
        source.read(1000, 2000)
    pq.write_table(pa.table({"id": IDS}), tmp_path / "train-01-of-2.parquet")
    with pytest.raises(InputError, match=r"train-01-of-2.parquet has no list column 'emb'"):
        open_source(tmp_path)
    pq.write_table(pa.table({"emb": lists(X)}), tmp_path / "train-01-of-2.parquet")
    with pytest.raises(InputError, match=r"train-01-of-2.parquet has no column 'id'; it has emb"):
        spann.build(tmp_path, tmp_path / "i")
    with pytest.raises(MissingError, match=r"test.parquet does not exist"):
        open_queries(tmp_path)
    with pytest.raises(MissingError, match=r"neighbors.parquet does not exist"):
        read_truth(tmp_path)
    pq.write_table(pa.table({"id": [1], "neighbors_id": ["a"]}), tmp_path / "neighbors.parquet")
    with pytest.raises(InputError, match=r"has no list column 'neighbors_id'; it has id, neighbors_id"):
        read_truth(tmp_path)
    pq.write_table(pa.table({"neighbors_id": [[1.5]]}), tmp_path / "neighbors.parquet")
    with pytest.raises(InputError, match=r"column 'neighbors_id' of .* holds double: ids must be int64"):
        read_truth(tmp_path)
    pq.write_table(pa.table({"neighbors_id": [[1, None]]}), tmp_path / "neighbors.parquet")
    with pytest.raises(InputError, match=r"has nulls"):
        read_truth(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"extension '' is unknown; .* or a folder of VectorDBBench"):
        read_truth(tmp_path / "none")
