"""Queries are taken in every form that holds numbers. Anything else is refused by type and place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import spann
from spann import InputError, MissingError
from spann.testing import clustered

BASE, QUERIES = clustered(600, 24, 7, 3)


class Dlpack:
    """An object with DLPack alone, like tensors of some libraries."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Arrays:
    """An object with `__array__` alone."""

    def __array__(self, dtype=None, copy=None):
        return QUERIES


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with spann.build(BASE, tmp_path_factory.mktemp("queries") / "i") as index:
        yield index


@pytest.fixture(scope="module")
def expected(index):
    return index.search(QUERIES, 5)


FORMS = {
    "float64": lambda: QUERIES.astype(np.float64),
    "big endian": lambda: QUERIES.astype(">f4"),
    "lists": QUERIES.tolist,
    "a list of arrays": lambda: list(QUERIES),
    "tuples": lambda: tuple(map(tuple, QUERIES.tolist())),
    "DLPack": lambda: Dlpack(QUERIES),
    "__array__": Arrays,
    "a column of arrays": lambda: np.array([*QUERIES, None], object)[:-1],
    "not contiguous": lambda: np.repeat(QUERIES, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_queries_gives_the_same(index, expected, form):
    found = index.search(FORMS[form](), 5)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_columns_of_other_libraries_are_queries(index, expected):
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(QUERIES.ravel()), 24)
    for form in (pandas.DataFrame(QUERIES), pandas.Series(list(QUERIES)), fixed, pyarrow.chunked_array([fixed])):
        np.testing.assert_array_equal(index.search(form, 5).ids, expected.ids)


def test_a_column_of_polars(index, expected):
    polars = pytest.importorskip("polars")
    np.testing.assert_array_equal(index.search(polars.Series(QUERIES), 5).ids, expected.ids)


def test_a_path_of_queries_is_read(index, expected, tmp_path):
    np.save(tmp_path / "q.npy", QUERIES)
    for path in (tmp_path / "q.npy", str(tmp_path / "q.npy")):
        np.testing.assert_array_equal(index.search(path, 5).ids, expected.ids)
        assert len(index.search_range(path, 1.0)) == 7
    with pytest.raises(spann.MissingError, match=r"none\.npy"):
        index.search(Path("none.npy"))


def test_one_query_in_every_call(index, expected):
    for one in (QUERIES[0], QUERIES[0].tolist(), QUERIES[0].astype(np.float64), QUERIES[:1]):
        assert index.search(one, 5).ids.tolist() == expected.ids[:1].tolist()
        assert len(index.search_range(one, 1.0)) == 1
        assert next(iter(index.iterate(one, 5)))[0][0] == expected.ids[0, 0]
        assert index.explain(one, 5) is not None


def test_whole_numbers_for_an_index_of_integers(tmp_path):
    base, queries = clustered(300, 8, 5, 3, "uint8")
    with spann.build(base, tmp_path / "u") as index:
        expected = index.search(queries, 3)
        for form in (queries.tolist(), queries.astype(np.int64), queries.astype(np.float32), queries.astype(np.uint16)):
            np.testing.assert_array_equal(index.search(form, 3).ids, expected.ids)
        for value in (256, -1, 0.5, np.nan):
            wrong = queries.astype(np.float64)
            wrong[2, 3] = value
            with pytest.raises(InputError, match=rf"query 2 has {value} at place 3; .*whole numbers from 0 to 255"):
                index.search(wrong)


def test_float32_for_an_index_of_float16_is_not_rounded(tmp_path):
    base = clustered(300, 8, 0, 3, np.float16)[0]
    with spann.build(base, tmp_path / "h") as index:
        query = base[5].astype(np.float32) + np.float32(1e-5)
        (distance,) = index.search(query, 1).distances[0]
        assert distance == pytest.approx(np.sqrt(8) * 1e-5, rel=0.2)


def test_bits(tmp_path):
    bits = np.random.default_rng(0).random((200, 32)) < 0.5
    with spann.build(bits, tmp_path / "b", metric="hamming") as index:
        packed = np.packbits(bits[:5], axis=1)
        for form in (bits[:5], packed, bits[:5].astype(int).tolist(), packed.tolist(), bits[:5].astype(np.float32)):
            assert index.search(form, 1).ids.ravel().tolist() == [0, 1, 2, 3, 4]
        with pytest.raises(InputError, match=r"query 1 has 2 at place 4; .*holds bits, so queries are .*from 0 to 1"):
            index.search(np.where(np.arange(64).reshape(2, 32) == 36, 2, bits[:2]))


@pytest.mark.parametrize(
    ("queries", "match"),
    [
        (["a", "b"], "a does not exist"),
        (None, "queries is a NoneType: vectors must be a path, an array, lists, a table"),
        (np.array(["a"]), "queries is a ndarray whose elements are str32"),
        (QUERIES + 1j, "whose elements are complex"),
        ({"a": 1}, "queries is a dict: vectors must be"),
        ([[1.0, 2.0], [1.0]], "row 1 of queries has 1 numbers where row 0 has 2"),
        (np.ma.masked_array(QUERIES, QUERIES > 0), "row 0 of queries is masked"),
        (np.full((1, 24), 1e300), r"row 0 column 0 of queries is 1e\+300, beyond float32"),
        (np.full((1, 24), np.nan), "is nan"),
        (np.datetime64("2020-01-01"), "whose elements are datetime64"),
        (5.0, "queries is a float: vectors must be"),
        (QUERIES[None], r"shape \(1, 7, 24\)"),
    ],
)
def test_unusable_queries_are_refused(index, queries, match):
    for call in (index.search, lambda given: index.search_range(given, 1.0), index.explain):
        with pytest.raises((InputError, MissingError), match=match):
            call(queries)
