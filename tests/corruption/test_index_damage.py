"""Verification finds any damage to the files of an index, and no search is silently wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.errors import CorruptionError, FormatError, MissingError
from spann.format.postings import posting_bytes, posting_span
from spann.store.reader import IndexReader
from spann.testing import clustered

EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)


def make(path, metric, dtype, chained, ids, coded, appended):
    base, queries = clustered(500, 8, 4, 1, dtype)
    base[(base == 0).all(axis=1)] = 1
    if chained:
        base[:150] = base[0]
    names = np.random.default_rng(0).permutation(500) + 2**33 if ids else None
    params = spann.BuildParams(code_bits=2, max_replicas=4, posting_size=20) if coded else None
    first = 400 if appended else 500
    spann.build(base[:first], path, metric=metric, ids=None if names is None else names[:first], params=params).close()
    if appended:
        spann.append(path, base[first:], ids=None if names is None else names[first:]).close()
    assert ("postings/directory/chain" in IndexReader.open(path).arrays()) == chained
    return queries


@pytest.fixture(
    params=["l2-uint8", "cosine-float32-chain-ids", "l2-float32-chain-ids-codes", "l2-float32-chain-ids-codes-appended"]
)
def index(request, tmp_path):
    """(path, queries, right answer)"""
    metric, dtype, *more = request.param.split("-")
    queries = make(tmp_path / "i", metric, dtype, "chain" in more, "ids" in more, "codes" in more, "appended" in more)
    return tmp_path / "i", queries, answer(tmp_path / "i", queries)


def answer(path, queries, **how):
    with spann.open(path, memory_budget="none", **how) as index:
        found = index.search(queries, 20, EVERYTHING, threads=1)
    return found.ids, found.distances


def _open(path, **how):
    """Opens an index that keeps as little as possible in memory."""
    return spann.open(path, io="buffered", memory_budget="none", **how)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def files_of(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def some_files(path, step):
    """Every `step`-th file of the index that has all arrays, fewer of the other; always the postings."""
    every = files_of(path)
    complete = path / "postings/directory/chain/zarr.json" in every
    return sorted({*every[:: step if complete else 4 * step], path / "postings/pages/c/0/0", path / "zarr.json"})


def problems(path):
    try:
        return [(p.kind, p.path) for p in spann.verify(path)]
    except MissingError:
        return [("missing", path / "zarr.json")]
    except FormatError:
        return [("damaged", path / "zarr.json")]


def positions(size, file, rng):
    """A place in every file, many in the postings. tests/corruption/test_arrays.py flips every byte of an array."""
    return sorted(rng.choice(size, min(size, 16 if "pages/c" in str(file) else 1), replace=False).tolist())


def unread(path, file):
    """Whether only verification needs the file, and no search."""
    name = str(file.relative_to(path)).replace("/", ".")
    of_no_use = ("vectors.ids", "integrity.postings.pages", "integrity.vectors.exact.c")
    return file != path / "zarr.json" and (file.name == "zarr.json" or any(part in name for part in of_no_use))


def test_any_flipped_bit_is_found_and_never_gives_a_wrong_answer(index):
    path, queries, right = index
    assert problems(path) == []
    rng = np.random.default_rng(2)
    refused = set()
    for file in some_files(path, 1):
        data = file.read_bytes()
        for at in positions(len(data), file, rng):
            changed = bytearray(data)
            changed[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            where = f"byte {at} of {file.relative_to(path)}"
            assert [place for _, place in problems(path)] == [file], where
            try:
                found = answer(path, queries)
            except (FormatError, MissingError):
                refused.add(file)
            else:
                assert same(found, right), where
        file.write_bytes(data)
    assert refused == {file for file in some_files(path, 1) if not unread(path, file)}
    assert problems(path) == []
    assert same(answer(path, queries), right)


def test_every_byte_of_every_posting_is_checked_when_it_is_read(index):
    path, queries, right = index
    reader = IndexReader.open(path)
    name = "postings/directory"
    page, offset, length, primaries = (
        reader.read(f"{name}/{part}") for part in ("page", "offset", "length", "primaries")
    )
    start, end = posting_span(page, offset, posting_bytes(reader.attributes, length, primaries))
    rng = np.random.default_rng(3)
    file = path / "postings/pages/c/0/0"
    data = file.read_bytes()
    appended = len(reader.read(f"{name}/appended")) if f"{name}/appended" in reader.arrays() else 0
    used = np.flatnonzero(end > start)
    for p in used[used >= len(page) - appended].tolist():  # they are read when the index is opened
        changed = bytearray(data)
        changed[int(rng.integers(start[p], end[p]))] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        with pytest.raises(CorruptionError, match=f"{path}: posting {p} is damaged"):
            _open(path)
    file.write_bytes(data)
    used = used[used < len(page) - appended] if "code_bits" in reader.attributes else used
    with _open(path) as checked, _open(path, check=False) as unchecked:
        for p in rng.choice(used, min(40, len(used)), replace=False).tolist():
            for at in {int(start[p]), int(end[p]) - 1, int(rng.integers(start[p], end[p]))}:
                changed = bytearray(data)
                changed[at] ^= 1 << int(rng.integers(8))
                file.write_bytes(changed)
                with pytest.raises(CorruptionError, match=f"posting {p} is damaged.*spann verify {path}"):
                    checked.search(queries, 20, EVERYTHING)
                try:
                    assert unchecked.search(queries, 20, EVERYTHING).ids.shape == (4, 20)
                except CorruptionError:  # a replica's row that the store does not have is refused in any case
                    assert "code_bits" in reader.attributes
        file.write_bytes(data)
        for opened in (checked, unchecked):
            found = opened.search(queries, 20, EVERYTHING)
            assert same((found.ids, found.distances), right)


def test_damage_is_reported_only_if_it_is_read(index):
    """The damage of one posting does not stop queries that do not need it."""
    path, queries, _ = index
    with _open(path) as opened:
        narrow = opened.search(queries, 1, spann.SearchParams(max_postings=1))
    file = path / "postings/pages/c/0/0"
    data = file.read_bytes()
    outcomes = set()
    for at in range(0, len(data), 601):
        changed = bytearray(data)
        changed[at] ^= 1
        file.write_bytes(changed)
        try:
            with _open(path) as opened:
                found = opened.search(queries, 1, spann.SearchParams(max_postings=1))
        except CorruptionError:
            outcomes.add("refused")
        else:
            assert same((found.ids, found.distances), (narrow.ids, narrow.distances))
            outcomes.add("right")
    assert outcomes == {"refused", "right"}


@pytest.mark.parametrize("cut", [1, 4096])
def test_a_file_cut_short_is_refused(index, cut):
    path, queries, right = index
    for file in some_files(path, 1 if cut == 1 else 3):
        data = file.read_bytes()
        file.write_bytes(data[: max(0, len(data) - cut)])
        assert problems(path) == [("damaged", file)], file
        try:
            found = answer(path, queries)
        except CorruptionError:
            pass
        else:
            assert same(found, right)
            assert unread(path, file), file
        file.write_bytes(data)


def test_a_file_that_has_grown_is_refused(index):
    path, queries, right = index
    for file in some_files(path, 3):
        data = file.read_bytes()
        file.write_bytes(data + b"\0")
        assert problems(path) == [("damaged", file)], file
        try:
            found = answer(path, queries)
        except CorruptionError:
            pass
        else:
            assert same(found, right)
            assert unread(path, file), file
        file.write_bytes(data)


def test_a_missing_file_is_distinguished_from_a_damaged_one(index):
    path, queries, right = index
    needed = set()
    for file in some_files(path, 1):
        data = file.read_bytes()
        file.unlink()
        assert problems(path) == [("missing", file)], file
        try:
            found = answer(path, queries)
        except MissingError as error:
            needed.add(file)
            message = str(error)
        else:
            assert same(found, right)
            message = str(file)
        assert str(file) in message or file == path / "zarr.json"
        file.write_bytes(data)
    assert needed == {file for file in some_files(path, 1) if not unread(path, file)}


def test_files_of_two_indexes_do_not_mix(index, tmp_path):
    """Each file is sound by itself, and of the right size; together they are not an index."""
    path, _, _ = index
    other = tmp_path / "other"
    attributes = IndexReader.open(path).attributes
    base = clustered(500, 8, 0, 9, attributes["dtype"])[0]
    base[(base == 0).all(axis=1)] = 1
    params = spann.BuildParams(code_bits=2, posting_size=20) if "code_bits" in attributes else None
    spann.build(base, other, metric=attributes["metric"], params=params).close()
    mixed = 0
    for file in files_of(path):
        twin = other / file.relative_to(path)
        if twin.exists() and twin.read_bytes() != file.read_bytes() and file != path / "zarr.json":
            data = file.read_bytes()
            shutil.copy(twin, file)
            assert {kind for kind, _ in problems(path)} == {"damaged"}, file
            file.write_bytes(data)
            mixed += 1
    assert mixed > 10


def test_a_file_that_does_not_belong_is_reported(index):
    path, queries, right = index
    (path / "postings" / "notes.txt").write_text("mine")
    assert [(p.kind, Path(p.path).name) for p in spann.verify(path)] == [("unexpected", "notes.txt")]
    assert same(answer(path, queries), right)


def test_broken_invariants_under_right_checksums_are_found(tmp_path, monkeypatch):
    """An index of a faulty writer: all bytes are as written, and wrong."""
    base = clustered(600, 8, 0, 4)[0]
    spann.build(base, tmp_path / "i").close()
    read = IndexReader.read

    def changed(name, change):
        def read_changed(self, asked):
            values = read(self, asked).copy()
            if asked == name:
                change(values)
            return values

        monkeypatch.setattr(IndexReader, "read", read_changed)
        return [p.detail for p in spann.verify(tmp_path / "i")]

    reader = IndexReader.open(tmp_path / "i")
    length, primaries = (reader.read(f"postings/directory/{name}").astype(int) for name in ("length", "primaries"))
    long, empty = int(np.argmax(length - primaries)), int(np.argmin(length))
    assert length[long] > primaries[long]

    def drop_entries(values):
        values[long] -= 1

    def too_many_primaries(values):
        values[empty] = 1000

    def unknown_id(values):
        values[0] = 5000

    def same_place(values):
        values[1] = values[0]

    for name, change, match in (
        ("postings/directory/length", drop_entries, "entries; the manifest says"),
        ("postings/directory/primaries", too_many_primaries, "claims 1000 primaries"),
        ("centroids/ids", unknown_id, "a centroid holds id 5000"),
        ("centroids/ids", same_place, "two centroids are represented by the same vector"),
    ):
        assert any(match in text for text in changed(name, change)), match
    bound = int(length.max()) - 1
    monkeypatch.setattr(
        IndexReader, "attributes", property(lambda self: {**self._manifest.attributes, "posting_bound": bound})
    )
    assert any(f"over its bound of {bound}" in text for text in changed("", lambda values: None))
