"""Indexes from the day when the format was fixed stay readable, and their answers stay the same."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.store.reader import IndexReader
from spann.testing import exact_neighbours

HERE = Path(__file__).parent


def load_make():
    spec = importlib.util.spec_from_file_location("spann_golden_make", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


MAKE = load_make()


@pytest.fixture(params=MAKE.INDEXES, ids=lambda golden: golden.answers.stem)
def golden(request):
    return request.param


@pytest.fixture
def path(golden, tmp_path):
    MAKE.unpack(golden, tmp_path / "golden.spann")
    return tmp_path / "golden.spann"


@pytest.fixture
def expected(golden):
    return json.loads(golden.answers.read_text(encoding="utf-8"))


def test_the_index_has_the_stored_bytes(golden, path, expected):
    assert MAKE.checksums(path) == expected["crc32c_of_files"]
    assert golden.packed.read_bytes() == MAKE.pack(path)
    assert sum(p.stat().st_size for p in HERE.iterdir() if p.is_file()) < 100_000


def test_the_index_verifies(path):
    assert spann.verify(path) == []


def test_the_index_has_all_parts_of_the_format(golden, path):
    classic = ["centroids/ids", "centroids/graph/level1/nodes"]
    codes = ["vectors/exact", "vectors/exact_crc32c", "quantizer/origin", "quantizer/signs"]
    arrays = ["postings/directory/chain", "vectors/ids", *(codes if golden.params.code_bits else classic)]
    assert all((path / name / "zarr.json").is_file() for name in arrays)


@pytest.mark.parametrize("io", ["buffered", "auto"])
def test_a_search_gives_the_stored_answers(path, expected, io):
    queries = np.array(expected["queries"], np.uint8)
    with spann.open(path, io=io, memory_budget="none") as index:
        found = MAKE.answers(index, queries)
        assert {name: index.info()[name] for name in expected["info"]} == expected["info"]
    for name, value in found.items():
        assert value == expected[name], name


def test_the_stored_answers_are_right(expected):
    base, ids, queries = MAKE.vectors()
    np.testing.assert_array_equal(queries, expected["queries"])
    order = np.argsort(ids)
    rows, distances = exact_neighbours(base[order], queries, MAKE.K)
    np.testing.assert_array_equal(ids[order][rows], expected["ids"])
    np.testing.assert_allclose(distances, expected["distances"], atol=1e-4)


def test_codes_decode_as_the_format_says():
    """Three bits of 90 vectors, as docs/FORMAT.md reads them."""
    golden = next(golden for golden in MAKE.INDEXES if golden.params.code_bits)
    text = (HERE.parents[1] / "docs" / "FORMAT.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(code, "FORMAT.md", "exec"), names)
    base, ids, _ = MAKE.vectors()
    with tempfile.TemporaryDirectory() as place:
        MAKE.unpack(golden, Path(place))
        seen, wrong = 0, 0.0
        for p in range(IndexReader.open(place).attributes["postings"]):
            found, _, approximate = names["read_codes"](place, p)
            rows = MAKE.COUNT - 1 - (found.astype(np.int64) - 2**33) // 1_000_003
            np.testing.assert_array_equal(ids[rows], found)
            seen += len(found)
            wrong += np.square(approximate - base[rows]).sum()
    assert seen > MAKE.COUNT
    assert wrong / seen < 0.05 * np.square(base - base.mean(axis=0)).sum(axis=1).mean()


def test_the_script_does_not_replace_golden_files():
    with pytest.raises(SystemExit, match="frozen"):
        MAKE.main()
