"""Binary vectors under the metric hamming, from the source to the search."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import spann
from spann.cli import cli
from spann.elements import unpack
from spann.errors import FormatError, InputError
from spann.format import manifest
from spann.measuring.exact import exact_search
from spann.measuring.recall import recall_at_k
from spann.store.reader import IndexReader
from spann.testing import exact_neighbours
from spann.types import Metric
from spann.vectors import Truth, open_source

DIM, COUNT, ASKED = 256, 6000, 100
ALL = spann.SearchParams(max_postings=COUNT)


def binary(count, queries, dim=DIM, seed=0, flipped=0.1):
    """Random centres with a share of their bits flipped: bool (count, dim) and (queries, dim)."""
    rng = np.random.default_rng(seed)
    centres = rng.random((200, dim)) < 0.5
    bits = centres[rng.integers(200, size=count + queries)] ^ (rng.random((count + queries, dim)) < flipped)
    return bits[:count], bits[count:]


BITS, QUERY_BITS = binary(COUNT, ASKED)
BASE, QUERIES = np.packbits(BITS, axis=1), np.packbits(QUERY_BITS, axis=1)
TRUE_IDS, TRUE = exact_neighbours(BITS, QUERY_BITS, 100, "hamming")
TRUTH = Truth(TRUE_IDS, TRUE.astype(np.float32))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    place = tmp_path_factory.mktemp("hamming") / "i"
    spann.build(BASE, place, metric="hamming").close()
    return place


def test_info_describes_a_binary_index(path):
    with spann.open(path) as index:
        assert (index.dim, index.element, index.dtype, index.metric) == (DIM, "bit", np.bool_, Metric.HAMMING)
        info = index.info()
        assert (info["dtype"], info["code_bits"], info["parameters"]["max_replicas"]) == ("bit", 0, 8)
        assert index.info()["open_memory"]["centroids"] == info["centroids"] * (DIM // 8 + 4)
    reader = IndexReader.open(path)
    assert reader.attributes["features"] == ["bit"]
    stored = reader.read("centroids/vectors")
    assert (stored.dtype, stored.shape[1]) == (np.uint8, DIM // 8)
    assert {row.tobytes() for row in stored} <= {row.tobytes() for row in BASE}
    assert spann.verify(path) == []


def test_recall_and_whole_distances(path):
    with spann.open(path) as index:
        found = index.search(QUERIES, 10)
        assert recall_at_k(found.ids, found.distances, TRUTH, 10, Metric.HAMMING) > 0.98
        few = index.search(QUERIES, 10, spann.SearchParams(max_postings=2))
        assert recall_at_k(few.ids, few.distances, TRUTH, 10, Metric.HAMMING) > 0.95
        assert few.stats["distances"].mean() < 120
    expected = (BITS[found.ids] != QUERY_BITS[:, None]).sum(axis=2)
    np.testing.assert_array_equal(found.distances, expected)


def test_recall_rises_with_the_postings_where_clusters_overlap(tmp_path):
    base, queries = binary(20_000, 100, 512, seed=1, flipped=0.35)
    truth = Truth(
        *(a.astype(t) for a, t in zip(exact_neighbours(base, queries, 10, "hamming"), (int, "f4"), strict=True))
    )
    with spann.build(base, tmp_path / "i", metric="hamming") as index:
        recalls = []
        for postings in (1, 8, 64, 512):
            found = index.search(queries, 10, spann.SearchParams(max_postings=postings))
            recalls.append(recall_at_k(found.ids, found.distances, truth, 10, Metric.HAMMING))
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9
    assert recalls[-1] > 0.97


@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
@pytest.mark.parametrize("dim", [8, 24, 256, 1000])
def test_with_all_postings_the_answer_is_exact(tmp_path, monkeypatch, level, dim):
    from spann._kernels.distances import simd_levels

    if level not in simd_levels():
        pytest.skip(f"this processor has no {level}")
    monkeypatch.setenv("SPANN_SIMD", level)
    bits, asked = binary(700, 20, dim, seed=dim)
    truth_ids, truth = exact_neighbours(bits, asked, 10, "hamming")
    with spann.build(bits, tmp_path / "i", metric="hamming") as index:
        for queries in (asked, np.packbits(asked, axis=1), asked.astype(np.float32).astype(bool)):
            for order in ("query", "posting"):
                found = index.search(queries, 10, ALL, order=order)
                np.testing.assert_array_equal(found.distances, truth)
                # Equal distances come in the order of ids, which are rows.
                np.testing.assert_array_equal(found.ids, truth_ids)
        one = index.search(np.packbits(asked[3]), 10, ALL)
        np.testing.assert_array_equal(one.distances[0], truth[3])


def test_packed_and_unpacked_vectors_make_the_same_bytes(tmp_path, path, content):
    spann.build(BITS, tmp_path / "i", metric="hamming", threads=1).close()
    assert content(tmp_path / "i") == content(path)


@pytest.mark.parametrize("metric", ["hamming", Metric.HAMMING])
def test_exact_search_equals_the_model(metric):
    for base, queries in ((BASE, QUERIES), (BITS, QUERY_BITS), (BASE, QUERY_BITS)):
        ids, distances = exact_search(open_source(base), queries, 100, metric)
        np.testing.assert_array_equal(distances, TRUE)
        np.testing.assert_array_equal(ids, TRUE_IDS)


def test_many_ties_are_ordered_by_row_in_the_truth():
    base = np.random.default_rng(0).integers(0, 256, (3000, 2)).astype(np.uint8)
    ids, distances = exact_search(open_source(base), base[:50], 40, "hamming")
    expected_ids, expected = exact_neighbours(base, base[:50], 40, "hamming")
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_array_equal(ids, expected_ids)


def test_recall_counts_what_ties_with_the_kth():
    truth = Truth(np.array([[1, 2, 3]]), np.array([[3, 5, 5]], np.float32))
    for ids, distances, recall in (
        ([1, 7, 8], [3, 5, 5], 1.0),
        ([1, 2, 9], [3, 5, 6], 2 / 3),
        ([7, 8, 9], [5, 5, 5], 1.0),
        ([7, 8, 9], [5, 6, 6], 1 / 3),
    ):
        found = recall_at_k(np.array([ids]), np.array([distances], np.float32), truth, 3, Metric.HAMMING)
        assert found == pytest.approx(recall)


def test_range_iterate_and_explain(path):
    with spann.open(path) as index:
        radius = float(np.sort(TRUE[:, 20])[50])
        near = index.search_range(QUERIES, radius, params=ALL)
        for i in range(ASKED):
            expected = np.flatnonzero((QUERY_BITS[i] != BITS).sum(axis=1) <= radius)
            assert sorted(near.of(i)[0].tolist()) == expected.tolist()
        got = []
        for ids, distances in index.iterate(QUERIES[0], 10, params=ALL):
            assert (distances == (BITS[ids] != QUERY_BITS[0]).sum(axis=1)).all()
            got += ids.tolist()
            if len(got) > 60:
                break
        assert got[:60] == TRUE_IDS[0, :60].tolist()
        told = index.explain(QUERIES[0])
        assert (told.found, told.codes_scored) == (10, 0)
        assert told.vectors_scored > 0


def test_appended_vectors_are_found(tmp_path):
    spann.build(BASE[:4000], tmp_path / "i", metric="hamming").close()
    with pytest.raises(InputError, match=r"array holds float32 vectors; metric hamming needs binary ones"):
        spann.append(tmp_path / "i", BASE[4000:].astype(np.float32))
    with pytest.raises(InputError, match=r"of dimension 8; .* holds bit vectors of dimension 256"):
        spann.append(tmp_path / "i", BASE[4000:, :1].copy())
    spann.append(tmp_path / "i", BITS[4000:5000]).close()
    with spann.append(tmp_path / "i", BASE[5000:]) as index:
        found = index.search(QUERIES, 10, ALL)
        np.testing.assert_array_equal(found.distances, TRUE[:, :10])
        np.testing.assert_array_equal(found.ids, TRUE_IDS[:, :10])
        usual = index.search(QUERIES, 10)
        assert recall_at_k(usual.ids, usual.distances, TRUTH, 10, Metric.HAMMING) > 0.9
    assert spann.verify(tmp_path / "i") == []


def test_a_target_is_reached(tmp_path):
    params = spann.BuildParams(calibration_queries=200)
    with spann.build(BASE, tmp_path / "i", metric="hamming", params=params) as index:
        assert index.calibration.origin == "base"
        for target in (0.8, 0.95):
            found = index.search(QUERIES, 10, target_recall=target)
            assert recall_at_k(found.ids, found.distances, TRUTH, 10, Metric.HAMMING) >= target - 0.03
            assert found.stats["postings_scored"].mean() < index.info()["postings"] / 2
        assert index.explain(QUERIES[0], target_recall=0.9).predicted["recall"] > 0.8
    with pytest.raises(InputError, match="give them as --base"):
        spann.calibrate(tmp_path / "i", np.tile(QUERIES, (2, 1)))
    for queries in (QUERIES, QUERY_BITS):
        with spann.calibrate(tmp_path / "i", np.tile(queries, (2, 1)), base=BASE) as index:
            assert index.calibration.origin == "given"
            assert index.calibration.unlike < 0.2


def test_ids_and_copies(tmp_path):
    names = 2**40 + np.random.default_rng(0).permutation(1000)
    base = np.repeat(BASE[:10], 100, axis=0)
    with spann.build(base, tmp_path / "i", metric="hamming", ids=names) as index:
        found = index.search(BASE[:10], 100, ALL)
        assert (found.distances == 0).all()
        for i, ids in enumerate(found.ids):
            assert sorted(ids) == sorted(names[100 * i : 100 * i + 100])
    assert spann.verify(tmp_path / "i") == []


def test_commands(tmp_path):
    base, queries, truth, index = (tmp_path / n for n in ("b.u8bin", "q.npy", "t.ibin", "i"))
    np.save(tmp_path / "b.npy", BASE)
    np.save(queries, QUERIES)

    def run(*args, stdin=None):
        result = CliRunner().invoke(cli, [str(a) for a in args], input=stdin, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    run("convert", tmp_path / "b.npy", base)
    assert json.loads(run("plan", base, "--metric", "hamming", "--json"))["dim"] == DIM
    run("build", base, index, "--metric", "hamming", "--quiet")
    run("truth", base, queries, "-k", 10, "-o", truth, "--metric", "hamming", "--quiet")
    every = ("--max-postings", COUNT, "--json", "--quiet")
    assert json.loads(run("eval", index, queries, truth, *every))["runs"][0]["recall"] == 1
    run("search", index, queries, "-k", 10, "-o", tmp_path / "near.npz", "--max-postings", COUNT)
    np.testing.assert_array_equal(np.load(tmp_path / "near.npz")["distances"], TRUE[:, :10])
    assert json.loads(run("search", index, queries, "--explain", "--json"))[0]["found"] == 10
    line = json.dumps(QUERY_BITS[5].astype(int).tolist())
    answer = json.loads(run("search", index, "-", "-o", "-", "--max-postings", COUNT, stdin=line))
    assert answer["distances"] == TRUE[5, :10].tolist()
    wrong = CliRunner().invoke(cli, ["search", str(index), "-", "-o", "-"], input=line.replace("1", "2", 1))
    assert "holds numbers that are not bit" in wrong.output
    run("tune", index, "--base", base, np.save(tmp_path / "q2.npy", np.tile(QUERIES, (2, 1))) or tmp_path / "q2.npy")
    run("append", index, queries, "--quiet")
    run("verify", index)
    assert json.loads(run("info", index, "--json"))["count"] == COUNT + ASKED


def test_contradictions_are_refused(tmp_path, path):
    coded = spann.BuildParams(code_bits=1)
    for call in (spann.build, lambda *a, **more: spann.plan(a[0], **more)):
        with pytest.raises(InputError, match="code_bits is 1; under hamming it must be 0"):
            call(BASE, tmp_path / "i", metric="hamming", params=coded)
        for vectors, kind in ((BITS.astype(np.float32), "float32"), (BITS.astype(np.int8), "int8")):
            with pytest.raises(InputError, match=f"array holds {kind} vectors; metric hamming needs binary ones"):
                call(vectors, tmp_path / "i", metric="hamming")
        with pytest.raises(InputError, match="array holds bool, which metric hamming compares; under l2"):
            call(BITS, tmp_path / "i")
        with pytest.raises(InputError, match="vectors of 255 bits; under hamming it must be a multiple of 8"):
            call(BITS[:, :255], tmp_path / "i", metric="hamming")
        with pytest.raises(InputError, match="dimension 32776 of array is outside 1 to 32768"):
            call(np.zeros((3, 4097), np.uint8), tmp_path / "i", metric="hamming")
    assert not (tmp_path / "i").exists()
    with spann.open(path) as index:
        with pytest.raises(InputError, match=r"query 0 has \d at place 0; .* holds bits, so queries are .* 0 to 1"):
            index.search(QUERY_BITS.astype(np.float32) + 2)
        with pytest.raises(InputError, match=r"queries have shape \(100, 248\); .* needs \(queries, 256\)"):
            index.search(QUERIES[:, :31])


def test_an_older_reader_refuses_it(path, monkeypatch):
    monkeypatch.setattr(manifest, "KNOWN_FEATURES", manifest.KNOWN_FEATURES - {"bit"})
    with pytest.raises(FormatError, match="needs feature 'bit'"):
        spann.open(path)


def test_damage_is_found(tmp_path):
    spann.build(BASE, tmp_path / "i", metric="hamming").close()
    (pages,) = (tmp_path / "i" / "postings" / "pages" / "c").rglob("0/0")
    data = bytearray(pages.read_bytes())
    data[5000] ^= 1
    pages.write_bytes(data)
    assert spann.verify(tmp_path / "i")
    with spann.open(tmp_path / "i") as index, pytest.raises(spann.CorruptionError, match="is damaged"):
        index.search(QUERIES, 10, ALL)


@pytest.mark.parametrize("kind", ["array", "npy", "zarr", "hdf5", "fortran"])
def test_a_source_of_bits_reads_as_bool(tmp_path, kind):
    given = BITS
    if kind == "npy":
        given = tmp_path / "b.npy"
        np.save(given, BITS)
    elif kind == "zarr":
        given = zarr.create_array(tmp_path / "b.zarr", data=BITS)
    elif kind == "hdf5":
        given = tmp_path / "b.hdf5"
        with pytest.importorskip("h5py").File(given, "w") as file:
            file["train"] = BITS
    elif kind == "fortran":
        given = np.asfortranarray(BITS)
    source = open_source(given)
    assert (source.element, source.dtype, source.dim, source.stored_bytes) == ("bit", np.bool_, DIM, DIM // 8)
    np.testing.assert_array_equal(source.read(3, 9), BITS[3:9])
    rows = np.array([9, 2, 9])
    np.testing.assert_array_equal(source.take(rows), BITS[rows])
    np.testing.assert_array_equal(unpack(BASE[:5], "bit"), BITS[:5])
