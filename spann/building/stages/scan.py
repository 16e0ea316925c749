"""Stage "scan": reads every vector once, refuses what cannot be searched, and finds the working space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.building.parallel import ordered_map
from spann.building.space import Space, middle
from spann.errors import InputError
from spann.types import Array, Metric, Progress
from spann.vectors import SMALLEST_SQNORM, VectorSource, check_finite, check_lengths

SAMPLE, SAMPLE_BYTES = 1024, 8 << 20
"""Vectors, about, that tell whether the mean lies among the others (`space.middle`), and their bytes at most."""


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

    sampled = max(1, min(SAMPLE, SAMPLE_BYTES // (4 * source.dim)))
    stride = max(1, source.count // sampled)

    def check(start: int) -> tuple[int, int, float, NDArray[np.float64], Array]:
        block = source.read(start, min(start + rows, source.count))
        check_finite(block, start, source.name)
        directions = metric is Metric.COSINE
        largest = check_lengths(block, start, source.name, directions=directions) if needs_norms else 0.0
        some = block[-start % stride :: stride].astype(np.float32)
        return len(block), crc32c(block), largest, block.sum(axis=0, dtype=np.float64), some

    sqnorm, total, done, crc = 0.0, np.zeros(source.dim), 0, 0
    sample: list[Array] = []
    for count, block_crc, largest, block_sum, some in ordered_map(check, range(0, source.count, rows), threads):
        sample.append(some)
        crc = crc32c(block_crc.to_bytes(4, "little"), crc)
        sqnorm, total, done = max(sqnorm, largest), total + block_sum, done + count
        progress("scan", done, source.count)
    if alone and needs_norms and 0 < sqnorm < SMALLEST_SQNORM:
        raise InputError(
            f"the longest vector of {source.name} has squared length {sqnorm:.3g}; it must be at least "
            f"{SMALLEST_SQNORM:.0e}, below which float32 keeps no distances: scale the vectors up"
        )
    origin = middle(total / source.count, np.concatenate(sample))
    if source.dtype.kind in "biu":
        origin = np.rint(origin)
    largest_norm = float(np.sqrt(sqnorm)) if metric is Metric.IP else 0.0
    return Space(metric, source.dim, largest_norm, origin.astype(np.float32)), crc
