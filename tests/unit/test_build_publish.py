"""An index appears whole or not at all, and the old index survives every failure."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time

import faiss
import numpy as np
import pytest

import spann
from spann.building.edges import EDGE
from spann.building.pipeline import build_index
from spann.building.sizes import Sizes
from spann.building.stages import graph
from spann.errors import CorruptionError, ExistsError, InputError, MissingError, StorageError
from spann.store import files
from spann.testing import clustered
from spann.types import Metric
from spann.vectors import open_source
from tests import builds

BASE, QUERIES = clustered(1500, 8, 10, 1)
OTHER = clustered(400, 8, 0, 2)[0]


def names(path):
    return sorted(p.name for p in path.iterdir())


def open_files():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd):
    return os.path.lexists(f"/proc/self/fd/{fd}") and "/proc" not in os.readlink(f"/proc/self/fd/{fd}")


class SpoiltFile:
    """An operating system on which one file cannot be created, opened, written, or read in full."""

    def __init__(self, name, how):
        self.name, self.how = name, how
        self.of = set()
        self.met = False

    def __getattr__(self, name):
        return (lambda fd: None) if name == "fsync" else getattr(os, name)

    def _fails(self, how, code):
        if self.how == how:
            self.met = True
            raise OSError(code, os.strerror(code))

    def open(self, path, flags, *mode, dir_fd=None):
        if os.path.basename(path) == self.name:
            self._fails("create" if flags & os.O_CREAT else "open", errno.EMFILE)
        fd = os.open(path, flags, *mode, dir_fd=dir_fd)
        self.of.discard(fd)
        if os.path.basename(path) == self.name:
            self.of.add(fd)
        return fd

    def write(self, fd, data):
        if fd in self.of:
            self._fails("write", errno.ENOSPC)
        return os.write(fd, data)

    def pwrite(self, fd, data, offset):
        if fd in self.of:
            self._fails("write", errno.ENOSPC)
        return os.pwrite(fd, data, offset)

    def preadv(self, fd, buffers, offset):
        if fd in self.of:
            self._fails("read", errno.EIO)
            if self.how in ("short", "pieces"):
                self.met = True
                end = os.fstat(fd).st_size - 100 if self.how == "short" else offset + 777
                return os.preadv(fd, [b[: max(0, min(len(b), end - offset))] for b in buffers], offset)
        return os.preadv(fd, buffers, offset)


@pytest.fixture
def spoilt(monkeypatch):
    def spoilt_(name, how):
        disk = SpoiltFile(name, how)
        monkeypatch.setattr(files, "system", disk)
        return disk

    return spoilt_


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """An index of OTHER, to be copied."""
    path = tmp_path_factory.mktemp("other") / "i"
    spann.build(OTHER, path).close()
    return path


@pytest.fixture
def old(tmp_path, other):
    return shutil.copytree(other, tmp_path / "i")


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


@pytest.mark.parametrize(
    "stage", ["scan", "partition", "cluster", "refine", "assign", "graph", "layout", "arrange", "write"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_a_build_that_is_stopped_leaves_the_old_index(old, content, stage, error):
    before, were_open = content(old), open_files()

    def stop(at, done, total):
        if at == stage:
            raise error("stopped")

    params = spann.BuildParams(code_bits=2 if stage in ("refine", "arrange") else 0, max_replicas=3)
    if stage == "refine":
        params = params.with_(max_replicas=1)
    with pytest.raises(error, match="stopped"):
        spann.build(BASE, old, overwrite=True, params=params, progress=stop, threads=2)
    assert content(old) == before
    assert names(old.parent) == ["i"]
    assert open_files() == were_open


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError])
def test_a_build_that_is_stopped_does_not_wait_for_the_graph(tmp_path, monkeypatch, error):
    """The real graph build, slowed down to 15 s, under way when the assignment beside it is stopped."""
    under_way, steps, build_graph = threading.Event(), [], graph.build_graph

    def slow_graph(job, centroids, progress):
        def slow(done, total):
            steps.append((done, total))
            under_way.set()
            time.sleep(0.3)
            progress(done, total)

        return build_graph(job, centroids, slow)

    def stop(at, done, total):
        if at == "assign":
            assert under_way.wait(60)
            raise error("stopped")

    monkeypatch.setattr(graph, "build_graph", slow_graph)
    running, were_open, blas = threading.active_count(), open_files(), faiss.omp_get_max_threads()
    began = time.perf_counter()
    with pytest.raises(error, match="stopped"):
        builds.build(BASE, tmp_path / "i", progress=stop, threads=2, sizes=Sizes(graph_block=4))
    assert time.perf_counter() - began < 7
    assert steps[0][1] > 200, "too few centroids to take 15 s"
    assert len(steps) < 20, "the graph went on"
    assert names(tmp_path) == []
    assert open_files() == were_open
    assert threading.active_count() == running
    assert faiss.omp_get_max_threads() == blas


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "after"),
    [*(("write", n) for n in (0, 1, 2, 7, 19, 31, 43, 59)), *(("open", n) for n in (1, 3, 20, 60)), ("mkdir", 4)],
)
def test_a_full_disk_at_any_write(tmp_path, other, faulty, content, name, after, overwrite):
    if overwrite:
        shutil.copytree(other, tmp_path / "i")
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


@pytest.mark.parametrize(("overwrite", "threads"), [(False, 1), (True, 2)])
@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ("create", StorageError, "cannot create: Too many open files"),
        ("open", StorageError, "cannot open: Too many open files"),
        ("write", StorageError, r"cannot write temporary records of the build at byte 0: No space left on device"),
        ("read", StorageError, "cannot read .*: Input/output error"),
        ("short", CorruptionError, "ends at byte .* too early"),
    ],
)
@pytest.mark.parametrize("what", ["edges-0", "edges-2", "kept", "tree-vectors", "regions-rows"])
def test_faults_of_the_files_a_build_works_with(
    tmp_path, other, spoilt, content, what, how, error, match, threads, overwrite
):
    """A short read is an error too; otherwise edges would be dropped."""
    if overwrite:
        shutil.copytree(other, tmp_path / "i")
    before, were_open = content(tmp_path), open_files()
    sizes = Sizes(bucket_bytes=len(BASE) * 8 * EDGE.itemsize // 4)
    disk = spoilt(what, how)
    with pytest.raises(error, match=f"/{what}: {match}") as caught:
        builds.build(BASE, tmp_path / "i", overwrite=overwrite, threads=threads, sizes=sizes)
    assert disk.met
    assert str(caught.value).count("cannot ") == (how != "short")
    assert "\n" not in str(caught.value)
    assert content(tmp_path) == before
    assert names(tmp_path) == (["i"] if overwrite else [])
    assert open_files() == were_open


@pytest.mark.parametrize("how", ["create", "open", "write", "read", "short"])
@pytest.mark.parametrize("what", ["arranged", "kept", "edges-0", "leaves"])
@pytest.mark.parametrize("replicas", [1, 3])
def test_faults_of_the_files_of_a_build_with_codes(tmp_path, other, spoilt, content, what, how, replicas):
    shutil.copytree(other, tmp_path / "i")
    before, were_open, disk = content(tmp_path), open_files(), spoilt(what, how)
    params = spann.BuildParams(code_bits=2, max_replicas=replicas)
    with pytest.raises(CorruptionError if how == "short" else StorageError, match=f"/{what}: "):
        spann.build(BASE, tmp_path / "i", params=params, overwrite=True)
    assert disk.met
    assert content(tmp_path) == before
    assert open_files() == were_open


@pytest.mark.parametrize(
    ("name", "after"), [*(("write", n) for n in range(0, 70, 5)), *(("preadv", n) for n in range(9))]
)
def test_a_disk_that_fails_anywhere_in_a_build_with_codes(tmp_path, other, faulty, content, name, after):
    shutil.copytree(other, tmp_path / "i")
    before, disk = content(tmp_path), faulty(name, after)
    params = spann.BuildParams(code_bits=2, max_replicas=3)
    with pytest.raises((StorageError, InputError)) as caught:  # "not an index", where what is there cannot be read
        build_index(open_source(BASE), tmp_path / "i", Metric.L2, params, created_by="test", overwrite=True, threads=1)
    assert "\n" not in str(caught.value)
    assert disk.failed
    assert content(tmp_path) == before
    disk.left = 10**9
    assert spann.verify(tmp_path / "i") == []


@pytest.mark.parametrize("how", ["create", "open", "write", "read", "short"])
def test_faults_of_the_edges_of_a_build_without_replicas(tmp_path, spoilt, how):
    were_open, disk = open_files(), spoilt("edges-0", how)
    with pytest.raises(CorruptionError if how == "short" else StorageError, match="/edges-0: "):
        spann.build(BASE, tmp_path / "i", params=spann.BuildParams(max_replicas=1))
    assert disk.met
    assert names(tmp_path) == []
    assert open_files() == were_open


@pytest.mark.parametrize("what", ["edges-0", "tree-rows"])
def test_reads_that_return_a_piece_at_a_time_lose_nothing(tmp_path, spoilt, content, what):
    spann.build(BASE, tmp_path / "a").close()
    disk = spoilt(what, "pieces")
    spann.build(BASE, tmp_path / "b").close()
    assert disk.met
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_disks_of_all_sizes(mounted, content):
    """On real file systems too small for the work: every size fails the same way, until one is large enough."""
    base = clustered(6000, 16, 0, 3)[0]
    params = spann.BuildParams(code_bits=0)
    outcomes = []
    for kilobytes in (500, 650, 800, 950, 1100, 1300, 1700, 9000):
        place = mounted(f"size={kilobytes}k")
        spann.build(OTHER[:20], place / "i").close()
        before = content(place)
        error = None
        try:
            spann.build(base, place / "i", params=params, overwrite=True).close()
        except (StorageError, InputError) as caught:
            error = str(caught)
        assert names(place) == ["i"]
        assert spann.verify(place / "i") == []
        if error:
            assert error.endswith("No space left on device") or "bytes of disk" in error
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
    from spann.format.json_text import parse_json, to_json

    root = old / "zarr.json"
    document = parse_json(root.read_bytes(), "root")
    for changes, match in (
        ({"format_version": 2}, "format version 2, this spann reads versions up to 1: upgrade spann-index"),
        ({"format_version": 1, "features": ["deletions"]}, "needs feature 'deletions'.*upgrade spann-index"),
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
