"""Opening, reading and refusing vectors of every format."""

from __future__ import annotations

import io
import json
import mmap
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from spann.errors import InputError, MissingError, StorageError
from spann.vectors import files, open_source, paging
from spann.vectors.sources import ArraySource, VectorSource

ROWS, DIM = 23, 5
TYPES = {".fbin": "float32", ".f16bin": "float16", ".u8bin": "uint8", ".i8bin": "int8"}
KINDS = [*TYPES, ".fvecs", ".bvecs", ".npy", "zarr2", "zarr3", "zarr object", "array", "fortran", "memmap", "__array__"]


def table(dtype: str = "float32", rows: int = ROWS, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(rows * dim).integers(-100 if dtype[0] != "u" else 0, 100, (rows, dim)).astype(dtype)


def write_bin(path: Path, array: np.ndarray, rows: int | None = None) -> Path:
    path.write_bytes(struct.pack("<II", len(array) if rows is None else rows, array.shape[1]) + array.tobytes())
    return path


def write_vecs(path: Path, array: np.ndarray) -> Path:
    path.write_bytes(b"".join(struct.pack("<i", array.shape[1]) + row.tobytes() for row in array))
    return path


class Wrapped:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.array


def make(kind: str, folder: Path) -> tuple[object, np.ndarray]:
    """An object of `kind` that `open_source` accepts, and the vectors it holds."""
    if kind in TYPES:
        array = table(TYPES[kind])
        return write_bin(folder / f"base{kind}", array), array
    if kind in (".fvecs", ".bvecs"):
        array = table("float32" if kind == ".fvecs" else "uint8")
        return write_vecs(folder / f"base{kind}", array), array
    array = table()
    if kind == ".npy":
        np.save(folder / "base.npy", array)
        return str(folder / "base.npy"), array
    if kind.startswith("zarr"):
        stored = zarr.create_array(
            folder / kind, shape=array.shape, chunks=(7, 3), dtype="f4", zarr_format=2 if kind == "zarr2" else 3
        )
        stored[:] = array
        return (stored if kind == "zarr object" else folder / kind), array
    if kind == "fortran":
        return np.asfortranarray(array), array
    if kind == "memmap":
        np.save(folder / "mapped.npy", array)
        return np.load(folder / "mapped.npy", mmap_mode="r"), array
    return (Wrapped(array) if kind == "__array__" else array), array


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[VectorSource, np.ndarray]:
    obj, array = make(request.param, tmp_path)
    return open_source(obj), array


def test_source_describes_and_serves_its_rows(opened: tuple[VectorSource, np.ndarray]) -> None:
    source, array = opened
    with source:
        assert (source.count, source.dim, source.dtype) == (*array.shape, array.dtype)
        assert source.row_bytes == array[0].nbytes
        for start, stop in [(0, ROWS), (3, 11), (ROWS - 1, ROWS), (4, 4)]:
            got = source.read(start, stop)
            assert got.dtype == array.dtype
            assert got.flags.c_contiguous
            np.testing.assert_array_equal(got, array[start:stop])


def test_take_serves_any_order_and_repeats(opened: tuple[VectorSource, np.ndarray]) -> None:
    source, array = opened
    with source:
        for rows in ([5, 1, 5, 22, 0], [3], [], list(range(ROWS))):
            got = source.take(np.array(rows, np.int64))
            assert got.dtype == array.dtype
            assert got.flags.c_contiguous
            np.testing.assert_array_equal(got, array[np.array(rows, np.int64)])


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_blocks_cover_all_rows_at_the_size_asked_for(opened: tuple[VectorSource, np.ndarray], size: int) -> None:
    source, array = opened
    with source:
        blocks = list(source.blocks(size))
    assert [first for first, _ in blocks] == list(range(0, ROWS, size))
    assert all(len(block) == size for _, block in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), array)


def test_requests_outside_the_source_are_refused(opened: tuple[VectorSource, np.ndarray]) -> None:
    source, _ = opened
    for start, stop in [(-1, 2), (2, ROWS + 1), (3, 2)]:
        with pytest.raises(InputError, match=f"rows {start} to {stop} are not within the {ROWS} rows of "):
            source.read(start, stop)
    for row in (-1, ROWS):
        with pytest.raises(InputError, match=f"row {row} is not within the {ROWS} rows"):
            source.take(np.array([0, row]))
    with pytest.raises(InputError, match="2-D float64: they must be 1-D integers"):
        source.take(np.zeros((1, 1)))
    with pytest.raises(InputError, match=r"rows_per_block 0 .* at least 1"):
        source.blocks(0)


