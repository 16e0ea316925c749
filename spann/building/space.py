"""The Euclidean space an index is clustered in: every metric is reduced to squared L2 there.

- l2: the vectors as they are. So under hamming: the squared distance of vectors of 0 and 1 is the bits that differ.
- cosine: the vectors divided by their length; sqdist = 2 - 2 cos, so the order is the same.
- ip: one coordinate more, sqrt(R^2 - |v|^2) with R the largest length, and 0 for queries; sqdist = |q|^2 + R^2 - 2 q.v
  (Bachrach et al., RecSys 2014, "Speeding up the Xbox recommender system", section 3), so nearest is largest product.

Only clustering and closure work here, block by block. An index stores the vectors as given, and queries are scored
against these by kernels that know the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.types import Array, Metric


@dataclass(frozen=True)
class Space:
    """The working space of one build.

    `max_norm` is R above, 0 except for ip. `origin` (source_dim,) float32 is subtracted from the vectors under l2. That
    changes no distance, but sums like |x|^2 - 2 x.c + |c|^2 cancel badly far from 0: at 10000 from it, recall@10 of
    unit Gaussians fell to 0.2. The origin is whole for integer types, which stay exact (docs/decisions/0024).
    """

    metric: Metric
    source_dim: int
    max_norm: float
    origin: NDArray[np.float32]

    @property
    def dim(self) -> int:
        """Dimension of the working vectors."""
        return self.source_dim + (self.metric is Metric.IP)

    def map(self, block: Array) -> NDArray[np.float32]:
        """Working vectors (n, dim) float32, a copy, of `block` (n, source_dim)."""
        x = np.empty((len(block), self.dim), np.float32)
        if self.metric.is_euclidean:
            np.subtract(block, self.origin, out=x)
            return x
        x[:, : self.source_dim] = block
        if self.metric is Metric.COSINE:
            x /= np.sqrt(_square_norms(x))[:, None]
        else:
            rest = self.max_norm**2 - _square_norms(x[:, : self.source_dim])
            x[:, -1] = np.sqrt(np.maximum(rest, 0))
        return x

    def plain(self, block: Array) -> NDArray[np.float32]:
        """The vectors (n, source_dim) float32 that are coded, for `block` (n, source_dim): as given or, under cosine,
        divided by their length. Centroids of postings with codes are points of this space."""
        return self.map(block) if self.metric is Metric.COSINE else block.astype(np.float32)


def middle(mean: NDArray[np.float64], sample: Array) -> NDArray[np.float64]:
    """A point among the vectors of `sample` (n, dim): their `mean`, or the median of each coordinate.

    A few vectors that are many times as long as the others draw the mean away from them. Measured from there, short
    vectors would lose their digits in float32. So the mean must not be farther from the median than most vectors are.
    """
    x = sample.astype(np.float64)
    median: NDArray[np.float64] = np.median(x, axis=0)
    radius = np.median(np.sqrt(_square_norms(x - median)))
    return median if np.linalg.norm(mean - median) > radius else mean


def _square_norms(x: Array) -> NDArray[np.float64]:
    """|x|^2 (n,), summed in float64."""
    norms: NDArray[np.float64] = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    return norms
