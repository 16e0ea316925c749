"""Shapes of postings: their stored form, their use in a search, and their benefit."""

from __future__ import annotations

import contextlib
import os
from unittest import mock

import numpy as np
import pytest

import spann
from spann._kernels.distances import simd_levels
from spann.building.stages.shapes import _principal, shapes_of
from spann.format.shapes import SHAPES, directions_of, shape_record
from spann.quantize import Codes, Quantizer
from spann.search import Engine
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours
from spann.types import Metric

SHARE, DEVIATIONS, LEAST = 0.4, 3.0, 0.25
"""As ext/c/search/visits.c has them."""

METRICS = ["l2", "cosine", "ip"]


def stretched(n, dim=24, seed=3):
    """Vectors around a few points, spread in each around its own line."""
    rng = np.random.default_rng(seed)
    centre, axis = rng.normal(0, 3, (12, dim)), rng.normal(0, 1, (12, 3, dim)) * 2
    which = rng.integers(0, 12, n)
    along = np.einsum("nr,nrd->nd", rng.normal(0, 1, (n, 3)), axis[which])
    return (centre[which] + along + rng.normal(0, 0.3, (n, dim))).astype(np.float32)


def opened(path):
    return contextlib.closing(Engine(IndexReader.open(path), memory_budget="none"))


def expected_twin(reader, queries, metric):
    """Distances (nq, postings) at which the nearest vectors of postings are expected, from what is stored; the postings
    in the order of their centroids' distances."""
    about, dim = reader.attributes, reader.attributes["dim"]
    n = about["directions"]
    record = shape_record(dim, about["code_bits"], n)
    shapes = reader.read("postings/shapes").reshape(-1).view(record)
    quantizer = Quantizer(
        dim,
        about["code_bits"],
        metric,
        reader.read("quantizer/origin"),
        reader.read("quantizer/signs"),
    )
    centroids = reader.read("centroids/vectors").astype(np.float32)
    out = np.empty((len(queries), len(centroids)))
    norm = float(np.sqrt(np.square(centroids).sum(axis=1).mean(dtype=np.float64)))
    codes = Codes(
        shapes["codes"].reshape(-1, quantizer.code_bytes).copy(),
        shapes["add"].reshape(-1).copy(),
        shapes["scale"].reshape(-1).copy(),
        shapes["header"].copy(),
    )
    for i, q in enumerate(queries.astype(np.float32)):
        if metric is Metric.COSINE:
            q = q / np.linalg.norm(q)
        if metric is Metric.IP:
            q = q * np.float32(norm / np.linalg.norm(q))
            base = -(centroids @ q)
            largest = about["max_norm"]
            sqdist = np.maximum(2 * largest**2 + 2 * largest * base / norm - shapes["spread"], 0)
            scale = largest / norm
        else:
            base = np.square(q - centroids).sum(axis=1)
            sqdist, scale = base, 0.5
        estimates = quantizer.estimate(q, base.astype(np.float32), codes, np.full(len(centroids), n))
        along = scale * (base[:, None] - estimates.reshape(-1, n)) + shapes["offsets"]
        deviation = np.sqrt(shapes["rest"] * sqdist + np.square(along).sum(axis=1))
        moved = sqdist + SHARE * (shapes["spread"] - 2 * DEVIATIONS * deviation)
        out[i] = np.sqrt(np.maximum(moved, LEAST * sqdist))[np.argsort(base)]
    return out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pruning_uses_the_distances_of_the_format(tmp_path, metric, bits):
    base, queries = stretched(3000), stretched(7, seed=4)
    params = spann.BuildParams(code_bits=bits, posting_size=60, directions=5, calibration_queries=0)
    spann.build(base, tmp_path / "i", metric=metric, params=params).close()
    reader = IndexReader.open(tmp_path / "i")
    assert SHAPES in reader.attributes["features"]
    wanted = expected_twin(reader, queries, Metric.parse(metric))
    answers = []
    for level in simd_levels():
        with mock.patch.dict(os.environ, SPANN_SIMD=level), opened(tmp_path / "i") as engine:
            answers.append(engine.expected(queries, wanted.shape[1]))
    for got in answers:
        np.testing.assert_array_equal(got, answers[0])
    np.testing.assert_allclose(answers[0], wanted, rtol=2e-3, atol=1e-3 * wanted.max())


def test_without_shapes_pruning_uses_distances_to_centroids(tmp_path):
    base, queries = stretched(2000), stretched(5, seed=4)
    params = spann.BuildParams(code_bits=2, posting_size=60, directions=0, calibration_queries=0)
    spann.build(base, tmp_path / "i", params=params).close()
    reader = IndexReader.open(tmp_path / "i")
    assert SHAPES not in reader.attributes["features"]
    assert "postings/shapes" not in reader.arrays()
    centroids = reader.read("centroids/vectors").astype(np.float64)
    wanted = np.sort(np.linalg.norm(queries[:, None] - centroids, axis=2), axis=1)
    with opened(tmp_path / "i") as engine:
        np.testing.assert_allclose(engine.expected(queries, 10), wanted[:, :10], rtol=1e-4)


