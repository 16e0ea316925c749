"""An exact model: what a search should return, computed in the plainest way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array, Metric


def exact_neighbours(
    base: Array, queries: Array, k: int, metric: Metric | str = Metric.L2
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k nearest rows of `base` (n, dim) for each of `queries` (nq, dim): ids int64 and distances float64 (nq, k).

    Distances are in the metric's own unit, as a search returns them: Euclidean for l2, 1 - cos for cosine, the inner
    product for ip, bits for hamming. Binary vectors are bool, or uint8 with 8 bits in each. Equal distances come in the
    order of row numbers. It computes one query at a time in float64, and takes the memory of a float64 copy of `base`.
    Raises `InputError` for a k outside 1 to n.
    """
    metric = Metric.parse(metric)
    if not 1 <= k <= len(base):
        raise InputError(f"k {k} is outside 1 to {len(base)}, the number of vectors")
    if metric is Metric.HAMMING and base.dtype == np.uint8:
        base, queries = np.unpackbits(base, axis=1), np.unpackbits(queries, axis=1)
    vectors = base.astype(np.float64)
    if metric is Metric.COSINE:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k))
    for i, query in enumerate(queries.astype(np.float64)):
        if metric is Metric.IP:
            order = -(vectors * query).sum(axis=1)
        elif metric is Metric.COSINE:
            order = np.square(vectors - query / np.linalg.norm(query)).sum(axis=1) / 2
        elif metric is Metric.HAMMING:
            order = (vectors != query).sum(axis=1).astype(np.float64)
        else:
            order = np.sqrt(np.square(vectors - query).sum(axis=1))
        ids[i] = np.argsort(order, kind="stable")[:k]
        distances[i] = order[ids[i]]
    return ids, -distances if metric is Metric.IP else distances
