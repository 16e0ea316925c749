"""Writing, publishing and opening an index directory."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from spann._kernels.checksum import crc32c
from spann.errors import CorruptionError, ExistsError, FormatError, InputError, MissingError, StorageError
from spann.format import manifest
from spann.format.manifest import FORMAT_VERSION
from spann.store import files
from spann.store.publishing import CLAIM
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter

ARRAYS = {
    "centroids/vectors": np.arange(24, dtype=np.float32).reshape(6, 4),
    "centroids/graph/levels": np.arange(6, dtype=np.int32),
    "postings/pages": np.arange(3 * 4096, dtype=np.uint32).astype(np.uint8).reshape(3, 4096),
    "postings/directory/first": np.arange(6, dtype=np.int64),
    "vectors/ids": np.arange(50, dtype=np.int64),
    "empty": np.zeros((0, 7), dtype=np.float16),
}


def build(path, *, overwrite=False, shift=0, attributes=None, features=()):
    with IndexWriter(path, created_by="spann test", overwrite=overwrite) as writer:
        for name, values in ARRAYS.items():
            writer.write_array(name, values + values.dtype.type(shift), shard_bytes=4096, chunk_bytes=128)
        writer.publish({"metric": "l2", "dim": 4} if attributes is None else attributes, features=features)


def content(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_an_index_reads_back(tmp_path):
    build(tmp_path / "i")
    assert names(tmp_path) == ["i"]
    reader = IndexReader.open(tmp_path / "i")
    assert reader.arrays() == sorted(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(reader.read(name), values)
        assert reader.array(name).read_all().dtype == values.dtype
    kept = reader.attributes
    assert (kept["metric"], kept["dim"], kept["created_by"]) == ("l2", 4, "spann test")
    assert (kept["format_version"], kept["features"], kept["generation"]) == (FORMAT_VERSION, [], 0)
    assert reader.disk_bytes() == sum(map(len, content(tmp_path / "i").values()))
    seen = []
    assert reader.verify(lambda done, total: seen.append((done, total))) == []
    assert seen[-1][0] == seen[-1][1] == sum(reader.array(name).stored_bytes for name in ARRAYS)


def test_other_clients_walk_the_group(tmp_path):
    build(tmp_path / "i")
    for consolidated in (True, False):
        group = zarr.open_group(str(tmp_path / "i"), mode="r", use_consolidated=consolidated)
        assert group.attrs["spann"]["metric"] == "l2"
        assert sorted(group.group_keys()) == ["centroids", "integrity", "postings", "vectors"]
        assert sorted(group["centroids"].keys()) == ["graph", "vectors"]
        for name, values in ARRAYS.items():
            np.testing.assert_array_equal(group[name][...], values)
    for name, values in ARRAYS.items():
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/i/{name}/"}}
        np.testing.assert_array_equal(tensorstore.open(spec, read=True).result().read().result(), values)


def test_the_same_content_is_the_same_bytes_anywhere(tmp_path):
    (tmp_path / "other").mkdir()
    build(tmp_path / "i")
    build(tmp_path / "other" / "j")
    assert content(tmp_path / "i") == content(tmp_path / "other" / "j")


def test_checksum_of_the_root_is_that_of_its_other_lines(tmp_path):
    build(tmp_path / "i", attributes={"nested": {"checksum": "00000000", "x": 1}, "list": ["checksum"]})
    lines = (tmp_path / "i" / "zarr.json").read_bytes().splitlines(keepends=True)
    (own,) = [line for line in lines if re.fullmatch(rb'      "checksum": "[0-9a-f]{8}",\n', line)]
    assert own[19:27].decode() == f"{crc32c(b''.join(line for line in lines if line != own)):08x}"


def rewrite(path, **changes):
    """Changes spann's attributes as another program could, with a checksum that is right again."""
    root = path / "zarr.json"
    document = json.loads(root.read_bytes())
    own = document["attributes"]["spann"]
    own.update(changes)
    del own["checksum"]
    text = manifest.to_json(document)
    own["checksum"] = f"{crc32c(text):08x}"
    root.write_bytes(manifest.to_json(document))


