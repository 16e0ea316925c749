"""Invariants of balanced clustering, and closure against its numpy twin."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spann._kernels.clustering import Floats, Tree, balanced_kmeans, closure, cluster
from spann._kernels.distances import simd_levels
from spann.errors import InputError
from spann.types import Array
from tests.kernels import twins

SLACK = 1.25


def run(
    x: Floats, leaves: int, *, group_rows: int = 100, slack: float = SLACK, seed: int = 7
) -> tuple[Tree, Floats, Array]:
    """The tree of a copy of `x`, the copy in tree order, and its row numbers."""
    moved, rows = x.copy(), np.arange(len(x), dtype=np.int64)
    tree = cluster(moved, rows, leaves=leaves, group_rows=group_rows, iterations=6, balance=1.0, slack=slack, seed=seed)
    return tree, moved, rows


def gaussian(n: int, dim: int, seed: int = 0) -> Floats:
    return np.random.default_rng([n, dim, seed]).standard_normal((n, dim)).astype(np.float32)


def assert_valid(tree: Tree, x: Floats, moved: Floats, rows: Array, leaves: int, group_rows: int) -> None:
    n, made = len(x), len(tree.leaf_end)
    np.testing.assert_array_equal(np.sort(rows), np.arange(n))
    np.testing.assert_array_equal(moved, x[rows])
    assert 1 <= made <= leaves
    ends = tree.leaf_end.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    assert (ends > starts).all()
    assert ends[-1] == n
    for start, end, rep in zip(starts, ends, tree.leaf_rep, strict=True):
        assert start <= rep < end
        leaf = moved[start:end].astype(np.float64)
        distance = np.linalg.norm(leaf - leaf.mean(0), axis=1)
        assert distance[rep - start] <= distance.min() + 1e-5 * (1 + np.abs(leaf).max() * math.sqrt(x.shape[1]))
    groups = tree.leaf_group.astype(np.int64)
    assert groups[0] == 0
    assert np.isin(np.diff(groups), (0, 1)).all()
    for group in range(groups[-1] + 1):
        members = np.flatnonzero(groups == group)
        assert len(members) == 1 or (ends - starts)[members].sum() <= group_rows


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_tree_of_any_data_is_valid(data: st.DataObject) -> None:
    n, dim = data.draw(st.integers(1, 400)), data.draw(st.integers(2, 20))
    leaves, group_rows = data.draw(st.integers(1, n)), data.draw(st.integers(1, n + 1))
    seed = data.draw(st.integers(0, 2**64 - 1))
    distinct = data.draw(st.sampled_from([1, 2, 3, 20, n]))
    x = gaussian(n, dim, seed)
    if distinct < n:
        x = x[np.random.default_rng(seed).integers(0, distinct, n)]
    tree, moved, rows = run(x, leaves, group_rows=group_rows, seed=seed)
    assert_valid(tree, x, moved, rows, leaves, group_rows)
    if distinct == n:
        assert len(tree.leaf_end) == leaves


@pytest.mark.parametrize(("n", "dim", "leaves"), [(3000, 16, 2999), (5000, 32, 700), (4096, 8, 256), (20000, 8, 2500)])
def test_distinct_vectors_make_as_many_leaves_as_asked(level: str, n: int, dim: int, leaves: int) -> None:
    x = gaussian(n, dim)
    tree, moved, rows = run(x, leaves, group_rows=300)
    assert_valid(tree, x, moved, rows, leaves, 300)
    assert len(tree.leaf_end) == leaves


@pytest.mark.parametrize("leaves", [1, 2, 50])
def test_identical_vectors_stay_in_one_leaf(leaves: int) -> None:
    x = np.full((50, 6), 0.1, np.float32)
    tree, moved, rows = run(x, leaves)
    assert_valid(tree, x, moved, rows, leaves, 100)
    assert tree.leaf_end.tolist() == [50]
    assert rows[tree.leaf_rep[0]] == 0


def test_one_vector_is_one_leaf() -> None:
    tree, _, rows = run(gaussian(1, 3), 1)
    assert (tree.leaf_end.tolist(), tree.leaf_rep.tolist(), tree.leaf_group.tolist()) == ([1], [0], [0])
    assert rows.tolist() == [0]


@pytest.mark.parametrize("n", [1, 2, 16, 17, 300])
def test_as_many_leaves_as_vectors_are_leaves_of_one(n: int) -> None:
    tree, _, _ = run(gaussian(n, 5), n)
    assert tree.leaf_end.tolist() == list(range(1, n + 1))
    assert tree.leaf_rep.tolist() == list(range(n))


def test_one_leaf_keeps_the_order() -> None:
    x = gaussian(40, 5)
    tree, moved, rows = run(x, 1)
    assert_valid(tree, x, moved, rows, 1, 100)
    assert rows.tolist() == list(range(40))


@pytest.mark.parametrize("slack", [1.0, 1.1, 1.5])
@pytest.mark.parametrize("leaves", [2, 7, 16])
def test_no_child_of_a_split_takes_more_than_its_slack(leaves: int, slack: float) -> None:
    lopsided = gaussian(1500, 4) * np.float32(0.01)
    lopsided[:30] += 10
    for x in (gaussian(1500, 4), lopsided):
        tree, _, _ = run(x, leaves, slack=slack)
        sizes = np.diff(tree.leaf_end.astype(np.int64), prepend=0)
        assert sizes.max() <= math.ceil(slack * 1500 / leaves)


@pytest.mark.parametrize("duplicates", [False, True])
def test_result_is_the_same_at_every_level_and_follows_the_seed(duplicates: bool) -> None:
    x = gaussian(2000, 24)
    if duplicates:
        x[500:900] = x[:400]
    results = []
    for level in simd_levels():
        with mock.patch.dict(os.environ, SPANN_SIMD=level):
            tree, _, rows = run(x, 130)
            kmeans = balanced_kmeans(x, 40, iterations=5, balance=1.0, seed=3)
            results.append([a.tobytes() for a in (tree.leaf_end, tree.leaf_rep, tree.leaf_group, rows, *kmeans)])
    assert all(r == results[0] for r in results)
    assert run(x, 130)[2].tobytes() == results[0][3]
    assert run(x, 130, seed=8)[2].tobytes() != results[0][3]


def test_balanced_kmeans_of_one_centre_is_the_mean(level: str) -> None:
    x = gaussian(700, 12)
    centres, _ = balanced_kmeans(x, 1, iterations=1, balance=1.0, seed=0)
    np.testing.assert_array_equal(centres[0], x.astype(np.float64).mean(0).astype(np.float32))


def test_weights_even_out_cells() -> None:
    x = gaussian(8000, 8)
    spread = {}
    for balance in (0.0, 0.1):
        centres, weights = balanced_kmeans(x, 16, iterations=20, balance=balance, seed=1)
        cost = sqdist_of(x, centres) + weights
        spread[balance] = np.bincount(cost.argmin(1), minlength=16).std() / 500
    assert spread[0.1] < min(0.03, 0.5 * spread[0.0])


def test_unusable_sizes_are_refused() -> None:
    x, rows = gaussian(4, 2), np.arange(4)
    for leaves in (0, 5):
        with pytest.raises(InputError, match=f"leaves is {leaves}"):
            cluster(x, rows, leaves=leaves, group_rows=9, iterations=1, balance=1, slack=1.5, seed=0)
    with pytest.raises(InputError, match="k is 5"):
        balanced_kmeans(x, 5, iterations=1, balance=1, seed=0)


@pytest.mark.parametrize(
    "values",
    [
        "np.array([10000, 10000.001])",
        "np.linspace(1000, 1000.1, 500)",
        "np.random.default_rng(162).standard_normal(5000)",
    ],
)
def test_vectors_whose_costs_round_alike_are_still_split(values: str) -> None:
    """|c|^2 - 2 x.c rounds to one value for both. In a process of its own, which may not come back."""
    code = f"""if True:
        import numpy as np
        from spann._kernels.clustering import cluster
        x = np.unique(({values}).astype(np.float32))[:, None]
        n = len(x)
        tree = cluster(x, np.arange(n), leaves=n, group_rows=9, iterations=4, balance=0.1, slack=1.25, seed=1)
        assert n > 1 and len(tree.leaf_end) == n, (n, len(tree.leaf_end))
    """
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- closure ----


def integer_points(rng: np.random.Generator, n: int, dim: int, span: int) -> Floats:
    return rng.integers(-span, span + 1, (n, dim)).astype(np.float32)


def sqdist_of(x: Floats, centroids: Floats) -> Floats:
    found: Floats = ((x[:, None] - centroids[None]) ** 2).sum(2)
    return found


def assert_equals_twin(
    sqdist: Floats, centroids: Floats, *, near: int, replicas: int, reach: float, rng: float
) -> None:
    found = closure(sqdist, centroids, near=near, replicas=replicas, reach=reach, rng=rng)
    expected = twins.closure(sqdist, centroids, near=near, replicas=replicas, reach=reach, rng=rng)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (found[2] >= 1).all()


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 8),
    m=st.integers(1, 60),
    dim=st.integers(1, 20),
    span=st.integers(0, 4),
    near=st.integers(1, 70),
    replicas=st.integers(1, 9),
    reach=st.sampled_from([1.0, 1.21, 2.25, 4.0, 1e12]),
    rng=st.sampled_from([0.1, 0.5, 1.0, 1.5, 10.0]),
)
def test_closure_equals_its_twin(
    seed: int, n: int, m: int, dim: int, span: int, near: int, replicas: int, reach: float, rng: float
) -> None:
    """Points on a small grid: ties, identical centroids and rows that lie on a centroid are the rule."""
    random = np.random.default_rng(seed)
    x, centroids = integer_points(random, n, dim, span), integer_points(random, m, dim, span)
    assert_equals_twin(sqdist_of(x, centroids), centroids, near=near, replicas=replicas, reach=reach, rng=rng)


@pytest.mark.parametrize("near", [1, 8, 100])
@pytest.mark.parametrize(
    "order", ["shuffled", "ascending", "descending", "ties", "sampled are near", "sampled are far"]
)
def test_closure_over_many_candidates_equals_its_twin(level: str, order: str, near: int) -> None:
    """Enough candidates for the bar guessed from every 16th, and orders in which it is a bad guess."""
    random = np.random.default_rng(near)
    centroids = integer_points(random, 2000, 6, 1 if order == "ties" else 30)
    x = integer_points(random, 1, 6, 30)
    ranked = np.argsort(sqdist_of(x, centroids)[0], kind="stable")
    if order == "ascending":
        centroids = centroids[ranked]
    elif order == "descending":
        centroids = centroids[ranked[::-1]]
    elif order.startswith("sampled"):
        sampled = np.arange(2000) % 16 == 0
        places = np.concatenate([np.flatnonzero(sampled), np.flatnonzero(~sampled)])
        arranged = np.empty_like(centroids)
        arranged[places if order == "sampled are near" else places[::-1]] = centroids[ranked]
        centroids = arranged
    assert_equals_twin(sqdist_of(x, centroids), centroids, near=near, replicas=8, reach=4.0, rng=1.0)


def test_closure_of_floats_equals_its_twin(level: str) -> None:
    x, centroids = gaussian(30, 24), gaussian(90, 24, 1)
    assert_equals_twin(sqdist_of(x, centroids), centroids, near=64, replicas=8, reach=4.0, rng=1.0)


def test_closure_takes_strided_centroids() -> None:
    wide = gaussian(90, 20)
    x, centroids = gaussian(30, 7, 1), wide[:, 3:10]
    assert_equals_twin(sqdist_of(x, centroids), centroids, near=64, replicas=8, reach=4.0, rng=1.0)


def test_closure_reads_negative_rounding_as_zero() -> None:
    centroids = np.array([[1.0], [0.0], [0.0]], np.float32)
    chosen, sqdist, counts = closure(
        np.array([[1.0, 0.0, -1e-7]], np.float32), centroids, near=3, replicas=3, reach=4.0, rng=1.0
    )
    assert (counts.tolist(), chosen[0, 0], sqdist[0, 0]) == ([1], 1, 0.0)


def test_identical_centroids_hold_a_row_once() -> None:
    centroids = np.zeros((5, 3), np.float32)
    assert_equals_twin(np.full((2, 5), 3, np.float32), centroids, near=5, replicas=5, reach=4.0, rng=1.0)
    assert closure(np.full((2, 5), 3, np.float32), centroids, near=5, replicas=5, reach=4.0, rng=1.0)[2].tolist() == [
        1,
        1,
    ]
