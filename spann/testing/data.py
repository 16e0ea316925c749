"""Data that is as hard as real embeddings, and the same for everyone with the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spann.errors import InputError
from spann.types import Array, element_type

_SHAPES = 16
"""Different covariances. Clusters share them, because a covariance for each cluster would take more memory than the
data."""

_SPREAD = 3.5
"""Standard deviations from the mean that the range of an integer type covers. Values beyond are clipped."""


def clustered(n: int, dim: int, queries: int, seed: int = 0, dtype: DTypeLike = np.float32) -> tuple[Array, Array]:
    """`n` vectors and `queries` more from the same distribution: (n, dim) and (queries, dim) arrays of `dtype`.

    They are a mixture of overlapping Gaussians, like embeddings. Cluster sizes follow a power law, and clusters differ
    in width. Each is stretched along few directions: about a third of `dim`, at most 24. Integer types take the values
    scaled to their range and clipped. The rows are in random order. Takes float32 copies of the data as memory. Raises
    `InputError` for numbers below 1 (`queries`: 0) or another `dtype`.
    """
    kind = element_type(dtype, "clustered data")
    if n < 1 or dim < 1 or queries < 0:
        raise InputError(f"{n} vectors of dimension {dim} and {queries} queries cannot be: at least 1, 1 and 0")
    rng = np.random.Generator(np.random.PCG64(seed))
    vectors = _mixture(rng, n + queries, dim)
    values = _as_type(vectors, kind)
    return values[:n], values[n:]


def _mixture(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    clusters = max(1, round(count**0.6))
    intrinsic = max(1, min(24, dim // 3))
    shares = 1 / np.arange(1, clusters + 1) ** 0.8
    member = rng.choice(clusters, count, p=shares / shares.sum())
    # Centres lie in a subspace of their own: distances between clusters then vary as much as those within.
    plane = rng.standard_normal((min(dim, 2 * intrinsic), dim), np.float32)
    centres = rng.standard_normal((clusters, len(plane)), np.float32) @ plane / np.float32(len(plane) ** 0.5)
    width = rng.lognormal(-0.3, 0.4, clusters).astype(np.float32)
    shape = rng.integers(_SHAPES, size=clusters)
    decay = np.arange(1, intrinsic + 1, dtype=np.float32) ** np.float32(-0.7)
    decay /= np.linalg.norm(decay)
    out = centres[member]
    for number in range(_SHAPES):
        directions = rng.standard_normal((intrinsic, dim), np.float32) * decay[:, None]
        rows = np.flatnonzero(shape[member] == number)
        offsets = rng.standard_normal((len(rows), intrinsic), np.float32) @ directions
        out[rows] += offsets * width[member[rows], None]
    out += rng.standard_normal(out.shape, np.float32) * np.float32(0.05)
    return out


def _as_type(vectors: NDArray[np.float32], kind: np.dtype[Any]) -> Array:
    if kind.kind == "f":
        floats: Array = vectors.astype(kind, copy=False)
        return floats
    limits = np.iinfo(kind.name)
    mean, deviation = vectors.mean(), vectors.std()
    middle = (int(limits.min) + int(limits.max)) / 2
    scaled = (vectors - mean) * np.float32((int(limits.max) - middle) / (_SPREAD * deviation or 1)) + np.float32(middle)
    whole: Array = np.clip(np.rint(scaled), limits.min, limits.max).astype(kind)
    return whole
