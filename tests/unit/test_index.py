"""The public interface of an index: opening, describing, closing; and its arrays as other programs read them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorstore
import zarr

import spann
from spann.errors import FormatError, InputError, MissingError
from spann.search.engine import Engine
from spann.testing import clustered
from spann.vectors import ArraySource

BASE, QUERIES = clustered(3000, 20, 30, 1)
CLASSIC = spann.BuildParams(code_bits=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    place = tmp_path_factory.mktemp("index") / "i"
    spann.build(BASE, place, params=CLASSIC).close()
    return place


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    place = tmp_path_factory.mktemp("coded") / "i"
    spann.build(BASE, place, metric="ip", params=spann.BuildParams(code_bits=2)).close()
    return place


def test_info_describes_the_index(path):
    with spann.open(path) as index:
        assert (index.count, index.dim, index.dtype, index.metric) == (3000, 20, np.float32, spann.Metric.L2)
        assert len(index) == 3000
        assert repr(index) == f"Index('{path}', count=3000, dim=20, float32, l2)"
        info = index.info()
    assert json.loads(json.dumps(info)) == info
    assert info["created_by"] == f"spann {spann.__version__}"
    assert info["parameters"]["max_replicas"] == 8
    assert info["code_bits"] == 0
    assert sum(info["open_memory"].values()) == info["open_memory_bytes"]
    length = info["posting_length"]
    assert sum(length["histogram"]["counts"]) == info["postings"]
    assert length["mean"] * info["postings"] == pytest.approx(info["entries"])
    assert length["min"] <= length["mean"] <= length["max"] <= length["bound"]
    assert info["disk_bytes"] == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    assert info["replicas_mean"] == info["entries"] / (3000 - info["centroids"])


def test_memory_of_an_open_index_is_the_sum_of_its_arrays(path):
    stored = zarr.open_group(str(path), mode="r")
    names = ["centroids/vectors", "centroids/ids", *(f"centroids/graph/{n}" for n in _members(stored, "graph"))]
    names += [f"postings/directory/{n}" for n in ("page", "offset", "length", "crc32c")]
    with spann.open(path) as index:
        assert index.open_memory_bytes == sum(stored[name].nbytes for name in names)
        assert index.info()["open_memory_bytes_per_vector"] == index.open_memory_bytes / 3000


def test_memory_of_an_index_of_codes_is_the_sum_of_its_arrays(coded):
    stored = zarr.open_group(str(coded), mode="r")
    names = ["centroids/vectors", *(f"centroids/graph/{n}" for n in _members(stored, "graph"))]
    names += [f"postings/directory/{n}" for n in ("page", "offset", "length", "primaries", "crc32c")]
    names += ["vectors/exact_crc32c", "postings/shapes"]
    with spann.open(coded, memory_budget="none") as index:
        # for each posting its first row and its first entry, under ip for each centroid its length; slack after shapes
        derived = 8 * (2 * index.info()["postings"] + 1) + 4 * index.info()["centroids"] + 64
        assert index.open_memory_bytes == sum(stored[name].nbytes for name in names) + derived
    with spann.open(coded) as index:
        per_row = 4 + 4 + 32 * 2 // 8
        assert index.info()["open_memory"]["codes"] == 3000 * per_row + 20 * index.info()["postings"] + 64


def _members(stored, group):
    levels = stored[f"centroids/{group}"]
    return [f"{level}/{array}" for level in levels.group_keys() for array in levels[level].array_keys()]


@pytest.mark.parametrize("small", [{"posting_size": 1}, {"posting_size": 2, "max_replicas": 1}, {"centroids": 0.5}])
def test_the_histogram_of_tiny_postings(tmp_path, small):
    with spann.build(BASE[:200], tmp_path / "i", params=spann.BuildParams(**small)) as index:
        info = index.info()
    histogram = info["posting_length"]["histogram"]
    assert sum(histogram["counts"]) == info["postings"]
    assert histogram["edges"] == sorted(histogram["edges"])
    assert spann.verify(tmp_path / "i") == []


def test_a_closed_index_is_not_searched(path):
    index = spann.open(path)
    index.search(QUERIES, 1)
    index.close()
    index.close()
    with pytest.raises(InputError, match="is closed"):
        index.search(QUERIES, 1)
    assert index.info()["count"] == 3000


def test_a_context_closes_also_after_an_error(path):
    index = spann.open(path)
    with pytest.raises(RuntimeError, match="mine"), index:
        raise RuntimeError("mine")
    with pytest.raises(InputError, match="is closed"):
        index.search(QUERIES, 1)


def test_ways_of_reading(path, monkeypatch):
    with pytest.raises(InputError, match="io is 'mmap'; it must be one of auto, direct, buffered"):
        spann.open(path, io="mmap")
    expected = spann.open(path, io="buffered").search(QUERIES, 5)
    monkeypatch.setattr("spann.search.engine.available_memory", lambda: 0)
    with spann.open(path) as index:
        assert index._engine.direct, "postings larger than memory are read directly"
        np.testing.assert_array_equal(index.search(QUERIES, 5).ids, expected.ids)
    monkeypatch.setattr("spann.search.engine.available_memory", lambda: 1 << 40)
    with spann.open(path) as index:
        assert not index._engine.direct


def test_a_file_system_without_direct_reads(mounted, monkeypatch):
    """`auto` does without; `direct` says so, or works where the file system of today allows it."""
    place = mounted("size=16m") / "i"
    spann.build(BASE, place).close()
    monkeypatch.setattr("spann.search.engine.available_memory", lambda: 0)
    with spann.open(place) as index:
        assert index.search(BASE[:3], 1).ids.ravel().tolist() == [0, 1, 2]
    try:
        with spann.open(place, io="direct") as index:
            assert index.search(BASE[:3], 1).ids.ravel().tolist() == [0, 1, 2]
    except spann.StorageError as error:
        message = str(error)
    else:
        message = "io='direct'"
    assert "io='direct'" in message


def test_verify_reports_progress(path):
    seen = []
    assert spann.verify(path, lambda stage, done, total: seen.append((stage, done, total))) == []
    assert {stage for stage, _, _ in seen} == {"verify"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] > 0


def test_build_reports_every_stage_to_its_end(tmp_path):
    from spann.building.plan import STAGES

    seen = {}
    spann.build(BASE, tmp_path / "i", progress=lambda stage, done, total: seen.update({stage: (done, total)})).close()
    assert set(seen) <= set(STAGES)
    assert set(STAGES) - set(seen) <= {"refine", "arrange", "attributes", "truth", "calibrate"}, "for some kinds"
    for stage, (done, total) in seen.items():
        assert done == total > 0, stage


def test_a_source_of_the_callers_own_stays_open(tmp_path):
    source = ArraySource(BASE)
    closed = []
    source.close = lambda: closed.append(True)
    spann.build(source, tmp_path / "i").close()
    assert not closed


def test_a_directory_that_refers_to_nowhere_is_refused(path, coded, monkeypatch):
    """Checksums hold, as a faulty writer's would; every number that reaches native code is checked all the same."""
    from spann.store.reader import IndexReader

    read = IndexReader.read

    def changed(name, change):
        def read_changed(self, asked):
            values = read(self, asked).copy()
            return change(values) if asked == name else values

        monkeypatch.setattr(IndexReader, "read", read_changed)
        return lambda place: Engine(IndexReader.open(place), io="buffered", check=True)

    def put(value, at=-1):
        def change(values):
            values[at] = value
            return values

        return change

    level = "centroids/graph/level0"
    common = (
        ("postings/directory/page", put(10**6)),
        ("postings/directory/offset", put(4096)),
        ("postings/directory/length", put(65_535)),
        ("postings/directory/length", lambda v: v[:-1]),
        ("postings/directory/crc32c", lambda v: v[:-1]),
        ("postings/directory/page", lambda v: v[:-1]),
        (f"{level}/neighbors", put(10**6)),
        (f"{level}/offsets", put(10**6, 1)),
        (f"{level}/offsets", put(10**6)),
        (f"{level}/offsets", lambda v: v[:-1]),
        ("centroids/graph/level1/nodes", put(0)),
        ("centroids/graph/level1/nodes", put(10**6)),
        ("centroids/graph/level1/neighbors", put(10**6)),
        ("centroids/vectors", lambda v: v[:-1]),
        ("centroids/vectors", lambda v: v[:, :-1].copy()),
    )
    # The graph of the few centroids of codes has one level.
    of_codes = tuple(pair for pair in common if "level1" not in pair[0])
    for place, pairs in (
        (path, (*common, ("centroids/ids", lambda v: v[:-1]))),
        (
            coded,
            (
                *of_codes,
                ("postings/directory/primaries", put(0)),
                ("postings/directory/primaries", put(65_535)),
                ("quantizer/origin", lambda v: v[:-1]),
                ("quantizer/signs", lambda v: v[:, :-1].copy()),
                ("vectors/exact_crc32c", lambda v: v[:-1]),
            ),
        ),
    ):
        for name, change in pairs:
            with pytest.raises(FormatError):
                changed(name, change)(place)
        monkeypatch.setattr(IndexReader, "read", read)
        Engine(IndexReader.open(place), io="buffered", check=True).close()