@pytest.mark.parametrize("kind", KINDS)
def test_max_rows_serves_the_first_rows(kind: str, tmp_path: Path) -> None:
    obj, array = make(kind, tmp_path)
    with open_source(obj, max_rows=4) as source:
        assert source.count == 4
        np.testing.assert_array_equal(source.read(0, 4), array[:4])
        np.testing.assert_array_equal(source.take(np.array([3, 0])), array[[3, 0]])
        np.testing.assert_array_equal(np.concatenate([block for _, block in source.blocks(3)]), array[:4])
        with pytest.raises(InputError, match="not within the 4 rows"):
            source.take(np.array([4]))
    with pytest.raises(InputError, match=r"max_rows 0 for .* whole number of at least 1"):
        open_source(obj, max_rows=0)
    with pytest.raises(InputError, match=r"max_rows 1.5 for .* whole number"):
        open_source(obj, max_rows=1.5)
    with pytest.raises(InputError, match=f"max_rows {ROWS + 1} is larger than the {ROWS} rows"):
        open_source(obj, max_rows=ROWS + 1)


def test_names_are_paths_or_array_or_as_told(tmp_path: Path) -> None:
    path, _ = make(".fbin", tmp_path)
    assert open_source(path).name == str(path)
    assert open_source(path, name="base").name == "base"
    assert open_source(table()).name == "array"
    assert repr(open_source(table(), name="q")) == f"ArraySource('q', count={ROWS}, dim={DIM}, dtype=float32)"


def test_cropped_file_needs_max_rows(tmp_path: Path) -> None:
    path = write_bin(tmp_path / "crop.fbin", table(), rows=1_000_000_000)
    with pytest.raises(
        InputError, match=rf"crop.fbin .* should hold 1000000000 rows and holds {ROWS}; .*--max-rows {ROWS}"
    ):
        open_source(path)
    with open_source(path, max_rows=ROWS) as source:
        np.testing.assert_array_equal(source.read(0, ROWS), table())
    with pytest.raises(InputError, match=f"max_rows {ROWS + 1} is larger than the {ROWS} rows that .*crop.fbin holds"):
        open_source(path, max_rows=ROWS + 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.fbin", b"\1\0\0", "a.fbin is 3 bytes, shorter than its 8-byte header"),
        ("a.fbin", struct.pack("<II", 0, 4), "a.fbin holds 0 whole vectors"),
        ("a.fbin", struct.pack("<II", 5, 4) + b"\0" * 9, "a.fbin holds 0 whole vectors"),
        ("a.fbin", struct.pack("<II", 1, 0), "dimension 0 of .*a.fbin is outside 1 to 32768"),
        ("a.u8bin", struct.pack("<II", 1, 32769) + b"\0" * 32769, "dimension 32769 of .*a.u8bin is outside 1 to 32768"),
        ("a.i8bin", struct.pack("<II", 2, 3) + b"\0" * 7, r"a.i8bin is 15 bytes .*\(2 rows of 3 int8\) calls for 14"),
        ("a.fvecs", b"", "a.fvecs is 0 bytes, shorter than the 4 bytes before each row"),
        ("a.fvecs", struct.pack("<i", -2), "dimension -2 of .*a.fvecs is outside 1 to 32768"),
        ("a.bvecs", struct.pack("<iB", 2, 7), "a.bvecs holds 0 whole vectors"),
        ("a.ivecs", b"", "a.ivecs: .ivecs files hold neighbour ids, not vectors; .*.fbin"),
        (
            "a.txt",
            b"1,2",
            "extension '.txt' is unknown; vectors come from .fbin .f16bin .bf16bin .u8bin .i8bin .fvecs .bvecs .npy",
        ),
        ("plain", b"1,2", "extension '' is unknown"),
        ("a.npy", b"", "a.npy does not start with a valid .npy header"),
        (
            "a.npy",
            b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': (((\n  " * 2,
            "a.npy does not start with a valid .npy header",
        ),
        ("a.npy", b"\x93NUMPY\x09\x00\x10\x00", r"a.npy does not start with a valid .npy header: .*\(9, 0\)"),
    ],
)
def test_damaged_files_are_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            table("complex64"),
            r"element type <c8 \(complex64\) .* uint8, int8, float16, float32, .* \.astype\(np.float32\)",
        ),
        (table().astype(">f4"), r"element type >f4 \(float32\) is not supported; .* little endian"),
        (np.zeros(3, np.float32), r"has 1 dimensions \(shape \(3,\)\): vectors must be a 2-D array"),
        (np.zeros((0, 3), np.float32), "holds 0 whole vectors"),
        (np.zeros((3, 0), np.float32), "dimension 0 of .* is outside 1 to 32768"),
    ],
)
@pytest.mark.parametrize("kind", ["array", ".npy", "zarr"])
def test_unusable_arrays_are_refused_alike(kind: str, array: np.ndarray, message: str, tmp_path: Path) -> None:
    obj: object = array
    if kind == ".npy":
        obj = tmp_path / "base.npy"
        np.save(tmp_path / "base.npy", array)
    elif kind == "zarr":
        # Format 2, for format 3 hands out native byte order whatever is stored.
        obj = zarr.create_array(tmp_path / "base.npy", shape=array.shape, dtype=array.dtype, zarr_format=2)
    with pytest.raises(InputError, match=message) as caught:
        open_source(obj)
    assert ("array" if kind == "array" else "base.npy") in str(caught.value)


