"""Measured recall: which neighbours count as found, and which truths are refused."""

from __future__ import annotations

import numpy as np
import pytest

from spann.errors import InputError
from spann.measuring.recall import recall_at_k
from spann.types import Metric
from spann.vectors import Truth


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int64)


def far(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def truth(*rows: list[tuple[int, float]]) -> Truth:
    return Truth(ids(*([i for i, _ in row] for row in rows)), far(*([d for _, d in row] for row in rows)))


FOUR = truth([(1, 1.0), (2, 4.0), (3, 9.0), (4, 16.0)])


@pytest.mark.parametrize(
    ("found", "distances", "k", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 4, 1.0),
        ([4, 3, 2, 1], [4, 3, 2, 1], 4, 1.0),
        ([1, 2, 7, 8], [1, 2, 5, 6], 4, 0.5),
        ([1, 3], [1, 3], 2, 0.5),
        ([1, 2, 3, 4], [1, 2, 3, 4], 1, 1.0),
        ([2, 1, 3, 4], [2, 1, 3, 4], 1, 0.0),
        ([7, 8], [5, 6], 2, 0.0),
    ],
)
def test_ids_count(found: list[int], distances: list[float], k: int, expected: float) -> None:
    assert recall_at_k(ids(found), far(distances), FOUR, k, Metric.L2) == expected


def test_an_equal_distance_to_the_kth_counts() -> None:
    assert recall_at_k(ids([1, 9]), far([1, 2]), FOUR, 2, Metric.L2) == 1.0
    assert recall_at_k(ids([1, 9]), far([1, 2 * (1 + 2e-7)]), FOUR, 2, Metric.L2) == 1.0
    assert recall_at_k(ids([1, 9]), far([1, 2 * (1 + 2e-5)]), FOUR, 2, Metric.L2) == 0.5


def test_an_equal_distance_to_a_nearer_neighbour_does_not() -> None:
    assert recall_at_k(ids([1, 9]), far([1, 1]), FOUR, 2, Metric.L2) == 0.5


def test_a_distance_below_the_truth_is_not_a_tie() -> None:
    assert recall_at_k(ids([1, 9, 8]), far([1, 0.1, 0.2]), FOUR, 3, Metric.L2) == pytest.approx(1 / 3)


def test_no_query_counts_more_than_k() -> None:
    tied = truth([(1, 4.0), (2, 4.0)])
    assert recall_at_k(ids([7, 1]), far([2, 2]), tied, 2, Metric.L2) == 1.0
    assert recall_at_k(ids([7, 1, 8]), far([2, 2, 2]), tied, 2, Metric.L2) == 1.0
    short = Truth(ids([1, -1]), far([4, np.inf]))
    assert recall_at_k(ids([1, 7]), far([2, 2]), short, 2, Metric.L2) == 1.0


def test_duplicates_count_once() -> None:
    assert recall_at_k(ids([1, 1, 1, 2]), far([1, 1, 1, 2]), FOUR, 4, Metric.L2) == 0.5
    assert recall_at_k(ids([1, 9, 9]), far([1, 3, 3]), FOUR, 3, Metric.L2) == pytest.approx(2 / 3)


def test_padding_never_counts() -> None:
    assert recall_at_k(ids([1, -1, -1, -1]), far([1, np.inf, np.inf, np.inf]), FOUR, 4, Metric.L2) == 0.25
    short = Truth(ids([1, 2, -1, -1]), far([1, 4, np.inf, np.inf]))
    assert recall_at_k(ids([1, 2, -1, -1]), far([1, 2, np.inf, np.inf]), short, 4, Metric.L2) == 1.0
    assert recall_at_k(ids([1, -1, -1, -1]), far([1, np.inf, np.inf, np.inf]), short, 4, Metric.L2) == 0.5
    # The farthest listed neighbour is the one to tie with, not the padding.
    assert recall_at_k(ids([1, 9, -1, -1]), far([1, 2, np.inf, np.inf]), short, 4, Metric.L2) == 1.0


def test_a_query_without_neighbours_does_not_weigh() -> None:
    partly = Truth(ids([1, 2], [-1, -1]), far([1, 4], [np.inf, np.inf]))
    found, distances = ids([1, 2], [5, 6]), far([1, 2], [1, 2])
    assert recall_at_k(found, distances, partly, 2, Metric.L2) == 1.0


