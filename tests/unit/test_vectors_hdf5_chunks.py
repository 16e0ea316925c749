"""Chunks of HDF5 datasets: decoded as the HDF5 library does, and refused where they are not whole."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from spann.errors import InputError
from spann.vectors import open_source, read_ids

h5py = pytest.importorskip("h5py")

X = np.random.default_rng(3).normal(size=(203, 12)).astype(np.float32)
PACKED = {
    "gzip": {"compression": "gzip"},
    "gzip and shuffle": {"compression": "gzip", "shuffle": True},
    "shuffle": {"shuffle": True},
    "checksum": {"fletcher32": True},
    "all": {"compression": 9, "shuffle": True, "fletcher32": True},
    "none": {},
}


def write(path, data=X, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=data, **options)
    return path


@pytest.mark.parametrize("options", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("chunks", [(20, 12), (20, 5), (203, 1), (300, 12), (1, 12)], ids=str)
def test_rows_are_those_of_the_library(tmp_path, options, chunks):
    if chunks[0] > len(X):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("train", (len(X), 12), "f4", maxshape=(None, 12), chunks=chunks, **options)[:] = X
    else:
        write(tmp_path / "a.h5", chunks=chunks, **options)
    with open_source(tmp_path / "a.h5") as source:
        np.testing.assert_array_equal(source.read(0, len(X)), X)
        np.testing.assert_array_equal(source.read(19, 41), X[19:41])
        np.testing.assert_array_equal(source.take(np.array([202, 0, 20, 19])), X[[202, 0, 20, 19]])


@pytest.mark.parametrize("dtype", ["<i4", "<i8", "u4"])
def test_packed_ids_are_read(tmp_path, dtype):
    ids = np.arange(1000, dtype=dtype)[::-1]
    write(tmp_path / "ids.h5", ids, chunks=(64,), compression="gzip", shuffle=True)
    np.testing.assert_array_equal(read_ids(tmp_path / "ids.h5").values, ids)


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"scaleoffset": 2}], ids=str)
def test_a_filter_that_is_not_checked_is_refused_with_the_remedy(tmp_path, options):
    path = write(tmp_path / "a.h5", chunks=(20, 12), **options)
    with pytest.raises(InputError, match=r"is packed by the filter .*; spann reads gzip.*compression='gzip'"):
        open_source(path)


@pytest.mark.parametrize("rows", [19, 21, 0])
def test_a_chunk_of_another_size_is_refused(tmp_path, rows):
    """The HDF5 library reads behind the end of a chunk that decodes to fewer bytes."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset("train", data=X, chunks=(20, 12), compression="gzip")
        node.id.write_direct_chunk((40, 0), zlib.compress(np.ones((rows, 12), np.float32).tobytes()))
    with open_source(tmp_path / "a.h5") as source:
        np.testing.assert_array_equal(source.read(0, 40), X[:40])
        with pytest.raises(InputError, match=r"rows 30 to 50 .* of its 960 bytes|a chunk of .* of its 960 bytes"):
            source.read(30, 50)


def test_a_chunk_that_unpacks_to_very_much_costs_no_memory(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset("train", data=X, chunks=(20, 12), compression="gzip")
        node.id.write_direct_chunk((0, 0), zlib.compress(bytes(64 << 20)))
    with open_source(tmp_path / "a.h5") as source, pytest.raises(InputError, match="has 964 of its 960 bytes"):
        source.read(0, 1)
