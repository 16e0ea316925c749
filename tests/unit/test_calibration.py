"""A search has the recall that it is asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import spann
from spann.building.stages import truth as answers
from spann.errors import FormatError, InputError, RecallWarning
from spann.measuring.calibration import Asked, calibrate
from spann.measuring.promise import Calibration, Point
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours
from spann.types import QUERY_STATS, Metric, SearchResult
from spann.vectors import for_metric, open_source

COUNT = 12_000
PARAMS = {
    "codes": spann.BuildParams(code_bits=2, posting_size=40, calibration_queries=400),
    "replicas": spann.BuildParams(code_bits=2, posting_size=60, max_replicas=4, calibration_queries=400),
    "classic": spann.BuildParams(code_bits=0, posting_size=20, calibration_queries=400),
}
SLACK = 0.04
"""400 queries measure, 300 others test: the standard error of their difference is 0.01 at k 10, 0.02 at k 1. And of so
small a collection every vector has moved its centroid towards itself: its own have up to 0.05 more recall where few
postings are scored."""


def recall(ids, truth):
    return np.mean([len(np.intersect1d(a, b)) for a, b in zip(ids, truth, strict=True)]) / truth.shape[1]


@pytest.fixture(scope="module")
def data():
    return clustered(COUNT, 24, 300, 5)


@pytest.fixture(
    scope="module",
    params=[
        ("codes", "l2"),
        ("codes", "cosine"),
        ("codes", "ip"),
        ("replicas", "l2"),
        ("classic", "l2"),
        ("classic", "ip"),
    ],
    ids="-".join,
)
def calibrated(request, data, tmp_path_factory):
    kind, metric = request.param
    path = tmp_path_factory.mktemp("calibrated") / "i"
    spann.build(data[0], path, metric=metric, params=PARAMS[kind]).close()
    return path, metric


@pytest.fixture(scope="module")
def coded(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("coded") / "i"
    spann.build(data[0], path, params=PARAMS["codes"]).close()
    return path


@pytest.mark.parametrize("k", [1, 10, 37, 100, 300])
def test_targets_are_met_by_unseen_queries(calibrated, data, k):
    path, metric = calibrated
    base, queries = data
    truth, _ = exact_neighbours(base, queries, k, metric)
    costs = []
    with spann.open(path) as index:
        for target in (0.8, 0.9, 0.95, 0.98):
            found = index.search(queries, k, target_recall=target)
            assert recall(found.ids, truth) >= target - SLACK * (2 if k == 1 else 1)
            costs.append(found.stats["postings_scored"].mean())
    assert costs[0] < costs[-1] <= index.info()["postings"]


def test_the_default_target_is_095(coded, data):
    base, queries = data
    truth, _ = exact_neighbours(base, queries, 10)
    with spann.open(coded) as index:
        silent, said = index.search(queries, 10), index.search(queries, 10, target_recall=0.95)
        np.testing.assert_array_equal(silent.ids, said.ids)
        assert 0.93 < recall(silent.ids, truth) < 0.995


def test_easy_queries_read_less(tmp_path, data):
    params = spann.BuildParams(code_bits=2, posting_size=8, calibration_queries=300)
    with spann.build(data[0], tmp_path / "i", params=params) as index:
        scored = index.search(data[1], 100, target_recall=0.98).stats["postings_scored"]
    assert np.percentile(scored, 90) > 1.5 * np.percentile(scored, 10)


def test_invalid_targets_are_refused(coded, data):
    with spann.open(coded) as index:
        for target in (0, 1, 1.5, -0.1, float("nan"), True, "0.9", [0.9], np.array(0.9), np.array([0.9, 0.8]), 0.9j):
            for ask in (
                lambda target: index.search(data[1], 10, target_recall=target),
                lambda target: index.search_range(data[1], 0.5, target_recall=target),
                lambda target: index.explain(data[1][0], target_recall=target),
                lambda target: next(index.iterate(data[1][0], target_recall=target)),
                index.params_for,
            ):
                with pytest.raises(InputError, match=r"target_recall is .*; it must be a number between 0 and 1"):
                    ask(target)
        for target in (np.float64(0.9), np.float32(0.9)):
            assert index.params_for(target) == index.params_for(float(target))
        with pytest.raises(InputError, match=r"were seen to reach for k 10 is 0\.9"):
            index.params_for(0.99999, 10)
        with pytest.raises(InputError, match="params and target_recall were both given"):
            index.search(data[1], 10, spann.SearchParams(), target_recall=0.9)
        for k in (0, True, 2.5, "3"):
            with pytest.raises(InputError, match=f"k is {k!r}"):
                index.params_for(0.9, k)
    for count in (0, True, 2.5, "300"):
        with pytest.raises(InputError, match=f"count is {count!r}"):
            spann.calibrate(coded, data[1], count=count)


def test_an_index_without_calibration_says_so(tmp_path, data):
    with spann.build(data[0][:500], tmp_path / "i", params=PARAMS["codes"].with_(calibration_queries=0)) as index:
        assert index.calibration is None
        with pytest.raises(InputError, match=r"is not calibrated.*spann tune"):
            index.search(data[1], 10, target_recall=0.9)


@pytest.mark.parametrize("kind", PARAMS)
def test_the_same_bytes_with_any_threads_and_memory(tmp_path, content, data, kind):
    for name, threads, limit in (("a", 1, None), ("b", 2, None), ("c", 2, "450MB")):
        spann.build(data[0][:4000], tmp_path / name, params=PARAMS[kind], threads=threads, memory_limit=limit).close()
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")


@pytest.mark.parametrize("count", [1, 2, 5, 40, 150])
def test_few_vectors(tmp_path, data, count):
    """A search finds all results, even if few vectors were measured."""
    with spann.build(data[0][:count], tmp_path / "i", params=PARAMS["codes"]) as index:
        assert (index.calibration is None) == (count == 1)
        found = index.search(data[0][:count], 10)
        np.testing.assert_array_equal(found.ids[:, 0], np.arange(count))
        assert ((found.ids >= 0).sum(axis=1) == min(10, count)).all()


def calibrated_for_k_1(missed, *, own, failing=1.0, queries=200):
    """With a search that does not find the `missed` neighbours, which are at distances 1, 2, 3 and so on, of a share of
    the queries."""

    def search(q, k, params):
        every = np.arange(1 - own, k + len(missed) + 1)  # each vector is its own nearest, at place 0
        found = np.tile(every[:k], (len(q), 1))
        found[: round(failing * len(q))] = [place for place in every if place not in missed or place == 0][:k]
        return SearchResult(found.astype(np.int64), found.astype(np.float32), np.zeros(len(q), QUERY_STATS))

    asked = Asked(
        np.zeros((queries, 8), np.float32),
        {j: np.full(queries, float(j)) for j in (1, 2)},
        own=np.zeros((queries, 1), np.int64) if own else None,
        largest_first=False,
        noise=0.0,
    )
    found = calibrate(
        search,
        asked,
        reach=lambda count, fill: np.inf,
        unlike=0.0,
        postings=6,
        entries=10.0,
        coded=False,
    )
    return found.curves[1][0]


@pytest.mark.parametrize(("missed", "recall"), [((), 1.0), ((1,), 0.5), ((2,), 0.5), ((3,), 1.0), ((1, 2), 0.0)])
def test_for_k_1_the_next_neighbours_stand_in(missed, recall):
    point = calibrated_for_k_1(missed, own=True)
    assert point.recall == pytest.approx(recall)
    assert point.low < recall or recall == 0


@pytest.mark.parametrize(("missed", "recall"), [((), 1.0), ((1,), 0.0), ((2,), 1.0)])
def test_given_queries_speak_for_themselves(missed, recall):
    assert calibrated_for_k_1(missed, own=False).recall == recall


def test_products_are_asked_for_as_new_queries_ask():
    """A vector takes no place among its own best products. Asked for one more, the best would be found more easily."""
    queries, asked_for = 200, []

    def search(q, k, params):
        asked_for.append(k)
        found = np.tile(np.arange(1, k + 1), (len(q), 1))  # never the vector itself, which is 0
        if k == 1:
            found[:] = 2  # the best is found only by those who ask for two
        return SearchResult(found.astype(np.int64), 9 - found.astype(np.float32), np.zeros(len(q), QUERY_STATS))

    asked = Asked(
        np.zeros((queries, 8), np.float32),
        {j: np.full(queries, 9.0 - j) for j in (1, 2)},
        own=np.zeros((queries, 1), np.int64),
        largest_first=True,
        noise=0.0,
    )
    limits = {"reach": lambda count, fill: np.inf, "unlike": 0.0, "postings": 6, "entries": 10.0}
    point = calibrate(search, asked, coded=True, **limits).curves[1][0]
    assert set(asked_for) == {1, 2}
    assert point.recall == pytest.approx(0.5)  # the second neighbour is found


def test_less_missed_is_more_promised():
    """200 queries with two answers each: none, one and two are wrong."""
    lows = [calibrated_for_k_1((2,), own=True, failing=share).low for share in (0.0, 0.005, 0.01)]
    assert lows == sorted(lows, reverse=True)
    assert len(set(lows)) == 3
    assert lows[0] > 0.99
    assert calibrated_for_k_1((), own=False).low < 0.99


def test_copies_do_not_count_as_losses(tmp_path, data):
    """Where there are more copies of a vector than k, any k of them are a full recall."""
    base = np.repeat(data[0][:300], 20, axis=0)
    with spann.build(base, tmp_path / "i", params=PARAMS["codes"]) as index:
        assert index.calibration.curves[10][0].recall > 0.9


def test_json_and_back(coded):
    about = IndexReader.open(coded).attributes["calibration"]
    assert Calibration.from_json(about).to_json() == about


@pytest.fixture(scope="module")
def elsewhere(data):
    """Queries that no vector of the collection is like: between two of them, and off the plane they lie in."""
    rng = np.random.default_rng(3)
    base, _ = data
    pairs = rng.integers(len(base), size=(2, 700))
    queries = (base[pairs[0]] + base[pairs[1]]) / 2 + rng.standard_normal((700, base.shape[1])) * 0.4
    return queries.astype(np.float32)


@pytest.mark.parametrize("calibrated", [("codes", "l2")], indirect=True, ids=["codes"])
def test_tuning_with_queries_from_elsewhere(calibrated, data, elsewhere, tmp_path, content):
    import shutil

    path = shutil.copytree(calibrated[0], tmp_path / "i")
    base, unseen = data[0], elsewhere[400:]
    truth, _ = exact_neighbours(base, unseen, 10)
    with spann.open(path) as before:
        found = before.search(unseen, 10, target_recall=0.95)
        assert recall(found.ids, truth) < 0.9
        own = before.search(data[1], 10, spann.SearchParams(max_postings=30))
    files = content(path)
    with pytest.warns(spann.SpannWarning, match="unlike the collection"):
        after = spann.calibrate(path, elsewhere[:400])
    with after:
        assert after.info()["generation"] == 1
        assert (after.calibration.origin, after.calibration.queries) == ("given", 400)
        assert after.calibration.unlike > 0.3
        assert "the queries are unlike the collection" in after.calibration.warning
        assert recall(after.search(unseen, 10, target_recall=0.95).ids, truth) >= 0.95 - SLACK
        np.testing.assert_array_equal(after.search(data[1], 10, spann.SearchParams(max_postings=30)).ids, own.ids)
    changed = {name for name, value in content(path).items() if files.get(name) != value}
    assert changed == {"zarr.json"}
    assert spann.verify(path) == []
    with spann.calibrate(path, count=400) as again:
        assert (again.calibration.origin, again.calibration.warning) == ("base", "")
        assert again.info()["generation"] == 2


def test_tuning_without_codes_needs_the_vectors(tmp_path, data, elsewhere):
    spann.build(data[0][:3000], tmp_path / "i", params=PARAMS["classic"].with_(calibration_queries=0)).close()
    with pytest.raises(InputError, match="has no codes, and its vectors only in postings: give them as --base"):
        spann.calibrate(tmp_path / "i", elsewhere)
    with pytest.raises(InputError, match="base was given without queries"):
        spann.calibrate(tmp_path / "i", base=data[0][:3000])
    with pytest.raises(InputError, match=r"3001 x 24 float32; .* was made of 3000 x 24 float32"):
        spann.calibrate(tmp_path / "i", elsewhere, base=data[0][:3001])
    with pytest.warns(spann.SpannWarning, match="unlike the collection"):
        index = spann.calibrate(tmp_path / "i", elsewhere, base=data[0][:3000])
    with index:
        assert index.params_for(0.9).max_postings > 0


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros((300, 5), np.float32), "dimension 5; the index needs float32 of dimension 24"),
        (np.zeros((300, 24), np.uint8), "uint8 vectors of dimension 24; the index needs float32"),
        (np.ones((3, 24), np.float32), "holds 3 queries; a calibration needs at least"),
    ],
)
def test_invalid_queries_are_refused(coded, content, queries, message):
    before = content(coded)
    with pytest.raises(InputError, match=message):
        spann.calibrate(coded, queries)
    assert content(coded) == before


def test_appended_vectors_keep_the_calibration(tmp_path, data):
    base, queries = data
    spann.build(base[:9000], tmp_path / "i", params=PARAMS["codes"]).close()
    with spann.append(tmp_path / "i", base[9000:]) as index:
        truth, _ = exact_neighbours(base, queries, 10)
        assert recall(index.search(queries, 10, target_recall=0.95).ids, truth) > 0.93


def truth_of(source, queries, rows, metric, directory, **more):
    given = {"threads": 2, "temporary": directory, "checkpoint": None, "progress": lambda *_: None}
    return answers.answers(source, queries, rows, Metric.parse(metric), **given | more)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip", "hamming"])
def test_answers_come_from_all_parts_of_the_collection(tmp_path, metric, own):
    base, queries = clustered(3000, 16, 300, 5, np.float32)
    base[1000:1100] = base[:100]  # equal distances in several parts
    if metric == "hamming":
        base, queries = base > 0, queries > 0
    source, rows = for_metric(open_source(base), Metric.parse(metric)), np.arange(0, 2700, 9)
    asked = source.take(rows) if own else queries
    seen = []
    found = truth_of(
        source, asked, rows if own else None, metric, tmp_path, progress=lambda *at: seen.append(at), part_rows=400
    )
    assert seen[-1] == ("truth", 3000, 3000)
    every = 300
    if own:  # each once, but for those that have too many copies
        distinct, which = np.unique(np.concatenate([asked, source.take(np.arange(3000))]), axis=0, return_inverse=True)
        copies = np.bincount(which.reshape(-1)[300:], minlength=len(distinct))
        every = int((copies[np.unique(which.reshape(-1)[:300])] <= answers.USUAL_COPIES).sum())
    few = {1: every, 2: every, 3: every, 10: every, 30: 200, 100: 200, 300: 100, 1000: 100}
    assert {k: len(distances) for k, distances in found.kth.items()} == few
    assert len(found.chosen) == every
    ids, distances = exact_neighbours(base, asked[found.chosen], 1300, metric)
    for query, copies in enumerate(found.own):
        others = distances[query, ~np.isin(ids[query], copies)]
        for k, kth in found.kth.items():
            if query < len(kth):
                np.testing.assert_allclose(kth[query], others[k - 1], rtol=1e-5, atol=1e-6)
    if own:
        for query, copies in zip(asked[found.chosen[:20]], found.own, strict=False):
            alike = np.flatnonzero((source.take(np.arange(3000)) == query).all(axis=1))
            listed = set(copies[copies >= 0])
            assert listed == set(alike) or (metric == "ip" and listed < set(alike))
    else:
        assert found.own.shape == (300, 0)


def test_copies_are_asked_for_once_and_are_not_their_own_neighbours(tmp_path):
    """300 vectors ten times each; under cosine each copy has a length of its own."""
    originals = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    base = np.repeat(originals, 10, axis=0)
    rows = np.arange(0, 3000, 5)
    for metric, scale in (("l2", 1), ("ip", 1), ("cosine", np.linspace(1, 2, 3000, dtype=np.float32)[:, None])):
        source = open_source(base * scale)
        directory = tmp_path / metric
        directory.mkdir()
        found = truth_of(source, source.take(rows), rows, metric, directory)
        assert len(found.chosen) == 300
        if metric != "ip":
            np.testing.assert_array_equal(
                np.sort(found.own, axis=1)[np.argsort(found.own[:, 0])], np.arange(3000).reshape(300, 10)
            )
        _, distances = exact_neighbours(originals, originals, 300, metric)
        others = (
            distances[:, 1:]
            if metric != "ip"
            else np.sort(np.where(np.eye(300, dtype=bool), -np.inf, originals @ originals.T), axis=1)[:, ::-1]
        )
        for k in (1, 10, 100):
            expected = others[: len(found.kth[k]), (k - 1) // 10]
            np.testing.assert_allclose(found.kth[k], expected, rtol=1e-4, atol=1e-5)


def test_vectors_with_many_copies_are_left_out_if_others_are_there(tmp_path):
    base = np.random.default_rng(3).standard_normal((2000, 8)).astype(np.float32)
    base[1000:1500] = base[0]
    base[1500:1600] = base[1]
    base[1600:1660] = base[2]
    rows = np.arange(0, 2000, 2)
    found = truth_of(open_source(base), base[rows], rows, "l2", tmp_path)
    assert found.own.shape[1] == 61
    np.testing.assert_array_equal(found.chosen, np.r_[1:500, 830:1000])


def test_copies_are_asked_for_if_there_is_nothing_else(tmp_path):
    base = np.repeat(np.eye(4, 8, dtype=np.float32), 1000, axis=0)
    rows = np.arange(0, 4000, 8)
    found = truth_of(open_source(base), base[rows], rows, "l2", tmp_path)
    np.testing.assert_array_equal(found.own, rows[:, None])
    assert (found.kth[100] == 0).all()


def new_to_copies(rng):
    originals = rng.standard_normal((800, 32)).astype(np.float32)
    return np.repeat(originals[:500], 8, axis=0), originals[500:], {"code_bits": 4}, (3, 10)


def long_and_short(rng):
    rows = rng.standard_normal((4300, 32)) * np.exp(rng.standard_normal((4300, 1)))
    return *np.split(rows.astype(np.float32), [4000]), {"code_bits": 4, "max_replicas": 4}, (10, 30)


def very_long_and_short(rng):
    """A search for 1000 finds too few, begins again and finds all, which says nothing of one for 300."""
    rows = rng.standard_normal((2300, 64)) * np.exp(rng.standard_normal((2300, 1)))
    return *np.split(rows.astype(np.float32), [2000]), {"code_bits": 0}, (300,)


def without_structure(rng):
    """A vector that represents a centroid finds nearly all, and a new query is none."""
    return *np.split(rng.standard_normal((4600, 32)).astype(np.float32), [3000]), {"code_bits": 0}, (3, 10)


def in_four_dimensions(rng):
    return *np.split(rng.random((8300, 4)).astype(np.float32), [8000]), {"code_bits": 0}, (30, 200)


def near_copies(rng):
    """Four groups; the vectors of a group are within 1e-6 of each other, by 1 - cos."""
    rows = np.repeat(rng.standard_normal((4, 32)), 1050, axis=0)
    rows = rng.permutation(rows + 5e-4 * rng.standard_normal(rows.shape))
    return *np.split(rows.astype(np.float32), [4000]), {"code_bits": 2}, (3, 10)


@pytest.mark.parametrize(
    ("make", "metric"),
    [
        (new_to_copies, "l2"),
        (long_and_short, "ip"),
        (very_long_and_short, "ip"),
        (without_structure, "l2"),
        (in_four_dimensions, "l2"),
        (near_copies, "cosine"),
    ],
)
def test_promises_hold_where_data_is_hard(tmp_path, make, metric):
    base, queries, how, ks = make(np.random.default_rng(5))
    params = spann.BuildParams(calibration_queries=300, **how)
    with spann.build(base, tmp_path / "i", metric=metric, params=params, memory_budget="none") as index:
        for k in ks:
            _, distances = exact_neighbours(base, queries, k, metric)
            for target in (0.8, 0.95):
                found = index.search(queries, k, target_recall=target)
                far = distances[:, -1:] if metric == "ip" else -distances[:, -1:]
                near = found.distances if metric == "ip" else -found.distances
                assert (near >= far - 1e-5 * abs(far)).mean() > target - 0.02


def test_no_centroid_is_asked_for(tmp_path):
    rng = np.random.default_rng(6)
    base = rng.standard_normal((2000, 16)).astype(np.float32)
    with spann.build(base, tmp_path / "i", ids=rng.permutation(2000), params=PARAMS["classic"]) as index:
        assert 400 * 0.8 < index.calibration.queries < 400


def point(low, postings, epsilon2=0.5, recall=None):
    return Point(postings, epsilon2, 1.0, low if recall is None else recall, low, postings / 2, 10.0, 10.0)


def calibration(*points, stale=""):
    return Calibration("base", 500, 0.0, {10: points, 100: points}, stale)


def test_no_setting_is_made_across_a_cliff():
    far, near = calibration(point(0.7, 10), point(0.999, 160)), calibration(point(0.9, 10), point(0.96, 40))
    assert far.choose(0.95, 10).max_postings == 160
    assert 10 < near.choose(0.93, 10).max_postings < 40


def test_candidates_get_the_room_that_a_setting_was_measured_with():
    usual, roomy = point(0.9, 10), replace(point(0.96, 40), room=16)
    known = calibration(usual, roomy)
    assert known.choose(0.9, 10).rerank is None
    assert known.choose(0.93, 10).rerank == known.choose(0.96, 10).rerank == 16 * 100
    assert known.choose(0.96, 30).rerank == 16 * 300
    assert known.choose(0.96, 100_000, best=True).rerank == 1 << 16
    back = Calibration.from_json(json.loads(json.dumps(known.to_json())))
    assert back.curves[10][1].room == 16


def test_between_limited_and_unlimited_none_is_limited():
    found = calibration(point(0.9, 10, np.inf), point(0.96, 40, 0.1)).choose(0.93, 10)
    assert found.epsilon2 == np.inf


def test_doubts_follow_the_measured_recalls():
    low = calibration(point(0.8, 10), point(0.9, 40, recall=0.93))
    assert low.doubts(0.9, 10) == []
    assert low.doubts(0.92, 10) == []  # only too few queries to promise it
    assert low.doubts(0.95, 10) == []
    assert low.doubts(0.97, 30) == ["recall 0.97 for k 10 cannot be had: no setting was seen to have more than 0.930"]
    old = calibration(point(0.8, 10), point(0.9, 40), stale="others came")
    assert old.doubts(0.8, 10) == ["others came"] == old.doubts(0.9, 100)


@pytest.fixture
def out_of_reach(coded, tmp_path):
    """An index whose calibration has seen no more than 0.9."""
    import shutil

    path = shutil.copytree(coded, tmp_path / "i")
    with spann.open(path) as index:
        most = calibration(point(0.8, 10), point(0.9, 40))
        index._living._base.calibration = most
        index._living.snapshot = index._living._snapshot()
        yield index


def test_an_unreachable_recall_is_reported_once(out_of_reach, data):
    index, queries = out_of_reach, data[1][:3]
    with pytest.warns(RecallWarning, match=r"recall 0\.95 for k 10 cannot be had: .* 0\.900"):
        index.search(queries, 10)
    index.search(queries, 10)  # a warning would be an error here
    index.search(queries, 10, target_recall=0.9)
    index.search(queries, 10, spann.SearchParams())
    with pytest.warns(RecallWarning, match=r"recall 0\.99 for k 100 cannot be had") as told:
        index.search(queries, 100, target_recall=0.99)
    assert told[0].filename == __file__
    assert "recall 0.95 for k 10 cannot be had" in str(index.explain(queries[0]))
    assert index.explain(queries[0], target_recall=0.9).doubts == ()
    assert index.info()["recall_doubts"][0].startswith("recall 0.99 for k 10 cannot be had")
    with pytest.raises(InputError, match=r"seen to reach for k 10 is 0\.9"):
        index.params_for(0.95)


@pytest.mark.parametrize(
    "change",
    [
        {"curves": {}},
        {"curves": {"10": []}},
        {"curves": {"ten": []}},
        {"curves": {"10": [[1]]}},
        {"curves": []},
        {"columns": []},
        {"columns": None},
        {"origin": "elsewhere"},
        {"queries": -1},
        {"unlike": []},
    ],
    ids=str,
)
def test_a_damaged_calibration_is_refused(change):
    document = calibration(point(0.8, 10), point(0.9, 40)).to_json()
    assert Calibration.from_json(document).to_json() == document
    with pytest.raises(FormatError, match="calibration is damaged"):
        Calibration.from_json(document | change)


@pytest.mark.parametrize(
    ("column", "value"),
    [("max_postings", 0), ("max_postings", 1.5), ("epsilon2", -1), ("low", 2), ("low", None), ("room", 0.5)],
)
def test_a_damaged_point_is_refused(column, value):
    document = calibration(point(0.8, 10), point(0.9, 40)).to_json()
    document["curves"]["10"][1][document["columns"].index(column)] = value
    with pytest.raises(FormatError, match="calibration is damaged"):
        Calibration.from_json(document)
