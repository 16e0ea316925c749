"""The centroids of an index: vectors of the collection that represent the others, or means.

In an index without codes a representative saves an entry, and is a result by itself. With codes and without replicas
the mean is nearer to the coded vectors, and no vector is kept twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.space import Space
from spann.types import Array, Metric
from spann.vectors import VectorSource

HALF_ERROR = 1e-3
"""Centroids become float16 if that moves them by at most this share of their distance from their mean, in the root mean
square. The cost is a longer residual. Squares add: even at the limit, the error of a code whose residual is a tenth of
that distance grows by 0.005 %."""

HALF_RANGE = 32_768
"""Largest coordinate that may become float16. float16 ends at 65504."""

BLOCK = 4096
"""Centroids that are read at a time."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Centroids:
    """Centroids as stored, and their places in the working space.

    - ``vectors`` (centroids, source_dim), no two equal: in the type of the collection, float16 or float32.
    - ``rows`` (centroids,) int64, ascending: the position of each in tree order; None for means.
    - ``lift`` (centroids,) float32: the last working coordinate under ip, if `vectors` do not determine it.
    - ``given``: whether they are vectors of the collection, which are in no posting.
    """

    space: Space
    vectors: Array
    rows: NDArray[np.int64] | None
    lift: Floats | None
    given: bool

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def middle(self) -> Floats:
        """A point (source_dim,) near the mean of the coded vectors, from which codes are measured. Under ip it is 0,
        because any other would change products."""
        if self.space.metric is Metric.L2:
            return self.space.origin
        if self.space.metric is Metric.IP:
            return np.zeros(self.space.source_dim, np.float32)
        mean: Floats = self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def working(self, numbers: NDArray[np.int64] | slice) -> Floats:
        """Working vectors (n, space.dim) of the numbered centroids."""
        vectors = self.vectors[numbers]
        if self.lift is not None:
            lifted = np.empty((len(vectors), self.space.dim), np.float32)
            lifted[:, :-1], lifted[:, -1] = vectors, self.lift[numbers]
            return lifted
        if self.space.metric is Metric.COSINE and not self.given:
            return vectors.astype(np.float32)
        return self.space.map(vectors)


def represent(
    source: VectorSource, space: Space, rows: NDArray[np.int64], *, given: bool
) -> tuple[Centroids, NDArray[np.int64], NDArray[np.int64]]:
    """Centroids that are the vectors at `rows` (leaves,) of `source`, `given` as they are or as working vectors.

    Also returns the leaf of each centroid, ascending, and the number of the centroid of each leaf."""
    if given:
        return _merged(space, source.take(rows), rows, None, given=True)
    vectors, lift = _points(space.map(source.take(rows)), space, source.dtype)
    return _merged(space, vectors, rows, lift, given=False)


def around(means: Floats, space: Space, dtype: np.dtype[Any]) -> tuple[Centroids, NDArray[np.int64], NDArray[np.int64]]:
    """The same with `means` (leaves, space.dim) of working vectors, of a collection of `dtype`."""
    vectors, lift = _points(means, space, dtype)
    return _merged(space, vectors, None, lift, given=False)


def _points(points: Floats, space: Space, dtype: np.dtype[Any]) -> tuple[Array, Floats | None]:
    """Working vectors as they are stored, and their last coordinates under ip."""
    lift = np.ascontiguousarray(points[:, -1]) if space.metric is Metric.IP else None
    plain = points[:, : space.source_dim]
    return _stored(plain + space.origin if space.metric is Metric.L2 else plain, dtype, space.metric), lift


def _merged(
    space: Space, vectors: Array, rows: NDArray[np.int64] | None, lift: Floats | None, *, given: bool
) -> tuple[Centroids, NDArray[np.int64], NDArray[np.int64]]:
    """Leaves with equal centroids share one. Copies belong in one chain of postings, and a navigation graph with copies
    among its nodes falls apart: their distances are zero, so pruning keeps one edge."""
    keep, centroid_of = _distinct(vectors)
    rows = None if rows is None else rows[keep]
    lift = None if lift is None else lift[keep]
    return Centroids(space, vectors[keep], rows, lift, given), keep, centroid_of


def _stored(points: Floats, dtype: np.dtype[Any], metric: Metric) -> Array:
    """`points` (n, dim) in the smallest type that keeps them near enough."""
    if metric is Metric.L2 and dtype.kind in "iu":
        return np.rint(points).astype(dtype)
    if max(abs(float(points.max())), abs(float(points.min()))) > HALF_RANGE:
        return points
    half = points.astype(np.float16)
    mean = points.mean(axis=0, dtype=np.float64)
    moved = spread = 0.0
    for start in range(0, len(points), BLOCK):
        part = points[start : start + BLOCK]
        moved += float(np.square(half[start : start + BLOCK] - part, dtype=np.float64).sum())
        spread += float(np.square(part - mean).sum())
    return half if moved <= HALF_ERROR**2 * spread else points


def _distinct(vectors: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first position of each distinct row, ascending, and for each row the number of the equal one among these.

    Rows are compared as bytes; adding 0 makes -0.0 the 0.0 that it equals.
    """
    keys = (
        np.ascontiguousarray(vectors + vectors.dtype.type(0))
        .view(np.dtype((np.void, vectors.shape[1] * vectors.itemsize)))
        .ravel()
    )
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    keep = np.sort(first)
    return keep, np.searchsorted(keep, first)[inverse]
