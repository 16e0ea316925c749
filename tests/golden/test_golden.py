"""An index from the day the format was fixed: whatever changes, it stays readable and its answers stay the same."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.testing import exact_neighbours

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("spann_golden_make", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(make, tmp_path):
    make.unpack(tmp_path / "golden.spann")
    return tmp_path / "golden.spann"


@pytest.fixture(scope="module")
def expected():
    return json.loads((HERE / "answers-v1.json").read_text(encoding="utf-8"))


def test_its_files_are_the_ones_that_were_made(make, path, expected):
    assert make.checksums(path) == expected["crc32c_of_files"]
    assert make.PACKED.read_bytes() == make.pack(path)
    assert sum(p.stat().st_size for p in HERE.iterdir() if p.is_file()) < 60_000


def test_it_is_whole(path):
    assert spann.verify(path) == []


def test_it_has_all_parts_of_the_format(path):
    arrays = ("postings/directory/chain", "vectors/ids", "centroids/graph/level1/nodes")
    assert all((path / name / "zarr.json").is_file() for name in arrays)


@pytest.mark.parametrize("io", ["buffered", "auto"])
def test_its_answers(make, path, expected, io):
    queries = np.array(expected["queries"], np.uint8)
    with spann.open(path, io=io) as index:
        found = make.answers(index, queries)
        assert {name: index.info()[name] for name in expected["info"]} == expected["info"]
    for name, value in found.items():
        assert value == expected[name], name


def test_its_answers_are_right(make, expected):
    base, ids, queries = make.vectors()
    np.testing.assert_array_equal(queries, expected["queries"])
    order = np.argsort(ids)
    rows, distances = exact_neighbours(base[order], queries, make.K)
    np.testing.assert_array_equal(ids[order][rows], expected["ids"])
    np.testing.assert_allclose(distances, expected["distances"], atol=1e-4)


def test_the_script_does_not_replace_it(make):
    with pytest.raises(SystemExit, match="frozen"):
        make.main()
