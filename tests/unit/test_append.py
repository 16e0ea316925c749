"""Appended vectors are found like all others, appear whole or not at all, and disturb no reader."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.errors import CorruptionError, InputError, MissingError, StorageError
from spann.store import files
from spann.store.arrays import ShardedArray, ShardedWriter
from spann.store.exact import PageChecksums, page_checksums
from spann.store.reader import IndexReader
from spann.testing import FaultyDisk, PowerCut, PowerCutDisk, clustered, exact_neighbours
from tests import builds

EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)
BASE, QUERIES = clustered(3000, 16, 20, 1)
FIRST = 2000
PARAMS = {
    "codes": spann.BuildParams(code_bits=2, posting_size=40),
    "replicas": spann.BuildParams(code_bits=2, posting_size=40, max_replicas=4),
    "classic": spann.BuildParams(code_bits=0),
}


SIZES = replace(builds.MARKS, region_bytes=1 << 15)
"""Marks at every chance, and many regions."""

build, append = (partial(work, sizes=SIZES) for work in (builds.build, builds.append))


class Stopped(Exception):
    pass


def stop_at(stage, share=0.0):
    def progress(at, done, total):
        if at == stage and done >= share * total:
            raise Stopped

    return progress


@pytest.mark.parametrize("named", [False, True], ids=["rows", "ids"])
@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize(("metric", "dtype"), [("l2", "uint8"), ("cosine", "float32"), ("ip", "float16")])
def test_every_vector_is_found(tmp_path, check_neighbours, metric, dtype, kind, named):
    base, queries = clustered(1500, 16, 10, 2, dtype)
    base[(base == 0).all(axis=1)] = 1
    base[1200:] = np.clip(base[1200:] * 1.2, *((0, 255) if dtype == "uint8" else (-1e4, 1e4))).astype(dtype)
    ids = np.random.default_rng(0).permutation(1500) + 10 if named else None
    cuts = [0, 900, 1200, 1203, 1500]
    path = tmp_path / "i"
    for start, stop in pairwise(cuts):
        part = {} if ids is None else {"ids": ids[start:stop]}
        if start == 0:
            spann.build(base[:stop], path, metric=metric, params=PARAMS[kind], **part).close()
        else:
            spann.append(path, base[start:stop], **part).close()
    assert spann.verify(path) == []
    for order in ("query", "posting"):
        with spann.open(path, memory_budget="none") as index:
            assert (len(index), index.info()["generation"]) == (1500, 3)
            assert 0 < index.info()["appended_postings"] < index.info()["postings"]
            check_neighbours(index.search(queries, 30, EVERYTHING, order=order), base, queries, 30, metric, ids)
    with spann.open(path) as index:
        check_neighbours(index.search(queries, 1500, EVERYTHING), base, queries, 1500, metric, ids)


@pytest.mark.parametrize("kind", PARAMS)
def test_recall_equals_that_of_a_build(tmp_path, kind):
    base, queries = clustered(20_000, 32, 200, 3)
    truth, _ = exact_neighbours(base, queries, 10)
    found = {}
    for name, first in (("built", 20_000), ("appended", 10_000)):
        spann.build(base[:first], tmp_path / name, params=PARAMS[kind]).close()
        if first < len(base):
            spann.append(tmp_path / name, base[first:]).close()
        with spann.open(tmp_path / name) as index:
            ids = index.search(queries, 10, spann.SearchParams(max_postings=24)).ids
            found[name] = np.mean([len(np.intersect1d(a, b)) for a, b in zip(ids, truth, strict=True)]) / 10
    assert found["built"] > 0.9
    assert found["appended"] > found["built"] - 0.01


def test_readers_of_the_old_generation_are_undisturbed(tmp_path):
    path = tmp_path / "i"
    with spann.build(BASE[:FIRST], path, params=PARAMS["codes"]) as old:
        old_reader = spann.open(path, memory_budget="none", io="buffered")
        before = old.search(QUERIES, 10)
        for start in (2000, 2500):
            spann.append(path, BASE[start : start + 500]).close()
            for reader in (old, old_reader):
                after = reader.search(QUERIES, 10)
                np.testing.assert_array_equal(after.ids, before.ids)
                np.testing.assert_array_equal(after.distances, before.distances)
        old_reader.close()
        with spann.open(path) as new:
            assert (len(old), len(new)) == (2000, 3000)
            assert new.search(BASE[2500:2510], 1).ids.ravel().tolist() == list(range(2500, 2510))


def test_far_more_vectors_than_before_are_appended(tmp_path, check_neighbours):
    spann.build(BASE[:3], tmp_path / "i", params=PARAMS["codes"]).close()
    spann.append(tmp_path / "i", BASE[3:4]).close()
    spann.append(tmp_path / "i", BASE[4:]).close()
    assert spann.verify(tmp_path / "i") == []
    with spann.open(tmp_path / "i") as index:
        check_neighbours(index.search(QUERIES, 10, EVERYTHING), BASE, QUERIES, 10, "l2")


@pytest.fixture
def built(tmp_path):
    spann.build(BASE[:FIRST], tmp_path / "i", params=PARAMS["codes"]).close()
    return tmp_path / "i"


@pytest.fixture
def named(tmp_path):
    spann.build(BASE[:FIRST], tmp_path / "i", params=PARAMS["codes"], ids=np.arange(FIRST) * 2).close()
    return tmp_path / "i"


@pytest.mark.parametrize(
    ("more", "ids", "message"),
    [
        (BASE[FIRST:, :8], None, "float32 vectors of dimension 8; .* float32 vectors of dimension 16"),
        (BASE[FIRST:].astype(np.float16), None, "float16 vectors of dimension 16; .* float32 vectors"),
        (BASE[FIRST:], np.arange(1000), "the index numbers its vectors by row"),
        (np.full((2, 16), np.nan, np.float32), None, "row 0 column 0 of array is nan"),
    ],
)
def test_vectors_that_do_not_match_are_refused(built, content, more, ids, message):
    before = content(built)
    with pytest.raises(InputError, match=message):
        spann.append(built, more, ids=ids)
    assert content(built) == before
    assert [p.name for p in built.parent.iterdir()] == ["i"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, "needs ids: the vectors of the index have ids that were given"),
        (np.arange(1000) + 3900, "id 3900 of row 0 of array is in the index already"),
        (np.full(1000, 5001), "id 5001 is given to more than one row"),
        (np.arange(1000) + 2**32, "id 4294968295 of array does not fit the 4 bytes"),
        (np.arange(999) + 5000, r"needs \(1000,\) integers"),
    ],
)
def test_invalid_ids_are_refused(named, content, ids, message):
    before = content(named)
    with pytest.raises(InputError, match=message):
        spann.append(named, BASE[FIRST:], ids=ids)
    assert content(named) == before


def test_an_append_needs_an_index(tmp_path):
    with pytest.raises(MissingError, match="no index at"):
        spann.append(tmp_path / "i", BASE)


def test_too_little_memory_is_refused(built):
    with pytest.raises(InputError, match=r"memory_limit is 50000000 bytes; appending 1000 vectors .* append less"):
        spann.append(built, BASE[FIRST:], memory_limit="50MB")


@pytest.mark.parametrize("name", ["postings/pages", "vectors/exact", "centroids/vectors", "vectors/exact_crc32c"])
def test_damage_is_not_made_part_of_the_next_generation(built, content, name):
    file = sorted((built / name / "c").rglob("*"))[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)
    before = content(built)
    if name == "centroids/vectors":  # nothing is read of it that is not verified
        with pytest.raises(CorruptionError, match="do not match their checksum"):
            spann.append(built, BASE[FIRST:])
    else:
        with pytest.raises(CorruptionError, match=f"{name}/c/.* do not match their checksum"):
            spann.append(built, BASE[FIRST:])
    assert content(built) == before


@pytest.mark.parametrize("stage", ["partition", "cluster", "assign", "layout", "arrange", "write"])
def test_an_interrupted_append_is_resumed(tmp_path, content, stage):
    for name in ("whole", "i"):
        build(BASE[:FIRST], tmp_path / name, params=PARAMS["codes"])
    append(tmp_path / "whole", BASE[FIRST:])
    before = content(tmp_path / "i")
    with pytest.raises(Stopped):
        append(tmp_path / "i", BASE[FIRST:], progress=stop_at(stage, 0.5))
    assert content(tmp_path / "i") == before
    seen = []
    append(tmp_path / "i", BASE[FIRST:], threads=1, progress=lambda at, *_: seen.append(at))
    assert content(tmp_path / "i") == content(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i", "whole"]
    assert ("partition" in seen) == (stage == "partition")


def test_another_append_is_refused_while_one_is_unfinished(built):
    with pytest.raises(Stopped):
        append(built, BASE[FIRST:], progress=stop_at("write"))
    with pytest.raises(
        InputError, match=r"unfinished `spann append .*` has done, whose vectors is 1000 x .* --restart"
    ):
        append(built, BASE[FIRST : FIRST + 500])
    append(built, BASE[FIRST : FIRST + 500], restart=True)
    assert spann.verify(built) == []


@pytest.mark.parametrize("kind", PARAMS)
def test_power_cuts(tmp_path, content, monkeypatch, kind):
    base = BASE[:1200]

    def prepared(place: Path) -> Path:
        place.mkdir()
        monkeypatch.setattr(files, "system", PowerCutDisk(10**9))
        build(base[:800], place / "i", params=PARAMS[kind], threads=1)
        return place / "i"

    path = prepared(tmp_path / "whole")
    old = content(path)
    disk = PowerCutDisk(10**9)
    monkeypatch.setattr(files, "system", disk)
    append(path, base[800:], threads=1)
    new = content(path)
    for after in range(5, disk.calls, 23):
        path = prepared(tmp_path / str(after))
        cut = PowerCutDisk(after, seed=after)
        monkeypatch.setattr(files, "system", cut)
        with pytest.raises(PowerCut):
            append(path, base[800:], threads=1)
        cut.restart()
        assert content(path) in (old, new)
        monkeypatch.setattr(files, "system", PowerCutDisk(10**9))
        if content(path) == old:
            append(path, base[800:], threads=1)
        assert content(path) == new


@pytest.mark.parametrize("name", ["write", "pwrite", "link"])
def test_a_full_disk(built, content, faulty, monkeypatch, name):
    before = content(built)
    disk = faulty(name, 0, errno.ENOSPC)
    with pytest.raises(StorageError, match="No space left"):
        spann.append(built, BASE[FIRST:])
    assert disk.failed
    monkeypatch.setattr(files, "system", os)
    assert content(built) == before


def test_file_systems_without_links(tmp_path, content, monkeypatch):
    for name in ("linked", "copied"):
        spann.build(BASE[:FIRST], tmp_path / name, params=PARAMS["codes"]).close()
    kept = os.stat(tmp_path / "linked/centroids/vectors/c/0/0").st_ino
    spann.append(tmp_path / "linked", BASE[FIRST:]).close()
    assert os.stat(tmp_path / "linked/centroids/vectors/c/0/0").st_ino == kept
    disk = FaultyDisk("link", 0, errno.EPERM)
    monkeypatch.setattr(files, "system", disk)
    spann.append(tmp_path / "copied", BASE[FIRST:]).close()
    assert disk.failed
    assert content(tmp_path / "copied") == content(tmp_path / "linked")


@pytest.mark.parametrize("row_shape", [(), (3,), (5, 2)])
@pytest.mark.parametrize("old_rows", [0, 1, 7, 8, 31, 32, 33, 64, 70])
@pytest.mark.parametrize("more", [0, 1, 8, 31, 90])
def test_an_extended_array_is_the_array(tmp_path, content, row_shape, old_rows, more):
    """Byte for byte what is written at once, whatever of it could be linked."""
    values = np.random.default_rng(0).integers(0, 1 << 16, (old_rows + more, *row_shape)).astype(np.uint16)
    width = 2 * int(np.prod(row_shape))
    sizes = {"shard_bytes": 32 * width, "chunk_bytes": 8 * width}

    def write(name, rows, old=None, crcs=None):
        with ShardedWriter(tmp_path / name, np.uint16, row_shape, rows=rows, **sizes) as writer:
            begun = 0
            if old is not None:
                writer.begin_with(old, crcs)
                begun = old.rows
            writer.append(values[begun:rows])
            return ShardedArray(tmp_path / name, writer.layout), writer.finish()

    old, crcs = write("old", old_rows)
    array, grown = write("new", old_rows + more, old, crcs)
    whole, expected = write("whole", old_rows + more)
    assert content(tmp_path / "new") == content(tmp_path / "whole")
    np.testing.assert_array_equal(grown, expected)
    pages = PageChecksums(whole.layout)
    pages.begin_with(old, page_checksums(old))
    pages.update(values[old_rows:])
    np.testing.assert_array_equal(pages.values, page_checksums(array))


def test_the_reader_checks_owners(built):
    spann.append(built, BASE[FIRST:]).close()
    about = IndexReader.open(built).attributes
    assert about["features"] == ["appended", "codes", "shapes"]
    assert about["generation"] == 1
    owner = IndexReader.open(built).read("postings/directory/appended")
    assert len(owner) == spann.open(built).info()["appended_postings"]
    assert owner.max() < about["centroids"]


def test_lifts_grow_with_the_longest_vector(tmp_path):
    """Under ip all vectors have the same length in the working space, so centroids keep their distances there."""
    base = BASE[:1200] - BASE.mean(axis=0)
    spann.build(base[:1000], tmp_path / "i", metric="ip", params=PARAMS["codes"]).close()

    def known():
        reader = IndexReader.open(tmp_path / "i")
        return np.square(reader.read("centroids/lift"), dtype=np.float64), reader.attributes["max_norm"] ** 2

    lifts, norm = known()
    for scale, start in ((2, 1000), (3, 1100)):
        spann.append(tmp_path / "i", base[start : start + 100] * np.float32(scale)).close()
        grown, longest = known()
        assert longest > norm
        np.testing.assert_allclose(grown - lifts, longest - norm, rtol=1e-4)
