"""Memory and descriptors that searches take, and results that depend on neither."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spann
from spann import system
from spann.control_groups import Group
from spann.search import engine, extent
from spann.search.room import BATCH_BYTES, Needs
from spann.testing import clustered

MB = 1 << 20


# ---- memory ----


def test_threads_and_queries_in_flight_fit_the_room():
    needs = Needs(results=MB, query=10 * MB, thread=2 * MB, batch=0)
    assert needs.query_major(1000 * MB, 4, 8) == (4, 8)
    for room in (400 * MB, 100 * MB, 30 * MB):
        threads, in_flight = needs.query_major(room, 4, 8)
        assert threads * (2 * MB + in_flight * 10 * MB) <= room
    assert needs.query_major(MB, 4, 8) == (1, 1)


def test_blocks_fit_the_room():
    needs = Needs(results=MB, query=10_000, thread=MB, batch=MB)
    threads, block = needs.block(10_000 * MB, 4)
    assert (threads, block) == (4, (BATCH_BYTES - MB) // 10_000)
    for room in (100 * MB, 20 * MB):
        threads, block = needs.block(room, 4)
        assert block > 0
        assert threads * 4 * MB + block * 10_000 + MB <= room
    assert needs.block(MB, 4) == (1, 0)


def test_results_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    base, queries = clustered(2000, 8, 5000, 1)
    with spann.build(base, tmp_path / "i") as index:
        monkeypatch.setattr(engine, "available_memory", lambda: 20 * MB)
        assert index.search(queries, 10).ids.shape == (5000, 10)
        with pytest.raises(spann.InputError, match="the results of this search take"):
            index.search(queries, 1000)


def test_ranges_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    base, queries = clustered(2000, 8, 60, 1)
    with spann.build(base, tmp_path / "i") as index:
        monkeypatch.setattr(extent, "LOOK_BYTES", 1 << 10)
        assert len(index.search_range(queries, 1e6).ids) == 120_000
        monkeypatch.setattr(extent, "available_memory", lambda: MB)
        with pytest.raises(spann.InputError, match="are needed once more, and 1,048,576 bytes of memory"):
            index.search_range(queries, 1e6)


CHILD = """
import sys, numpy as np, spann
path, order, memory_budget = sys.argv[1:]
queries = (np.random.default_rng(1).normal(size=(6000, 32)) * 4).astype(np.float32)
with spann.open(path, memory_budget=memory_budget) as index:
    found = index.search(queries, 10, order=order, threads=2)
    print(found.ids.sum())
