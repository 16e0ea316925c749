"""The input of a build: unusable vectors are refused by name, and unusual vectors are all kept."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.errors import InputError, MissingError
from spann.testing import clustered, exact_neighbours
from spann.types import MAX_K

EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)


def all_found(path, count, k=None):
    """Every id of the index, each exactly once, by asking for as many neighbours as there are vectors."""
    with spann.open(path) as index:
        query = np.zeros(index.dim, index.dtype) if index.metric is not spann.Metric.COSINE else np.ones(index.dim)
        result = index.search(query.astype(index.dtype), min(MAX_K, k or count))
    np.testing.assert_array_equal(np.sort(result.ids[0]), np.arange(count))


# --- unusable


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_nonfinite_values_are_refused_by_row_and_column(tmp_path, bad, metric):
    base = np.ones((700, 9), np.float32)
    base[613, 4] = bad
    with pytest.raises(InputError, match=r"row 613 column 4 of array is (nan|-?inf)"):
        spann.build(base, tmp_path / "i", metric=metric)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_a_zero_vector_has_no_cosine(tmp_path, dtype):
    base = np.ones((700, 9), dtype)
    base[613] = 0
    with pytest.raises(InputError, match="row 613 of array is all zeros"):
        spann.build(base, tmp_path / "i", metric="cosine")
    assert list(tmp_path.iterdir()) == []
    with spann.build(base, tmp_path / "i", metric="l2") as index:
        assert index.search(np.zeros(9, dtype), 1).ids.tolist() == [[613]]


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_values_whose_squares_overflow_are_refused_by_row(tmp_path, metric):
    base = np.ones((700, 9), np.float32)
    base[613, 4] = 1e20
    with pytest.raises(InputError, match=r"row 613 of array has squared length 1e\+40; the limit is 1e\+36"):
        spann.build(base, tmp_path / "i", metric=metric)
    assert list(tmp_path.iterdir()) == []


def test_vectors_too_short_to_have_a_direction_are_refused_by_row(tmp_path):
    base = np.ones((700, 9), np.float32)
    base[613] = 1e-20
    with pytest.raises(InputError, match=r"row 613 of array has squared length .*; under cosine it must be at least"):
        spann.build(base, tmp_path / "i", metric="cosine")
    base[613] = 1e-10
    with spann.build(base, tmp_path / "i", metric="cosine") as index:
        result = index.search(base[613], 1)
    assert result.distances[0, 0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        (np.zeros((0, 4), np.float32), "0 whole vectors|at least 1"),
        (np.zeros((4, 0), np.float32), "dimension 0"),
        (np.zeros(4, np.float32), "shape|1-D|dimension"),
        (np.zeros((4, 4), np.complex64), "complex64.*not supported"),
        (np.zeros((4, 4), ">f4"), "little endian"),
        (np.zeros((4, 40_000), np.uint8), "dimension 40000"),
    ],
)
def test_arrays_of_wrong_shape_or_type_are_refused(tmp_path, vectors, match):
    with pytest.raises(InputError, match=match):
        spann.build(vectors, tmp_path / "i")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 3, 8, 9, 8 + 16 * 4 * 99, 8 + 16 * 4 * 100 - 1, 8 + 16 * 4 * 100 + 1])
def test_a_file_of_the_wrong_size_is_refused_before_anything_is_made(tmp_path, kept):
    data = struct.pack("<II", 100, 16) + np.ones((100, 16), np.float32).tobytes() + b"\0"
    file = tmp_path / "base.fbin"
    file.write_bytes(data[:kept])
    with pytest.raises(InputError, match=r"base\.fbin"):
        spann.build(file, tmp_path / "i")
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    base = clustered(3000, 16, 0)[0]
    np.save(tmp_path / "base.npy", base)
    size = (tmp_path / "base.npy").stat().st_size

    def shrink(stage, done, total):
        if stage == "scan":
            with open(tmp_path / "base.npy", "r+b") as file:
                file.truncate(size // 2)

    with pytest.raises(InputError, match=r"base\.npy"):
        spann.build(tmp_path / "base.npy", tmp_path / "i", progress=shrink)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base.npy"]


def test_unusable_paths_are_refused(tmp_path):
    with pytest.raises(MissingError, match=r"none\.fbin"):
        spann.build(tmp_path / "none.fbin", tmp_path / "i")
    with pytest.raises(MissingError, match="does not exist"):
        spann.build(np.ones((5, 5), np.float32), tmp_path / "no" / "i")
    with pytest.raises(MissingError):
        spann.open(tmp_path / "i")


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"metric": "manhattan"}, "metric 'manhattan'"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 5000}, "threads is 5000"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, more, match):
    with pytest.raises(InputError, match=match):
        spann.build(np.ones((50, 4), np.float32), tmp_path / "i", **more)
    assert list(tmp_path.iterdir()) == []


def test_a_posting_that_no_shard_could_hold(tmp_path):
    with pytest.raises(InputError, match="lower posting_size"):
        spann.build(
            np.ones((5, 4096), np.float32),
            tmp_path / "i",
            params=spann.BuildParams(posting_size=16_384, max_replicas=1, code_bits=0),
        )


# --- unusual


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 33])
def test_fewer_vectors_than_a_posting(tmp_path, check_neighbours, n, metric):
    base, queries = clustered(n, 5, 4, 3)
    with spann.build(base, tmp_path / "i", metric=metric) as index:
        assert len(index) == n
        for k in (1, n, n + 1, 100):
            check_neighbours(index.search(queries, k), base, queries, k, metric)
    assert spann.verify(tmp_path / "i") == []


def test_one_vector(tmp_path):
    with spann.build(np.array([[3, 4]], np.uint8), tmp_path / "i") as index:
        result = index.search(np.zeros((2, 2), np.uint8), 3)
        assert result.ids.tolist() == [[0, -1, -1]] * 2
        assert result.distances.tolist() == [[5.0, np.inf, np.inf]] * 2
        assert (result.stats["postings_read"] == 0).all()
        info = index.info()
    assert (info["count"], info["centroids"], info["entries"]) == (1, 1, 0)
    assert spann.verify(tmp_path / "i") == []


@pytest.mark.parametrize("replicas", [1, 8])
def test_a_hundred_thousand_copies(tmp_path, replicas):
    base = np.full((100_000, 8), 7, np.uint8)
    with spann.build(base, tmp_path / "i", params=spann.BuildParams(max_replicas=replicas)) as index:
        assert index.info()["centroids"] == 1
        few = index.search(base[:1], 10)
        assert len(set(few.ids[0].tolist())) == 10
        assert (few.distances == 0).all()
        assert (few.stats["postings_read"] <= 64).all()
        far = index.search(np.full(8, 9, np.uint8), 10)
        np.testing.assert_allclose(far.distances, np.sqrt(32), rtol=1e-6)
        bound = index.info()["posting_length"]["bound"]
        assert index.info()["posting_length"]["max"] <= bound
    all_found(tmp_path / "i", 100_000)
    assert spann.verify(tmp_path / "i") == []


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("replicas", [1, 8])
def test_many_copies_among_others(tmp_path, check_neighbours, metric, replicas):
    rng = np.random.default_rng(4)
    base, queries = clustered(3000, 6, 5, 4)
    base[rng.choice(3000, 1200, replace=False)] = base[7]
    base[rng.choice(3000, 300, replace=False)] = base[8]
    with spann.build(base, tmp_path / "i", metric=metric, params=spann.BuildParams(max_replicas=replicas)) as index:
        check_neighbours(index.search(queries, 10, EVERYTHING), base, queries, 10, metric)
        own = index.search(base[7], 1200, EVERYTHING)
        assert len(set(own.ids[0].tolist())) == 1200
        if metric == "l2":
            assert (own.distances[0, : (base == base[7]).all(axis=1).sum()] == 0).all()
    all_found(tmp_path / "i", 3000)
    assert spann.verify(tmp_path / "i") == []


def test_one_direction_in_many_lengths_under_cosine(tmp_path):
    base, queries = clustered(6000, 16, 40, 5)
    rng = np.random.default_rng(5)
    copies = np.repeat(queries[:5], 600, axis=0) * rng.uniform(0.1, 10, (3000, 1)).astype(np.float32)
    mixed = np.concatenate([base, copies])[rng.permutation(9000)]
    with spann.build(mixed, tmp_path / "i", metric="cosine") as index:
        result = index.search(queries, 10)
        np.testing.assert_allclose(result.distances[:5], 0, atol=1e-5)
    truth = exact_neighbours(mixed, queries, 10, "cosine")[1]
    assert (result.distances <= truth[:, -1:] + 1e-5).mean() >= 0.97
    all_found(tmp_path / "i", 9000)


def test_zeros_of_either_sign_are_the_same_vector(tmp_path):
    rng = np.random.default_rng(6)
    zeros = np.where(rng.random((2000, 8)) < 0.5, np.float32(-0.0), np.float32(0.0))
    with spann.build(zeros, tmp_path / "i") as index:
        assert index.info()["centroids"] == 1
    all_found(tmp_path / "i", 2000)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
@pytest.mark.parametrize("dim", [1, 4096])
def test_the_smallest_and_a_large_dimension(tmp_path, check_neighbours, dim, dtype, metric):
    base, queries = clustered(60, dim, 3, 6, dtype)
    base[(base == 0).all(axis=1)] = 1
    queries[(queries == 0).all(axis=1)] = 1
    with spann.build(base, tmp_path / "i", metric=metric) as index:
        assert index.dim == dim
        check_neighbours(index.search(queries, 10, EVERYTHING), base, queries, 10, metric)
    assert spann.verify(tmp_path / "i") == []


def test_vectors_far_from_the_origin_are_found_as_well(tmp_path):
    """Squared Euclidean distances do not change if everything is moved. Computed distances must not change, either."""
    base, queries = clustered(10_000, 16, 100, 7)
    recall = {}
    for shift in (0, 1000, 10_000):
        moved, asked = base + np.float32(shift), queries + np.float32(shift)
        truth = exact_neighbours(moved, asked, 10)[1]
        with spann.build(moved, tmp_path / str(shift), params=spann.BuildParams(posting_size=16)) as index:
            found = index.search(asked, 10, spann.SearchParams(max_postings=16))
        recall[shift] = (found.distances <= truth[:, -1:] * (1 + 1e-5)).mean()
    assert min(recall.values()) >= recall[0] - 0.02, recall


# --- ids


@pytest.mark.parametrize("base_id", [2**31 - 50, 2**31 + 5, 2**32 - 100, 2**32 - 50, 2**32 + 5, 2**63 - 100])
def test_ids_of_any_size_come_back(tmp_path, check_neighbours, decode, base_id):
    base, queries = clustered(100, 4, 5, 8)
    ids = np.random.default_rng(8).permutation(100).astype(np.uint64) + np.uint64(base_id)
    with spann.build(base, tmp_path / "i", ids=ids) as index:
        check_neighbours(index.search(queries, 20, EVERYTHING), base, queries, 20, "l2", ids)
        assert index.info()["ids"] == "user"
    assert spann.verify(tmp_path / "i") == []
    width = 4 if base_id + 99 < 2**32 else 8
    assert {ids.dtype.itemsize for ids, _ in decode(tmp_path / "i")} == {width}


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (np.array([0, 1, 2, -1, 4]), "id -1 of row 3 .*at least 0"),
        (np.array([0, 1, 2, 2**63, 4], np.uint64), r"id 9223372036854775808 of row 3 .*below 2\*\*63"),
        (np.array([0, 7, 2, 7, 4]), "id 7 is given to more than one row"),
        (np.arange(4), r"ids are \(4,\)"),
        (np.arange(5.0), "float64"),
        (np.arange(5).reshape(5, 1), r"\(5, 1\)"),
        (np.ones(5, bool), "bool"),
    ],
)
def test_unusable_ids_are_refused(tmp_path, ids, match):
    with pytest.raises(InputError, match=match):
        spann.build(np.ones((5, 4), np.float32), tmp_path / "i", ids=ids)
    assert list(tmp_path.iterdir()) == []


def test_an_index_is_built_from_a_path_given_as_text(tmp_path):
    np.save(tmp_path / "base.npy", clustered(50, 4, 0)[0])
    with spann.build(str(tmp_path / "base.npy"), str(tmp_path / "i")) as index:
        assert index.path == Path(tmp_path / "i")
        assert len(index) == 50
