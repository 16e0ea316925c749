"""Searches of an index with codes: the same answers for every way of reading, exact answers if everything is read, and
limits."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pytest

import spann
from spann._kernels.io import backends
from spann.search import Effort, Engine
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours

METRICS = ["l2", "cosine", "ip"]
EVERYTHING = spann.SearchParams(max_postings=10**6, rerank=10**6, error_bound=1e6)
FEW = spann.SearchParams(max_postings=12)
BASE, QUERIES = clustered(6000, 40, 60, 3)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("coded") / "i"
    spann.build(BASE, path, params=spann.BuildParams(code_bits=2, posting_size=60)).close()
    return path


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    path = tmp_path_factory.mktemp("replicated") / "i"
    params = spann.BuildParams(code_bits=2, posting_size=30, max_replicas=4)
    with spann.build(BASE, path, params=params, ids=np.arange(6000) * 7 + 5) as index:
        assert index.info()["replicas_mean"] > 1.5
    return path


def answer(path, params=FEW, k=10, queries=QUERIES, *, order="query", threads=1, in_flight=None, **how):
    with spann.open(path, **how) as index:
        return index.search(queries, k, params, threads=threads, in_flight=in_flight, order=order)


def assert_same(a, b):
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.distances, b.distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_re_ranking_everything_is_exact(tmp_path, check_neighbours, metric, dtype):
    base, queries = clustered(700, 24, 12, 1, dtype)
    base[:, 0] += base[:, 0] == 0
    queries[:, 0] += queries[:, 0] == 0
    params = spann.BuildParams(code_bits=2, posting_size=20)
    with spann.build(base, tmp_path / "i", metric=metric, params=params) as index:
        for k, order in itertools.product((1, 10, 800), ("query", "posting")):
            found = index.search(queries, k, EVERYTHING, order=order)
            check_neighbours(found, base, queries, k, metric)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_recall(tmp_path, bits, metric):
    params = spann.BuildParams(code_bits=bits, posting_size=60)
    truth = exact_neighbours(BASE, QUERIES, 10, metric)[0]
    with spann.build(BASE, tmp_path / "i", metric=metric, params=params) as index:
        found = index.search(QUERIES, 10, spann.SearchParams(max_postings=60, error_bound=2.0))
    hits = [len(set(a) & set(b)) for a, b in zip(found.ids.tolist(), truth.tolist(), strict=True)]
    assert np.mean(hits) / 10 >= (0.9 if metric == "ip" else 0.95)
    assert found.stats["distances"].mean() < 0.6 * len(BASE)


@pytest.mark.parametrize("which", ["built", "replicated"])
def test_pinning_changes_no_answer(which, request):
    path = request.getfixturevalue(which)
    none = answer(path, memory_budget="none")
    with spann.open(path) as index:
        info = index.info()
        assert info["pinned_postings"] == info["postings"]
        everything = index.open_memory_bytes
    needed = everything - info["open_memory"]["codes"]
    for budget in (everything, (needed + everything) // 2, needed + 4000, needed):
        with spann.open(path, memory_budget=budget) as index:
            assert index.open_memory_bytes <= budget
            assert index.open_memory_bytes == sum(index.info()["open_memory"].values())
            found = index.search(QUERIES, 10, FEW, threads=1)
            pinned = index.info()["pinned_postings"]
        assert_same(found, none)
        for name in ("estimates", "distances", "postings_scored", "centroid_distances"):
            assert (found.stats[name] == none.stats[name]).all(), name
        read = found.stats["postings_read"].sum()
        assert (read == 0) == (pinned == info["postings"])
        assert (read < none.stats["postings_read"].sum()) == (pinned > 0)
    with pytest.raises(spann.InputError, match=f"memory_budget is {needed - 1} bytes.*need {needed}"):
        spann.open(path, memory_budget=needed - 1)


@pytest.mark.parametrize("which", ["built", "replicated"])
@pytest.mark.parametrize("budget", ["auto", "none"])
def test_ways_of_working_give_the_same(which, budget, request, monkeypatch):
    path = request.getfixturevalue(which)
    plain = answer(path, memory_budget=budget, io="buffered", in_flight=1)
    ways = [{"threads": t, "in_flight": f, "order": o} for t in (1, 3) for f in (1, 7) for o in ("query", "posting")]
    for way, io in itertools.product(ways, ("buffered", "direct")):
        try:
            found = answer(path, memory_budget=budget, io=io, **way)
        except spann.StorageError as error:
            pytest.skip(f"no direct reads here: {error}")
        assert_same(found, plain)
    for backend in backends():
        monkeypatch.setenv("SPANN_IO", backend)
        assert_same(answer(path, memory_budget=budget, in_flight=5), plain)


def test_an_unknown_way_of_reading_is_refused_by_name(built, monkeypatch):
    monkeypatch.setenv("SPANN_IO", "magic")
    with pytest.raises(spann.StorageError, match="SPANN_IO is 'magic'"):
        answer(built)


@pytest.mark.parametrize("order", ["query", "posting"])
def test_every_vector_is_found_by_itself(built, replicated, order):
    for path, ids in ((built, np.arange(6000)), (replicated, np.arange(6000) * 7 + 5)):
        found = answer(path, spann.SearchParams(max_postings=60), 1, BASE, order=order, threads=2)
        assert (found.ids[:, 0] == ids).mean() >= 0.999
        assert (found.distances[found.ids[:, 0] == ids, 0] == 0).all()


@pytest.mark.parametrize("order", ["query", "posting"])
@pytest.mark.parametrize("k", [100, 1000, 6000, 7000])
def test_k_results_come_back(built, replicated, order, k):
    for path in (built, replicated):
        params = spann.SearchParams(max_postings=2, rerank=1, error_bound=0)
        found = answer(path, params, k, QUERIES[:5], order=order)
        for ids, distances in zip(found.ids, found.distances, strict=True):
            real = ids[ids >= 0]
            assert len(real) == len(set(real.tolist())) == min(k, 6000)
            assert (np.diff(distances[: len(real)]) >= 0).all()


def test_copies_are_all_found(tmp_path):
    base = np.repeat(np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32), 50, axis=0)
    with spann.build(base, tmp_path / "i", params=spann.BuildParams(code_bits=2, posting_size=10)) as index:
        found = index.search(base[::50], 50, spann.SearchParams(max_postings=8, rerank=60))
    assert (np.sort(found.ids, axis=1) == np.arange(1000).reshape(20, 50)).all()
    assert (found.distances == 0).all()


def test_more_error_bound_finds_and_reads_more(built):
    found = [answer(built, FEW.with_(error_bound=x)) for x in (0.0, 1.0, 3.0)]
    pages = [r.stats["exact_pages_read"].mean() for r in found]
    assert pages[0] < pages[1] < pages[2]
    assert all((b.distances <= a.distances).all() for a, b in itertools.pairwise(found))


def test_counts(built):
    with spann.open(built, memory_budget="none", io="direct") as index:
        stats = index.search(QUERIES, 10, FEW).stats
    assert (stats["postings_scored"] == 12).all()
    assert (stats["postings_read"] == 12).all()
    assert (stats["bytes_read"] == 4096 * stats["pages_read"].astype(np.uint64)).all()
    assert (stats["reads"] >= 13).all()
    assert (stats["exact_pages_read"] >= 1).all()
    assert (stats["exact_pages_read"] < stats["pages_read"]).all()
    assert (stats["estimates"] > 12).all()


def damage(path: Path, name: str) -> None:
    file = next(p for p in (path / name / "c").rglob("*") if p.is_file())
    content = bytearray(file.read_bytes())
    layout = IndexReader.open(path).array(name).layout
    content[: layout.shard_bytes] = bytes(255 - b for b in content[: layout.shard_bytes])
    file.write_bytes(content)


@pytest.mark.parametrize("order", ["query", "posting"])
@pytest.mark.parametrize(("name", "place"), [("vectors/exact", "page"), ("postings/pages", "posting")])
def test_damage_is_found_by_a_search(tmp_path, order, name, place):
    path = tmp_path / "i"
    spann.build(BASE[:2000], path, params=spann.BuildParams(code_bits=2, posting_size=60)).close()
    damage(path, name)
    with pytest.raises(spann.CorruptionError, match=f"{place} .*is damaged"):
        answer(path, memory_budget="none", order=order)
    if name == "postings/pages":
        with pytest.raises(spann.CorruptionError, match=r"posting .*is damaged"):
            spann.open(path, memory_budget="auto")


def test_order_must_be_known(built):
    with pytest.raises(spann.InputError, match="order is 'rows'"):
        answer(built, order="rows")
    with pytest.raises(spann.InputError, match="in_flight is 0"):
        answer(built, in_flight=0)


EFFORTS = [Effort(1, 4, 0.05), Effort(10, 12, 0.3), Effort(100, 40, 0.6)]


def within(path, radius, *, efforts=EFFORTS, k=400, threads=1, in_flight=None, **how):
    with contextlib.closing(Engine(IndexReader.open(path), **how)) as engine:
        params = spann.SearchParams(error_bound=3.0, rerank=2 * k)
        return engine.search(QUERIES, k, params, radius=radius, efforts=efforts, threads=threads, in_flight=in_flight)


@pytest.fixture(scope="module")
def radius():
    return float(np.median(exact_neighbours(BASE, QUERIES, 60)[1][:, 30]))


def test_a_range_takes_the_effort_of_what_it_sees(built, radius):
    """Queries with few vectors within the radius score few postings, those with many as many as it takes."""
    found = within(built, radius, memory_budget=1 << 30)
    many = np.array([(row <= radius).sum() for row in exact_neighbours(BASE, QUERIES, 400)[1]])
    scored = found.stats["postings_scored"]
    assert scored.max() <= 40
    assert scored[many > 60].mean() > 1.5 * scored[many < 5].mean()
    least = within(built, radius, efforts=EFFORTS[:1])
    assert least.stats["postings_scored"].max() <= 4
    seen = [(r.distances <= radius).sum() for r in (least, found)]
    assert seen[1] > 1.05 * seen[0]
    assert seen[1] >= 0.95 * (within(built, radius, efforts=EFFORTS[2:]).distances <= radius).sum()


@pytest.mark.parametrize("which", ["built", "replicated"])
def test_a_range_is_the_same_however_it_is_read(request, which, radius):
    path = request.getfixturevalue(which)
    first = within(path, radius, memory_budget="none")
    for how in ({"threads": 3, "in_flight": 5}, {"io": "direct"}, {"memory_budget": "300kB"}):
        assert_same(within(path, radius, **({"memory_budget": "none"} | how)), first)


def test_vectors_beyond_the_radius_take_no_candidates_place(built, radius):
    """Room for as many candidates as there are results is enough, for those beyond the radius are not kept."""
    wanted = exact_neighbours(BASE, QUERIES, 400)[1]
    most = int((wanted <= radius).sum(axis=1).max())
    with contextlib.closing(Engine(IndexReader.open(built))) as engine:
        params = spann.SearchParams(max_postings=10**6, error_bound=5.0, rerank=4 * most)
        found = engine.search(QUERIES, most, params, radius=radius)
    assert (found.distances <= radius).sum() >= 0.999 * (wanted <= radius).sum()
    assert found.stats["distances"].mean() < 0.3 * found.stats["estimates"].mean()


def test_a_range_of_many_copies_is_whole(replicated):
    """Copies of a vector, in several postings, take no other's place."""
    exact = exact_neighbours(BASE, QUERIES[:8], 2000)[1]
    radius = float(np.median(exact[:, -1]))
    with spann.open(replicated) as index:
        found = index.search_range(QUERIES[:8], radius, params=spann.SearchParams(max_postings=10**6, error_bound=5.0))
    assert len(found.ids) >= 0.99 * sum(int((row <= radius).sum()) for row in exact)


@pytest.mark.parametrize("code_bits", [0, 2])
def test_a_range_without_calibration_is_not_cut(tmp_path, code_bits):
    """Without codes, as many are asked for as there are within. All of them must come at any setting."""
    params = spann.BuildParams(code_bits=code_bits, posting_size=20, calibration_queries=0)
    exact = exact_neighbours(BASE, QUERIES[:8], 3000)[1]
    radius = float(exact[:, -1].max()) * 1.001
    with spann.build(BASE, tmp_path / "i", params=params) as index:
        found = index.search_range(
            QUERIES[:8], radius, params=spann.SearchParams(max_postings=10**6 if code_bits else 16)
        )
    assert len(found.ids) >= 0.98 * 8 * 3000