def test_a_newer_version_is_refused_before_its_checksum_is_looked_at(tmp_path):
    build(tmp_path / "i")
    root = tmp_path / "i" / "zarr.json"
    root.write_bytes(root.read_bytes().replace(b'"format_version": 1', b'"format_version": 2'))
    with pytest.raises(
        FormatError, match="format version 2, this spann reads versions up to 1: upgrade spann-index"
    ) as caught:
        IndexReader.open(tmp_path / "i")
    assert not isinstance(caught.value, CorruptionError)


def test_an_unknown_feature_is_refused(tmp_path):
    build(tmp_path / "i")
    rewrite(tmp_path / "i", features=["deletions"])
    with pytest.raises(
        FormatError,
        match=r"needs feature 'deletions'; this spann knows appended, .*, deleted, names, shapes: upgrade spann-index",
    ):
        IndexReader.open(tmp_path / "i")
    with pytest.raises(InputError, match="'deletions'"):
        build(tmp_path / "j", features=["deletions"])


def test_a_known_feature_is_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "KNOWN_FEATURES", frozenset({"deletions"}))
    build(tmp_path / "i", features=["deletions"])
    assert IndexReader.open(tmp_path / "i").attributes["features"] == ["deletions"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format_version": "1"}, "format version '1'"),
        ({"format_version": 0}, "format version 0"),
        ({"features": "none"}, "list of names"),
        ({"integrity": {}}, "do not belong together"),
    ],
)
def test_attributes_of_another_form_are_refused(tmp_path, changes, match):
    build(tmp_path / "i")
    rewrite(tmp_path / "i", **changes)
    with pytest.raises(FormatError, match=match):
        IndexReader.open(tmp_path / "i")


def test_a_directory_that_is_not_an_index_is_refused(tmp_path):
    with pytest.raises(MissingError, match=r"no index at .*/no"):
        IndexReader.open(tmp_path / "no")
    (tmp_path / "dir").mkdir()
    with pytest.raises(MissingError, match=r"has no zarr\.json"):
        IndexReader.open(tmp_path / "dir")
    (tmp_path / "dir.building").mkdir()
    with pytest.raises(MissingError, match="build has not finished"):
        IndexReader.open(tmp_path / "dir")
    (tmp_path / "file").write_text("text")
    with pytest.raises(FormatError, match="not a directory"):
        IndexReader.open(tmp_path / "file")
    zarr.create_group(str(tmp_path / "group"))
    with pytest.raises(FormatError, match="attribute 'spann'") as caught:
        IndexReader.open(tmp_path / "group")
    assert not isinstance(caught.value, CorruptionError)
    (tmp_path / "group" / "zarr.json").write_bytes(b"\0\1")
    with pytest.raises(CorruptionError, match="not JSON"):
        IndexReader.open(tmp_path / "group")


def test_an_array_that_the_index_lacks(tmp_path):
    build(tmp_path / "i")
    with pytest.raises(FormatError, match="no array 'nope'"):
        IndexReader.open(tmp_path / "i").array("nope")


BAD_NAMES = ["", "a/", "/a", "../a", "A", "a.b", "integrity/x", "integrity"]
TAKEN_NAMES = ["vectors/exact", "vectors", "vectors/exact/x"]


@pytest.mark.parametrize("name", BAD_NAMES + TAKEN_NAMES)
def test_unusable_names_are_refused(tmp_path, name):
    with IndexWriter(tmp_path / "i", created_by="spann test") as writer:
        writer.write_array("vectors/exact", np.zeros(1))
        with pytest.raises(InputError, match="array name"):
            writer.create_array(name, 1, "u1")


@pytest.mark.parametrize("attributes", [{"checksum": 1}, {"integrity": 1}, {"x": float("nan")}, {"x": object()}])
def test_unusable_attributes_are_refused(tmp_path, attributes):
    with pytest.raises(InputError):
        build(tmp_path / "i", attributes=attributes)
    assert names(tmp_path) == []


