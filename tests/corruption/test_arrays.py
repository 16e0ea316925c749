"""Any byte of any file of an index can go wrong; all of it must be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spann.errors import CorruptionError, FormatError, MissingError, SpannError
from spann.store.arrays import ShardedArray
from spann.store.places import as_path
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter


def build(path: Path) -> None:
    rng = np.random.default_rng(0)
    with IndexWriter(path, created_by="spann test") as writer:
        exact = rng.integers(1, 256, (21, 6), dtype=np.uint8)
        writer.write_array("vectors/exact", exact, shard_bytes=50, chunk_bytes=24)
        writer.write_array("vectors/ids", np.arange(21), chunk_bytes=64)
        writer.write_array("centroids/graph/levels", np.zeros(0, dtype=np.int32))
        writer.write_array("postings/directory/radius", rng.random(5, dtype=np.float32))
        writer.publish({"metric": "l2", "count": 21, "rate": 0.1})


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def found(path: Path) -> list[tuple[str, Path]]:
    """What is wrong with an index, whether opening or verifying finds it."""
    try:
        return [(p.kind, p.path) for p in IndexReader.open(path).verify()]
    except MissingError:
        return [("missing", path / "zarr.json")]
    except SpannError:
        return [("damaged", path / "zarr.json")]


@pytest.fixture
def index(tmp_path):
    build(tmp_path / "index")
    return tmp_path / "index"


def test_a_whole_index_has_no_problems(index):
    assert found(index) == []
    assert len(files_of(index)) > 20


def test_every_flipped_byte_is_found(index):
    rng = np.random.default_rng(1)
    for file in files_of(index):
        data = file.read_bytes()
        # Every position of small files; of the others the two ends and a sample.
        inner = range(len(data)) if len(data) <= 60 else rng.choice(len(data), 6, replace=False).tolist()
        for position in {0, 1, len(data) - 2, len(data) - 1, *inner}:
            changed = bytearray(data)
            changed[position] ^= 1 << int(rng.integers(0, 8))
            file.write_bytes(changed)
            assert [place for _, place in found(index)] == [file], f"byte {position} of {file}"
        file.write_bytes(data)
    assert found(index) == []


def test_every_byte_of_the_root_is_covered(index):
    root = index / "zarr.json"
    data = root.read_bytes()
    for position in range(0, len(data), 29):
        for replacement in (data[position] ^ 1, ord(" "), ord("\n"), ord("0")):
            if replacement != data[position]:
                root.write_bytes(data[:position] + bytes([replacement]) + data[position + 1 :])
                with pytest.raises(FormatError):
                    IndexReader.open(index)
    root.write_bytes(data)


def test_every_truncated_or_longer_or_missing_file_is_found(index):
    for file in files_of(index):
        data = file.read_bytes()
        for changed in (data[:-1], data[: len(data) // 2], b"", data + b"\0"):
            file.write_bytes(changed)
            assert ("damaged", file) in found(index)
        file.unlink()
        assert found(index) == [("missing", file)]
        file.write_bytes(data)
    assert found(index) == []


def test_files_that_do_not_belong_are_named(index):
    extra = index / "vectors" / "exact" / "c" / "99"
    extra.write_bytes(b"")
    assert found(index) == [("unexpected", extra)]
    extra.unlink()


def test_padding_is_verified_even_without_checksums(index):
    array = IndexReader.open(index).array("vectors/exact")
    layout = array.layout
    assert layout.padding_bytes > 0
    shard = as_path(array.shard_path(layout.shards - 1))
    data = shard.read_bytes()
    position = layout.shard_chunks(layout.shards - 1) * layout.chunk_bytes - 1
    shard.write_bytes(data[:position] + b"\1" + data[position + 1 :])
    with pytest.raises(CorruptionError, match="padding"):
        array.read_all()
    assert [p.path for p in array.verify()] == [shard]
    shard.write_bytes(data)


def test_damage_is_described_by_rows_chunks_and_bytes(index):
    reader = IndexReader.open(index)
    shard = index / "vectors" / "exact" / "c" / "1" / "0"
    data = shard.read_bytes()
    shard.write_bytes(data[:25] + bytes([data[25] ^ 8]) + data[26:])
    with pytest.raises(CorruptionError, match=r"c/1/0: rows 12\.\.15 \(chunks 3\.\.3, bytes 24\.\.47 of the file\)"):
        reader.read("vectors/exact")
    (problem,) = reader.verify()
    assert "rows 12..15" in problem.detail
    shard.write_bytes(data)


def test_neighbouring_chunks_are_one_problem(index):
    array = IndexReader.open(index).array("vectors/ids")
    crcs = IndexReader.open(index).checksums("vectors/ids")
    assert crcs.size == 3
    assert len(list(array.verify(crcs ^ np.uint32(1)))) == 1
    assert len(list(array.verify(crcs ^ np.array([1, 0, 1], dtype=np.uint32)))) == 2


def test_opening_refuses_a_shard_that_is_missing_short_or_has_a_damaged_index(index):
    array = index / "vectors" / "exact"
    shard = array / "c" / "0" / "0"
    data = shard.read_bytes()
    for changed, error, match in [
        (data[:-1], CorruptionError, "bytes long, expected"),
        (data[:-1] + b"?", CorruptionError, "does not match its checksum"),
        (None, MissingError, "missing from the index"),
    ]:
        shard.unlink() if changed is None else shard.write_bytes(changed)
        with pytest.raises(error, match=match) as caught:
            ShardedArray.open(array)
        assert str(shard) in str(caught.value)
    shard.write_bytes(data)
