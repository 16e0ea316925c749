"""Hostile and damaged inputs: each is refused by one of the project's errors, at once and without memory."""

from __future__ import annotations

import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

import spann
from spann.errors import InputError, MissingError, SpannError
from spann.neighbors import KNeighborsTransformer
from spann.system import check_room, open_regular, read_small
from spann.vectors import convert, narrowed, open_source, read_ids, read_truth
from tests.fuzzing import inputs

X = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)


def npy(path: Path, header: bytes, version: int = 1, body: bytes = b"") -> Path:
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + size + header + body)
    return path


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}"


@pytest.mark.parametrize(
    "header",
    [
        "(" * 5000,
        "{" * 200 + "}" * 200,
        "-" * 9000 + "1",
        GOOD.replace("'<f4'", "()"),
        GOOD.replace("'<f4'", "[]"),
        GOOD.replace("'<f4'", "'<f4,<f4'"),
        GOOD.replace("'<f4'", "'a9'"),
        GOOD.replace("'<f4'", "'<M8[99999999999ns]'"),
        GOOD.replace("'<f4'", "'|O'"),
        GOOD.replace("False", "0"),
        GOOD.replace("2, 3", "-2, -3"),
        GOOD.replace("2, 3", "True, 3"),
        GOOD.replace("2, 3", "2.0, 3"),
        GOOD.replace("2, 3", f"0, {'9' * 4000}"),
        GOOD.replace("2, 3", "9" * 5000),
        GOOD.replace("2, 3", ", ".join(["1"] * 3000)),
        GOOD.replace("'descr'", "'descr '"),
        "1is 2",
        "\x00",
    ],
)
@pytest.mark.parametrize("read", [open_source, read_ids])
def test_headers_of_npy_files(tmp_path: Path, header: str, read: Callable[[Path], object]) -> None:
    with pytest.raises(InputError):
        read(npy(tmp_path / "a.npy", header.encode(), body=bytes(24)))


def test_a_header_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    path = npy(tmp_path / "a.npy", b"")
    path.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30))
    os.truncate(path, 1 << 31)
    with pytest.raises(InputError, match=r"a.npy does not start .*: it is 1073741824 bytes long; the limit is 10000"):
        open_source(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, error in ((tmp_path / "pipe", InputError), (tmp_path, InputError), (tmp_path / "none", MissingError)):
        with pytest.raises(error):
            open_regular(path, "it")
    with pytest.raises(InputError, match="it is not a regular file"):
        open_regular(Path("/dev/zero"), "it")
    (tmp_path / "long").write_bytes(bytes(11))
    assert read_small(tmp_path / "long", "it", 11) == bytes(11)
    with pytest.raises(InputError, match="it is over 10 bytes long"):
        read_small(tmp_path / "long", "it", 10)


@pytest.mark.parametrize("part", ["train.parquet", "test.parquet", "neighbors.parquet"])
def test_pipes_within_folders(tmp_path: Path, part: str) -> None:
    os.mkfifo(tmp_path / part)
    for use in (open_source, spann.vectors.open_queries, read_ids, read_truth):
        with pytest.raises((InputError, MissingError)):
            use(tmp_path)


def test_ids_are_read_once_and_for_all(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", np.arange(5000))
    ids = read_ids(tmp_path / "i.npy")
    os.truncate(tmp_path / "i.npy", 200)
    assert int(ids.values.sum()) == 4999 * 2500
    with pytest.raises(InputError, match=r"i.npy is 200 bytes where its header \(5000 int64\) calls for 40128"):
        read_ids(tmp_path / "i.npy")


def test_room_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spann.system.available_memory", lambda: 1 << 20)
    check_room(1 << 20, "it")
    path = tmp_path / "a.fbin"
    path.write_bytes(struct.pack("<II", 1 << 20, 1 << 10))
    os.truncate(path, 8 + (1 << 32))
    with open_source(path) as source, pytest.raises(InputError, match=r"a.fbin takes 4294967296 bytes .*; 1048576 are"):
        source.read(0, source.count)
    path = tmp_path / "a.ibin"
    path.write_bytes(struct.pack("<II", 1 << 20, 1 << 10))
    os.truncate(path, 8 + (1 << 32))
    with pytest.raises(InputError, match=r"truth of 1048576 queries and k 1024 in .*a.ibin takes"):
        read_truth(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_truth_that_unpacks_to_much_more(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "t.npz", "w", method) as archive, archive.open("ids.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros((1 << 15, 100), np.int64))
    with pytest.raises(InputError, match=r"over 100 times as many|compressed by method 12"):
        read_truth(tmp_path / "t.npz")


ZARR: dict[str, dict[str, Any]] = {
    "2": {"zarr_format": 2},
    "3": {},
    "shards": {"shards": (200, 16)},
    "flat": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
}


@pytest.mark.parametrize("kind", ZARR)
def test_zarr_chunks_that_are_missing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(path, shape=X.shape, dtype=X.dtype, chunks=(100, 16), **ZARR[kind])[:] = X
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != "." and p.name != "zarr.json")
    rows = 600 // len(files)
    with open_source(path) as source:
        np.testing.assert_array_equal(source.read(0, 600), X)
        files[-1].unlink()
        for use in (lambda: source.read(550, 600), lambda: source.take(np.array([0, 599]))):
            with pytest.raises(InputError, match=rf"has no chunk .*, of rows {600 - rows} to 600: it is incomplete"):
                use()
        np.testing.assert_array_equal(source.read(0, 600 - rows), X[: 600 - rows])
    with pytest.raises(InputError, match="it is incomplete"):
        open_source(path)
    with open_source(path, max_rows=600 - rows) as source:
        assert source.count == 600 - rows
    os.mkfifo(files[-1])
    with pytest.raises(InputError, match="has no chunk"):
        open_source(path)


def test_zarr_arrays_in_memory_that_are_not_whole() -> None:
    array = zarr.create_array({}, shape=X.shape, dtype=X.dtype, chunks=(100, 16))
    array[:300] = X[:300]
    with pytest.raises(InputError, match=r"has no chunk c/3/0, of rows 300 to 400"):
        open_source(array)
    array[300:] = X[300:]
    np.testing.assert_array_equal(open_source(array).read(0, 600), X)


@pytest.mark.parametrize("place", ["compressor", "filters"])
@pytest.mark.parametrize("codec", [{"id": "pickle", "protocol": 5}, {"id": "base64"}])
def test_zarr_codecs_that_are_not_for_numbers(tmp_path: Path, place: str, codec: dict[str, Any]) -> None:
    zarr.create_array(tmp_path / "x", shape=X.shape, dtype=X.dtype, chunks=(100, 16), zarr_format=2)[:] = X
    metadata = tmp_path / "x/.zarray"
    about = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**about, place: codec if place == "compressor" else [codec]}))
    with pytest.raises(InputError, match=r"is stored with codec|metadata that cannot be read"):
        open_source(tmp_path / "x")


