"""Updates one by one: what each call returns, refuses, shows to others, and leaves on the disk."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.changing import rows
from spann.errors import ExistsError, FormatError, InputError
from spann.format.updates import DELETED
from spann.store.log import log_of
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours
from spann.updating import maintenance

DIM = 12
BASE, QUERIES = clustered(400, DIM, 10, 1)
EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)
PARAMS = spann.BuildParams(code_bits=2, posting_size=20, calibration_queries=0)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("built") / "i"
    spann.build(BASE[:300], path, params=PARAMS).close()
    return path


@pytest.fixture
def path(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path / "i")
    return tmp_path / "i"


def check(index: spann.Index, model: dict[int, np.ndarray], k: int = 10) -> None:
    keys = np.array(sorted(model))
    expected, distances = exact_neighbours(np.stack([model[key] for key in keys]), QUERIES, k)
    for order in ("query", "posting"):
        found = index.search(QUERIES, k, EVERYTHING, order=order)
        np.testing.assert_array_equal(found.ids, keys[expected])
        np.testing.assert_allclose(found.distances, distances, rtol=1e-4, atol=1e-4)


def test_a_search_finds_what_was_written_in_every_state(path):
    model = dict(enumerate(BASE[:300]))
    with spann.open(path) as index:
        for state in range(4):
            new = np.arange(3) + 300 + 3 * state
            index.add(BASE[new])
            model |= dict(zip(new.tolist(), BASE[new], strict=True))
            moved = np.arange(5) * 7 + state
            index.upsert(moved, BASE[moved + 90])
            model |= dict(zip(moved.tolist(), BASE[moved + 90], strict=True))
            gone = exact_neighbours(BASE[:300], QUERIES[state : state + 1], 12)[0][0]
            index.delete(gone)
            for i in gone.tolist():
                model.pop(i, None)
            check(index, model)
            index.flush()
            check(index, model)
        assert index.info()["updates"]["dead_rows"] > 20
        assert spann.verify(path) == []
        for budget in ("none", "1MB"):
            with spann.open(path, memory_budget=budget) as other:
                check(other, model)
        index.optimize(purge=True)
        assert (index.info()["updates"]["dead_rows"], index.info()["appended_postings"]) == (0, 0)
        check(index, model)
        np.testing.assert_array_equal(index.get(sorted(model)), [model[key] for key in sorted(model)])


def test_ranges_and_iterators_keep_the_state_they_began_with(path):
    with spann.open(path) as index, spann.open(path) as reader:
        every = index.iterate(QUERIES[0], 50, params=EVERYTHING)
        first, _ = next(every)
        index.delete(np.arange(0, 300, 2))
        index.flush()
        index.optimize(rebuild=True)
        index.upsert([1, 1000], BASE[:2])
        rest = [ids for ids, _ in every]
        assert sorted(np.concatenate([first, *rest]).tolist()) == list(range(300))
        assert len(reader) == 300
        assert sorted(reader.search(QUERIES[:1], 300, EVERYTHING).ids[0].tolist()) == list(range(300))
        assert reader.refresh()
        assert not reader.refresh()
        assert reader.version == index.version
        distances = reader.search(QUERIES[:1], 151, EVERYTHING).distances[0]
        found = reader.search_range(QUERIES[:1], float(distances[40]), params=EVERYTHING)
        assert len(found.ids) == 41
        assert 1000 in reader


def test_deleted_vectors_take_no_ones_place(path):
    with spann.open(path) as index:
        near = index.search(QUERIES[:1], 300, EVERYTHING).ids[0]
        index.delete(near[:290])
        for _ in range(2):
            found = index.search(QUERIES[:1], 10).ids[0]
            assert sorted(found.tolist()) == sorted(near[290:].tolist())
            index.flush()
        index.delete(near)
        assert (index.search(QUERIES, 3).ids == -1).all()
        assert (len(index), len(list(index.iterate(QUERIES[0])))) == (0, 0)
        index.flush()
        assert (spann.open(path).search(QUERIES, 3).ids == -1).all()
        assert index.add(BASE[:2]).tolist() == [300, 301]
        assert sorted(index.search(QUERIES, 3).ids[0].tolist()) == [-1, 300, 301]


def test_one_id_many_times(path):
    with spann.open(path, maintenance="manual") as index:
        assert index.upsert(np.full(500, 7), BASE[np.arange(500) % 100]) == (0, 1)
        np.testing.assert_array_equal(index.get(7), BASE[[99]])
        for i in range(30):
            index.upsert([7], BASE[[i]])
            index.delete([7])
        assert 7 not in index
        assert index.upsert([7, 7], BASE[[3, 4]]) == (1, 0)
        index.flush()
        assert len(index) == 300
        np.testing.assert_array_equal(index.get([7, 7]), BASE[[4, 4]])
    assert spann.verify(path) == []


def test_copies_of_one_vector(path):
    with spann.open(path) as index:
        ids = index.add(np.repeat(BASE[:1], 500, axis=0))
        index.flush()
        found = index.search(BASE[:1], 501, EVERYTHING)
        assert not found.distances.any()
        assert sorted(found.ids[0].tolist()) == [0, *ids.tolist()]
        assert index.delete(ids) == 500
        index.flush()
        assert index.search(BASE[:1], 2, EVERYTHING).ids[0].tolist()[0] == 0
        index.optimize(purge=True)
        assert len(index) == 300
    assert spann.verify(path) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.add(BASE[:1], [5]), "id 5 has a vector already"),
        (lambda i: i.add(BASE[:2], [900, 900]), "repeat; each names one vector"),
        (lambda i: i.add(BASE[:2], [900]), "1 ids were given for 2 vectors"),
        (lambda i: i.upsert([-1], BASE[:1]), "id -1 is not at least 0"),
        (lambda i: i.upsert(np.array([2**63], np.uint64), BASE[:1]), r"id 9223372036854775808 is not below 2\*\*63"),
        (lambda i: i.upsert([1.5], BASE[:1]), "must be .* integers"),
        (lambda i: i.upsert([1], BASE[:1, :5]), "dimension 5; .* dimension 12, and only such can be added"),
        (lambda i: i.upsert([1], BASE[:1].astype(np.uint8)), "uint8 vectors of dimension 12; .* float32"),
        (lambda i: i.upsert([1, 2], np.stack([BASE[0], BASE[0] * np.nan])), "row 1 column 0 of array is nan"),
        (lambda i: i.delete([3, 4000], missing="raise"), "no vector has id 4000, so none is deleted"),
        (lambda i: i.delete([3], missing="maybe"), "missing is 'maybe'"),
        (lambda i: i.get([3, 4000]), "no vector has id 4000"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_logged(path, call, message):
    with spann.open(path) as index:
        with pytest.raises(InputError, match=message):
            call(index)
        assert (len(index), index.version.sequence) == (300, 0)


def test_ids_of_every_width(path, tmp_path):
    with spann.open(path) as index:
        wide = [2**32 - 1, 2**32, 2**63 - 1]
        index.upsert(wide, BASE[:3])
        assert index.search(BASE[1:2] + 0, 2, EVERYTHING).ids[0].tolist() == [1, 2**32]
        done = index.flush()
        assert done.rebuilt
        assert (IndexReader.open(path).collection.id_bytes, len(index)) == (8, 303)
        np.testing.assert_array_equal(index.get(wide), BASE[:3])
        with pytest.raises(InputError, match="too few"):
            index.add(BASE[:1])
    assert spann.verify(path) == []


def test_given_ids_are_needed_where_they_were_given(tmp_path):
    with spann.build(BASE[:50], tmp_path / "i", params=PARAMS, ids=np.arange(50) * 2) as index:
        with pytest.raises(InputError, match="vectors need ids"):
            index.add(BASE[:1])
        assert index.add(BASE[60], [1]).tolist() == [1]
        assert 1 in index
        assert 3 not in index
        assert "1" not in index


def test_zero_vectors_are_refused_under_cosine(tmp_path):
    with spann.build(BASE[:50], tmp_path / "i", metric="cosine", params=PARAMS) as index:
        with pytest.raises(InputError, match="row 1 of array is all zeros"):
            index.add(np.stack([BASE[0], BASE[0] * 0]))
        assert len(index) == 50


def test_longer_vectors_under_ip(tmp_path, check_neighbours):
    with spann.build(BASE[:200], tmp_path / "i", metric="ip", params=PARAMS) as index:
        grown = np.concatenate([BASE[:200], 10 * BASE[200:210]])
        index.add(grown[200:])
        for _ in range(2):
            check_neighbours(index.search(QUERIES, 10, EVERYTHING), grown, QUERIES, 10, "ip")
            index.flush()
    assert spann.verify(tmp_path / "i") == []


def test_binary_vectors(tmp_path, check_neighbours):
    bits = np.random.default_rng(0).integers(0, 256, (300, 8)).astype(np.uint8)
    with spann.build(bits[:200], tmp_path / "i", metric="hamming") as index:
        index.add(bits[200:])
        index.delete(np.arange(0, 300, 3))
        left = np.arange(300) % 3 > 0
        for _ in range(2):
            found = index.search(bits[:5], 20, EVERYTHING)
            check_neighbours(found, bits[left], bits[:5], 20, "hamming", np.flatnonzero(left))
            index.flush()
        np.testing.assert_array_equal(np.packbits(index.get([1, 200 + 2]), axis=1), bits[[1, 202]])
    assert spann.verify(tmp_path / "i") == []


def test_an_old_index_is_upgraded_by_its_first_write(path):
    spann.append(path, BASE[300:]).close()
    before = IndexReader.open(path)
    with spann.open(path) as index:
        assert index.version == (1, 0)
        assert 350 in index
        assert IndexReader.open(path).attributes["generation"] == 1
        index.delete(350)
    after = IndexReader.open(path)
    assert DELETED in after.attributes["features"]
    assert after.collection.updates.lineage == before.attributes["checksum"]
    assert (after.collection.updates.next_id, after.attributes["generation"]) == (400, 2)
    assert spann.verify(path) == []


def test_appending_to_an_index_with_updates(path):
    with spann.open(path) as index:
        index.delete([1, 2])
        index.add(BASE[300:310])
        spann.append(path, BASE[310:350]).close()
        with pytest.warns(spann.RepeatWarning):
            spann.append(path, BASE[310:350]).close()
        index.refresh()
        assert len(index) == 348
        np.testing.assert_array_equal(index.get(np.arange(310, 350)), BASE[310:350])
        assert index.add(BASE[350:352]).tolist() == [350, 351]
        with pytest.raises(InputError, match="id 3 of row 0 of array is in the index already"):
            spann.append(path, BASE[:1], ids=[3])
    assert spann.verify(path) == []


def test_many_flushes_keep_lookups_short(path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_RUNS", 3)
    with spann.open(path) as index:
        for i in range(8):
            index.upsert([i, 1000 + i], BASE[[i + 50, i + 60]])
            index.flush()
            assert len(IndexReader.open(path).collection.updates.runs) <= 3
        np.testing.assert_array_equal(index.get(np.arange(8)), BASE[50:58])
        np.testing.assert_array_equal(index.get(np.arange(1000, 1008)), BASE[60:68])
    assert spann.verify(path) == []


def test_the_log_is_flushed_without_being_asked(path, monkeypatch):
    monkeypatch.setattr(maintenance, "LEAST_OPERATIONS", 10)
    monkeypatch.setattr(maintenance, "MOST_OPERATIONS", 10)
    with spann.open(path, maintenance="inline") as index:
        index.delete(np.arange(12))
        assert (index.info()["updates"]["logged_operations"], index.version.generation) == (0, 2)
    with spann.open(path, maintenance="manual") as index:
        index.delete(np.arange(12, 30))
        assert index.info()["updates"]["logged_operations"] == 18
        index.delete(np.arange(30, 55))
        index.delete([60])  # four times too long
        assert index.info()["updates"]["logged_operations"] == 1
    with spann.open(path, maintenance="background") as index:
        index.delete(np.arange(60, 80))
        end = time.monotonic() + 20
        while index.info()["updates"]["logged_operations"] and time.monotonic() < end:
            time.sleep(0.01)
        assert index.info()["updates"]["logged_operations"] == 0
        assert len(index) == 300 - 30 - 25 - 20
    with pytest.raises(InputError, match="maintenance is 'never'"):
        spann.open(path, maintenance="never")


def test_a_worn_index_is_built_anew_without_being_asked(path):
    with spann.open(path) as index:
        index.delete(np.arange(150))
        done = index.optimize()
        assert (done.rebuilt, done.live, done.dead) == (True, 150, 0)
        assert not index.optimize(full=True).rebuilt
        index.add(BASE[:5])
        index.optimize(full=True)
        assert len(index) == 155
        assert IndexReader.open(path).collection.live == 155


def test_purged_bytes_are_gone(path):
    secret = np.float32(np.pi) * np.arange(1, DIM + 1, dtype=np.float32)
    with spann.open(path) as index:
        index.upsert([5], secret[None])
        index.flush()
        needle = secret.tobytes()
        holders = [p for p in path.parent.rglob("*") if p.is_file() and needle in p.read_bytes()]
        assert holders
        index.delete(5)
        index.optimize(purge=True)
        assert not [p for p in path.parent.rglob("*") if p.is_file() and needle in p.read_bytes()]


def test_an_interrupted_rebuild_is_resumed(path):
    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        if stage == "publish":
            raise Stopped

    with spann.open(path) as index:
        index.delete(np.arange(50))
        with pytest.raises(Stopped):
            index.optimize(rebuild=True, progress=stop)
        index.delete([60])
        assert index.optimize(rebuild=True).dead == 0
        assert len(index) == 249
        index.flush()
    assert {p.name for p in path.parent.iterdir()} == {"i", "i.log"}
    assert spann.verify(path) == []


def test_jobs_ask_for_a_settled_index(path):
    with spann.open(path) as index:
        index.delete([1])
        for call in (lambda: next(index.vectors()), lambda: index.duplicates(0.1), lambda: index.assign()):
            with pytest.raises(InputError, match="optimize --purge"):
                call()
        index.optimize(purge=True)
        ids, vectors = next(index.vectors())
        np.testing.assert_array_equal(vectors, BASE[ids])
        assert len(ids) == 299
        graph, _ = index.knn_graph(k=2, mode="arrays")
        assert graph.shape == (299, 2)
        index.delete([2])
        index.flush()
        with pytest.raises(InputError, match="holds deleted or replaced vectors"):
            spann.calibrate(path)


def test_a_snapshot_is_a_copy_of_its_own(path, tmp_path):
    with spann.open(path) as index:
        index.delete([1])
        index.flush()
        index.upsert([2], BASE[[50]])
        spann.snapshot(path, tmp_path / "copy")
        index.delete([3])
        with spann.open(tmp_path / "copy") as copy:
            assert (len(copy), copy.version) == (299, (2, 2))
            np.testing.assert_array_equal(copy.get(2), BASE[[50]])
            copy.delete(np.arange(10, 100))
            copy.optimize(purge=True)
        index.refresh()
        assert len(index) == 298
        with pytest.raises(ExistsError):
            spann.snapshot(path, tmp_path / "copy")
    assert spann.verify(path) == spann.verify(tmp_path / "copy") == []


def test_a_flushed_index_can_be_copied_without_its_log(path, tmp_path):
    with spann.open(path) as index:
        index.delete([1])
        index.flush()
    shutil.copytree(path, tmp_path / "alone")
    with spann.open(tmp_path / "alone") as copy:
        assert len(copy) == 299
        copy.delete([2])
        assert len(copy) == 298
    assert spann.verify(tmp_path / "alone") == []


def test_the_log_of_another_index_is_refused(path, tmp_path):
    spann.build(BASE[:100], tmp_path / "other", params=PARAMS).close()
    for one in (path, tmp_path / "other"):
        with spann.open(one) as index:
            index.delete([1])
    shutil.rmtree(f"{path}.log")
    shutil.copytree(tmp_path / "other.log", f"{path}.log")
    with pytest.raises(FormatError, match="belongs to another index"):
        spann.open(path)


def test_readers_refresh_by_themselves_and_after_pickling(path):
    with spann.open(path) as writer, spann.open(path, refresh=0) as reader:
        writer.delete([1])
        assert 1 not in reader.search(BASE[1:2], 3).ids
        again = pickle.loads(pickle.dumps(reader))
        writer.upsert([1], BASE[1:2])
        assert again.search(BASE[1:2], 1).ids.tolist() == [[1]]
        again.close()


def _write_some(path: str, first: int) -> None:
    with spann.open(path) as index:
        for i in range(6):
            index.upsert([i, first + i], BASE[[first % 90 + i, i]])
            if i % 3 == 2:
                with contextlib.suppress(ExistsError):  # another process is at it
                    index.flush()


def test_writers_of_many_processes(path):
    context = multiprocessing.get_context("fork")
    firsts = [1000, 2000, 3000]
    running = [context.Process(target=_write_some, args=(str(path), first)) for first in firsts]
    for process in running:
        process.start()
    for process in running:
        process.join()
        assert process.exitcode == 0
    with spann.open(path) as index:
        assert len(index) == 318
        for first in firsts:
            np.testing.assert_array_equal(index.get(np.arange(first, first + 6)), BASE[:6])
        last = index.get(np.arange(6))
        assert all(any((row == BASE[first % 90 + i]).all() for first in firsts) for i, row in enumerate(last))
    assert spann.verify(path) == []


def test_threads_that_write_and_search(path):
    errors: list[BaseException] = []

    def write(first: int) -> None:
        try:
            for i in range(10):
                index.upsert([first + i], BASE[[i]])
        except BaseException as error:
            errors.append(error)

    def search() -> None:
        try:
            while any(thread.is_alive() for thread in writers):
                found = index.search(QUERIES, 5, EVERYTHING).ids
                assert all(len(set(row)) == 5 for row in found.tolist())
        except BaseException as error:
            errors.append(error)

    with spann.open(path) as index:
        writers = [threading.Thread(target=write, args=(first,)) for first in (1000, 2000)]
        searcher = threading.Thread(target=search)
        for thread in (*writers, searcher):
            thread.start()
        index.flush()
        for thread in (*writers, searcher):
            thread.join()
        assert errors == []
        assert len(index) == 320


def test_info_and_explain_tell_of_the_log(path):
    with spann.open(path) as index:
        plain = index.info()["open_memory"]
        assert index.info()["updates"] is None
        index.add(BASE[300:310])
        index.delete([1])
        told = index.info()
        assert sum(told["open_memory"].values()) == told["open_memory_bytes"]
        assert set(told["open_memory"]) == {*plain, "log", "ids"}
        assert (told["updates"]["live_rows"], told["updates"]["dead_rows"]) == (299, 1)
        assert (told["updates"]["logged_vectors"], told["updates"]["log_bytes"] > 10 * DIM * 4) == (10, True)
        explained = index.explain(QUERIES[0])
        assert explained.logged == 10
        assert "10 vectors compared one by one" in str(explained)


def test_the_log_goes_with_what_is_flushed(path):
    with spann.open(path) as index:
        index.delete([1])
        assert len(log_of(IndexReader.open(path)).poll()) == 1
        index.flush()
        assert log_of(IndexReader.open(path)).poll() == []
        assert sorted(p.name for p in Path(f"{path}.log").iterdir()) == ["0000000002", "lock"]
