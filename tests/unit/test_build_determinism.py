"""The bytes of an index depend on nothing but the vectors, the metric and the parameters."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

import spann
from spann.building.sizes import Sizes
from spann.testing import clustered, exact_neighbours
from tests import builds

BASE, QUERIES = clustered(4000, 12, 20, 1)
BUFFERS = {"bucket_bytes": 1 << 15, "page_bytes": 1 << 15}


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_the_number_of_threads_never_shows(tmp_path, content, metric):
    for threads in (1, 2, 3, 2):
        spann.build(BASE, tmp_path / f"{threads}", metric=metric, threads=threads, overwrite=True).close()
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "3")


def test_threads_never_show_even_with_many_blocks(tmp_path, content):
    sizes = Sizes(region_bytes=1 << 15, bucket_bytes=1 << 15, neighborhood_rows=300, page_bytes=1 << 15)
    for threads in (1, 2, 5):
        builds.build(BASE, tmp_path / f"{threads}", threads=threads, sizes=sizes)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "5")
    assert spann.verify(tmp_path / "1") == []
    with spann.open(tmp_path / "1") as index:
        found = index.search(QUERIES, 10)
    truth = exact_neighbours(BASE, QUERIES, 10)[0]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.ids, truth, strict=True)]) >= 0.95


@pytest.mark.parametrize("name", BUFFERS)
def test_sizes_of_buffers_never_show(tmp_path, content, name):
    params = spann.BuildParams(posting_size=5, centroids=0.1)
    spann.build(BASE, tmp_path / "a", params=params).close()
    builds.build(BASE, tmp_path / "b", params=params, sizes=Sizes(**{name: BUFFERS[name]}))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_another_seed_is_another_index(tmp_path, content):
    for seed in (0, 1):
        spann.build(BASE, tmp_path / f"{seed}", params=spann.BuildParams(seed=seed)).close()
    one, other = content(tmp_path / "0"), content(tmp_path / "1")
    assert one["centroids/ids/c/0"] != other["centroids/ids/c/0"]
    assert one["postings/pages/c/0/0"] != other["postings/pages/c/0/0"]


def test_the_kind_of_source_never_shows(tmp_path, content):
    np.save(tmp_path / "base.npy", BASE)
    header = np.array(BASE.shape, "<u4").tobytes()
    (tmp_path / "base.fbin").write_bytes(header + BASE.tobytes())
    stored = zarr.create_array(
        str(tmp_path / "base.zarr"), shape=BASE.shape, dtype="f4", chunks=(333, 12), shards=None, overwrite=True
    )
    stored[:] = BASE
    sources = {
        "array": BASE,
        "fortran": np.asfortranarray(BASE),
        "strided": np.repeat(BASE, 2, axis=0)[::2],
        "memmap": np.load(tmp_path / "base.npy", mmap_mode="r"),
        "npy": tmp_path / "base.npy",
        "fbin": tmp_path / "base.fbin",
        "zarr": tmp_path / "base.zarr",
    }
    found = {}
    for name, source in sources.items():
        spann.build(source, tmp_path / name).close()
        found[name] = content(tmp_path / name)
    for name, files in found.items():
        assert files == found["array"], name


def test_ids_that_are_row_numbers_give_the_same_postings(tmp_path, decode):
    spann.build(BASE, tmp_path / "a").close()
    spann.build(BASE, tmp_path / "b", ids=np.arange(4000)).close()
    for (ids, vectors), (other_ids, other_vectors) in zip(decode(tmp_path / "a"), decode(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(vectors, other_vectors)


def test_the_input_is_not_changed(tmp_path):
    base = BASE[:500].copy()
    base.setflags(write=False)
    for metric in ("l2", "cosine", "ip"):
        spann.build(base, tmp_path / metric, metric=metric).close()
    np.testing.assert_array_equal(base, BASE[:500])
