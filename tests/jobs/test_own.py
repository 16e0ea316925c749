"""The vectors of an index, read back in its own order, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import spann
from spann.elements import pack, rounded
from spann.jobs import OwnVectors
from spann.store.reader import IndexReader
from spann.testing import clustered

KINDS = [
    ("float32", "l2", None, None),
    ("float32", "l2", 0, 8),
    ("uint8", "l2", 2, 4),
    ("float16", "cosine", 0, 1),
    ("float32", "ip", 8, None),
    ("bfloat16", "l2", 0, 2),
    ("bit", "hamming", 0, 3),
]


def make(path, dtype, metric, bits, replicas):
    """An index of 900 vectors, 200 of them appended, with ids; (index, vectors as they come back, ids)."""
    base, _ = clustered(900, 24, 0, 1, "float32" if dtype in ("bfloat16", "bit") else dtype)
    base[100:400] = base[5]
    base[(base == 0).all(axis=1)] = 1
    given = base
    if dtype == "bfloat16":
        base = rounded(base)
        given = pack(base, "bfloat16").view("V2")
    if dtype == "bit":
        given = base = base > 0
    ids = np.random.default_rng(0).permutation(900) * 3 + 7
    params = spann.BuildParams(code_bits=bits, posting_size=20)
    params = params if replicas is None else params.with_(max_replicas=replicas)
    spann.build(given[:700], path, metric=metric, params=params, ids=ids[:700]).close()
    return spann.append(path, given[700:], ids=ids[700:]), base, ids


@pytest.mark.parametrize(("dtype", "metric", "bits", "replicas"), KINDS)
def test_every_vector_comes_once_with_its_id(tmp_path, dtype, metric, bits, replicas):
    index, base, ids = make(tmp_path / "i", dtype, metric, bits, replicas)
    row_of = dict(zip(ids.tolist(), range(900), strict=True))
    whole = next(index.vectors(1000))
    assert sorted(whole[0].tolist()) == sorted(ids.tolist())
    np.testing.assert_array_equal(whole[1], base[[row_of[i] for i in whole[0].tolist()]])
    for batch in (64, 7):
        parts = list(index.vectors(batch))
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole[0])
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), whole[1])
    collection = OwnVectors(IndexReader.open(tmp_path / "i"))
    np.testing.assert_array_equal(collection.ids(), whole[0])
    rows = np.sort(np.random.default_rng(1).choice(900, 50, replace=False))
    np.testing.assert_array_equal(collection.take(rows), whole[1][rows])
    cells = [collection.cell(posting) for posting in range(len(collection.centroid_of))]
    assert sorted(np.concatenate([cell[0] for cell in cells]).tolist()) == list(range(900))
    for cell_rows, vectors in cells:
        np.testing.assert_array_equal(vectors, whole[1][cell_rows])


@pytest.mark.parametrize(("bits", "name"), [(4, "vectors/exact"), (4, "postings/pages"), (0, "centroids/vectors")])
def test_damage_is_found_before_it_is_returned(tmp_path, bits, name):
    base, _ = clustered(500, 24, 0, 1)
    spann.build(base, tmp_path / "i", params=spann.BuildParams(code_bits=bits)).close()
    reader = IndexReader.open(tmp_path / "i")
    collection = OwnVectors(reader)
    file = Path(str(reader.array(name).shard_path(0)))
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(spann.CorruptionError, match="do not match their checksum"):
        list(collection.blocks(100))


def test_a_replaced_index_is_refused(tmp_path):
    line = np.arange(100, dtype=np.float32)[:, None]
    with spann.build(line, tmp_path / "i") as index:
        spann.append(tmp_path / "i", line + 100).close()
        for ask in (lambda: index.vectors(10), index.assign, lambda: index.knn_graph(2), lambda: index.duplicates(0.1)):
            with pytest.raises(spann.InputError, match="the index was replaced since it was opened"):
                ask()


def test_rows_outside_are_refused(tmp_path):
    with spann.build(np.arange(100, dtype=np.float32)[:, None], tmp_path / "i") as index:
        with pytest.raises(spann.InputError, match="batch is 0"):
            index.vectors(0)
        with pytest.raises(spann.InputError, match="rows 90 to 101 are not within its 100 vectors"):
            OwnVectors(index._opened()).read(90, 101)


@pytest.mark.parametrize(("dtype", "metric", "bits", "replicas"), KINDS)
def test_assign_gives_the_posting_of_each_vector(tmp_path, dtype, metric, bits, replicas):
    index, base, _ = make(tmp_path / "i", dtype, metric, bits, replicas)
    clusters, centroids = index.assign(), index.centroids
    assert clusters.shape == (900,)
    assert len(np.unique(clusters[100:400])) == 1  # copies are together
    x = base.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1)[:, None] if metric == "cosine" else x
    c = centroids.astype(np.float64)
    c = c / np.linalg.norm(c, axis=1)[:, None] if metric == "cosine" else c
    nearest = (np.square(x[:, None] - c).sum(axis=2) if metric != "ip" else -x @ c.T).argmin(axis=1)
    found = index.assign(base)
    assert (found == nearest).mean() > 0.99
    if metric == "l2" and bits is None:
        assert (clusters == nearest).mean() > 0.9
    np.testing.assert_array_equal(index.assign(base[3]), found[3:4])