def test_directions_are_those_of_the_largest_spread():
    rows = stretched(400)[:200] - 1
    lengths = np.array([90, 0, 1, 109])
    axes, spread, rest = _principal(rows, lengths, 4)
    for p, part in enumerate(np.split(rows, np.cumsum(lengths)[:-1])):
        if len(part) == 0:
            assert not axes[p].any()
            assert (spread[p], rest[p]) == (0, 0)
            continue
        found = np.square(axes[p]).sum(axis=1)
        true = np.maximum(np.linalg.eigvalsh(part.T @ part / len(part))[::-1], 0)
        assert (found <= true[:4] * (1 + 1e-4) + 1e-3).all()
        assert found.sum() >= 0.9 * true[:4].sum()
        products = axes[p] @ axes[p].T
        np.testing.assert_allclose(products, np.diag(found), atol=1e-3 * found[0])
        np.testing.assert_allclose(spread[p], np.square(part).sum(axis=1).mean(), rtol=1e-4)
        assert rest[p] == pytest.approx((spread[p] - found.sum()) / rows.shape[1], rel=1e-3, abs=1e-3)


def test_more_directions_than_dimensions():
    rng = np.random.default_rng(0)
    rows, centre = rng.normal(size=(50, 4)).astype(np.float32), np.zeros((1, 4), np.float32)
    how = {"quantizer": Quantizer.make(4, 4, "l2"), "directions": 8, "far": np.zeros(1, bool)}
    shapes = shapes_of(rows, np.array([50]), centre, centre, **how)
    assert shapes["spread"][0] == pytest.approx(np.square(rows).sum(axis=1).mean(), rel=1e-5)
    assert not shapes["offsets"][0, 4:].any()
    assert shapes["rest"][0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_shapes_find_more_in_as_many_postings(tmp_path, metric):
    base, queries = stretched(12_000, 48), stretched(150, 48, seed=5)
    recalls = {}
    for directions in (0, 8):
        path = tmp_path / str(directions)
        params = spann.BuildParams(code_bits=4, posting_size=20, directions=directions, calibration_queries=0)
        with spann.build(base, path, metric=metric, params=params) as index:
            wanted = exact_neighbours(base, queries, 100, metric)[0]
            points = []
            for epsilon2 in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08):
                setting = spann.SearchParams(max_postings=150, epsilon2=epsilon2, rerank=2000, error_bound=5.0)
                found = index.search(queries, 100, setting)
                share = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(found.ids, wanted, strict=True)])
                points.append((float(found.stats["postings_scored"].mean()), share))
        recalls[directions] = np.interp(24, *zip(*points, strict=True))
    assert 0.92 < recalls[0] < 0.995
    assert 1 - recalls[8] < 0.85 * (1 - recalls[0]), recalls


def test_appended_postings_have_shapes(tmp_path, check_neighbours):
    base, queries = clustered(3000, 24, 20, 3)
    params = spann.BuildParams(code_bits=2, posting_size=40, calibration_queries=0)
    spann.build(base[:2000], tmp_path / "i", params=params).close()
    with spann.append(tmp_path / "i", base[2000:]) as index:
        reader = IndexReader.open(tmp_path / "i")
        assert reader.array("postings/shapes").rows == reader.attributes["postings"]
        everything = spann.SearchParams(max_postings=10**6, epsilon2=1e5, rerank=10**6, error_bound=1e6)
        check_neighbours(index.search(queries, 10, everything), base, queries, 10, "l2")
        narrow = spann.SearchParams(max_postings=40, epsilon2=0.3)
        assert 10 <= index.search(queries, 10, narrow).stats["postings_scored"].mean() < 80


def test_memory_of_shapes_is_counted(tmp_path):
    base = stretched(3000)
    params = spann.BuildParams(code_bits=2, posting_size=60, calibration_queries=0)
    with spann.build(base, tmp_path / "a", params=params) as index:
        with_shapes = index.info()["open_memory_bytes"]
    with spann.build(base, tmp_path / "b", params=params.with_(directions=0)) as index:
        without, postings = index.info()["open_memory_bytes"], index.info()["postings"]
    size = postings * shape_record(base.shape[1], 2, 8).itemsize
    assert size <= with_shapes - without <= size + 4096
    plans = [spann.plan(base, params=params.with_(directions=n)) for n in (8, 0)]
    assert plans[0].open_memory_least - plans[1].open_memory_least == plans[0].centroids * size // postings


def test_directions_need_codes(tmp_path):
    with pytest.raises(spann.InputError, match="directions is 4; without codes it must be 0"):
        spann.build(stretched(500), tmp_path / "i", params=spann.BuildParams(code_bits=0, directions=4))
    with pytest.raises(spann.InputError, match="directions is 33; it must be a whole number from 0 to 32"):
        spann.BuildParams(directions=33)


@pytest.mark.parametrize("directions", [0, 33, -1, "8", 2.5, None])
def test_impossible_directions_are_damage(tmp_path, directions):
    params = spann.BuildParams(code_bits=2, posting_size=60, calibration_queries=0)
    spann.build(stretched(500), tmp_path / "i", params=params).close()
    about = dict(IndexReader.open(tmp_path / "i").attributes, directions=directions)
    with pytest.raises(spann.CorruptionError, match="directions"):
        directions_of(about, "i")


def test_vectors_of_great_length_have_shapes():
    rows = np.zeros((40, 8), np.float32)
    rows[:, 0] = np.linspace(-1e18, 1e18, 40)
    axes, spread, rest = _principal(rows, np.array([40]), 2)
    assert np.isfinite(axes).all()
    np.testing.assert_allclose(spread, np.square(rows[:, 0].astype(np.float64)).mean(), rtol=1e-4)
    np.testing.assert_allclose(np.abs(axes[0, 0, 0]), np.sqrt(spread), rtol=1e-4)
    assert rest[0] <= 1e-4 * spread[0]
