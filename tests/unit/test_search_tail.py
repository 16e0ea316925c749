"""Appended vectors are scored with the posting of their centroid: no visits and no reads of their own."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spann
from spann._kernels.distances import simd_levels
from spann.errors import CorruptionError, InputError
from spann.format.kinds import CodedPostings
from spann.search import Engine, Within, search_range
from spann.search.cells import Cells
from spann.search.contract import Resident
from spann.search.loading import read_postings
from spann.search.tail import RUN, Places, codes_of, vectors_of
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours

COUNT, FIRST, APPENDS = 900, 600, 5
EVERYTHING = spann.SearchParams(max_postings=10**6, rerank=10**6, error_bound=1e6)
FEW = spann.SearchParams(max_postings=6)
KINDS = {
    "codes": spann.BuildParams(code_bits=2, posting_size=25, calibration_queries=0),
    "replicas": spann.BuildParams(code_bits=3, posting_size=20, max_replicas=4, calibration_queries=0),
    "vectors": spann.BuildParams(code_bits=0, posting_size=12, calibration_queries=0),
}
CASES = [("codes", "l2"), ("codes", "ip"), ("replicas", "cosine"), ("vectors", "l2"), ("vectors", "hamming")]


@functools.cache
def data():
    base, queries = clustered(COUNT, 24, 12, 7, "uint8")
    base[:, 0] += base[:, 0] == 0
    queries[:, 0] += queries[:, 0] == 0
    return base, queries


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """From kind and metric to the path of an index to which vectors were appended several times."""
    folder = tmp_path_factory.mktemp("tails")

    @functools.cache
    def made(kind, metric):
        base, path = data()[0], folder / f"{kind}-{metric}"
        spann.build(base[:FIRST], path, metric=metric, params=KINDS[kind]).close()
        for part in np.split(base[FIRST:], APPENDS):
            spann.append(path, part).close()
        return path

    return made


def searched(path, params, k=10, *, order="query", threads=1, radius=None, **how):
    with spann.open(path, **how) as index:
        return index.search(data()[1], k, params, order=order, threads=threads, radius=radius)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_a_search_of_everything_is_exact(grown, check_neighbours, kind, metric):
    base, queries = data()
    for k, order in ((1, "query"), (10, "posting"), (COUNT, "query"), (COUNT, "posting")):
        found = searched(grown(kind, metric), EVERYTHING, k, order=order, threads=2)
        check_neighbours(found, base, queries, k, metric)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_a_visit_is_a_cell_and_a_read(grown, kind, metric):
    path = grown(kind, metric)
    found = searched(path, FEW, memory_budget="none")
    assert (found.stats["postings_scored"] == 6).all()
    assert (found.stats["postings_read"] <= 6).all()
    assert np.isin(found.ids, np.arange(FIRST, COUNT)).any()


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_results_depend_on_no_budget_order_or_thread(grown, kind, metric):
    path = grown(kind, metric)
    with spann.open(path) as index:
        least = index.info()["open_memory_least"]
        most = index.info()["open_memory_most"]
    first = searched(path, FEW, memory_budget="none")
    for budget in (least, (least + most) // 2, "auto"):
        for order, threads in (("query", 1), ("query", 3), ("posting", 1), ("posting", 2)):
            found = searched(path, FEW, memory_budget=budget, order=order, threads=threads)
            np.testing.assert_array_equal(found.ids, first.ids)
            np.testing.assert_array_equal(found.distances, first.distances)


@pytest.mark.parametrize("level", simd_levels())
@pytest.mark.parametrize(("kind", "metric"), [("codes", "l2"), ("replicas", "cosine")])
def test_results_are_the_same_at_every_simd_level(grown, monkeypatch, kind, metric, level):
    first = searched(grown(kind, metric), FEW)
    monkeypatch.setenv("SPANN_SIMD", level)
    found = searched(grown(kind, metric), FEW)
    np.testing.assert_array_equal(found.ids, first.ids)
    np.testing.assert_array_equal(found.distances, first.distances)


def test_a_range_counts_appended_vectors(grown):
    base, queries = data()
    _, distances = exact_neighbours(base, queries, 60, "l2")
    radius = float(np.median(distances[:, 40])) + 1e-3
    with spann.open(grown("codes", "l2")) as index:
        found = search_range(
            lambda some, k: index._engine.search(some, k, EVERYTHING, radius=radius),
            queries,
            Within.checked(radius, None, False),
            COUNT,
            owed=False,
        )
    ids, every = exact_neighbours(base, queries, COUNT, "l2")
    for i in range(len(queries)):
        assert set(found.of(i)[0].tolist()) == set(ids[i][every[i] <= radius].tolist())


@pytest.mark.parametrize("kind", ["codes", "replicas"])
def test_entries_of_a_tail_are_those_of_the_appended_postings(grown, kind):
    """Against the plainest way to read them."""
    reader = IndexReader.open(grown(kind, "l2"))
    resident = Resident.read(reader)
    about, own = resident.collection, len(resident.length) - len(resident.appended)
    layout = about.kind
    assert isinstance(layout, CodedPostings)
    cells = Cells.of(resident)
    with contextlib.closing(Engine(reader)) as engine:
        tail = codes_of(engine.arrays.native, resident, reader, cells)
    np.testing.assert_array_equal(cells.tail, np.arange(own, len(resident.length)))
    first_row = np.concatenate([[0], np.cumsum(resident.primaries, dtype=np.int64)])
    ids, rows = tail.ids.view(f"<u{about.id_bytes}"), tail.rows.view(f"<u{about.row_bytes}")
    codes = tail.codes[: len(ids) * about.kind.code_bytes].reshape(len(ids), -1)
    seen = 0
    for block in read_postings(resident, reader, cells.tail):
        for part, start in zip(block.index.tolist(), block.starts.tolist(), strict=True):
            posting = own + part
            n, p = int(resident.length[posting]), int(resident.primaries[posting])
            size = int(about.record.size(np.array([n]), np.array([p]))[0])
            content = block.content[start : start + size]
            parts, (a_low, a_step, s_low, s_step, error) = layout.parts(n, p), layout.header(content)
            a = a_low + a_step * content[parts.add : parts.scale].view("<u2").astype(np.float32)
            s = s_low + s_step * content[parts.scale : parts.rows].view("<u2").astype(np.float32)
            at = np.concatenate(
                [int(tail.places.primary_at[part]) + np.arange(p), int(tail.places.replica_at[part]) + np.arange(n - p)]
            )
            np.testing.assert_array_equal(ids[at], layout.ids(content, n))
            np.testing.assert_array_equal(rows[at[:p]], first_row[posting] + np.arange(p))
            np.testing.assert_array_equal(rows[at[p:]], layout.rows(content, n, p))
            np.testing.assert_array_equal(tail.add[at], a)
            np.testing.assert_array_equal(tail.scale[at], s)
            np.testing.assert_array_equal(codes[at], layout.codes(content, n, p))
            run = tail.places.runs[2 * int(resident.appended[part]) + (error < 0)]
            assert int(run["first"]) <= at.min()
            assert at.max() < int(run["first"]) + int(run["entries"])
            assert abs(float(run["error"])) >= abs(float(error))
            assert float(run["most"]) >= float(s.max())
            seen += n
    assert seen == len(ids)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)), max_size=30))
def test_places_in_a_tail(postings):
    run = np.array([r for r, _, _ in postings], np.int64)
    primaries = np.array([p for _, p, _ in postings], np.uint16)
    length = primaries + np.array([r for _, _, r in postings], np.uint16)
    found = Places.of(run, 6, length.astype(np.uint16), primaries)
    assert found.runs.dtype == RUN
    at = 0
    for number in range(6):
        mine = np.flatnonzero(run == number)
        assert int(found.runs["first"][number]) == at
        for posting in mine:
            assert int(found.primary_at[posting]) == at
            at += int(primaries[posting])
        assert int(found.runs["primaries"][number]) == at - int(found.runs["first"][number])
        for posting in mine:
            assert int(found.replica_at[posting]) == at
            at += int(length[posting]) - int(primaries[posting])
        assert int(found.runs["entries"][number]) == at - int(found.runs["first"][number])


@pytest.mark.parametrize(("kind", "metric"), [("codes", "l2"), ("vectors", "l2")])
def test_a_tail_counts_as_memory_that_is_needed(grown, kind, metric):
    with spann.open(grown(kind, metric), memory_budget="none") as index:
        memory = index.info()["open_memory"]
        assert memory["tail"] > (COUNT - FIRST) * (4 + 6)
        needed = index.open_memory_bytes
    spann.open(grown(kind, metric), memory_budget=needed).close()
    with pytest.raises(InputError, match=f"need {needed}"):
        spann.open(grown(kind, metric), memory_budget=needed - 1)


@pytest.mark.parametrize(("kind", "read"), [("codes", codes_of), ("vectors", vectors_of)])
def test_a_damaged_tail_is_refused_when_the_index_is_opened(grown, kind, read):
    reader = IndexReader.open(grown(kind, "l2"))
    resident = Resident.read(reader)
    resident.crc = resident.crc.copy()
    resident.crc[-1] ^= 1
    where = pytest.raises(CorruptionError, match=f"posting {len(resident.length) - 1} is damaged")
    with contextlib.closing(Engine(reader)) as engine, where:
        read(engine.arrays.native, resident, reader, Cells.of(resident))