def test_nothing_is_left_without_publish(tmp_path):
    with IndexWriter(tmp_path / "i", created_by="spann test") as writer:
        writer.write_array("a", np.zeros(5))
        assert names(tmp_path) == ["i.building", "i.building.lock"]
    assert names(tmp_path) == []

    def interrupted():
        with IndexWriter(tmp_path / "i", created_by="spann test") as writer:
            writer.create_array("a", 5, "u1").append(np.zeros(2, dtype=np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_an_unfinished_array_is_not_published(tmp_path):
    with IndexWriter(tmp_path / "i", created_by="spann test") as writer:
        writer.create_array("a", 5, "u1")
        with pytest.raises(InputError, match="array 'a' is not finished"):
            writer.publish({})
    assert names(tmp_path) == []


def test_writing_outside_the_context_is_refused(tmp_path):
    writer = IndexWriter(tmp_path / "i", created_by="spann test")
    for call in (lambda: writer.write_array("a", np.zeros(5)), lambda: writer.publish({})):
        with pytest.raises(InputError, match="with"):
            call()


@pytest.mark.parametrize("after", [0, 1, 5, 20])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, after):
    class FullDisk:
        left = after

        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, fd, data):
            if self.left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= 1
            return os.write(fd, data)

    monkeypatch.setattr(files, "system", FullDisk())
    with pytest.raises(StorageError, match=r"i\.building/.*cannot write .*\): No space left on device") as caught:
        build(tmp_path / "i")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("after", range(0, 60, 7))
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_fsync_never_shows_half_an_index(tmp_path, monkeypatch, after, overwrite):
    class Failing:
        left = after

        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, fd):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.fsync(fd)

    if overwrite:
        build(tmp_path / "i")
    before = content(tmp_path / "i")
    monkeypatch.setattr(files, "system", Failing())
    with pytest.raises(StorageError):
        build(tmp_path / "i", overwrite=overwrite, shift=1)
    assert names(tmp_path) == (["i"] if overwrite else [])
    assert content(tmp_path / "i") == before


def test_an_existing_path_needs_overwrite(tmp_path):
    build(tmp_path / "i")
    with pytest.raises(ExistsError, match="--overwrite"):
        IndexWriter(tmp_path / "i", created_by="spann test")
    before = content(tmp_path / "i")
    build(tmp_path / "i", overwrite=True, shift=1)
    assert content(tmp_path / "i") != before
    assert names(tmp_path) == ["i"]
    np.testing.assert_array_equal(IndexReader.open(tmp_path / "i").read("vectors/ids"), ARRAYS["vectors/ids"] + 1)
    build(tmp_path / "new", overwrite=True)
    assert names(tmp_path) == ["i", "new"]


def test_overwriting_where_directories_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_rename_flags", lambda *_: False)
    build(tmp_path / "i")
    build(tmp_path / "i", overwrite=True, shift=1)
    assert names(tmp_path) == ["i"]
    np.testing.assert_array_equal(IndexReader.open(tmp_path / "i").read("vectors/ids"), ARRAYS["vectors/ids"] + 1)


def test_a_swap_that_fails_half_way_is_undone(tmp_path, monkeypatch):
    class FailsOnce:
        calls = 0

        def __getattr__(self, name):
            return getattr(os, name)

        def rename(self, source, target, **within):
            self.calls += 1
            if self.calls == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.rename(source, target, **within)

    build(tmp_path / "i")
    before = content(tmp_path / "i")
    monkeypatch.setattr(files, "_rename_flags", lambda *_: False)
    monkeypatch.setattr(files, "system", FailsOnce())
    with pytest.raises(StorageError):
        build(tmp_path / "i", overwrite=True, shift=1)
    assert names(tmp_path) == ["i"]
    assert content(tmp_path / "i") == before


def test_overwriting_keeps_the_old_index_until_the_end(tmp_path):
    build(tmp_path / "i")
    before = content(tmp_path / "i")
    with IndexWriter(tmp_path / "i", created_by="x", overwrite=True) as writer:
        writer.write_array("a", np.zeros(5))
        assert content(tmp_path / "i") == before
    assert content(tmp_path / "i") == before


def test_a_damaged_index_can_be_overwritten(tmp_path):
    build(tmp_path / "i")
    root = tmp_path / "i" / "zarr.json"
    root.write_bytes(root.read_bytes().replace(b'"l2"', b'"l1"'))
    build(tmp_path / "i", overwrite=True)
    assert IndexReader.open(tmp_path / "i").verify() == []


