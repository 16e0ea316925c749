"""Recall under filters of a calibrated index, wherever the matches lie, and the same results on every way to them."""

import numpy as np
import pytest

import spann

N, DIM, K = 20_000, 32, 10


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, DIM)) * 0.7
    base = (centres[rng.integers(60, size=N + 8)] + rng.normal(size=(N + 8, DIM))).astype(np.float32)
    path = tmp_path_factory.mktemp("recall") / "a.spann"
    params = spann.BuildParams(code_bits=2, posting_size=50, calibration_queries=200)
    columns = {"u": rng.permutation(N), "h": np.argsort(np.argsort(base[:N, 0]))}
    with spann.build(base[:N], path, attributes=columns, params=params) as found:
        yield found, base[:N], base[N:], columns


def near(base, query):
    return np.argsort(np.square(base - query).sum(axis=1), kind="stable")


CASES = {
    "independent": lambda order, count: {"where": f"u < {count}"},
    "half space": lambda order, count: {"where": f"h < {count}"},
    "positive": lambda order, count: {"ids": order[:count]},
    "negative": lambda order, count: {"ids": order[-count:]},
    "shell": lambda order, count: {"ids": order[N // 10 :: max(1, int(0.9 * N / count))]},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [16_000, 5_000, 300])
def test_recall_holds_wherever_matches_lie(index, case, count):
    found, base, queries, columns = index
    recalls = []
    for query in queries:
        order = near(base, query)
        how = CASES[case](order, count)
        got = found.search(query, K, target_recall=0.95, **how).ids[0]
        allowed = np.isin(order, how["ids"]) if "ids" in how else columns[how["where"][0]][order] < count
        wanted = order[allowed][:K]
        recalls.append(np.isin(wanted, got).mean())
    assert np.mean(recalls) >= 0.94, recalls


def test_results_depend_on_neither_history_nor_threads(index):
    found, base, queries, _ = index
    orders = [near(base, query) for query in queries[:4]]
    for count in (16_000, 5_000):
        asked = [(queries[i], {"ids": orders[i][-count:]}) for i in range(4)]
        first = [found.search(query, K, threads=1, **how).ids[0].tolist() for query, how in asked]
        again = [found.search(query, K, threads=1, **how).ids[0].tolist() for query, how in reversed(asked)]
        assert first == again[::-1]
    together = found.search(queries, K, where="h < 5000", threads=3)
    alone = [found.search(query, K, where="h < 5000", threads=1, in_flight=1).ids[0].tolist() for query in queries]
    assert together.ids.tolist() == alone
    with spann.open(found.path, memory_budget="none") as bare:
        assert bare.search(queries, K, where="h < 5000").ids.tolist() == alone


def test_ranges_find_what_matches_within_the_radius(index):
    found, base, queries, _ = index
    shares = []
    for query in queries:
        distance = np.sqrt(np.square(base - query).sum(axis=1))
        radius = float(np.sort(distance)[2000])
        matches = np.isin(np.arange(N), np.flatnonzero(distance <= radius)[::10])
        matches |= distance > radius
        got = found.search_range(query, radius, ids=np.flatnonzero(matches), target_recall=0.95)
        wanted = np.flatnonzero(matches & (distance <= radius))
        shares.append(np.isin(wanted, got.ids).mean())
    assert np.mean(shares) >= 0.93, shares
