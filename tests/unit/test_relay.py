"""Cells that are laid anew: nothing is lost or found twice, searches stay as good, and postings dense."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil

import numpy as np
import pytest

import spann
from spann.changing.cells import PURGED, TIDY, Bounds, Cells
from spann.changing.generation import Generation
from spann.changing.relay import Change, can_be_relaid, relay
from spann.changing.rows import MOST_RUNS
from spann.elements import pack
from spann.errors import InputError
from spann.format.live import all_live, unpack_live
from spann.format.updates import DELETED, IDS, LIVE, ROWS, Updates
from spann.store import files
from spann.store.reader import IndexReader
from spann.testing import PowerCut, PowerCutDisk, clustered, exact_neighbours

PROGRAM = "spann test"
EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)
NOTHING = np.empty(0, np.int64)
BASE, QUERIES = clustered(1600, 16, 10, 2)


class Collection:
    """An index that can be updated, and what it must hold: vectors by id."""

    def __init__(self, path, base, metric="l2", **params):
        self.path, self.metric, self.element = path, metric, str(base.dtype)
        self.vectors = dict(enumerate(base))
        self.next = len(base)
        wish = spann.BuildParams(**{"code_bits": 2, "posting_size": 40, "calibration_queries": 0} | params)
        spann.build(base, path, metric=metric, params=wish, ids=np.arange(len(base))).close()
        self._begin()

    def _begin(self):
        with Generation(self.path, created_by=PROGRAM) as following:
            following.resume("test", {}, command="spann test", files={})
            count = following.old.collection.count
            ids = self.ids_of_rows(following.old)
            following.rewrite(LIVE, all_live(count))
            following.rewrite(IDS, np.sort(ids).astype("<u4"))
            following.rewrite(ROWS, np.argsort(ids).astype(np.uint32))
            following.drop("vectors/ids")
            updates = Updates(count, None, "0" * 8, 1, (count,))
            following.publish(
                {"ids": "user", "updates": updates.to_json()},
                features=sorted({*following.old.attributes["features"], DELETED}),
            )

    def ids_of_rows(self, reader):
        """The id of each row of a new build."""
        exact = reader.read("vectors/exact")
        known = {}
        for i, vector in self.vectors.items():
            known.setdefault(pack(vector[None], self.element)[0].tobytes(), []).append(i)
        return np.array([known[row.tobytes()].pop() for row in exact])

    def change(self, delete=(), insert=(), bounds=TIDY, threads=2, progress=None):
        """Deletes and inserts, and lays cells anew; new ids for all that is inserted."""
        reader = IndexReader.open(self.path)
        bits = unpack_live(reader.read(LIVE), reader.collection.count)
        ids, rows = reader.read(IDS).astype(np.int64), reader.read(ROWS).astype(np.int64)
        live = bits[rows]
        dead = rows[live][np.isin(ids[live], np.fromiter(delete, np.int64))]
        assert len(dead) == len(set(delete))
        new = np.arange(self.next, self.next + len(insert))
        self.next += len(insert)
        for i in delete:
            del self.vectors[int(i)]
        self.vectors |= dict(zip(new.tolist(), insert, strict=True))
        updates = reader.collection.updates
        vectors = pack(np.asarray(insert), self.element) if len(insert) else reader.read("vectors/exact")[:0]
        with Generation(self.path, created_by=PROGRAM) as following:
            following.resume("test", {}, command="spann test", files={})
            return relay(
                following, updates, Change(dead, new, vectors), bounds=bounds, threads=threads, progress=progress
            )

    def base(self):
        ids = np.array(sorted(self.vectors))
        return ids, np.array([self.vectors[i] for i in ids.tolist()])

    def check(self, queries, check_neighbours, k=20):
        """Everything is there, once, and found; nothing else is."""
        assert spann.verify(self.path) == []
        ids, base = self.base()
        with spann.open(self.path) as index:
            found = index.search(queries, min(k, len(ids)), EVERYTHING)
            check_neighbours(found, base, queries, min(k, len(ids)), self.metric, ids)
            every = index.search(queries[:2], len(ids), EVERYTHING)
            np.testing.assert_array_equal(np.sort(every.ids, axis=1), np.broadcast_to(ids, (2, len(ids))))

    @property
    def cells(self):
        reader = IndexReader.open(self.path)
        return Cells.of(reader, reader.read(LIVE))


@pytest.mark.parametrize("bounds", [TIDY, PURGED], ids=["tidy", "purged"])
@pytest.mark.parametrize(
    ("metric", "dtype"), [("l2", "uint8"), ("l2", "float32"), ("cosine", "float32"), ("ip", "float16")]
)
def test_what_is_alive_is_found_and_nothing_else(tmp_path, check_neighbours, metric, dtype, bounds):
    base, queries = clustered(1600, 16, 10, 1, dtype)
    base[(base == 0).all(axis=1)] = 1
    one = Collection(tmp_path / "i", base[:1000], metric)
    rng = np.random.default_rng(0)
    for start, count in ((1000, 200), (1200, 1), (1201, 399)):
        gone = rng.choice(np.array(sorted(one.vectors)), 150, replace=False)
        one.change(gone, base[start : start + count], bounds)
        one.check(queries, check_neighbours)
    about = IndexReader.open(one.path).collection
    assert about.live == len(one.vectors)
    if bounds is PURGED:
        cells = one.cells
        there = cells.live > 0
        assert (cells.live[there] == cells.length[there]).all()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A collection of 1,000 vectors; tests change copies of it."""
    return Collection(tmp_path_factory.mktemp("made") / "i", BASE[:1000])