def test_a_link_to_an_index_stays_a_link(tmp_path):
    build(tmp_path / "i")
    (tmp_path / "link").symlink_to("i")
    build(tmp_path / "link", overwrite=True, shift=1)
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(IndexReader.open(tmp_path / "link").read("vectors/ids"), ARRAYS["vectors/ids"] + 1)


def test_nothing_but_an_index_is_ever_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "notes").write_text("mine")
    zarr.create_group(str(tmp_path / "group"))
    build(tmp_path / "index")
    (tmp_path / "index" / "notes").write_text("mine")
    before = content(tmp_path)
    reasons = {"file": "not a spann", "dir": "not a spann", "group": "not a spann", "index": "'notes'"}
    for name, match in reasons.items():
        with pytest.raises(InputError, match=match):
            IndexWriter(tmp_path / name, created_by="spann test", overwrite=True)
    assert content(tmp_path) == before


def test_something_that_appears_during_the_build_is_not_replaced(tmp_path):
    with IndexWriter(tmp_path / "i", created_by="spann test") as writer:
        writer.write_array("a", np.zeros(5))
        (tmp_path / "i").mkdir()
        with pytest.raises(ExistsError):
            writer.publish({})
    assert names(tmp_path) == ["i"]
    assert names(tmp_path / "i") == []
    with pytest.raises(ExistsError):
        files.rename_new(tmp_path / "i", tmp_path)


def test_a_missing_parent_and_a_read_only_one(tmp_path, monkeypatch):
    with pytest.raises(MissingError, match="does not exist"):
        IndexWriter(tmp_path / "no" / "i", created_by="spann test")

    class ReadOnly:
        def __getattr__(self, name):
            return getattr(os, name)

        def open(self, path, flags, mode=0o777, dir_fd=None):
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return os.open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(files, "system", ReadOnly())
    with pytest.raises(StorageError, match="Read-only file system") as caught:
        build(tmp_path / "i")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def _build_and_die(path: Path) -> None:
    with IndexWriter(path, created_by="spann test") as writer:
        writer.write_array("a", np.zeros(5))
        os.kill(os.getpid(), signal.SIGKILL)


def test_leftovers_of_a_killed_build_are_removed(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_build_and_die, args=(tmp_path / "i",))
    process.start()
    process.join()
    assert names(tmp_path) == ["i.building", "i.building.lock"]
    build(tmp_path / "i")
    assert names(tmp_path) == ["i"]


def test_a_running_build_is_left_alone(tmp_path):
    with IndexWriter(tmp_path / "i", created_by="spann test") as writer:
        writer.write_array("a", np.zeros(5))
        with pytest.raises(ExistsError, match="another process"):
            build(tmp_path / "i")
        writer.publish({})
    assert names(tmp_path) == ["i"]
    assert IndexReader.open(tmp_path / "i").verify() == []


def test_a_directory_in_the_way_that_no_build_left_is_kept(tmp_path):
    (tmp_path / "i.building").mkdir()
    (tmp_path / "i.building" / "notes").write_text("mine")
    with pytest.raises(ExistsError, match="in the way"):
        build(tmp_path / "i")
    assert content(tmp_path)["i.building/notes"] == b"mine"


def test_an_interrupted_swap_is_completed(tmp_path):
    build(tmp_path / "i")
    before = content(tmp_path / "i")
    (tmp_path / "i").rename(tmp_path / "i.replaced")
    (tmp_path / "i.building").mkdir()
    (tmp_path / "i.building.lock").write_bytes(CLAIM)
    with pytest.raises(ExistsError, match="--overwrite"):
        build(tmp_path / "i")
    assert content(tmp_path / "i") == before
    build(tmp_path / "i", overwrite=True, shift=1)
    assert names(tmp_path) == ["i"]


def test_a_lock_on_a_file_that_is_gone_is_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    flock = fcntl.flock
    calls = []

    def lose_the_file_once(fd, operation):
        calls.append(fd)
        if len(calls) == 1:
            path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lose_the_file_once)
    fd = files.lock(path)
    assert fd is not None
    assert len(calls) == 2
    assert os.path.samestat(os.fstat(fd), path.stat())
    files.close(fd)
