"""Arrays on disk: they are Zarr v3, read back the same, and lie where the layout says."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spann._kernels.checksum import crc32c
from spann.errors import CorruptionError, ExistsError, FormatError, InputError, MissingError, StorageError
from spann.format.layout import DTYPES, ArrayLayout
from spann.store import files
from spann.store.arrays import ShardedArray, ShardedWriter
from spann.store.places import as_path
from spann.testing import ShortDisk


def write(path, values, *, pieces=1, **sizes):
    with ShardedWriter(path, values.dtype, values.shape[1:], rows=len(values), **sizes) as writer:
        for piece in np.array_split(values, pieces):
            writer.append(piece)
        return writer.finish()


def sample(dtype, shape, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    found = values.view(dtype)[..., 0]
    return np.nan_to_num(found) if found.dtype.kind == "f" else found


def read_by_tensorstore(path):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    return tensorstore.open(spec, read=True).result().read().result()


# One shard, several, a partial last shard, a single row, one whole chunk, one row over, none at all.
CASES = [
    ("uint8", (1, 4096), {}),
    ("uint8", (9, 4096), {"shard_bytes": 16384, "chunk_bytes": 8192}),
    ("uint8", (64, 4096), {}),
    ("uint32", (1,), {}),
    ("uint32", (1000,), {"shard_bytes": 1024, "chunk_bytes": 256}),
    ("uint32", (1024,), {"shard_bytes": 1024, "chunk_bytes": 256}),
    ("uint32", (1025,), {"shard_bytes": 1024, "chunk_bytes": 256}),
    ("float32", (77, 13), {"shard_bytes": 700, "chunk_bytes": 150}),
    ("float32", (20, 3, 4), {"shard_bytes": 300, "chunk_bytes": 100}),
    ("float16", (50, 7), {"shard_bytes": 1, "chunk_bytes": 1}),
    ("int64", (333,), {"shard_bytes": 512, "chunk_bytes": 64}),
    ("int8", (10, 5), {"chunk_bytes": 20}),
    ("float32", (0, 8), {}),
    ("int64", (0,), {}),
]


@pytest.mark.parametrize(("dtype", "shape", "sizes"), CASES)
def test_other_clients_read_the_same_values(tmp_path, dtype, shape, sizes):
    values = sample(dtype, shape)
    crcs = write(tmp_path / "a", values, pieces=3, **sizes)
    array = ShardedArray.open(tmp_path / "a")
    by_zarr = zarr.open_array(str(tmp_path / "a"), mode="r")
    assert by_zarr.shape == shape
    for found in (array.read_all(crcs), by_zarr[...], read_by_tensorstore(tmp_path / "a")):
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
    assert list(array.verify(crcs)) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type(tmp_path, dtype):
    values = sample(dtype, (11, 3))
    write(tmp_path / "a", values, shard_bytes=100, chunk_bytes=50)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "a"), mode="r")[...], values)
    np.testing.assert_array_equal(read_by_tensorstore(tmp_path / "a"), values)
    np.testing.assert_array_equal(ShardedArray.open(tmp_path / "a").read_all(), values)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_into_pieces_gives_the_same_array(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "a"
    shape = data.draw(st.tuples(st.integers(0, 60), st.integers(1, 9)))
    values = sample(data.draw(st.sampled_from(DTYPES)), shape)
    chunk_bytes = data.draw(st.integers(1, 400))
    shard_bytes = data.draw(st.integers(1, 1000))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[0]), max_size=6)))
    layout = ArrayLayout.plan(shape[0], values.dtype, shape[1:], shard_bytes=shard_bytes, chunk_bytes=chunk_bytes)
    with ShardedWriter(
        path, values.dtype, shape[1:], rows=shape[0], shard_bytes=shard_bytes, chunk_bytes=chunk_bytes
    ) as writer:
        for piece in np.split(values, cuts):
            writer.append(piece)
        crcs = writer.finish()
    padded = values.tobytes() + bytes(layout.padding_bytes)
    size = layout.chunk_bytes
    assert crcs.tolist() == [crc32c(padded[i : i + size]) for i in range(0, len(padded), size)]
    array = ShardedArray.open(path)
    assert array.layout == layout
    np.testing.assert_array_equal(array.read_all(crcs), values)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    np.testing.assert_array_equal(array.read_rows(start, stop), values[start:stop])
    assert list(array.verify(crcs)) == []


def test_rows_lie_at_arithmetic_offsets(tmp_path):
    values = sample("uint8", (100, 24))
    write(tmp_path / "a", values, shard_bytes=480, chunk_bytes=100)
    array = ShardedArray.open(tmp_path / "a")
    assert array.shard_rows == 20
    assert (array.rows, array.dtype, array.row_shape) == (100, np.dtype("uint8"), (24,))
    for row in range(100):
        data = as_path(array.shard_path(row // array.shard_rows)).read_bytes()
        offset = row % array.shard_rows * 24
        assert data[offset : offset + 24] == values[row].tobytes()


@pytest.mark.parametrize(
    ("rows", "row_shape", "sizes", "expected"),
    [
        (10**9, (4096,), {}, (8, 65536)),
        (10**9, (), {}, (8192, 64 << 20)),
        (100, (4096,), {}, (8, 104)),
        (3, (4096,), {}, (3, 3)),
        (0, (4096,), {}, (1, 1)),
        (10, (100_000,), {}, (1, 10)),
        (10, (100,), {"shard_bytes": 250, "chunk_bytes": 50}, (1, 2)),
    ],
)
def test_planned_sizes(rows, row_shape, sizes, expected):
    dtype = "uint8" if row_shape else "uint32"
    layout = ArrayLayout.plan(rows, dtype, row_shape, **sizes)
    assert (layout.chunk_rows, layout.shard_rows) == expected


@pytest.mark.parametrize(
    ("dtype", "rows", "row_shape", "sizes"),
    [
        ("complex64", 1, (), {}),
        ("datetime64[s]", 1, (), {}),
        ("uint8", -1, (), {}),
        ("uint8", 1, (0,), {}),
        ("uint8", 1, (), {"chunk_bytes": 0}),
        ("uint8", 1, (), {"shard_bytes": 0}),
    ],
)
def test_unsupported_arrays_are_refused(tmp_path, dtype, rows, row_shape, sizes):
    with pytest.raises(InputError):
        ShardedWriter(tmp_path / "a", dtype, row_shape, rows=rows, **sizes)
    assert not (tmp_path / "a").exists()


WRONG_ROWS = [((2, 3), "f8"), ((2, 3), ">f4"), ((2, 4), "f4"), ((3,), "f4"), ((6, 3), "f4")]


@pytest.mark.parametrize(("shape", "dtype"), WRONG_ROWS)
def test_other_rows_than_promised_are_refused(tmp_path, shape, dtype):
    with ShardedWriter(tmp_path / "a", "f4", (3,), rows=5) as writer, pytest.raises(InputError):
        writer.append(np.zeros(shape, dtype))


def test_fewer_rows_than_promised_are_refused(tmp_path):
    with ShardedWriter(tmp_path / "a", "f4", (), rows=5) as writer:
        writer.append(np.zeros(4, "f4"))
        with pytest.raises(InputError, match="4 rows were appended, 5 were promised"):
            writer.finish()


def test_rows_that_are_not_contiguous_are_written_right(tmp_path):
    values = np.asfortranarray(sample("int32", (30, 4)))[::2]
    crcs = write(tmp_path / "a", values)
    np.testing.assert_array_equal(ShardedArray.open(tmp_path / "a").read_all(crcs), values)


def test_a_taken_path_and_a_missing_parent(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ExistsError):
        ShardedWriter(tmp_path / "a", "u1", (), rows=1)
    with pytest.raises(MissingError):
        ShardedWriter(tmp_path / "no" / "a", "u1", (), rows=1)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 6)])
def test_rows_out_of_range(tmp_path, start, stop):
    write(tmp_path / "a", sample("uint8", (5,)))
    with pytest.raises(InputError):
        ShardedArray.open(tmp_path / "a").read_rows(start, stop)


def change(document, path, value):
    *inner, last = path
    for key in inner:
        document = document[key]
    if value is None:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["zarr_format"], 2),
        (["shape"], [50, 3.0]),
        (["shape"], [-1, 3]),
        (["shape"], "wide"),
        (["data_type"], "complex64"),
        (["data_type"], ["uint8"]),
        (["fill_value"], 1),
        (["fill_value"], False),
        (["chunk_grid", "configuration", "chunk_shape"], [21, 3]),
        (["chunk_grid", "configuration", "chunk_shape"], [20, 4]),
        (["chunk_key_encoding", "configuration", "separator"], "."),
        (["codecs", 0, "name"], "gzip"),
        (["codecs", 0, "configuration", "chunk_shape", 0], 0),
        (["codecs", 0, "configuration", "index_location"], "start"),
        (["codecs", 0, "configuration", "codecs", 0, "configuration", "endian"], "big"),
        (["codecs", 0, "configuration", "index_codecs"], [{"name": "bytes", "configuration": {"endian": "little"}}]),
        (["codecs"], None),
        (["attributes"], None),
        (["storage_transformers"], [{"name": "strange"}]),
    ],
)
def test_metadata_of_any_other_form_is_refused(tmp_path, place, value):
    write(tmp_path / "a", sample("uint8", (50, 3)), shard_bytes=60, chunk_bytes=15)
    file = tmp_path / "a" / "zarr.json"
    document = json.loads(file.read_bytes())
    change(document, place, value)
    file.write_text(json.dumps(document))
    with pytest.raises(FormatError, match=r"zarr\.json") as caught:
        ShardedArray.open(tmp_path / "a")
    assert not isinstance(caught.value, CorruptionError)


@pytest.mark.parametrize("text", ["", "{", "\xff"])
def test_metadata_that_is_not_json(tmp_path, text):
    write(tmp_path / "a", sample("uint8", (5,)))
    (tmp_path / "a" / "zarr.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptionError, match=r"zarr\.json: not JSON"):
        ShardedArray.open(tmp_path / "a")


def test_a_shard_index_of_other_order_is_refused(tmp_path):
    write(tmp_path / "a", sample("uint8", (4,)), chunk_bytes=2)
    shard = tmp_path / "a" / "c" / "0"
    data = shard.read_bytes()
    assert len(data) == 4 + 2 * 16 + 4
    index = data[20:36] + data[4:20]
    shard.write_bytes(data[:4] + index + crc32c(index).to_bytes(4, "little"))
    with pytest.raises(FormatError, match="one after the other"):
        ShardedArray.open(tmp_path / "a")


class Faulty:
    """The operating system, with one function that fails after some calls."""

    def __init__(self, name, code, after=0):
        self._name, self._code, self._left = name, code, after

    def __getattr__(self, name):
        return self._fail if name == self._name else getattr(os, name)

    def _fail(self, *args, **options):
        if self._left:
            self._left -= 1
            return getattr(os, self._name)(*args, **options)
        raise OSError(self._code, os.strerror(self._code))


@pytest.mark.parametrize(("name", "code"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("open", errno.EROFS)])
@pytest.mark.parametrize("after", [0, 2])
def test_refused_writes_name_the_file(tmp_path, monkeypatch, name, code, after):
    monkeypatch.setattr(files, "system", Faulty(name, code, after))
    with pytest.raises(StorageError, match=os.strerror(code)) as caught:
        write(tmp_path / "a", sample("uint8", (50, 3)), shard_bytes=60, chunk_bytes=15)
    assert str(tmp_path / "a") in str(caught.value)
    assert caught.value.errno == code
    if name == "write":
        assert "bytes written)" in str(caught.value)


def test_short_reads_and_writes_are_continued(tmp_path, monkeypatch):
    class Slow:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, fd, data):
            return os.write(fd, data[:7])

        def preadv(self, fd, buffers, offset):
            return os.preadv(fd, [buffers[0][:5]], offset)

    monkeypatch.setattr(files, "system", Slow())
    values = sample("uint8", (50, 3))
    crcs = write(tmp_path / "a", values, shard_bytes=60, chunk_bytes=15)
    array = ShardedArray.open(tmp_path / "a")
    np.testing.assert_array_equal(array.read_all(crcs), values)
    assert list(array.verify(crcs)) == []


def test_verify_reports_progress_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("spann.store.arrays._SCAN_BYTES", 64)
    crcs = write(tmp_path / "a", sample("uint8", (50, 3)), shard_bytes=90, chunk_bytes=15)
    array = ShardedArray.open(tmp_path / "a")
    steps: list[int] = []
    assert list(array.verify(crcs, steps.append)) == []
    assert sum(steps) == array.stored_bytes == sum(array.shard_path(i).stat().st_size for i in (0, 1))
    assert max(steps) <= max(64, array.layout.index_bytes)


def test_checksums_of_another_array_are_refused(tmp_path):
    write(tmp_path / "a", sample("uint8", (50, 3)), chunk_bytes=15)
    array = ShardedArray.open(tmp_path / "a")
    with pytest.raises(FormatError, match="checksums"):
        array.read_all(np.zeros(3, dtype=np.uint32))


@pytest.mark.parametrize("gap", [0, 40, 10_000])
@pytest.mark.parametrize(
    "rows", [[0], [999], [0, 1, 2, 500, 501, 999], [3, 3, 7, 64, 64, 65, 700], list(range(1000)), []]
)
@pytest.mark.parametrize("system", [files.system, ShortDisk(7)])
def test_rows_here_and_there(tmp_path, monkeypatch, gap, rows, system):
    values = sample("float32", (1000, 5))
    write(tmp_path / "a", values, shard_bytes=64 * 20, chunk_bytes=160)
    array = ShardedArray.open(tmp_path / "a")
    monkeypatch.setattr(files, "system", system)
    np.testing.assert_array_equal(array.take_rows(np.array(rows, np.int64), gap_bytes=gap), values[rows])


@pytest.mark.parametrize("system", [files.system, ShortDisk(10**9)])
def test_unreadable_rows_are_refused(tmp_path, monkeypatch, system):
    monkeypatch.setattr(files, "system", system)
    path = tmp_path / "f"
    path.write_bytes(bytes(1000))
    fd = files.open_read(path)
    with pytest.raises(CorruptionError, match=r"f: ends at byte 1000, 40 bytes too early"):
        files.read_rows(fd, np.array([0, 2, 24, 25]), 40, path, gap_bytes=0)
    files.close(fd)
    fd = files.open_again(path, 1000)
    with pytest.raises(StorageError, match=r"f: cannot read 80 bytes at 120: Bad file descriptor"):
        files.read_rows(fd, np.array([3, 4]), 40, path, gap_bytes=0)
    files.close(fd)


@pytest.mark.parametrize("rows", [0, 1, 20, 55, 60, 61, 999, 1000])
@pytest.mark.parametrize("finished", [False, True])
def test_an_array_is_continued(tmp_path, content, rows, finished):
    """20 rows a shard, 2 a chunk."""
    values, sizes = sample("float32", (1000, 5)), {"shard_bytes": 400, "chunk_bytes": 40}
    expected = write(tmp_path / "whole", values, **sizes)
    more = {"rows": 1000, **sizes}
    with ShardedWriter(tmp_path / "a", np.float32, (5,), **more) as writer:
        writer.append(values[:rows])
        state = writer.state()
        writer.append(values[rows:])
        if finished:
            writer.finish()
            assert rows < 1000 or writer.state() == state
    with ShardedWriter(tmp_path / "a", np.float32, (5,), **more, state=state) as writer:
        assert writer.rows == rows
        writer.append(values[rows:])
        np.testing.assert_array_equal(writer.finish(), expected)
    assert content(tmp_path / "a") == content(tmp_path / "whole")


def test_a_damaged_array_is_not_continued(tmp_path):
    values, sizes = sample("float32", (1000, 5)), {"shard_bytes": 400, "chunk_bytes": 40}
    with ShardedWriter(tmp_path / "a", np.float32, (5,), rows=1000, **sizes) as writer:
        writer.append(values[:55])
        state = writer.state()
    path = tmp_path / "a" / "c" / "1" / "0"
    sound = path.read_bytes()
    for at, error in ((7, "a: its first 55 rows are not those that were written"), (len(sound) - 1, "shard index")):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(CorruptionError, match=error):
            ShardedWriter(tmp_path / "a", np.float32, (5,), rows=1000, **sizes, state=state)
    path.unlink()
    with pytest.raises(MissingError):
        ShardedWriter(tmp_path / "a", np.float32, (5,), rows=1000, **sizes, state=state)
