"""Searches under filters: every result matches, k come back if k match, and they are the nearest."""

import asyncio

import numpy as np
import pytest

import spann
from spann.errors import InputError
from tests.unit.test_columns import TABLE, TEXTS, N

KINDS = {
    "l2": {"metric": "l2"},
    "cosine": {"metric": "cosine"},
    "ip": {"metric": "ip"},
    "classic": {"metric": "l2", "params": spann.BuildParams(code_bits=0, calibration_queries=0)},
    "replicas": {"metric": "l2", "params": spann.BuildParams(code_bits=2, max_replicas=4, calibration_queries=0)},
    "hamming": {"metric": "hamming"},
}
ALL = spann.SearchParams(max_postings=10**6, epsilon2=float("inf"), rerank=N)
FILTERS = ("n < 1500", "n < 95", "lang = 'word5'", "n = 7", "n = -7", "n IN (1, 500, 2990)", "TRUE", "NOT ok")


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(N, 24)).astype(np.float32)


@pytest.fixture(scope="module", params=KINDS)
def index(request, vectors, tmp_path_factory):
    given = {"params": spann.BuildParams(code_bits=2, calibration_queries=0), **KINDS[request.param]}
    base = np.packbits(vectors > 0, axis=1) if request.param == "hamming" else vectors
    if request.param == "hamming":
        given["params"] = spann.BuildParams(calibration_queries=0)
    path = tmp_path_factory.mktemp("filtered") / f"{request.param}.spann"
    ids = np.random.default_rng(5).permutation(10 * N)[:N] + (2**33 if request.param == "classic" else 0)
    with spann.build(base, path, ids=ids, attributes=TABLE, payload={"title": TEXTS}, **given) as found:
        yield found, base, ids


def rows_of(where):
    held = TABLE.to_pandas()
    found = {
        "n < 1500": held.n < 1500,
        "n < 95": held.n < 95,
        "lang = 'word5'": held.lang == "word5",
        "n = 7": held.n == 7,
        "n = -7": held.n == -7,
        "n IN (1, 500, 2990)": held.n.isin([1, 500, 2990]),
        "TRUE": held.n == held.n,
        "NOT ok": held.ok == False,  # noqa: E712 - a column
    }[where]
    return np.flatnonzero(found.to_numpy(bool, na_value=False))


def distances_of(base, query, metric):
    if metric == "hamming":
        return np.bitwise_count(base ^ query).sum(axis=1).astype(np.float64)
    x, q = base.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.sqrt(np.square(x - q).sum(axis=1))
    return -(x @ q) if metric == "ip" else 1 - (x @ q) / np.linalg.norm(x, axis=1) / np.linalg.norm(q)


@pytest.mark.parametrize("where", FILTERS)
def test_the_nearest_matches_come_back(index, where):
    found, base, ids = index
    queries, rows = base[5:300:59], rows_of(where)
    result = found.search(queries, 10, ALL, where=where)
    assert result.matches.tolist() == [len(rows)] * len(queries)
    for query, got, distances in zip(queries, result.ids, result.distances, strict=True):
        exact = distances_of(base[rows], query, found.metric.value)
        order = np.lexsort((ids[rows], exact.astype(np.float32)))[:10]
        assert (got >= 0).sum() == min(10, len(rows))
        sign = -1 if found.metric.value == "ip" else 1
        np.testing.assert_allclose(sign * distances[: len(order)], exact[order], rtol=1e-4, atol=1e-5)
        assert set(got[got >= 0]) <= set(ids[rows].tolist())


@pytest.mark.parametrize("where", FILTERS)
def test_k_come_back_with_the_usual_setting(index, where):
    found, base, ids = index
    rows = rows_of(where)
    for k in (1, 10, 200):
        result = found.search(base[:7], k, where=where)
        counts = (result.ids >= 0).sum(axis=1)
        assert (counts == min(k, len(rows))).all()
        assert np.isin(result.ids[result.ids >= 0], ids[rows]).all()
        assert all(
            len(set(got[got >= 0])) == (got >= 0).sum() for got in result.ids.tolist() for got in [np.array(got)]
        )


def test_results_depend_on_neither_threads_nor_order_nor_budget(index):
    found, base, _ = index
    queries = base[:60]
    with spann.open(found.path, memory_budget="none") as bare:
        for where in ("n < 1500", "n < 95", "ok"):
            wanted = found.search(queries, 10, where=where, threads=1)
            for how in ({"threads": 3}, {"order": "posting"}, {"order": "query", "in_flight": 1}):
                for one in (found, bare):
                    got = one.search(queries, 10, where=where, **how)
                    assert (got.ids == wanted.ids).all()
                    assert (got.distances == wanted.distances).all()


def test_forms_of_a_filter_agree(index):
    found, base, _ = index
    wanted = found.search(base[:5], 10, where="n < 95 AND ok")
    col = spann.col
    for how in (
        {"where": (col("n") < 95) & col("ok").is_true()},
        {"filter": {"n": {"$lt": 95}, "ok": True}},
        {"where": "n < $most AND ok = $ok", "bind": {"most": 95, "ok": True}},
        {"where": "NOT (n >= 95 OR NOT ok)"},
    ):
        got = found.search(base[:5], 10, **how)
        assert (got.ids == wanted.ids).all()
        assert got.matches[0] == wanted.matches[0] == found.matching(**how)


