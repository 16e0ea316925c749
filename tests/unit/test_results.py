"""Results as people use them: unpacked, by query, as tables of other libraries, and shown."""

from __future__ import annotations

import numpy as np
import pytest

import spann
from spann import frames
from spann.testing import clustered

BASE, QUERIES = clustered(500, 16, 4, 3)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with spann.build(BASE, tmp_path_factory.mktemp("results") / "i") as index:
        yield index


@pytest.fixture(params=["search", "range"])
def result(request, index):
    """A result of four queries. One found fewer neighbours than the others."""
    if request.param == "search":
        found = index.search(QUERIES, 3)
        ids = found.ids.copy()
        ids[2, 1:] = -1
        return spann.SearchResult(ids, found.distances, found.stats)
    near = index.search(QUERIES, 3).distances
    return index.search_range(QUERIES, float(near.max()))


def test_a_result_is_indexed_by_query(result):
    assert len(result) == 4
    columns = result.columns()
    for i in range(4):
        mine = columns["query"] == i
        for ids, distances in (result[i], result.of(i), result[i - 4], result[np.int64(i)]):
            assert ids.tolist() == columns["id"][mine].tolist()
            assert distances.tolist() == columns["distance"][mine].tolist()
    for wrong in (4, -5):
        with pytest.raises(IndexError, match=rf"query {wrong} is not there: the result has 4 queries"):
            result[wrong]
    with pytest.raises(TypeError):
        result["0"]


@pytest.mark.parametrize("chosen", [slice(1, 3), slice(None), slice(None, None, -2), slice(3, 1), slice(2, 99)])
def test_slices(result, chosen):
    part = result[chosen]
    assert type(part) is type(result)
    numbers = range(4)[chosen]
    assert len(part) == len(part.stats) == len(numbers)
    for i, number in enumerate(numbers):
        assert part[i][0].tolist() == result[number][0].tolist()
        assert part.stats[i] == result.stats[number]


def test_unpacking(index):
    found = index.search(QUERIES, 3)
    ids, distances = found
    assert ids is found.ids
    assert distances is found.distances
    near = index.search_range(QUERIES, 1.0)
    limits, distances, ids = near
    assert (limits is near.limits, distances is near.distances, ids is near.ids) == (True, True, True)


def test_tables(result):
    pandas, pyarrow, polars = (pytest.importorskip(name) for name in ("pandas", "pyarrow", "polars"))
    columns = result.columns()
    rows = result.to_list()
    assert len(rows) == len(columns["id"]) > 0
    assert rows[0] == {name: column[0].item() for name, column in columns.items()}
    assert {type(value) for value in rows[0].values()} == {int, float}
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == rows
    assert isinstance(result.to_arrow(), pyarrow.Table)
    assert result.to_arrow().to_pylist() == rows
    for table in (result.to_polars(), polars.DataFrame(result), polars.from_arrow(pyarrow.table(result))):
        assert table.to_dicts() == rows


def test_a_library_that_is_missing_is_named(result, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(spann.InputError, match="results as a table of polars need polars: pip install polars"):
        result.to_polars()


def test_the_repr_is_brief(index):
    found = index.search(np.concatenate([QUERIES] * 25), 7)
    text = repr(found)
    assert text.startswith("SearchResult(100 queries, k=7; query 0: ids [")
    assert text.count("\n") == 0
    assert len(text) < 160
    assert "ns" not in text
    near = index.search_range(QUERIES[:1], 1e9)
    assert repr(near).startswith("RangeResult(1 query, 500 neighbours; query 0: ids [")
    assert len(repr(near)) < 170
    assert repr(found[:0]) == "SearchResult(0 queries, k=7)"
    assert repr(near[:0]) == "RangeResult(0 queries, 0 neighbours)"


def test_shown_in_a_notebook(index, result):
    page = result._repr_html_()
    assert page.startswith("<table><caption>4 queries, ")
    assert page.count("<tr>") == 1 + min(len(result.columns()["id"]), frames.SHOWN_ROWS)
    long = index.search(QUERIES, 100)._repr_html_()
    assert "k 100; the first 10 of 400 rows" in long
    assert long.count("<tr>") == 11


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("L2", "l2"), ("Euclidean", "l2"), ("COS", "cosine"), ("angular", "cosine"), ("Cosine ", "cosine"),
        ("dot", "ip"), ("inner product", "ip"), ("Inner-Product", "ip"), ("dotProduct", "ip"), ("Hamming", "hamming"),
    ],
)  # fmt: skip
def test_names_of_metrics(tmp_path, name, metric):
    assert spann.Metric.parse(name) is spann.Metric(metric)
    if metric != "hamming":
        with spann.build(BASE[:50], tmp_path / "i", metric=name) as index:
            assert index.metric.value == metric
            assert spann.plan(BASE[:50], metric=name).metric == metric


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("euclidian", r"metric 'euclidian' is unknown; .*Did you mean 'euclidean'\?"),
        ("cosin", r"Did you mean 'cosine'\?"),
        ("l2sq", "distances under l2 are Euclidean, not their squares"),
        ("sqeuclidean", "not their squares"),
        ("jaccard", "it must be one of l2, cosine, ip, hamming$"),
        ("", "metric '' is unknown"),
        (3, "metric 3 is unknown"),
        (None, "metric None is unknown"),
    ],
)
def test_unknown_names_of_metrics_are_refused(name, match):
    with pytest.raises(spann.InputError, match=match):
        spann.Metric.parse(name)