@pytest.fixture
def one(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "i")
    found = copy.copy(made)
    found.path, found.vectors = tmp_path / "i", dict(made.vectors)
    return found


def test_copies_that_cannot_be_told_apart_are_all_kept(one, check_neighbours):
    done = one.change((), np.repeat(BASE[:1], 300, axis=0))
    assert done.vectors >= 300
    one.check(QUERIES, check_neighbours)
    about = IndexReader.open(one.path).collection
    assert max(one.cells.live) <= about.posting_bound
    one.change([0, *range(1000, 1300)])
    one.check(QUERIES, check_neighbours)


def test_a_full_cell_is_split_and_centroids_are_means(one, check_neighbours):
    before = IndexReader.open(one.path).collection.centroids
    rng = np.random.default_rng(3)
    done = one.change((), BASE[7] + rng.normal(0, 3, (400, 16)).astype(np.float32))
    assert done.split >= 1
    one.check(QUERIES, check_neighbours)
    reader = IndexReader.open(one.path)
    assert reader.collection.centroids >= before + 5
    cells, exact = one.cells, reader.read("vectors/exact")
    appended = range(cells.own, len(cells.owner))
    per_cell = cells.per_cell(cells.live)
    for posting in appended:
        if cells.live[posting] == per_cell[cells.owner[posting]]:  # laid anew as a whole
            mean = exact[cells.rows(posting)].mean(axis=0)
            np.testing.assert_allclose(
                reader.read("centroids/vectors")[cells.owner[posting]], mean, rtol=2e-3, atol=0.1
            )


def test_cells_that_hardly_anything_is_left_of_are_dissolved(one, check_neighbours):
    before = IndexReader.open(one.path).collection.centroids
    done = one.change(sorted(one.vectors)[:950])
    assert done.dissolved > before / 2
    one.check(QUERIES, check_neighbours)
    about = IndexReader.open(one.path).collection
    assert (about.live, about.count) == (50, 1000 + done.vectors)
    assert about.centroids <= 4
    one.change(sorted(one.vectors)[:49])
    one.check(QUERIES, check_neighbours)
    one.change((), BASE[1000:1400])
    one.check(QUERIES, check_neighbours)


def test_deletes_alone_write_only_bits(one, content):
    bounds = dataclasses.replace(TIDY, dead=1.0, smallest=0.0, largest=9.0)
    before = IndexReader.open(one.path)
    inodes = {name: os.stat(one.path / name / "c" / "0" / "0").st_ino for name in ("vectors/exact", "postings/pages")}
    done = one.change(range(10), bounds=bounds)
    assert (done.cells, done.vectors) == (0, 0)
    after = IndexReader.open(one.path)
    assert (after.collection.live, after.collection.count) == (990, 1000)
    assert after.collection.centroids == before.collection.centroids
    assert {name: os.stat(one.path / name / "c" / "0" / "0").st_ino for name in inodes} == inodes
    assert spann.verify(one.path) == []


def test_threads_do_not_show(one, content, tmp_path):
    for threads in (1, 3):
        shutil.copytree(one.path, tmp_path / f"{threads}")
        other = copy.copy(one)
        other.path, other.vectors = tmp_path / f"{threads}", dict(one.vectors)
        other.change(range(0, 600, 2), BASE[1000:1500], threads=threads)
    assert content(tmp_path / "1") == content(tmp_path / "3")


def test_runs_of_rows_by_id_are_joined(one, check_neighbours):
    for start in range(1000, 1120, 10):
        one.change([start - 990, start - 989], BASE[start : start + 10])
        assert len(IndexReader.open(one.path).collection.updates.runs) <= MOST_RUNS
    one.check(QUERIES, check_neighbours)


def test_an_interrupted_change_leaves_the_index_as_it_was(one, content, monkeypatch):
    before = content(one.path)
    kept = dict(one.vectors), one.next
    for stage in ("assign", "graph", "layout", "arrange", "write"):

        def stop(at, done, total, stage=stage):
            if at == stage:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            one.change(range(300), BASE[1000:1300], progress=stop)
        one.vectors, one.next = dict(kept[0]), kept[1]
        assert content(one.path) == before
        assert [place.name for place in one.path.parent.iterdir()] == ["i"]
    one.change(range(300), BASE[1000:1300])
    assert spann.verify(one.path) == []