def test_each_query_has_its_own_value(index):
    found, base, _ = index
    most = np.array([95, 1500, 95, -100, 7])
    got = found.search(base[:5], 10, where="n < $most", bind={"most": most})
    for query, value in enumerate(most.tolist()):
        one = found.search(base[query], 10, where=f"n < {value}")
        assert (got.ids[query] == one.ids[0]).all()
        assert got.matches[query] == one.matches[0]
    ranges = found.search_range(base[:5], float(got.distances[1, 3]), where="n < $most", bind={"most": most})
    assert ranges.matches.tolist() == got.matches.tolist()
    assert len(ranges) == 5


def test_ids_leave_only_those(index):
    found, base, ids = index
    some = ids[[3, 700, 2999]]
    got = found.search(base[700], 10, ids=[*some.tolist(), 10**6])
    assert sorted(got.ids[0][:3].tolist()) == sorted(some.tolist())
    assert got.ids[0][3] == -1
    assert got.matches.tolist() == [3]
    assert found.search(base[700], 2, where="n < 500", ids=some).ids[0].tolist() == [ids[3], -1]


def test_ranges_and_iterators_are_filtered(index):
    found, base, ids = index
    rows = rows_of("n < 95")
    exact = distances_of(base[rows], base[0], found.metric.value)
    radius = float(np.sort(exact)[20]) * (1 - 1e-6 if exact.min() < 0 else 1 + 1e-6)
    wanted = ids[rows[exact <= radius]]
    got = found.search_range(base[0], -radius if found.metric.value == "ip" else radius, where="n < 95", params=ALL)
    assert sorted(got.ids.tolist()) == sorted(wanted.tolist())
    within = found.search(base[0], 50, ALL, where="n < 95", radius=-radius if found.metric.value == "ip" else radius)
    assert sorted(within.ids[within.ids >= 0].tolist()) == sorted(wanted.tolist())
    every = np.concatenate([some for some, _ in found.iterate(base[0], 16, where="n < 95")])
    assert sorted(every.tolist()) == sorted(ids[rows].tolist())
    assert list(found.iterate(base[0], 16, where="n = -7")) == []


def test_columns_come_back_with_results(index):
    found, base, ids = index
    got = found.search(base[:4], 5, ALL, where="n >= 1", select=["n", "title", "tags", "price"])
    row = {int(i): place for place, i in enumerate(ids)}
    for query in range(4):
        for rank in range(5):
            place = row[int(got.ids[query, rank])]
            assert got.attributes["n"][query, rank] == place - 5
            title = got.attributes["title"][query, rank]
            assert (None if title is np.ma.masked else title) == TEXTS[place]
    table = got.to_arrow()
    assert table["title"].to_pylist() == [TEXTS[row[i]] for i in table["id"].to_pylist()]
    frame, other = got.to_pandas(), got.to_polars()
    assert frame["n"].tolist() == table["n"].to_pylist() == other["n"].to_list()
    assert other["price"].to_list() == table["price"].to_pylist()
    assert got[1:3].attributes["n"].shape == (2, 5)
    limits = found.search_range(base[0], float(got.distances[0, 2]), select=["n"])
    assert limits.columns()["n"].tolist() == [row[int(i)] - 5 for i in limits.ids]
    assert found.values([int(ids[9])], ["n"])["n"].tolist() == [4]


def test_searches_without_a_filter_count_all(index):
    found, base, _ = index
    assert found.search(base[:3], 2).matches.tolist() == [N] * 3
    assert found.matching() == N


def test_explain_and_async_take_filters(index):
    found, base, _ = index
    assert "setting" in str(found.explain(base[0], 3, where="n < 95"))
    got = asyncio.run(found.search_async(base[0], 3, where="n < 95"))
    assert (got.ids == found.search(base[0], 3, where="n < 95").ids).all()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"where": "prise < 3"}, ["prise", "price"]),
        ({"where": "n < 3", "filter": {"n": 3}}, ["both"]),
        ({"where": 3}, ["int"]),
        ({"bind": {"a": 1}}, ["bind", "filter"]),
        ({"where": "n < $a", "bind": {"a": [1, 2]}}, ["2 values", "1 queries"]),
        ({"select": "n"}, ["list of names"]),
        ({"select": ["m"]}, ["'m'", "'n'"]),
        ({"where": "title = 'a'"}, ["payload"]),
        ({"ids": ["a"]}, ["whole numbers"]),
    ],
)
def test_bad_filters_are_refused(index, how, words):
    found, base, _ = index
    with pytest.raises(InputError) as error:
        found.search(base[0], **how)
    assert all(word in str(error.value) for word in words), error.value


def test_an_index_without_columns_refuses_filters(tmp_path, vectors):
    with spann.build(vectors, tmp_path / "a.spann", params=spann.BuildParams(calibration_queries=0)) as found:
        with pytest.raises(InputError, match="no attributes"):
            found.search(vectors[0], where="n < 3")
        assert found.schema == {}


def test_an_index_with_columns_refuses_updates(index):
    found, base, ids = index
    changes = (lambda: found.add(base[:1], [1]), lambda: found.upsert([1], base[:1]), lambda: found.delete(ids[:1]))
    for change in changes:
        with pytest.raises(InputError, match="columns 'price'"):
            change()
    assert len(found) == N
