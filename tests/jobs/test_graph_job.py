"""`spann knn-graph`, `join` and `assign`, and the methods of an index that do the same in memory."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse

import spann
from spann.testing import clustered, exact_neighbours

EVERYTHING = spann.SearchParams(max_postings=100_000, error_bound=10.0, rerank=100_000)


def truth(base, k, metric="l2"):
    """Rows and distances of the k nearest others."""
    ids, distances = exact_neighbours(base, base, len(base), metric)
    own = ids == np.arange(len(base))[:, None]
    shape = len(base), len(base) - 1
    return ids[~own].reshape(shape)[:, :k], distances[~own].reshape(shape)[:, :k]


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("named", [False, True])
def test_the_graph_of_a_collection_is_in_the_order_of_its_rows(tmp_path, metric, named):
    base, _ = clustered(400, 12, 0, 1)
    ids = np.random.default_rng(0).permutation(400) * 7 if named else None
    with spann.build(base, tmp_path / "i", metric=metric, ids=ids) as index:
        rows, distances = index.knn_graph(5, mode="arrays", params=EVERYTHING)
        graph = index.knn_graph(5, params=EVERYTHING)
        ones = index.knn_graph(5, mode="connectivity", params=EVERYTHING)
        with_self = index.knn_graph(5, include_self=True, mode="arrays", params=EVERYTHING)
    expected, far = truth(base, 5, metric)
    np.testing.assert_allclose(distances, far, rtol=1e-4, atol=1e-5)
    assert (rows == expected).mean() > 0.99
    assert graph.shape == (400, 400)
    np.testing.assert_array_equal(graph.indices.reshape(400, 5), rows)
    np.testing.assert_array_equal(graph.data.reshape(400, 5), distances)
    assert set(ones.data.tolist()) == {1.0}
    if metric != "ip":
        np.testing.assert_array_equal(with_self[0][:, 0], np.arange(400))
        np.testing.assert_array_equal(with_self[0][:, 1:], rows[:, :4])


def test_copies_have_each_other_and_not_themselves(tmp_path):
    base, _ = clustered(300, 12, 0, 1)
    base[100:180] = base[7]
    with spann.build(base, tmp_path / "i", params=spann.BuildParams(posting_size=20)) as index:
        rows, distances = index.knn_graph(5, mode="arrays", params=EVERYTHING)
    assert (rows != np.arange(300)[:, None]).all()
    assert (distances[100:180] == 0).all()
    assert set(rows[100:180].ravel().tolist()) <= {7, *range(100, 180)}


def test_more_neighbours_than_vectors_leave_places_empty(tmp_path):
    with spann.build(np.arange(4, dtype=np.float32)[:, None], tmp_path / "i") as index:
        rows, distances = index.knn_graph(5, mode="arrays")
        assert index.knn_graph(5).nnz == 12
    assert (rows[:, 3:] == -1).all()
    assert np.isinf(distances[:, 3:]).all()


def test_an_unknown_mode_is_refused(tmp_path):
    with (
        spann.build(np.arange(4, dtype=np.float32)[:, None], tmp_path / "i") as index,
        pytest.raises(spann.InputError, match="mode is 'dense'; it must be one of distance, connectivity, arrays"),
    ):
        index.knn_graph(2, mode="dense")


@pytest.mark.parametrize("named", [False, True])
def test_the_graph_on_disk_equals_the_graph_in_memory(tmp_path, done, named, monkeypatch):
    monkeypatch.setattr("spann.jobs.graph.SCATTER_BYTES", 12 * 5 * 100)  # several passes
    base, _ = clustered(600, 12, 0, 1)
    ids = np.random.default_rng(0).permutation(600) * 7 if named else None
    with spann.build(base, tmp_path / "i", ids=ids) as index:
        graph, arrays = index.knn_graph(5), index.knn_graph(5, mode="arrays")
    for name in ("g.npz", "g.parquet", "parts/"):
        done("knn-graph", tmp_path / "i", "-k", 5, "-o", f"{tmp_path}/{name}", "--part-rows", 250)
    found = sparse.load_npz(tmp_path / "g.npz")
    assert (found != graph).nnz == 0
    assert found.nnz == graph.nnz == 3000
    with np.load(tmp_path / "g.npz") as stored:
        assert ("ids" in stored) == named
    table = pq.read_table(tmp_path / "g.parquet")
    assert table.schema.names == ["id", "neighbors", "distances"]
    assert table.equals(pq.read_table(tmp_path / "parts"))
    names = np.arange(600) if ids is None else ids
    row = {int(name): i for i, name in enumerate(names)}
    order = [row[name] for name in table["id"].to_pylist()]
    assert table["neighbors"].to_pylist() == names[arrays[0][order]].tolist()
    np.testing.assert_array_equal(table["distances"].combine_chunks().flatten().to_numpy(), arrays[1][order].ravel())


def test_a_long_graph_has_a_row_for_each_edge(tmp_path, done):
    base, _ = clustered(300, 12, 0, 1)
    spann.build(base, tmp_path / "i").close()
    report = json.loads(
        done(
            "knn-graph", tmp_path / "i", "-k", 3, "-o", tmp_path / "g.parquet", "--layout", "long", "--json", "-q"
        ).stdout
    )
    assert (report["k"], report["rows"], report["complete"]) == (3, 300, True)
    table = pq.read_table(tmp_path / "g.parquet")
    assert table.schema.names == ["id", "rank", "neighbor", "distance"]
    assert len(table) == 900
    assert all(a != b for a, b in zip(table["id"].to_pylist(), table["neighbor"].to_pylist(), strict=True))


def test_join_finds_the_nearest_of_another_index(tmp_path, done):
    base, more = clustered(500, 12, 200, 1)
    left = spann.build(more, tmp_path / "left", ids=np.arange(200) * 2 + 1)
    right = spann.build(base, tmp_path / "right")
    joined = spann.join(left, right, k=2, target_recall=None)
    expected = right.search(more, 2)
    np.testing.assert_array_equal(joined.ids, np.arange(200) * 2 + 1)
    np.testing.assert_array_equal(joined.neighbours, expected.ids)
    np.testing.assert_array_equal(joined.distances, expected.distances)
    near = spann.join(left, right, k=2, radius=1.0)
    assert 0 < len(near.columns()["id"]) < 400
    done("join", tmp_path / "left", tmp_path / "right", "-k", 2, "-o", tmp_path / "j.parquet", "--radius", 1.0)
    table = pq.read_table(tmp_path / "j.parquet").sort_by("id")
    for row, neighbours in zip(near.neighbours, table["neighbors"].to_pylist(), strict=True):
        assert row[row >= 0].tolist() == neighbours


def test_join_of_different_kinds_names_both(tmp_path, refused):
    spann.build(clustered(100, 12, 0)[0], tmp_path / "left").close()
    spann.build(clustered(100, 13, 0)[0], tmp_path / "right").close()
    message = refused("join", tmp_path / "left", tmp_path / "right", "-o", tmp_path / "j.parquet")
    assert "left, vectors from 0 on" in message
    assert "(queries, 13)" in message


def test_assign_writes_clusters(place, tmp_path, done):
    with spann.open(place / "index.spann") as index:
        own, given = index.assign(), index.assign(np.load(place / "queries.npy"))
    done("assign", place / "index.spann", "-o", tmp_path / "own.parquet", "--part-rows", 1000)
    table = pq.read_table(tmp_path / "own.parquet").sort_by("id")
    assert table["id"].to_pylist() == list(range(3000))
    assert table["cluster"].to_pylist() == own.tolist()
    done("assign", place / "index.spann", place / "parts", "-o", f"{tmp_path}/given/")
    table = pq.read_table(tmp_path / "given")
    assert table["query"].to_pylist() == list(range(241))
    assert table["cluster"].to_pylist() == given.tolist()