"""


@pytest.fixture
def confined() -> Iterator[object]:
    """Runs Python code in a memory control group of so many bytes; skips where none can be made."""
    root = Path("/sys/fs/cgroup/memory")
    group = root / f"spann-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")

    def run(limit: int, *arguments: str) -> str:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        join = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        done = subprocess.run([sys.executable, "-c", join + CHILD, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
        return done.stdout

    yield run
    with contextlib.suppress(OSError):
        group.rmdir()


def test_a_batch_keeps_within_its_control_group(tmp_path, confined):
    base = (np.random.default_rng(0).normal(size=(10_000, 32)) * 4).astype(np.float32)
    spann.build(base, tmp_path / "i").close()
    sums = {
        confined(limit * MB, str(tmp_path / "i"), order, memory)
        for limit, order, memory in ((60, "auto", "auto"), (130, "posting", "none"))
    }
    assert len(sums) == 1


def test_files_in_the_page_cache_do_not_count_as_memory(tmp_path, monkeypatch):
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.stat").write_text("anon 5\nactive_file 300\ninactive_file 200\n")
    assert system._cached(Group(group, True)) == 500
    (group / "memory.stat").write_text("inactive_file 1\ntotal_active_file 30\ntotal_inactive_file 20\n")
    assert system._cached(Group(group, True)) == 50
    assert system._cached(Group(tmp_path, True)) == 0


# ---- descriptors ----


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_dropped_index_gives_its_descriptors_back(tmp_path):
    base, queries = clustered(1000, 8, 3, 1)
    index = spann.build(base, tmp_path / "i")
    data = pickle.dumps(index)
    before = descriptors()
    for _ in range(20):
        spann.open(tmp_path / "i").search(queries, 3, threads=2)
        pickle.loads(data).search(queries, 3)
    assert descriptors() <= before + 1
    index.close()
    index.close()


LIMITED = """
import resource, sys, spann
soft, hard = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    kept = [spann.open(sys.argv[1]) for _ in range(40)]
    print("opened", len(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > soft)
except spann.StorageError as error:
    print(error)
"""


def test_the_limit_on_descriptors_is_raised_or_named(tmp_path):
    spann.build(clustered(1000, 8, 1, 1)[0], tmp_path / "i", params=spann.BuildParams(code_bits=1)).close()
    run = [sys.executable, "-c", LIMITED, str(tmp_path / "i")]
    assert subprocess.check_output([*run, "64", "4096"], text=True) == "opened 40 True\n"
    refused = subprocess.check_output([*run, "64", "64"], text=True)
    assert "shard files, which stay open" in refused
    assert "it may open 64 (`ulimit -Hn`)" in refused


FEW_DESCRIPTORS = """
import resource, sys, numpy, spann
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
base = numpy.random.default_rng(0).standard_normal((2000, 8)).astype(numpy.float32)
for bits in (0, 2):
    params = spann.BuildParams(code_bits=bits, calibration_queries=200)
    with spann.build(base, f"{sys.argv[1]}{bits}", params=params) as index:
        print((index.search(base, 1, threads=2).ids[:, 0] == range(2000)).mean() > 0.9)
"""


def test_a_build_and_a_search_work_with_64_descriptors(tmp_path):
    run = [sys.executable, "-c", FEW_DESCRIPTORS, str(tmp_path / "i")]
    assert subprocess.check_output(run, text=True) == "True\nTrue\n"


# ---- results ----


@st.composite
def indexes(draw):
    """Vectors with clusters and copies, and parameters of an index of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, dim = draw(st.integers(200, 2000)), draw(st.sampled_from([3, 16, 33]))
    base = rng.normal(0, 3, (20, dim))[rng.integers(0, 20, n)] + rng.normal(0, 1, (n, dim))
    base[rng.random(n) < draw(st.sampled_from([0, 0.2]))] = base[0]
    params = spann.BuildParams(
        code_bits=draw(st.sampled_from([0, 1, 2, 4])),
        max_replicas=draw(st.sampled_from([1, 2, 5])),
        posting_size=draw(st.sampled_from([5, 40])),
    )
    ids = rng.choice(2**40, n, replace=False) if draw(st.booleans()) else None
    return base.astype(np.float32), params, ids, rng


@given(indexes(), st.sampled_from(["l2", "cosine", "ip"]), st.sampled_from([1, 10, 200]))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_results_depend_on_the_question_alone(tmp_path_factory, made, metric, k):
    base, params, ids, rng = made
    path = tmp_path_factory.mktemp("same") / "i"
    spann.build(base, path, metric=metric, params=params, ids=ids).close()
    queries = base[rng.integers(0, len(base), 30)] + np.float32(0.1)
    search = spann.SearchParams(max_postings=8, epsilon2=1.0, rerank=max(20, k), error_bound=0.5)
    ranges = search.with_(max_postings=30)
    with spann.open(path, memory_budget="none") as index:
        least = index.open_memory_bytes
        wanted = index.search(queries, k, search, threads=1, order="query")
        radius = float(np.median(wanted.distances[:, 0]))
        within = index.search_range(queries, radius, params=ranges)
        some = index.open_memory_bytes + index.info()["open_memory_most"]
    for memory, io in itertools.product(("none", "auto", some // 2, least), ("buffered", "direct")):
        with spann.open(path, memory_budget=memory, io=io) as index:
            for threads, in_flight, order in ((1, 1, "query"), (3, 8, "query"), (2, None, "posting"), (1, 64, "auto")):
                how = {"threads": threads, "in_flight": in_flight, "order": order}
                found = index.search(queries, k, search, **how)
                np.testing.assert_array_equal(found.ids, wanted.ids, f"{memory} {io} {how}")
                np.testing.assert_array_equal(found.distances, wanted.distances)
            shuffled = rng.permutation(len(queries))
            np.testing.assert_array_equal(index.search(queries[shuffled], k, search).ids, wanted.ids[shuffled])
            again = index.search_range(queries, radius, params=ranges)
            np.testing.assert_array_equal(again.ids, within.ids)


# ---- iterate, inner limits ----


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("bits", [0, 4])
def test_iterate_yields_each_vector_once(tmp_path, metric, bits):
    rng = np.random.default_rng(0)
    base = rng.standard_normal((3000, 32)).astype(np.float32)
    base[::7] = base[0]  # ties
    ids = rng.choice(2**50, len(base), replace=False)
    params = spann.BuildParams(code_bits=bits, calibration_queries=0)
    search = spann.SearchParams(max_postings=3, rerank=20, error_bound=0.1)
    with spann.build(base, tmp_path / "i", metric=metric, ids=ids, params=params) as index:
        for batch in (np.int64(3), 5000, 10**9):
            for query in rng.standard_normal((5, 32)).astype(np.float32):
                parts = list(index.iterate(query, batch=batch, params=search))
                found = np.concatenate([some for some, _ in parts])
                assert len(np.unique(found)) == len(found) == len(base)
                for _, distances in parts:
                    assert (np.diff(-distances if metric == "ip" else distances) >= 0).all()


def test_inner_limits_find_what_is_there_a_group_at_a_time(tmp_path, monkeypatch):
    line = np.arange(3000, dtype=np.float32)[:, None]
    monkeypatch.setattr(spann.search.extent, "ROOM_ROWS", 100)
    with spann.build(line, tmp_path / "i") as index:
        found = index.search(line[:40], 3, inner=np.float64(100.5), radius=np.float32(102.0))
        assert found.ids.tolist() == [
            [x for x in (*([i - 101] if i >= 101 else []), i + 101, i + 102) if x >= 0] + [-1] for i in range(40)
        ]
        assert (index.search(line[:5], 4000, inner=2000.0).ids >= 0).sum(axis=1).tolist() == [999 - i for i in range(5)]


# ---- numbers ----

WRONG = [True, np.True_, float("nan"), "7", None, 1j, [3], np.array([3])]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    with spann.build(np.float32([[0.1], [0.5], [0.9]]), tmp_path_factory.mktemp("line") / "i") as index:
        yield index


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_every_number_type_is_taken_as_radius(line, kind):
    zero = np.float32([[0]])
    assert line.search_range(zero, kind(0.1)).ids.tolist() == [0]
    assert line.search(zero, 2, radius=kind(0.1)).ids.tolist() == [[0, -1]]
    assert line.search_range(zero, kind(0.9), inner=kind(0.1)).ids.tolist() == [1, 2]
    assert line.search_range(zero, 1e300).ids.tolist() == [0, 1, 2]


def test_whole_numbers_of_numpy_are_taken(line):
    one = np.float32([[0.2]])
    wanted = line.search(one, 2).ids.tolist()
    for kind in (np.int64, np.uint8, np.int32):
        assert line.search(one, kind(2), threads=kind(1), in_flight=kind(3)).ids.tolist() == wanted
        assert next(line.iterate(one[0], kind(2)))[0].tolist() == wanted[0]
        assert line.explain(one[0], kind(2)).to_json()
        spann.open(line.path, memory_budget=np.int64(1 << 30)).close()


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", ["k", "threads", "in_flight", "radius", "inner", "batch", "range", "explain"])
def test_values_that_are_not_numbers_are_refused_by_name(line, name, value):
    if value is None and name in ("threads", "in_flight", "radius", "inner"):
        return
    one = np.float32([[0.2]])
    calls = {
        "batch": lambda: line.iterate(one[0], value),
        "range": lambda: line.search_range(one, value),
        "explain": lambda: line.explain(one[0], value),
    }
    wanted = {"range": "radius", "explain": "k"}.get(name, name)
    with pytest.raises(spann.InputError, match=rf"^{wanted} is .*; it must be a"):
        calls.get(name, lambda: line.search(one, **{name: value}))()


# ---- extremes ----


@pytest.mark.parametrize(
    ("n", "dim", "params"),
    [
        (300, 8, {"code_bits": 0, "posting_size": 1}),
        (300, 8, {"code_bits": 4, "posting_size": 1, "max_replicas": 4}),
        (1, 1, {"code_bits": 0, "posting_size": 1}),
        (1, 1, {"code_bits": 8}),
        (2, 1, {"code_bits": 0, "centroids": 0.5}),
        (300, 1, {"code_bits": 1, "posting_size": 32_767}),
        (300, 3, {"code_bits": 0, "posting_size": 32_767, "max_replicas": 64}),
    ],
)
def test_extreme_parameters(tmp_path, n, dim, params):
    base = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    asked = spann.BuildParams(calibration_queries=60, **params)
    with spann.build(base, tmp_path / "i", params=asked) as index:
        for k, order in ((1, "query"), (n + 5, "posting"), (65_535, "auto")):
            found = index.search(base[:3], k, spann.SearchParams(max_postings=1), order=order)
            held = min(n, k)
            assert (np.sort(found.ids[:, :held], axis=1)[0] >= 0).all()
            assert (found.ids[:, held:] == -1).all()
            assert found.ids[0, 0] == 0
        assert len(index.search_range(base[:1], 1e6).ids) == n
        assert index.explain(base[0]).to_json()
    assert spann.verify(tmp_path / "i") == []