def test_queries_are_averaged() -> None:
    two = truth([(1, 1.0), (2, 4.0)], [(3, 1.0), (4, 4.0)])
    assert recall_at_k(ids([1, 2], [3, 9]), far([1, 2], [1, 3]), two, 2, Metric.L2) == 0.75


def test_plain_euclidean_truth_is_understood() -> None:
    plain = truth([(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)])
    found, distances = ids([1, 9, 3, 4]), far([1, 4, 3, 4])
    assert recall_at_k(found, distances, plain, 4, Metric.L2) == 1.0
    assert recall_at_k(found, far([1, 3.5, 3, 4]), plain, 4, Metric.L2) == 0.75


def test_ids_alone_decide_without_distances() -> None:
    assert recall_at_k(ids([1, 9]), far([1, 2]), Truth(FOUR.ids, None), 2, Metric.L2) == 0.5


def test_nothing_in_common_has_no_recall() -> None:
    assert recall_at_k(ids([7, 8]), far([1, 2]), FOUR, 2, Metric.L2) == 0.0


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.IP])
def test_other_metrics_are_not_squared(metric: Metric) -> None:
    values = [0.9, 0.5, 0.25] if metric is Metric.IP else [0.25, 0.5, 0.9]
    known = Truth(ids([1, 2, 3]), far(values))
    assert recall_at_k(ids([1, 2, 9]), far(values), known, 3, metric) == 1.0
    assert recall_at_k(ids([1, 2, 9]), far([*values[:2], 0.7]), known, 3, metric) == pytest.approx(2 / 3)


def test_negative_inner_products_tie() -> None:
    known = Truth(ids([1, 2]), far([-1, -8]))
    assert recall_at_k(ids([1, 9]), far([-1, -8]), known, 2, Metric.IP) == 1.0


def test_near_copies_under_cosine_tie_only_where_they_are_equally_near() -> None:
    known = Truth(ids([1, 2]), far([0, 5e-8]))
    assert recall_at_k(ids([1, 9]), far([0, 5e-8 * (1 + 1e-7)]), known, 2, Metric.COSINE) == 1.0
    assert recall_at_k(ids([1, 9]), far([0, 6e-8]), known, 2, Metric.COSINE) == 0.5


def test_imprecise_truth_is_accepted() -> None:
    # As from |a|^2 + |b|^2 - 2ab in float32: one near duplicate of many pairs without any correct digit.
    near = np.linspace(1, 5, 20, dtype=np.float32)
    given = (near.astype(np.float64) ** 2 * (1 + 5e-4)).astype(np.float32)
    given[0] = 0
    row = np.arange(20, dtype=np.int64)[None]
    assert recall_at_k(row, near[None], Truth(row, given[None]), 20, Metric.L2) == 1.0


@pytest.mark.parametrize(
    ("metric", "ours"),
    [(Metric.L2, [0.3, 0.4, 0.7]), (Metric.COSINE, [0.3, 0.4, 0.7]), (Metric.IP, [0.8, 0.7, 0.6])],
)
def test_truth_of_another_metric_is_refused(metric: Metric, ours: list[float]) -> None:
    known = Truth(ids([1, 2, 3]), far([10, 20, 30]))
    with pytest.raises(
        InputError, match=rf"t\.ibin was likely made with another metric than {metric.value}: for query 0"
    ):
        recall_at_k(ids([1, 2, 3]), far(ours), known, 3, metric, "t.ibin")


def test_truths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"t\.ibin is for 1 queries and there are 2"):
        recall_at_k(ids([1], [2]), far([1], [2]), FOUR, 1, Metric.L2, "t.ibin")
    with pytest.raises(InputError, match=r"k 5 is outside 1 to 4, the neighbours of each query in t\.ibin"):
        recall_at_k(ids([1] * 5), far([1] * 5), FOUR, 5, Metric.L2, "t.ibin")
    with pytest.raises(InputError, match="results have 1 neighbours of each query: recall@2 needs 2"):
        recall_at_k(ids([1]), far([1]), FOUR, 2, Metric.L2)
    with pytest.raises(InputError, match="lists no neighbour"):
        recall_at_k(ids([1]), far([1]), Truth(ids([-1]), None), 1, Metric.L2)
