"""An index appears whole or not at all, and what was there before survives whatever goes wrong."""

from __future__ import annotations

import builtins
import errno
import gc
import os
import subprocess

import numpy as np
import pytest

import spann
from spann.build import edges, layout
from spann.errors import ExistsError, InputError, MissingError, StorageError
from spann.testing import clustered

BASE, QUERIES = clustered(1500, 8, 10, 1)
OTHER = clustered(400, 8, 0, 2)[0]


def names(path):
    return sorted(p.name for p in path.iterdir())


def open_files():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd):
    return os.path.lexists(f"/proc/self/fd/{fd}") and "/proc" not in os.readlink(f"/proc/self/fd/{fd}")


def _full(mode):
    return builtins.open("/dev/full", mode)


@pytest.fixture
def old(tmp_path):
    spann.build(OTHER, tmp_path / "i").close()
    return tmp_path / "i"


def test_an_existing_index_is_refused_and_kept(old, content):
    before = content(old)
    with pytest.raises(ExistsError, match="--overwrite"):
        spann.build(BASE, old)
    assert content(old) == before


def test_overwriting_replaces_an_index_and_readers_of_the_old_one_go_on(old):
    with spann.open(old) as reader:
        before = reader.search(QUERIES, 5)
        with spann.build(BASE, old, overwrite=True) as index:
            assert len(index) == 1500
        after = reader.search(QUERIES, 5)
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.distances, after.distances)
    with spann.open(old) as index:
        assert len(index) == 1500
    assert names(old.parent) == ["i"]
    assert spann.verify(old) == []


@pytest.mark.parametrize("what", ["file", "directory", "notes"])
def test_nothing_but_an_index_is_overwritten(tmp_path, old, what, content):
    place = tmp_path / what
    if what == "file":
        place.write_text("mine")
    elif what == "directory":
        place.mkdir()
        (place / "mine").write_text("mine")
    else:
        place = old
        (old / "notes.txt").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(InputError, match="only a spann index can be overwritten"):
        spann.build(BASE, place, overwrite=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("stage", ["scan", "cluster", "assign", "layout", "write"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_a_build_that_is_stopped_leaves_the_old_index(old, content, stage, error):
    before, files = content(old), open_files()

    def stop(at, done, total):
        if at == stage:
            raise error("stopped")

    with pytest.raises(error, match="stopped"):
        spann.build(BASE, old, overwrite=True, progress=stop, threads=2)
    assert content(old) == before
    assert names(old.parent) == ["i"]
    gc.collect()
    assert open_files() == files


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "after"),
    [*(("write", n) for n in (0, 1, 2, 7, 19, 31, 43, 59)), *(("open", n) for n in (1, 3, 20, 60)), ("mkdir", 4)],
)
def test_a_full_disk_at_any_write(tmp_path, faulty, content, name, after, overwrite):
    if overwrite:
        spann.build(OTHER, tmp_path / "i").close()
    before = content(tmp_path)
    disk = faulty(name, after)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        spann.build(BASE, tmp_path / "i", overwrite=overwrite, threads=1)
    assert disk.failed
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert content(tmp_path) == before
    disk.left = 10**9
    if overwrite:
        assert spann.verify(tmp_path / "i") == []
    else:
        with pytest.raises(MissingError):
            spann.open(tmp_path / "i")
    spann.build(BASE, tmp_path / "i", overwrite=overwrite).close()
    assert spann.verify(tmp_path / "i") == []


@pytest.mark.parametrize("module", [edges, layout], ids=lambda m: m.__name__.rsplit(".", 1)[1])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_under_the_files_a_build_works_with(tmp_path, monkeypatch, content, module, overwrite):
    if overwrite:
        spann.build(OTHER, tmp_path / "i").close()
    before, files = content(tmp_path), open_files()
    monkeypatch.setattr(module, "open", lambda path, mode: _full(mode), raising=False)
    with pytest.raises(StorageError, match=r"cannot keep the (edges|rows) of the build: No space left") as caught:
        spann.build(BASE, tmp_path / "i", overwrite=overwrite)
    assert str(caught.value).count("cannot keep") == 1
    assert content(tmp_path) == before
    del caught
    gc.collect()
    assert open_files() == files


@pytest.mark.parametrize("what", ["candidates", "edges-0", "rows"])
def test_files_a_build_works_with_that_cannot_be_made(tmp_path, monkeypatch, what):
    def refuse(path, mode="r", *more):
        if os.fspath(path).endswith(what):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return builtins.open(path, mode, *more)

    for module in (edges, layout):
        monkeypatch.setattr(module, "open", refuse, raising=False)
    with pytest.raises(StorageError, match=f"{what}: .*Too many open files"):
        spann.build(BASE, tmp_path / "i")
    assert names(tmp_path) == []


def test_edges_that_cannot_be_read_back(tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "fromfile", refuse)
    with pytest.raises(StorageError, match=r"(edges-0|candidates): .*Input/output error") as caught:
        spann.build(BASE, tmp_path / "i")
    assert str(caught.value).count("cannot keep") == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("replicas", [1, 8])
def test_edges_that_come_back_short_are_not_dropped(tmp_path, monkeypatch, replicas):
    """numpy returns fewer records, without an error, where a read fails half way."""
    read = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *args, **more: read(*args, **more)[:-100])
    with pytest.raises(StorageError, match=r"edges-0|candidates"):
        spann.build(BASE, tmp_path / "i", params=spann.BuildParams(max_replicas=replicas))
    assert names(tmp_path) == []


