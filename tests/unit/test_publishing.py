"""Names beside an index: files of others are not touched, links are not followed, and a kill at any call is
repaired."""

from __future__ import annotations

import os
import signal
import warnings
from functools import partial

import numpy as np
import pytest

import spann
from spann.errors import ExistsError, InputError, MissingError, RepeatWarning, SpannError, StorageError
from spann.store import files, publishing
from spann.store.places import Directory, without_links
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter
from spann.testing import clustered, die_at
from spann.vectors import write_results
from tests import builds

BASE, QUERIES = clustered(900, 8, 10, 1)
PARAMS = spann.BuildParams(code_bits=2, posting_size=30)
SUFFIXES = (publishing.BUILDING, publishing.DISCARDED, publishing.REPLACED)


build, append, tune = (partial(work, sizes=builds.MARKS) for work in (builds.build, builds.append, builds.tune))


def names(path):
    return sorted(p.name for p in path.iterdir())


class Stopped(Exception):
    pass


def stop_at(stage):
    def progress(at, done, total):
        if at == stage:
            raise Stopped

    return progress


@pytest.fixture
def built(tmp_path):
    spann.build(BASE[:600], tmp_path / "i", params=PARAMS).close()
    return tmp_path / "i"


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("what", ["directory", "index", "empty", "file", "link"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_others_with_a_reserved_name_stay(tmp_path, content, suffix, what, killed):
    """At any number of calls, and also where a process was killed that had claimed the names."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    place = tmp_path / f"i{suffix}"
    if what == "directory":
        place.mkdir()
        (place / "Precious.txt").write_text("x")
    elif what == "index":
        spann.build(BASE[:100], place).close()
        if killed:
            (place / "postings" / "notes").write_text("x")
    elif what == "empty":
        if killed:
            pytest.skip("an empty directory is what a killed process may leave")
        place.mkdir()
    elif what == "file":
        place.write_text("x")
    else:
        place.symlink_to("mine")
    if killed:
        (tmp_path / "i.building.lock").write_bytes(publishing.CLAIM)
    before, listed = content(tmp_path), names(tmp_path)
    for _ in range(3):
        with pytest.raises(ExistsError, match=rf"i{suffix}: in the way"):
            spann.build(BASE, tmp_path / "i")
    assert content(tmp_path) == before
    assert names(tmp_path) == listed
    assert place.is_symlink() == (what == "link")


@pytest.mark.parametrize("name", ["temporary", "vectors", "vectors/exact", "zarr.json", "postings/pages/c"])
def test_links_in_abandoned_directories_are_not_followed(tmp_path, content, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    place = tmp_path / "i.building" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "mine")
    (tmp_path / "i.building.lock").write_bytes(publishing.CLAIM)
    before = content(tmp_path)
    with pytest.raises(ExistsError, match=f"holds '{name}'"):
        spann.build(BASE, tmp_path / "i")
    assert content(tmp_path) == before


def test_lock_files_are_not_made_through_links(tmp_path):
    (tmp_path / "i.building.lock").symlink_to(tmp_path / "made")
    with pytest.raises(StorageError, match=r"i\.building\.lock"):
        spann.build(BASE, tmp_path / "i")
    assert names(tmp_path) == ["i.building.lock"]
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", tmp_path / "j.building.lock")
    with pytest.raises(StorageError, match="has another name"):
        spann.build(BASE, tmp_path / "j")
    (tmp_path / "k.building.lock").write_text("notes")
    with pytest.raises(ExistsError, match="no lock file of a build"):
        spann.build(BASE, tmp_path / "k")
    assert (tmp_path / "k.building.lock").read_text() == "notes"
    assert (tmp_path / "mine").read_text() == "mine"


def test_directories_that_become_links_are_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    with IndexWriter(tmp_path / "i", created_by="test") as writer:
        writer.write_array("a/b", np.zeros(3))
        os.rename(tmp_path / "i.building" / "a", tmp_path / "moved")
        (tmp_path / "i.building" / "a").symlink_to(tmp_path / "mine")
        with pytest.raises(StorageError, match="Not a directory"):
            writer.write_array("a/c", np.zeros(3))
    assert names(tmp_path / "mine") == []


def test_a_directory_is_held_wherever_it_is_moved(tmp_path):
    (tmp_path / "d").mkdir()
    place = Directory(tmp_path / "d") / "x" / "y"
    files.make_dir(place.parent)
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "d").mkdir()
    files.write_file(place, b"1", "one")
    assert names(tmp_path / "d") == []
    assert (tmp_path / "e" / "x" / "y").read_bytes() == b"1"
    for name in ("", "..", "a/../b", "/a", "."):
        with pytest.raises(InputError):
            place / name
    with pytest.raises(MissingError):
        Directory(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_links_of_other_users_are_not_followed(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("mine", "theirs"):
        (tmp_path / name).symlink_to("there")
    os.lchown(tmp_path / "theirs", 4321, 4321)
    assert without_links(tmp_path / "mine" / "i") == tmp_path / "there" / "i"
    with pytest.raises(InputError, match="a link that user 4321 made"):
        spann.build(BASE, tmp_path / "theirs" / "i")
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(InputError, match="Too many levels"):
        without_links(tmp_path / "round")


@pytest.mark.parametrize("how", ["build", "append", "tune"])
@pytest.mark.parametrize(
    "name", ["notes", "postings/notes", "vectors/exact/c/notes", "vectors/mine/", "quantizer/zarr.bak"]
)
def test_foreign_files_inside_an_index_are_not_removed(built, content, name, how):
    place = built / name
    place.mkdir() if name.endswith("/") else place.write_text("mine")
    before = content(built)
    call = {
        "build": lambda: spann.build(BASE, built, overwrite=True),
        "append": lambda: spann.append(built, BASE[600:]),
        "tune": lambda: spann.calibrate(built, count=200),
    }[how]
    with pytest.raises(InputError, match=f"holds '{name.rstrip('/')}', which is not part of the index"):
        call()
    assert content(built) == before
    assert place.exists()
    assert names(built.parent) == ["i"]


def _write(path, shift, change):
    """In a process that dies at that change; the number of changes in all."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            counted = die_at(change)
            with IndexWriter(path, created_by="test", overwrite=True) as writer:
                writer.write_array("a", np.arange(3) + shift)
                writer.publish({})
            os.write(writing, str(counted()).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.mark.parametrize("exchange", [True, False])
def test_a_change_killed_at_any_call_is_completed(tmp_path, content, monkeypatch, exchange):
    """Old or new is there, the next writer succeeds, and nothing is left over."""
    if not exchange:
        monkeypatch.setattr(files, "_rename_flags", lambda *_: False)
    _, changes = _write(tmp_path / "i", 0, -1)
    old = content(tmp_path / "i")
    _write(tmp_path / "new", 1, -1)
    new = content(tmp_path / "new")
    assert int(changes) > 25
    for change in range(int(changes) + 20):
        ended, _ = _write(tmp_path / "i", 1, change)
        if (tmp_path / "i").exists():
            assert content(tmp_path / "i") in (old, new)
        else:
            assert not exchange
            assert content(tmp_path / "i.replaced") == old
        _write(tmp_path / "i", 0, -1)
        assert content(tmp_path / "i") == old
        assert names(tmp_path) == ["i", "new"]
        if ended != -signal.SIGKILL:
            break
    assert ended != -signal.SIGKILL


@pytest.mark.parametrize("named", [False, True])
def test_the_same_vectors_are_not_appended_twice(tmp_path, content, named):
    ids = np.arange(900) * 3 if named else None

    def some(start, stop):
        return {} if ids is None else {"ids": ids[start:stop]}

    path = tmp_path / "i"
    spann.build(BASE[:600], path, params=PARAMS, **some(0, 600)).close()
    spann.append(path, BASE[600:700], **some(600, 700)).close()
    spann.append(path, BASE[700:], **some(700, 900)).close()
    before = content(path)
    for start, stop in ((600, 700), (700, 900)):
        with pytest.warns(RepeatWarning, match="appended already"):
            spann.append(path, BASE[start:stop], **some(start, stop)).close()
    assert content(path) == before
    assert names(tmp_path) == ["i"]
    if named:
        with pytest.raises(InputError, match="in the index already"):
            spann.append(path, BASE[600:700], ids=ids[600:700], again=True)
        more = spann.append(path, BASE[600:700], ids=ids[600:700] + 1)
    else:
        more = spann.append(path, BASE[600:700], again=True)
    with more:
        assert len(more) == 1000
    assert len(IndexReader.open(path).attributes["sources"]) == 4


def test_the_same_build_is_not_repeated(built, content):
    before = content(built)
    with pytest.warns(RepeatWarning, match="the same vectors were built already"):
        spann.build(BASE[:600], built, params=PARAMS).close()
    assert content(built) == before
    for vectors, params in ((BASE[1:601], PARAMS), (BASE[:600], PARAMS.with_(seed=5))):
        with pytest.raises(ExistsError, match="--overwrite"):
            spann.build(vectors, built, params=params)
    spann.append(built, BASE[600:]).close()
    with pytest.raises(ExistsError, match="--overwrite"):
        spann.build(BASE[:600], built, params=PARAMS)


@pytest.mark.parametrize("how", ["build", "append", "tune"])
@pytest.mark.parametrize("first", ["build", "append", "tune"])
def test_no_command_discards_the_work_of_another(built, content, first, how):
    calls = {
        "build": lambda **more: build(BASE[:800], built, params=PARAMS, overwrite=True, **more),
        "append": lambda **more: append(built, BASE[600:], **more),
        "tune": lambda **more: tune(built, QUERIES.repeat(20, axis=0), **more),
    }
    with pytest.raises(Stopped):
        calls[first](progress=stop_at("calibrate" if first == "tune" else "write"))
    left = content(built.with_name("i.building"))
    assert "temporary/checkpoint" in left
    if how != first:
        with pytest.raises(InputError, match=f"unfinished `spann {first} .*with the same command.*--restart"):
            calls[how]()
        assert content(built.with_name("i.building")) == left
        calls[how](restart=True)
    else:
        calls[how]()
    assert spann.verify(built) == []
    assert names(built.parent) == ["i"]


def test_a_complete_but_unpublished_index_is_published(built, content, monkeypatch):
    def stop(self):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(publishing.Publication, "_swap", stop)
        with pytest.raises(Stopped):
            append(built, BASE[600:])
    assert names(built.parent) == ["i", "i.building", "i.building.lock", "i.discarded"]
    with pytest.raises(InputError, match="unfinished `spann append"):
        tune(built, count=200)
    seen = []
    append(built, BASE[600:], progress=lambda at, *_: seen.append(at))
    assert "cluster" not in seen
    assert names(built.parent) == ["i"]
    assert IndexReader.open(built).attributes["count"] == 900


def test_calibrating_again_in_the_same_way_changes_nothing(built, content):
    spann.calibrate(built, count=200).close()
    before = content(built)
    spann.calibrate(built, count=200).close()
    assert content(built) == before


def test_a_small_append_asks_for_little_disk(built, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda path: 2_000_000)
    spann.append(built, BASE[600:610]).close()
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(InputError, match="bytes of disk; 1000 are free"):
        spann.append(built, BASE[610:620])


@pytest.mark.parametrize(("bits", "metric"), [(2, "l2"), (0, "ip"), (0, "cosine")])
def test_vectors_of_another_kind_make_a_calibration_void(tmp_path, bits, metric):
    rng = np.random.default_rng(5)
    old, new = rng.standard_normal((2, 900, 16)).astype(np.float32)
    path, params = tmp_path / "i", spann.BuildParams(code_bits=bits, calibration_queries=200)
    spann.build(old, path, metric=metric, params=params).close()

    def stale():
        return IndexReader.open(path).attributes["calibration"].get("stale", "")

    spann.append(path, new[:200]).close()
    assert stale() == ""
    spann.append(path, new[300:302] + 100).close()
    assert stale() == ""
    with pytest.warns(UserWarning, match="unlike those that it was measured with"):
        spann.append(path, new[400:600] + 100).close()
    assert "200 of 1302 vectors" in stale()
    if bits:
        spann.calibrate(path).close()
        assert stale() == ""


def test_drafts_of_results_that_a_kill_left_are_removed(tmp_path):
    ids, distances = np.zeros((2, 3), np.int64), np.zeros((2, 3), np.float32)
    child = os.fork()
    if not child:
        try:
            die_at(0)
            write_results(tmp_path / "near.npz", ids, distances)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    child = os.fork()
    if not child:
        try:
            die_at(1)
            write_results(tmp_path / "near.npz", ids, distances)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    left = names(tmp_path)
    assert len(left) == 1
    write_results(tmp_path / "other.npz", ids, distances)
    assert set(left) < set(names(tmp_path))
    (tmp_path / left[0].replace(".tmp", "-2.tmp")).symlink_to(tmp_path / "other.npz")
    write_results(tmp_path / "near.npz", ids, distances)
    assert {"near.npz", "other.npz"} <= set(names(tmp_path))
    assert left[0] not in names(tmp_path)


def test_an_index_opened_by_a_relative_path_stays_the_same(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = IndexReader.open("i")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert reader.path == built
    assert len(reader.read("vectors/exact")) == 600


def test_two_changes_at_once_are_refused(built):
    with IndexWriter(built, created_by="test", overwrite=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        calls = (
            lambda: spann.build(BASE, built, overwrite=True),
            lambda: spann.append(built, BASE[600:]),
            lambda: spann.calibrate(built, count=200),
        )
        for call in calls:
            with pytest.raises(SpannError, match="another process is building this index or changing it"):
                call()
        with spann.open(built) as index:
            assert index.search(BASE[:3], 1).ids.ravel().tolist() == [0, 1, 2]
        assert spann.verify(built) == []
    assert names(built.parent) == ["i"]
