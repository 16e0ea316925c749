"""The Euclidean space an index is clustered in: every metric is reduced to squared L2 there.

- l2: the vectors as they are. So under hamming: the squared distance of vectors of 0 and 1 is the bits that differ.
- cosine: the vectors divided by their length; sqdist = 2 - 2 cos, so the order is the same.
- ip: one coordinate more, sqrt(R^2 - |v|^2) with R the largest length, and 0 for queries; sqdist = |q|^2 + R^2 - 2 q.v
  (Bachrach et al., RecSys 2014, "Speeding up the Xbox recommender system", section 3), so nearest is largest product.

Only clustering and closure work here, block by block; what is stored and what queries are scored against are the
vectors as given, by kernels that know the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.build.parallel import ordered_map
from spann.errors import InputError
from spann.types import Array, Metric, Progress
from spann.vectors import SMALLEST_SQNORM, VectorSource, check_finite, check_lengths


@dataclass(frozen=True)
class Space:
    """The working space of one build.

    `max_norm` is R above, 0 except for ip. `origin` (source_dim,) float32 is subtracted from the vectors under l2; it
    changes no distance there, but sums like |x|^2 - 2 x.c + |c|^2 cancel badly far from 0 (at 10000 from it, recall@10
    of unit Gaussians fell to 0.2). It is whole for integer types, which stay exact.
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
        """What codes are made of, (n, source_dim) float32, of `block` (n, source_dim): the vectors as given or, under
        cosine, divided by their length. Centroids of postings with codes are points of this space."""
        return self.map(block) if self.metric is Metric.COSINE else block.astype(np.float32)


def scan(
    source: VectorSource, metric: Metric, threads: int, progress: Progress, *, alone: bool = True
) -> tuple[Space, int]:
    """Reads every vector once: refuses what cannot be searched, naming the row, and finds origin and largest length.

    Also returns a checksum of the vectors, by which the same ones are known again.

    Raises `InputError` for NaN, infinity, lengths that overflow float32 and, under cosine, zero vectors; where these
    vectors are the index `alone`, also if all are so short that their squares underflow float32.
    """
    needs_norms = not metric.is_euclidean or source.dtype.kind == "f"
    rows = max(1, (8 << 20) // source.row_bytes)

    def check(start: int) -> tuple[int, int, float, NDArray[np.float64]]:
        block = source.read(start, min(start + rows, source.count))
        check_finite(block, start, source.name)
        directions = metric is Metric.COSINE
        largest = check_lengths(block, start, source.name, directions=directions) if needs_norms else 0.0
        return len(block), crc32c(block), largest, block.sum(axis=0, dtype=np.float64)

    sqnorm, total, done, crc = 0.0, np.zeros(source.dim), 0, 0
    for count, block_crc, largest, block_sum in ordered_map(check, range(0, source.count, rows), threads):
        crc = crc32c(block_crc.to_bytes(4, "little"), crc)
        sqnorm, total, done = max(sqnorm, largest), total + block_sum, done + count
        progress("scan", done, source.count)
    if alone and needs_norms and 0 < sqnorm < SMALLEST_SQNORM:
        raise InputError(
            f"the longest vector of {source.name} has squared length {sqnorm:.3g}; it must be at least "
            f"{SMALLEST_SQNORM:.0e}, below which float32 keeps no distances: scale the vectors up"
        )
    origin = total / source.count
    if source.dtype.kind in "biu":
        origin = np.rint(origin)
    largest_norm = float(np.sqrt(sqnorm)) if metric is Metric.IP else 0.0
    return Space(metric, source.dim, largest_norm, origin.astype(np.float32)), crc


def _square_norms(x: Array) -> NDArray[np.float64]:
    """|x|^2 (n,), summed in float64."""
    norms: NDArray[np.float64] = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    return norms
