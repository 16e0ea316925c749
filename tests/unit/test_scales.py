"""Vectors of very different magnitudes, far from each other, far from zero, or hardly apart: the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import spann
from spann.building.centroids import Centroids
from spann.building.space import Space
from spann.building.stages import partition
from spann.building.stages.scan import scan
from spann.changing import likeness
from spann.jobs import pairs
from spann.types import Array, Metric
from spann.vectors import open_source

DIM, COUNT, QUERIES, K = 32, 3000, 60, 10
EVERYTHING = spann.SearchParams(max_postings=2**20, rerank=2**20, error_bound=1e6)
USUAL = spann.SearchParams(max_postings=10, error_bound=1.9)


def ordinary(seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((COUNT + QUERIES, 8)) @ rng.standard_normal((8, DIM))


def outliers(magnitude: float) -> Array:
    x = ordinary()
    x[:6] = np.random.default_rng(1).standard_normal((6, DIM)) * magnitude
    return x


def groups(number: int, apart: float) -> Array:
    rng = np.random.default_rng(2)
    return ordinary() + (rng.standard_normal((number, DIM)) * apart)[rng.integers(0, number, COUNT + QUERIES)]


def split(x: Array) -> tuple[Array, Array]:
    """Vectors and queries, in another order: the first few would be those that the calibration asks for."""
    x = x[np.random.default_rng(3).permutation(len(x))].astype(np.float32)
    return x[:COUNT], x[COUNT:]


def neighbours(base: Array, queries: Array, metric: str) -> Array:
    x, q = base.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    if metric == "ip":
        return np.argsort(-q @ x.T, axis=1, kind="stable")[:, :K]
    return np.argsort(np.square(q[:, None] - x).sum(2), axis=1, kind="stable")[:, :K]


def recall(found: Array, true: Array) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, true, strict=True)]))


def recall_of(path: Path, x: Array, metric: str = "l2", *, bits: int = 2, replicas: int = 1) -> float:
    base, queries = split(x)
    params = spann.BuildParams(code_bits=bits, max_replicas=replicas, calibration_queries=0)
    with spann.build(base, path, metric=metric, params=params) as index:
        return recall(index.search(queries, K, USUAL).ids, neighbours(base, queries, metric))


@pytest.mark.parametrize(
    "x",
    [outliers(1e5), outliers(1e10), groups(3, 1e3), groups(3, 1e5), groups(50, 1e5), ordinary() + 1e4],
    ids=["outliers 1e5", "outliers 1e10", "groups 1e3", "groups 1e5", "many groups", "offset"],
)
@pytest.mark.parametrize(("bits", "replicas"), [(1, 1), (2, 1), (4, 1), (2, 3)])
def test_magnitudes_cost_no_recall(tmp_path: Path, x: Array, bits: int, replicas: int) -> None:
    assert recall_of(tmp_path / "i", x, bits=bits, replicas=replicas) > 0.85


def decades() -> Array:
    """Lengths over ten decades."""
    return ordinary() * 10 ** np.random.default_rng(4).uniform(-5, 5, (COUNT + QUERIES, 1))


def scales() -> Array:
    """Groups far from each other, each of its own width: six decades of them."""
    rng = np.random.default_rng(5)
    group, width = rng.integers(0, 20, COUNT + QUERIES), 10 ** rng.uniform(-4, 2, 20)
    return (rng.standard_normal((20, DIM)) * 10 ** rng.uniform(0, 4, (20, 1)))[group] + ordinary() * width[group, None]


@pytest.mark.parametrize("x", [decades(), scales()], ids=["decades", "scales"])
@pytest.mark.parametrize("bits", [0, 2])
def test_recall_holds_for_lengths_of_many_decades(tmp_path: Path, x: Array, bits: int) -> None:
    """Most vectors of a posting may be as near as codes can tell: more candidates than usual are then re-ranked."""
    base, queries = split(x)
    base = base[:1200]
    params = spann.BuildParams(code_bits=bits, calibration_queries=200)
    with spann.build(base, tmp_path / "i", params=params) as index:
        found = index.search(queries, K, target_recall=0.95)
    assert recall(found.ids, neighbours(base, queries, "l2")) > 0.93


def test_the_origin_lies_among_the_vectors() -> None:
    """Where a few vectors draw the mean away, it is the median of each coordinate; elsewhere it is the mean."""
    for x, lies in ((ordinary(), True), (ordinary() + 1e4, True), (outliers(1e5) + 100, False), (decades(), False)):
        with open_source(x.astype(np.float32)) as source:
            origin = scan(source, Metric.L2, 1, lambda *a: None)[0].origin
        mean = x.astype(np.float32).mean(axis=0, dtype=np.float64)
        assert np.allclose(origin, mean, rtol=1e-5, atol=1e-5) == lies
        apart = np.median(np.linalg.norm(x - x.mean(axis=0), axis=1))
        assert np.median(np.linalg.norm(x - origin, axis=1)) < (1.01 if lies else 0.5) * apart


def sqdistances(a: Array, b: Array) -> Array:
    return cdist(a.astype(np.float64), b.astype(np.float64), "sqeuclidean")  # by differences


@pytest.mark.parametrize("regions", [20, 100], ids=["one level", "two levels"])
def test_a_region_has_the_vectors_nearest_to_its_centre(regions: int) -> None:
    """Groups far from each other, too: float32 products would put half of their vectors elsewhere."""
    x = groups(3, 1e5).astype(np.float32)
    tree = partition._Regions(x, regions, (1,))
    fine = np.concatenate([np.column_stack([lifted[:, :-1] / -2, lifted[:, -1]]) for lifted in tree._fine])
    centres, weights = fine[:, :-1], fine[:, -1] - np.square(fine[:, :-1].astype(np.float64)).sum(1)
    found = tree.find(x)
    keys = sqdistances(x, centres) + weights
    if len(tree._fine) > 1:  # of the regions of its coarse one
        coarse = np.searchsorted(tree._first, np.arange(len(centres)), side="right") - 1
        keys[coarse != coarse[found][:, None]] = np.inf
    excess = keys[np.arange(len(x)), found] - keys.min(axis=1)
    assert np.median(keys.min(axis=1)) > 10
    assert excess.max() < 1


def test_likeness_is_measured_without_cancellation() -> None:
    x = groups(3, 1e5).astype(np.float32)
    centroids = Centroids(Space(Metric.L2, DIM, 0.0, np.zeros(DIM, np.float32)), x[:200], None, None, True)
    np.testing.assert_allclose(likeness._nearest(centroids, x[200:300]), sqdistances(x[200:300], x[:200]).min(1), 1e-4)


def test_pairs_are_found_in_groups_far_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other cells are looked at from near to far, so their order must be right."""
    monkeypatch.setattr(pairs, "AT_ONCE", 16)
    x = groups(3, 1e5)[:2400]
    x[1200:] = x[:1200] + np.random.default_rng(6).standard_normal((1200, DIM)) * 0.3
    x = x.astype(np.float32)
    far = np.sqrt(sqdistances(x, x))
    np.fill_diagonal(far, np.inf)
    radius = 3.0
    params = spann.BuildParams(posting_size=10, calibration_queries=0)
    with spann.build(x, tmp_path / "i", params=params) as index:
        distance = index.duplicates(radius).columns()["distance"]
    nearest = far.min(axis=1)
    assert np.isfinite(distance).sum() > 100
    np.testing.assert_allclose(distance, np.where(nearest <= radius, nearest, np.inf), rtol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_offset_costs_no_recall(tmp_path: Path, metric: str) -> None:
    """All vectors point the same way, and differ by a hundredth."""
    assert recall_of(tmp_path / "i", ordinary() + 300, metric) > 0.85


def test_appended_outliers_cost_no_recall(tmp_path: Path) -> None:
    base, queries = split(ordinary())
    far = outliers(1e5)[:6].astype(np.float32)
    spann.build(base, tmp_path / "i", params=spann.BuildParams(code_bits=2, calibration_queries=0)).close()
    spann.append(tmp_path / "i", np.concatenate([base[:500], far])).close()
    with spann.open(tmp_path / "i") as index:
        both = np.concatenate([base, base[:500], far])
        assert recall(index.search(queries, K, USUAL).ids % COUNT, neighbours(both, queries, "l2") % COUNT) > 0.85
        found = index.search(far, 1, USUAL)
    np.testing.assert_array_equal(found.ids[:, 0], len(both) - 6 + np.arange(6))


@pytest.mark.parametrize("bits", [0, 2])
@pytest.mark.parametrize("noise", [1e-2, 1e-3, 1e-4, 1e-5])
def test_near_copies_keep_their_order_under_cosine(tmp_path: Path, bits: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(DIM) + noise * rng.standard_normal((400, DIM))).astype(np.float32)
    params = spann.BuildParams(code_bits=bits, calibration_queries=0)
    with spann.build(x, tmp_path / "i", metric="cosine", params=params) as index:
        found = index.search(x[:40], K, EVERYTHING)
    np.testing.assert_array_equal(found.ids, neighbours(x, x[:40], "cosine"))
    unit = x.astype(np.longdouble)
    unit /= np.sqrt(np.square(unit).sum(axis=1, keepdims=True))
    true = np.square(unit[:40, None] - unit[found.ids]).sum(axis=2) / 2
    np.testing.assert_allclose(found.distances, true, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("bits", [0, 2])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_near_copies_far_from_zero_keep_their_order(tmp_path: Path, bits: int, metric: str) -> None:
    rng = np.random.default_rng(0)
    x = (1e6 + 40 * rng.standard_normal((400, DIM))).astype(np.float32)
    with spann.build(
        x, tmp_path / "i", metric=metric, params=spann.BuildParams(code_bits=bits, calibration_queries=0)
    ) as index:
        found = index.search(x[:40], K, EVERYTHING)
    np.testing.assert_array_equal(found.ids, neighbours(x, x[:40], metric))


@pytest.mark.parametrize("bits", [0, 2])
def test_parallel_vectors_tie_and_ids_decide(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(0)
    directions = rng.integers(-50, 50, (20, DIM)).astype(np.float32)
    x = np.concatenate([directions * np.float32(f) for f in (1, 3, 5, 7, 0.25)])
    params = spann.BuildParams(code_bits=bits, calibration_queries=0)
    with spann.build(x, tmp_path / "i", metric="cosine", params=params) as index:
        found = index.search(rng.standard_normal((30, DIM)).astype(np.float32), 5, EVERYTHING)
    np.testing.assert_array_equal(found.ids, found.ids[:, :1] + 20 * np.arange(5))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_vectors_whose_squares_underflow_are_refused(tmp_path: Path, metric: str) -> None:
    base, _ = split(ordinary() * 1e-20)
    with pytest.raises(spann.InputError, match=r"squared length .*e-3\d; it must be at least 1e-30"):
        spann.build(base, tmp_path / "i", metric=metric)
    base[0] = 1
    spann.build(base, tmp_path / "i", metric=metric, params=spann.BuildParams(calibration_queries=0)).close()