def test_disks_of_all_sizes(mounted, content):
    """On real file systems too small for the work: every size fails the same way, until one is large enough."""
    base = clustered(6000, 16, 0, 3)[0]
    outcomes = []
    for kilobytes in (800, 1000, 1300, 1700, 2200, 2800, 3400, 9000):
        place = mounted(f"size={kilobytes}k")
        spann.build(OTHER[:20], place / "i").close()
        before = content(place)
        error = None
        try:
            spann.build(base, place / "i", overwrite=True).close()
        except StorageError as caught:
            error = str(caught)
        assert names(place) == ["i"]
        assert spann.verify(place / "i") == []
        if error:
            assert error.endswith("No space left on device")
            assert "\n" not in error
            assert content(place) == before
        with spann.open(place / "i") as index:
            assert len(index) == (20 if error else 6000)
        outcomes.append(error is None)
    assert outcomes == sorted(outcomes)
    assert outcomes[-1] is True
    assert outcomes.count(False) >= 4


def test_a_read_only_file_system(mounted, content):
    place = mounted("size=8m")
    spann.build(OTHER, place / "i").close()
    before = content(place)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    for name, more in (("i", {"overwrite": True}), ("new", {})):
        with pytest.raises(StorageError, match="Read-only file system") as caught:
            spann.build(BASE, place / name, **more)
        assert "\n" not in str(caught.value)
    assert content(place) == before
    with spann.open(place / "i") as index:
        assert index.search(QUERIES, 3).ids.shape == (10, 3)


def test_a_directory_that_may_not_be_written(tmp_path, faulty):
    disk = faulty("open", 0, errno.EACCES)
    with pytest.raises(StorageError, match="Permission denied"):
        spann.build(BASE, tmp_path / "i")
    assert disk.failed
    assert names(tmp_path) == []


def test_an_index_of_a_newer_version_or_with_unknown_parts_is_refused(old):
    from spann._kernels.checksum import crc32c
    from spann.storage.json_text import parse_json, to_json

    root = old / "zarr.json"
    document = parse_json(root.read_bytes(), "root")
    for changes, match in (
        ({"format_version": 2}, "format version 2, this spann reads versions up to 1: upgrade spann"),
        ({"format_version": 1, "features": ["deletions"]}, "needs feature 'deletions'.*upgrade spann"),
    ):
        own = document["attributes"]["spann"]
        own.update(changes)
        own.pop("checksum")
        own["checksum"] = f"{crc32c(to_json(document)):08x}"
        root.write_bytes(to_json(document))
        for call in (spann.open, spann.verify):
            with pytest.raises(spann.FormatError, match=match) as caught:
                call(old)
            assert not isinstance(caught.value, spann.CorruptionError)