def test_longer_vectors_under_ip_move_the_lifts_of_all_centroids(tmp_path, check_neighbours):
    base, queries = clustered(1200, 16, 10, 4)
    one = Collection(tmp_path / "i", base[:800], "ip")
    for scale, start in ((1.5, 800), (2.5, 1000)):
        one.change(range(start - 800, start - 700), base[start : start + 200] * np.float32(scale))
        one.check(queries, check_neighbours)


@pytest.mark.parametrize("params", [{"code_bits": 0}, {"max_replicas": 3}])
def test_other_kinds_are_refused(tmp_path, params):
    spann.build(BASE[:500], tmp_path / "i", params=spann.BuildParams(**{"code_bits": 2} | params)).close()
    updates = Updates(500, None, "0" * 8, 1, ())
    with Generation(tmp_path / "i", created_by=PROGRAM) as following:
        assert not can_be_relaid(following.old)
        with pytest.raises(InputError, match="only cells of codes without replicas can be laid anew; rebuild"):
            relay(following, updates, Change(NOTHING, NOTHING, BASE[:0]))


@pytest.mark.parametrize("moved", [True, False])
def test_recall_stays_while_the_collection_drifts(tmp_path, moved):
    """New vectors lie elsewhere every time, and the oldest go. If no cell is laid anew, cells grow out of bounds."""
    base, queries = clustered(24_000, 24, 400, 9)
    order = np.argsort(base[:, 0] + base[:, 1], kind="stable")
    base = base[order]
    one = Collection(tmp_path / "i", base[:8000])
    bounds = TIDY if moved else Bounds(tail=1e9, dead=1e9, smallest=0.0, largest=1e9)
    for start in range(8000, 24_000, 2000):
        one.change(sorted(one.vectors)[:2000], base[start : start + 2000], bounds)
    ids, alive = one.base()
    near = queries[np.argsort(queries[:, 0] + queries[:, 1])][-150:]
    truth = ids[exact_neighbours(alive, near, 10)[0]]
    spann.build(alive, tmp_path / "fresh", ids=ids, params=spann.BuildParams(code_bits=2, posting_size=40)).close()

    def measured(path):
        with spann.open(path) as index:
            found = index.search(near, 10, spann.SearchParams(max_postings=12, epsilon2=1e3))
        recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.ids, truth, strict=True)])
        return recall, found.stats["estimates"].mean()

    recall, estimates = measured(one.path)
    as_built, built_estimates = measured(tmp_path / "fresh")
    if moved:
        assert recall > as_built - 0.03
        assert estimates < 1.3 * built_estimates
    else:
        assert estimates > 2 * built_estimates


def test_vectors_of_another_kind_make_a_calibration_void(tmp_path):
    one = Collection(tmp_path / "i", BASE[:1000], calibration_queries=200)

    def stale():
        return IndexReader.open(one.path).attributes["calibration"].get("stale", "")

    one.change(range(100), BASE[1000:1100])
    assert stale() == ""
    one.change((), BASE[1100:1200] + 300)
    assert "100 of 1100 vectors were added after the calibration and are unlike" in stale()


def test_memory_that_is_too_small_is_refused(one, content):
    before, nothing = content(one.path), Change(NOTHING, NOTHING, BASE[:0])
    with Generation(one.path, created_by=PROGRAM) as following:
        following.resume("test", {}, command="spann test", files={})
        with pytest.raises(InputError, match="memory_limit is 50000000 bytes; laying 0 vectors anew"):
            relay(following, following.old.collection.updates, nothing, memory_limit=50_000_000)
    assert content(one.path) == before


def test_power_cuts(made, tmp_path, content, monkeypatch):
    """The old generation is there or the new one, and the same change made again ends with the same bytes."""

    def changed(name, disk):
        place = tmp_path / name
        place.mkdir()
        monkeypatch.setattr(files, "system", os)
        shutil.copytree(made.path, place / "i")
        other = copy.copy(made)
        other.path, other.vectors = place / "i", dict(made.vectors)
        monkeypatch.setattr(files, "system", disk)
        return other

    disk = PowerCutDisk(10**9)
    whole = changed("whole", disk)
    old = content(whole.path)
    whole.change(range(200), BASE[1000:1200], threads=1)
    new = content(whole.path)
    assert disk.calls > 300
    for after in range(5, disk.calls, 61):
        cut = PowerCutDisk(after, seed=after)
        one = changed(str(after), cut)
        with pytest.raises(PowerCut):
            one.change(range(200), BASE[1000:1200], threads=1)
        cut.restart()
        assert content(one.path) in (old, new)
        if content(one.path) == old:
            again = copy.copy(made)
            again.path, again.vectors = one.path, dict(made.vectors)
            monkeypatch.setattr(files, "system", PowerCutDisk(10**9))
            again.change(range(200), BASE[1000:1200], threads=1)
        assert content(one.path) == new