def test_npy_in_fortran_order_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(table()))
    with pytest.raises(InputError, match=r"f.npy is in Fortran order: .*np.ascontiguousarray"):
        open_source(tmp_path / "f.npy")


@pytest.mark.parametrize("shape", [(1 << 62, 4), (-1, 4), (10**30, 4)])
def test_npy_header_with_an_impossible_shape_allocates_nothing(shape: tuple[int, ...], tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    (tmp_path / "big.npy").write_bytes(head.getvalue())
    with pytest.raises(InputError, match=r"big\.npy"):
        open_source(tmp_path / "big.npy")


def test_objects_that_are_no_vectors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="array is a int: vectors must be a path, an array, lists, a table"):
        open_source(7)
    some = np.ma.array(table(), mask=table() == table()[3])
    with pytest.raises(InputError, match="row 3 of array is masked: missing values cannot be used"):
        open_source(some)
    with pytest.raises(MissingError, match=r"none.fbin does not exist"):
        open_source(tmp_path / "none.fbin")
    with pytest.raises(InputError, match=r"has no files: a folder of vectors has its parts"):
        open_source(tmp_path)
    with pytest.raises(MissingError, match=r"within.fbin does not exist"):
        open_source(write_bin(tmp_path / "a.fbin", table()) / "within.fbin")
    for path in ("x" * 300 + ".fbin", "zero\0.fbin"):
        with pytest.raises(StorageError, match=r"fbin cannot be looked up: (File name too long|embedded null)"):
            open_source(path)
    os.mkfifo(tmp_path / "pipe.fbin")
    with pytest.raises(InputError, match=r"pipe.fbin is neither a regular file nor a directory"):
        open_source(tmp_path / "pipe.fbin")


def test_zarr_groups_and_broken_metadata_are_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "group", mode="w")
    for obj in (tmp_path / "group", zarr.open_group(tmp_path / "group", mode="r")):
        with pytest.raises(InputError, match=r"group is a Zarr group: give the path of one array within it"):
            open_source(obj)
    broken = tmp_path / "broken"
    broken.mkdir()
    good = {"zarr_format": 3, "node_type": "array", "shape": [3, 2], "data_type": "float32"}
    for content in ("", "{", "[]", "{}", "7", json.dumps(good), json.dumps(good | {"data_type": "float3"})):
        (broken / "zarr.json").write_text(content)
        with pytest.raises(InputError, match="broken"):
            open_source(broken)


def test_damaged_zarr_chunk_names_the_rows(tmp_path: Path) -> None:
    make("zarr3", tmp_path)
    for chunk in (tmp_path / "zarr3" / "c" / "1").iterdir():
        chunk.write_bytes(b"junk")
    with open_source(tmp_path / "zarr3") as source:
        source.read(0, 7)
        with pytest.raises(InputError, match=r"rows 7 to 9 of .*zarr3 cannot be decoded"):
            source.read(7, 9)
        with pytest.raises(InputError, match=r"rows 0 to 8 of .*zarr3 cannot be decoded"):
            source.take(np.array([8, 0]))


@pytest.mark.parametrize("by", ["read", "take", "blocks"])
def test_row_of_another_length_is_refused_where_it_is_read(by: str, tmp_path: Path) -> None:
    path = write_vecs(tmp_path / "mixed.fvecs", table())
    content = bytearray(path.read_bytes())
    content[17 * 24 : 17 * 24 + 4] = struct.pack("<i", 3)
    path.write_bytes(content)
    with open_source(path) as source:
        source.read(0, 17)
        with pytest.raises(InputError, match=r"row 17 of .*mixed.fvecs has 3 elements where row 0 has 5"):
            {
                "read": lambda: source.read(10, 20),
                "take": lambda: source.take(np.array([2, 17])),
                "blocks": lambda: list(source.blocks(6)),
            }[by]()


def test_vecs_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIECE", 50)
    with open_source(write_vecs(tmp_path / "a.fvecs", table())) as source:
        np.testing.assert_array_equal(source.read(1, 20), table()[1:20])


