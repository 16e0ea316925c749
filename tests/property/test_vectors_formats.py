"""Every format gives back what was written; no truncated or damaged file is read as something else."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spann.errors import InputError
from spann.vectors import open_source, read_truth, sample_rows, write_truth

SUFFIXES = {
    "float32": [".fbin", ".fvecs", ".npy", ""],
    "float16": [".f16bin", ".npy", ""],
    "uint8": [".u8bin", ".bvecs", ".npy", ""],
    "int8": [".i8bin", ".npy", ""],
}
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
QUICK = settings(max_examples=60, deadline=None)


@st.composite
def stored_vectors(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    dtype = draw(st.sampled_from(sorted(SUFFIXES)))
    return draw(st.sampled_from(SUFFIXES[dtype])), draw(hnp.arrays(dtype, SHAPES))


def write(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix.endswith("bin"):
        path.write_bytes(struct.pack("<II", *array.shape) + array.tobytes())
    elif path.suffix:
        path.write_bytes(b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in array))
    else:
        zarr.create_array(path, data=array, chunks=(5, array.shape[1]), config={"write_empty_chunks": True})


@QUICK
@given(stored=stored_vectors(), data=st.data())
def test_round_trip(stored: tuple[str, np.ndarray], data: st.DataObject) -> None:
    suffix, array = stored
    row = st.integers(0, len(array) - 1)
    start, stop = sorted(data.draw(st.tuples(row, row)))
    rows = np.array(data.draw(st.lists(row, max_size=8)), np.int64)
    per_block = data.draw(st.integers(1, 14))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / f"x{suffix}", array)
        with open_source(Path(folder) / f"x{suffix}") as source:
            assert (source.count, source.dim, source.dtype) == (*array.shape, array.dtype)
            assert source.read(start, stop).tobytes() == array[start:stop].tobytes()
            assert source.take(rows).tobytes() == array[rows].tobytes()
            assert b"".join(block.tobytes() for _, block in source.blocks(per_block)) == array.tobytes()


def read_vectors(path: Path) -> bytes:
    with open_source(path) as source:
        return source.read(0, source.count).tobytes()


def read_ids(path: Path) -> bytes:
    truth = read_truth(path)
    return truth.ids.tobytes() + (b"" if truth.distances is None else truth.distances.tobytes())


def read_or_refusal(read: Callable[[Path], bytes], path: Path) -> bytes | InputError:
    """The content of the file, or the one-line refusal that names it. Any other exception is a failure."""
    try:
        return read(path)
    except InputError as error:
        refusal = error
    assert path.name in str(refusal)
    assert "\n" not in str(refusal)
    return refusal


def whole(suffix: str, folder: str, array: np.ndarray) -> tuple[Path, Callable[[Path], bytes]]:
    path = Path(folder) / f"x{suffix}"
    if suffix in (".ibin", ".npz"):
        write_truth(path, np.arange(array.size, dtype=np.int64).reshape(array.shape), array)
        return path, read_ids
    write(path, array)
    return path, read_vectors


@pytest.mark.parametrize("suffix", [".fbin", ".fvecs", ".npy", ".ibin", ".npz"])
@QUICK
@given(array=hnp.arrays("float32", SHAPES), data=st.data())
def test_truncated_file_is_refused_or_a_true_prefix(suffix: str, array: np.ndarray, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, read = whole(suffix, folder, array)
        expected, content = read(path), path.read_bytes()
        cut = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:cut])
        got = read_or_refusal(read, path)
        # Without a count in the file, the loss of whole rows (.fvecs) or of all distances (.ibin) does not show.
        if isinstance(got, bytes):
            assert suffix in (".fvecs", ".ibin")
            assert expected.startswith(got)


@pytest.mark.parametrize("suffix", [".fbin", ".fvecs", ".npy", ".ibin", ".npz"])
@QUICK
@given(array=hnp.arrays("float32", SHAPES), data=st.data())
def test_damaged_header_never_crashes(suffix: str, array: np.ndarray, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, read = whole(suffix, folder, array)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, min(len(content), 160) - 1))
        content[at] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        read_or_refusal(read, path)


@QUICK
@given(count=st.integers(0, 10**12), size=st.integers(0, 200), seed=st.integers(0, 2**63))
def test_sample_is_sorted_distinct_and_within(count: int, size: int, seed: int) -> None:
    size = min(size, count)
    rows = sample_rows(count, size, seed)
    assert len(rows) == size
    assert (np.diff(rows) > 0).all()
    assert not size or (rows[0] >= 0 and rows[-1] < count)