def test_zarr_shapes_beyond_all_bounds(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x", shape=(1 << 50, 16), dtype="f4", chunks=(1 << 40, 16))
    with pytest.raises(InputError, match=r"a chunk of .* it must be from 1 to 1073741824"):
        open_source(tmp_path / "x")
    zarr.create_array(tmp_path / "y", shape=(1 << 50, 16), dtype="f4", chunks=(10, 16))
    with pytest.raises(InputError, match="has no chunk c/0/0, of rows 0 to 10"):
        open_source(tmp_path / "y")


def test_hdf5_values_that_are_not_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("never", shape=(1 << 40, 16), dtype="f4")
        part = file.create_dataset("part", shape=(600, 16), dtype="f4", chunks=(100, 8))
        part[:300] = X[:300]
        file.create_dataset("ids", shape=(1 << 40,), dtype="i8", chunks=(100,))
        file.create_dataset("huge", shape=(1 << 40, 16), dtype="f4", chunks=(1 << 25, 16))
        layout = h5py.VirtualLayout((600, 16), "f4")
        layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (600, 16))
        file.create_virtual_dataset("elsewhere", layout)
        file.create_dataset("outside", shape=(1, 16), dtype="f4", external=[("/etc/passwd", 0, 64)])
    for name, message in (
        ("never", "was never written whole"),
        ("part", "has no values for rows 300 to 400"),
        ("huge", "the limit is 1073741824"),
        ("elsewhere", "keeps its values in other files"),
        ("outside", "keeps its values in other files"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(f"{tmp_path}/x.h5#{name}")
    with open_source(f"{tmp_path}/x.h5#part", max_rows=300) as source:
        np.testing.assert_array_equal(source.read(0, 300), X[:300])
    with pytest.raises(InputError, match="has no values for rows 0 to 100"):
        read_ids(f"{tmp_path}/x.h5#ids")


def test_parquet_columns_that_cannot_be_vectors(tmp_path: Path) -> None:
    words = pa.array([["a"]] * 9, pa.list_(pa.dictionary(pa.int32(), pa.string())))
    twice = pa.Table.from_arrays([pa.array(range(9)), pa.array(range(9)), words], names=["id", "id", "v"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'v' .* vectors are lists of numbers"):
        open_source(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"has 2 columns 'id': there must be one"):
        read_ids(f"{tmp_path}/a.parquet#id")


def test_narrowing_loses_nothing_in_silence() -> None:
    x = X.astype(np.float64)
    np.testing.assert_array_equal(narrowed(x, 0, "x"), X)
    np.testing.assert_array_equal(
        narrowed(np.repeat(x[:1] / 3, 9, axis=0), 0, "copies"), np.repeat(X[:1] / 3, 9, axis=0)
    )
    for wrong, message in (
        (x * 1e40, r"row 7 column 0 of x is .*e\+\d\d, beyond float32"),
        (x * 1e-60, "row 7 of x is all zeros in float32"),
        (x + 1e9, r"rounding x to float32 moves vectors from row 7 on by \d+% of what they differ by"),
        (np.arange(1 << 24, (1 << 24) + 100)[:, None] * 1.0, "rounding x"),
    ):
        with pytest.raises(InputError, match=message):
            narrowed(wrong, 7, "x")


def test_the_transformer_keeps_what_float64_tells_apart() -> None:
    x = 1.7e9 + np.random.default_rng(0).random((200, 2)) * 30
    found = KNeighborsTransformer(n_neighbors=2, build_params=spann.BuildParams(calibration_queries=0)).fit_transform(x)
    distances = np.sort(np.sqrt(np.square(x[:, None] - x).sum(-1)), axis=1)[:, :3]
    np.testing.assert_allclose(found.data.reshape(200, 3), distances, atol=1e-4)
    with pytest.raises(InputError, match="rounding X to float32"):
        KNeighborsTransformer(metric="cosine").fit(x)


def test_conversion_makes_no_vector_vanish(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 0 of array is all zeros as float16, and is not"):
        convert(open_source(X * np.float32(1e-9)), tmp_path / "x.f16bin")


@pytest.mark.parametrize("kind", ["array", "list", "object"])
def test_masks_are_not_lost(tmp_path: Path, kind: str) -> None:
    class Variable:
        def __init__(self, values: Any) -> None:
            self.values = values

        def __array__(self, dtype: object = None, copy: object = None) -> Any:
            return self.values

    def given(values: Any) -> Any:
        return values if kind == "array" else list(values) if kind == "list" else Variable(values)

    off = spann.BuildParams(calibration_queries=0)
    index = spann.build(X, tmp_path / "i", params=off)
    queries = np.ma.array(X[:3], mask=np.arange(3)[:, None] > 0 & (X[:3] > 9))
    queries[1, 4] = np.ma.masked
    queries.mask[0] = False
    for use in (index.search, lambda q: index.search_range(q, radius=1.0)):
        with pytest.raises(InputError, match="row 1 of queries is masked"):
            use(given(queries))
    assert index.search(given(np.ma.array(X[:3])), 1).ids[:, 0].tolist() == [0, 1, 2]
    if kind != "list":
        with pytest.raises(InputError, match="row 3 of ids is masked"):
            spann.build(X, tmp_path / "j", ids=given(np.ma.array(np.arange(600), mask=np.arange(600) == 3)), params=off)
        with pytest.raises(InputError, match="row 1 of array is masked"):
            spann.build(given(queries), tmp_path / "j", params=off)


def test_objects_that_cannot_become_arrays(tmp_path: Path) -> None:
    class Broken:
        def __array__(self, dtype: object = None, copy: object = None) -> Any:
            raise KeyError("of another library")

    index = spann.build(X, tmp_path / "i", params=spann.BuildParams(calibration_queries=0))
    for use in (index.search, open_source, lambda x: spann.build(X, tmp_path / "j", ids=x)):
        with pytest.raises(InputError, match=r"is a Broken that NumPy cannot convert: .*of another library"):
            use(Broken())


@pytest.mark.parametrize("path", [None, 7, "", "a\0b", "/", ".", "loop"])
def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    for use in (
        lambda: spann.build(X, path),
        lambda: spann.append(path, X),
        lambda: spann.calibrate(path, X),
        lambda: spann.open(path),
        lambda: spann.verify(path),
        lambda: spann.build(X, "i", ids=path if path else "\0"),
        lambda: open_source(path),
    ):
        with pytest.raises(SpannError):
            use()


def test_parameters_of_the_wrong_kind(tmp_path: Path) -> None:
    index = spann.build(X, tmp_path / "i", params=spann.BuildParams(calibration_queries=0))
    wrong: Any
    for wrong in ({"max_postings": 3}, spann.BuildParams(), 3):
        with pytest.raises(InputError, match=r"params is a \w+; it must be SearchParams"):
            index.search(X[:1], 1, wrong)
    for wrong in ({"seed": 3}, spann.SearchParams(), "x"):
        with pytest.raises(InputError, match=r"params is a \w+; it must be BuildParams"):
            spann.plan(X, params=wrong)


def test_mutants_of_every_format(tmp_path: Path) -> None:
    """The fuzzer, for a moment: `scripts/fuzz inputs` goes on for hours."""
    for name in ("seeds", "work"):
        (tmp_path / name).mkdir()
    inputs.seeds(tmp_path / "seeds")
    corpus = sorted((tmp_path / "seeds").iterdir())
    for seed in corpus:
        assert inputs.execute(seed) == "read", seed
    outcomes = set()
    for number in range(600):
        rng = random.Random(number)
        outcomes.add(inputs.execute(inputs.mutate(rng.choice(corpus), tmp_path / "work", rng)))
    assert outcomes == {"read", "refused"}


def test_row_groups_with_fewer_rows_than_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spann.vectors import table_source

    def more(self: Any, number: int) -> Any:
        return [table_source._Group(number, 0, 0, 700)]

    convert(open_source(X), tmp_path / "x.parquet")
    monkeypatch.setattr(table_source.TableSource, "_list", more)
    with open_source(tmp_path / "x.parquet") as source:
        for use in (lambda: source.take(np.array([699])), lambda: source.read(0, 700)):
            with pytest.raises(InputError, match=r"row group 0 of .* has fewer rows than the file says"):
                use()