def test_file_that_shrinks_while_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = table(rows=3000)
    path = write_bin(tmp_path / "s.fbin", array)
    with open_source(path) as source:
        os.truncate(path, 8 + 20 * 100 + 3)
        np.testing.assert_array_equal(source.read(90, 100), array[90:100])
        with pytest.raises(InputError, match=r"s.fbin ends within row 100 although it held 3000 rows"):
            source.read(90, 110)
        monkeypatch.setattr(paging, "page_bytes", lambda row_bytes: row_bytes)
        with pytest.raises(InputError, match=r"s.fbin shrank to 2011 bytes while open: 60008 are needed"):
            source.take(np.array([2999, 0]))


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    with open_source(write_bin(tmp_path / "a.fbin", table())) as source:
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:7]], offset))
        np.testing.assert_array_equal(source.read(2, 20), table()[2:20])


def test_read_that_the_system_refuses_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with open_source(write_bin(tmp_path / "a.fbin", table())) as source:
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(StorageError, match=r"a.fbin cannot be read at byte 48: Input/output error"):
            source.read(2, 20)


def test_closed_file_refuses_to_read(tmp_path: Path) -> None:
    source = open_source(write_bin(tmp_path / "a.fbin", table()))
    source.close()
    source.close()
    for use in (lambda: source.read(0, 1), lambda: source.take(np.array([0]))):
        with pytest.raises(InputError, match=r"a.fbin has been closed"):
            use()


def test_refused_file_is_closed_again(tmp_path: Path) -> None:
    path = write_bin(tmp_path / "a.fbin", table(), rows=99)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(InputError):
            open_source(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_scattered_and_dense_rows_come_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = table(rows=2000, dim=64)
    rng = np.random.default_rng(0)
    picked = []
    original = files.RowFile.pick

    def pick(file: files.RowFile, offsets: np.ndarray, size: int) -> np.ndarray:
        picked.append(len(offsets))
        return original(file, offsets, size)

    monkeypatch.setattr(files.RowFile, "pick", pick)
    for path in (write_bin(tmp_path / "a.fbin", array), write_vecs(tmp_path / "a.fvecs", array)):
        monkeypatch.setattr(files, "_PIECE", 20 * (path.stat().st_size // 2000))
        with open_source(path) as source:
            for rows in (np.arange(0, 2000, 3), rng.integers(2000, size=50)):
                np.testing.assert_array_equal(source.take(rows), array[rows])
    assert picked == [20, 20, 10] * 2


def resident_file_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssFile:")).split()[1]) << 10


def test_picking_rows_keeps_resident_memory_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_TOUCHED", 1 << 20)
    path, rows = tmp_path / "sparse.npy", 16_384
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 1024))  # 64 MiB, no blocks on disk
    kept: list[mmap.mmap] = []
    original = mmap.mmap.madvise
    peak = 0

    class Watched(mmap.mmap):
        def madvise(self, option: int) -> None:  # type: ignore[override]
            nonlocal peak
            peak = max(peak, resident_file_bytes())
            kept.append(self)
            original(self, option)

    monkeypatch.setattr(mmap, "mmap", Watched)
    before = resident_file_bytes()
    with open_source(np.load(path, mmap_mode="r")) as source:
        picked = np.random.default_rng(0).integers(rows, size=4000)
        assert not source.take(picked).any()
    assert len(kept) > 10
    assert peak - before < 4 << 20
    assert resident_file_bytes() - before < 4 << 20


def test_copy_on_write_map_keeps_the_callers_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_TOUCHED", 1)
    np.save(tmp_path / "a.npy", table())
    array = np.load(tmp_path / "a.npy", mmap_mode="c")
    array[3] = 77
    source = open_source(array)
    for _ in range(3):
        assert (source.read(3, 4) == 77).all()
        assert (source.take(np.array([3, 3])) == 77).all()


def test_views_do_not_let_the_callers_array_be_written(tmp_path: Path) -> None:
    array = table()
    view = ArraySource(array).read(0, 3)
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    array[0, 0] = 9
    assert array.flags.writeable


@pytest.mark.parametrize("kind", [".fbin", ".fvecs", ".npy", "zarr3", "memmap"])
def test_threads_share_a_source(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_TOUCHED", 1)
    obj, array = make(kind, tmp_path)
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            start, stop = np.sort(rng.integers(ROWS + 1, size=2))
            rows = rng.integers(ROWS, size=6)
            if not (np.array_equal(source.read(start, stop), array[start:stop])
                    and np.array_equal(source.take(rows), array[rows])):  # fmt: skip
                wrong.append(seed)

    with open_source(obj) as source:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