def test_a_missing_index_is_reported(tmp_path):
    for call in (spann.open, spann.verify):
        with pytest.raises(MissingError, match="no index at"):
            call(tmp_path / "none")


# --- the arrays as other programs see them (docs/FORMAT.md)


def with_zarr(path):
    group = zarr.open_group(str(path), mode="r")
    return group.attrs["spann"], lambda name: group[name][...], lambda name: name in group


def with_tensorstore(path):
    def read(name):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path / name}/"}}
        return tensorstore.open(spec, read=True).result().read().result()

    about = json.loads((path / "zarr.json").read_text())["attributes"]["spann"]
    return about, read, lambda name: (path / name).is_dir()


@pytest.mark.parametrize("client", [with_zarr, with_tensorstore])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("ids", ["row", "small", "large"])
def test_other_clients_find_the_same_postings(tmp_path, client, dtype, ids):
    base = clustered(1500, 20, 0, 2, dtype)[0]
    base[:200] = base[0]
    names = {
        "row": None,
        "small": np.random.default_rng(0).permutation(1500) + 5,
        "large": np.random.default_rng(0).permutation(1500) + 2**40,
    }[ids]
    spann.build(base, tmp_path / "i", ids=names, params=CLASSIC).close()
    about, read, has = client(tmp_path / "i")
    id_bytes, dim = about["id_bytes"], about["dim"]
    assert (id_bytes, dim) == (8 if ids == "large" else 4, 20)
    page, offset, length = (
        read(f"postings/directory/{name}").astype(np.int64) for name in ("page", "offset", "length")
    )
    pages = read("postings/pages").tobytes()
    row_of = np.arange(1500) if names is None else names
    order = np.argsort(row_of)
    seen = []
    for p in range(len(page)):
        begin = page[p] * 4096 + offset[p]
        held = np.frombuffer(pages, f"<u{id_bytes}", length[p], begin)
        vectors = np.frombuffer(pages, np.dtype(dtype).newbyteorder("<"), length[p] * dim, begin + length[p] * id_bytes)
        rows = order[np.searchsorted(row_of[order], held.astype(np.int64))]
        np.testing.assert_array_equal(row_of[rows], held)
        np.testing.assert_array_equal(vectors.reshape(-1, dim), base[rows])
        seen.append(rows)
    centroids = order[np.searchsorted(row_of[order], read("centroids/ids").astype(np.int64))]
    np.testing.assert_array_equal(read("centroids/vectors"), base[centroids])
    assert sorted({*np.concatenate(seen).tolist(), *centroids.tolist()}) == list(range(1500))
    assert has("postings/directory/chain") == (len(page) != len(centroids))
    assert has("postings/directory/chain"), "two hundred copies need several postings"
    chain = read("postings/directory/chain")
    own = chain[np.flatnonzero((base[centroids] == base[0]).all(axis=1))[0] :][:2]
    copies = np.concatenate(seen[own[0] : own[1]])
    assert set(range(200)) <= {*copies.tolist(), *centroids.tolist()}
    if names is not None:
        np.testing.assert_array_equal(read("vectors/ids"), names)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_index_of_hardly_any_vectors(tmp_path, count):
    base = np.arange(count * 32, dtype=np.float32).reshape(count, 32)
    with spann.build(base, tmp_path / "i") as index:
        assert index.search(base, 1).ids.ravel().tolist() == list(range(count))
    assert spann.verify(tmp_path / "i") == []
