"""bfloat16 from the source to the search: two bytes a value on disk, and the results of the same values in float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import spann
from spann.cli import cli
from spann.elements import pack, rounded, unpack
from spann.errors import FormatError, InputError
from spann.format import manifest
from spann.measuring.exact import exact_search
from spann.store.reader import IndexReader
from spann.testing import clustered
from spann.vectors import convert, open_source

WIDE, QUERIES = (rounded(x) for x in clustered(4000, 40, 60, 3))
BASE, ASKED = pack(WIDE, "bfloat16").view("V2"), pack(QUERIES, "bfloat16").view("V2")
ALL = spann.SearchParams(max_postings=4000, error_bound=1e6, rerank=4000)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("bits", [0, 2])
@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
def test_results_are_those_of_the_same_values_in_float32(tmp_path, monkeypatch, metric, bits, level):
    from spann._kernels.distances import simd_levels

    if level not in simd_levels():
        pytest.skip(f"this processor has no {level}")
    monkeypatch.setenv("SPANN_SIMD", level)
    params = spann.BuildParams(code_bits=bits, max_replicas=3 if bits == 0 else 1)
    with (
        spann.build(BASE, tmp_path / "half", metric=metric, params=params) as half,
        spann.build(WIDE, tmp_path / "wide", metric=metric, params=params) as wide,
    ):
        assert (half.element, half.dtype, half.info()["dtype"]) == ("bfloat16", np.float32, "bfloat16")
        expected = wide.search(QUERIES, 10, ALL)
        for queries in (QUERIES, ASKED):
            found = half.search(queries, 10, ALL)
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.distances, expected.distances)
        np.testing.assert_array_equal(wide.search(ASKED, 10, ALL).ids, expected.ids)
        np.testing.assert_array_equal(half.search(ASKED[0], 5, ALL).ids, expected.ids[:1, :5])
        posting_major = half.search(np.repeat(QUERIES, 20, axis=0), 10, ALL, order="posting")
        np.testing.assert_array_equal(posting_major.ids[::20], expected.ids)
        if bits == 0:
            usual = spann.SearchParams(max_postings=8)
            np.testing.assert_array_equal(half.search(QUERIES, 10, usual).ids, wide.search(QUERIES, 10, usual).ids)
    assert spann.verify(tmp_path / "half") == []


@pytest.mark.parametrize("bits", [0, 2])
def test_values_take_two_bytes_on_disk(tmp_path, bits):
    params = spann.BuildParams(code_bits=bits)
    spann.build(BASE, tmp_path / "i", params=params).close()
    reader = IndexReader.open(tmp_path / "i")
    assert reader.attributes["dtype"] == "bfloat16"
    assert reader.attributes["features"] == (["bfloat16", "codes", "shapes"] if bits else ["bfloat16"])
    stored = reader.array("vectors/exact" if bits else "centroids/vectors")
    assert (stored.dtype, stored.row_shape) == (np.uint16, (40,))
    values = unpack(stored.read_rows(0, stored.rows), "bfloat16")
    assert {row.tobytes() for row in values} <= {row.tobytes() for row in WIDE}
    spann.build(WIDE, tmp_path / "wide", params=params).close()
    ratio = reader.disk_bytes() / IndexReader.open(tmp_path / "wide").disk_bytes()
    assert ratio < 0.7
    planned, wide = spann.plan(BASE, params=params), spann.plan(WIDE, params=params)
    assert planned.dtype == "bfloat16"
    assert planned.disk_bytes / wide.disk_bytes == pytest.approx(ratio, abs=0.1)


def test_an_older_reader_refuses_it(tmp_path, monkeypatch):
    spann.build(BASE, tmp_path / "i").close()
    monkeypatch.setattr(manifest, "KNOWN_FEATURES", manifest.KNOWN_FEATURES - {"bfloat16"})
    with pytest.raises(FormatError, match="needs feature 'bfloat16'"):
        spann.open(tmp_path / "i")


@pytest.mark.parametrize("bits", [0, 2])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_appended_vectors_are_found(tmp_path, bits, metric):
    params = spann.BuildParams(code_bits=bits)
    spann.build(BASE[:3000], tmp_path / "i", metric=metric, params=params).close()
    with pytest.raises(InputError, match=r"holds float32 vectors of dimension 40; .* holds bfloat16 vectors"):
        spann.append(tmp_path / "i", WIDE[3000:])
    with spann.append(tmp_path / "i", BASE[3000:]) as index:
        found = index.search(ASKED, 10, ALL)
    truth, _ = exact_search(open_source(BASE), QUERIES, 10, metric)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.ids, truth, strict=True)]) > 9.9
    assert spann.verify(tmp_path / "i") == []


def test_calibrated_by_its_own_vectors_and_by_queries(tmp_path):
    params = spann.BuildParams(code_bits=2, calibration_queries=200)
    with spann.build(BASE, tmp_path / "i", params=params) as index:
        truth, _ = exact_search(open_source(BASE), QUERIES, 10, "l2")
        found = index.search(QUERIES, 10, target_recall=0.95)
        assert np.mean([len(set(a) & set(b)) for a, b in zip(found.ids, truth, strict=True)]) > 9
    for queries in (None, np.tile(QUERIES, (4, 1)), np.tile(ASKED, (4, 1))):
        with spann.calibrate(tmp_path / "i", queries) as again:
            assert again.calibration is not None
            assert again.calibration.origin == ("base" if queries is None else "given")
    spann.build(BASE, tmp_path / "classic", params=spann.BuildParams(code_bits=0)).close()
    spann.calibrate(tmp_path / "classic", np.tile(ASKED, (4, 1)), base=BASE).close()


def test_commands_from_a_float32_file_on(tmp_path):
    np.save(tmp_path / "wide.npy", WIDE)
    convert(open_source(QUERIES), tmp_path / "queries.npy")

    def run(*args: object) -> str:
        result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run("convert", tmp_path / "wide.npy", tmp_path / "base.bf16bin")
    assert (tmp_path / "base.bf16bin").stat().st_size == 8 + 4000 * 40 * 2
    run("build", tmp_path / "base.bf16bin", tmp_path / "i", "--quiet")
    assert json.loads(run("info", tmp_path / "i", "--json"))["dtype"] == "bfloat16"
    run("truth", tmp_path / "base.bf16bin", tmp_path / "queries.npy", "-k", 10, "-o", tmp_path / "t.ibin", "--quiet")
    every = ("--max-postings", 4000, "--error-bound", 1e6)
    told = run("eval", tmp_path / "i", tmp_path / "queries.npy", tmp_path / "t.ibin", *every, "--json", "--quiet")
    assert json.loads(told)["runs"][0]["recall"] == 1
    line = json.dumps(QUERIES[7].tolist())
    answer = CliRunner().invoke(cli, ["search", str(tmp_path / "i"), "-", "-o", "-", "-k", "3"], input=line)
    with spann.open(tmp_path / "i") as index:
        assert json.loads(answer.output)["ids"] == index.search(QUERIES[7], 3).ids[0].tolist()


def test_values_that_cannot_be_searched_are_refused_by_row(tmp_path):
    bad = BASE.view(np.uint16).copy()
    bad[17, 3] = 0x7F80
    with pytest.raises(InputError, match=r"row 17 column 3 of array is inf"):
        spann.build(bad.view("V2"), tmp_path / "i")
    with spann.build(BASE, tmp_path / "i") as index:
        narrow = QUERIES.astype(np.float16)
        np.testing.assert_array_equal(index.search(narrow).ids, index.search(narrow.astype(np.float32)).ids)
