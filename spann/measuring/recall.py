"""Recall of search results against ground truth, counted fairly where distances tie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array, Metric
from spann.vectors import Truth

TIE = 1e-6
"""Two distances tie if they differ by less than this share of the larger. Searches and our truths sum in float64 and
round once, to float32: equal distances differ by a tenth of that, their squares by a fifth."""

_AGREE = 1e-3
"""Distances of the same pair from two programs agree within this share: float32 |a|^2 + |b|^2 - 2ab loses digits."""

_AGREEING = 0.9
"""More than this share of the common pairs must agree: of near duplicates such a program can lose all digits."""


def recall_at_k(
    result_ids: NDArray[np.int64],
    result_distances: NDArray[np.float32],
    truth: Truth,
    k: int,
    metric: Metric,
    name: str = "the ground truth",
) -> float:
    """The share of the true k nearest neighbours that were found, over all queries, from 0 to 1.

    A result counts if its id is among the true k, or if its distance ties with that of the true k-th (within `TIE`;
    where the truth has distances): which of several equally near vectors a file happens to list decides nothing. An
    id counts once, -1 never, and no query counts more than its number of true neighbours. Without distances in the
    truth, ids alone decide.

    Parameters
    ----------
    result_ids, result_distances : (nq, at least k)
        As a search returns them, distances in the metric's own unit; places beyond k do not matter.
    truth : Truth
        (nq, at least k); distances squared or not for l2. Its unit is found by comparing the distances of the pairs
        that are in both; if there are none, ids alone decide.
    name : str
        What errors call the truth, best the path of its file.

    Raises
    ------
    InputError
        The truth has another number of queries, fewer than k neighbours, no neighbour at all, or distances that
        belong to another metric.
    """
    check_truth(truth, len(result_ids), k, name)
    if result_ids.shape[1] < k:
        raise InputError(f"the results have {result_ids.shape[1]} neighbours of each query: recall@{k} needs {k}")
    ids, wanted = result_ids[:, :k], truth.ids[:, :k]
    counts = _is_first(ids) & _among(ids, wanted)
    if truth.distances is not None:
        ours = _squared(result_distances[:, :k], metric)
        theirs = _in_our_unit(ids, ours, truth, metric, name)
        if theirs is not None:
            counts |= _is_first(ids) & _ties(ours, theirs[:, :k], wanted)
    possible = (wanted >= 0).sum(axis=1)
    return float(np.minimum(counts.sum(axis=1), possible).sum() / possible.sum())


def nearer_than_truth(
    result_ids: NDArray[np.int64],
    result_distances: NDArray[np.float32],
    truth: Truth,
    k: int,
    metric: Metric,
    name: str = "the ground truth",
) -> int:
    """How many results are nearer than the true k-th neighbour and no neighbour in the truth. A truth that was found in
    just these vectors has none: so there are others, appended since perhaps. 0 where the truth has no distances."""
    if truth.distances is None or metric is Metric.IP:
        return 0
    ids = result_ids[:, :k]
    ours = _squared(result_distances[:, :k], metric)
    theirs = _in_our_unit(ids, ours, truth, metric, name)
    if theirs is None:
        return 0
    kth = theirs[:, k - 1 : k]
    nearer = (ids >= 0) & (ours < kth - _tolerance(ours, kth, metric)) & (truth.ids[:, k - 1 : k] >= 0)
    return int((nearer & ~_among(ids, truth.ids)).sum())


def check_truth(truth: Truth, queries: int, k: int, name: str) -> None:
    """Refuse a truth that cannot serve to measure recall@k of so many queries; costs nothing, so do it first."""
    if len(truth.ids) != queries:
        raise InputError(f"{name} is for {len(truth.ids)} queries and there are {queries}")
    if not 1 <= k <= truth.ids.shape[1]:
        raise InputError(f"k {k} is outside 1 to {truth.ids.shape[1]}, the neighbours of each query in {name}")
    if not (truth.ids[:, :k] >= 0).any():
        raise InputError(f"{name} lists no neighbour of any query")


def _squared(distances: NDArray[np.float32], metric: Metric) -> Array:
    wide = distances.astype(np.float64)
    return np.square(wide) if metric is Metric.L2 else wide


def _among(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each of `ids` (nq, k), whether it is in the same row of `wanted` (nq, m)."""
    return np.stack([np.isin(ours, theirs) for ours, theirs in zip(ids, wanted, strict=True)])


def _is_first(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each of `ids` (nq, k), whether it is an id and none before it in its row is the same."""
    first = np.zeros(ids.shape, bool)
    for row, marks in zip(ids, first, strict=True):
        marks[np.unique(row, return_index=True)[1]] = True
    return first & (ids >= 0)


def _ties(ours: Array, theirs: Array, wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of our distances (nq, k) ties with the farthest true one of its query."""
    listed = (wanted >= 0).sum(axis=1, keepdims=True)
    # Padding comes last, so the farthest neighbour stands at the last listed place; a query without any ties nothing.
    kth = np.take_along_axis(theirs, np.maximum(listed - 1, 0), axis=1)
    near: NDArray[np.bool_] = np.abs(ours - kth) <= TIE * np.maximum(np.abs(ours), np.abs(kth))
    near &= listed > 0
    return near


def _tolerance(a: Array, b: Array, metric: Metric) -> Array:
    scale = np.maximum(np.abs(a), np.abs(b))
    # 1 - cos near 0 has, in most programs, the absolute error of a cosine, which is of the order of 1.
    floor = _AGREE / 10 if metric is Metric.COSINE else 0.0
    return np.where(np.isfinite(scale), np.maximum(_AGREE * scale, floor), 0.0)


def _in_our_unit(ids: NDArray[np.int64], ours: Array, truth: Truth, metric: Metric, name: str) -> Array | None:
    """The truth's distances (squared for l2), or None where nothing shows their unit, for no pair is in both."""
    if truth.distances is None:
        return None
    theirs = truth.distances.astype(np.float64)
    query, place, at = _common(ids, truth.ids)
    if not len(query):  # bits have no other unit, and ties so many that this may be
        return theirs if metric is Metric.HAMMING else None
    mine, given = ours[query, place], theirs[query, at]
    if _agree(mine, given, metric):
        return theirs
    if metric is Metric.L2 and _agree(mine, np.square(given), metric):
        return np.square(theirs)
    worst = int(np.argmax(np.abs(mine - given)))
    unit = "squared distance" if metric is Metric.L2 else "distance"
    raise InputError(
        f"{name} was likely made with another metric than {metric.value}: for query {query[worst]} and vector "
        f"{ids[query[worst], place[worst]]} it says {given[worst]:.6g}, the {unit} is {mine[worst]:.6g}"
    )


def _common(ids: NDArray[np.int64], listed: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Pairs in both, as query, place in `ids` (nq, k) and place in `listed` (nq, m)."""
    found = []
    for query, (ours, theirs) in enumerate(zip(ids, listed, strict=True)):
        same, place, at = np.intersect1d(ours, theirs, return_indices=True)
        real = same >= 0
        found.append((np.full(real.sum(), query), place[real], at[real]))
    query_, place_, at_ = (np.concatenate(part) for part in zip(*found, strict=True))
    return query_, place_, at_


def _agree(mine: Array, given: Array, metric: Metric) -> bool:
    with np.errstate(invalid="ignore"):
        close = np.abs(mine - given) <= _tolerance(mine, given, metric)
    return bool(close.mean() > _AGREEING)
