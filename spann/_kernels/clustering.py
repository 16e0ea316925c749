"""Balanced clustering and closure assignment: the checked doors to ext/c/building/cluster.c."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _cluster
from spann.errors import InputError

_BAD_SIMD = -2

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tree:
    """A region in tree order: neighbouring leaves are neighbours in space.

    - ``leaf_end`` (leaves,) uint32: where each leaf's rows end.
    - ``leaf_rep`` (leaves,) uint32: position of the row nearest to the leaf's mean.
    - ``leaf_group`` (leaves,) uint32: ascending number of the small subtree a leaf belongs to.
    """

    leaf_end: NDArray[np.uint32]
    leaf_rep: NDArray[np.uint32]
    leaf_group: NDArray[np.uint32]


def cluster(
    x: Floats,
    rows: NDArray[np.int64],
    *,
    leaves: int,
    group_rows: int,
    iterations: int,
    balance: float,
    slack: float,
    seed: int,
) -> Tree:
    """Hierarchical balanced k-means of `x` (n, dim) into at most `leaves` clusters (SPANN section 3.2.1).

    `x` and `rows` (n,) are permuted in place, together, into tree order. Fewer leaves come back only if vectors are
    identical: such a node is one leaf. Raises `InputError` for sizes that do not match, and `MemoryError`.
    """
    n = _checked(x)
    if rows.shape != (n,):
        raise InputError(f"{n} vectors come with {rows.shape} row numbers")
    if not 1 <= leaves <= n:
        raise InputError(f"leaves is {leaves}; it must be from 1 to {n}, the number of vectors")
    ends, reps, groups = (np.empty(leaves, np.uint32) for _ in range(3))
    made = _cluster.cluster(
        x, rows, leaves, group_rows, iterations, balance, slack, seed & (2**64 - 1), ends, reps, groups
    )
    _raise_for(made)
    return Tree(ends[:made], reps[:made], groups[:made])


def balanced_kmeans(x: Floats, k: int, *, iterations: int, balance: float, seed: int) -> tuple[Floats, Floats]:
    """Centres (k, dim) and weights (k,) of a balanced k-means of `x` (n, dim), k <= n.

    The cell of a point minimises sqdist + weight. Raises `InputError`, `MemoryError`.
    """
    n = _checked(x)
    if not 1 <= k <= n:
        raise InputError(f"k is {k}; it must be from 1 to {n}, the number of vectors")
    centres, weights = np.empty((k, x.shape[1]), np.float32), np.empty(k, np.float32)
    _raise_for(_cluster.balanced_kmeans(x, iterations, balance, seed & (2**64 - 1), centres, weights))
    return centres, weights


def closure(
    sqdist: Floats, centroids: Floats, *, near: int, replicas: int, reach: float, rng: float
) -> tuple[NDArray[np.uint32], Floats, NDArray[np.uint32]]:
    """Closure assignment with the RNG rule (SPANN section 3.2.2) of n rows over m candidate centroids.

    `sqdist` is (n, m). `centroids` (m, dim) may have strided rows. Returns candidate numbers (n, replicas), their
    sqdist, and how many of them count, (n,), at least 1. Raises `InputError`, `MemoryError`.
    """
    n, m = sqdist.shape
    if n == 0 or m == 0 or centroids.shape[0] != m or centroids.strides[1] != 4:
        raise InputError(f"closure of {n} rows over {m} candidates with {centroids.shape} centroids")
    chosen = np.zeros((n, replicas), np.uint32)
    chosen_sqdist = np.zeros((n, replicas), np.float32)
    counts = np.empty(n, np.uint32)
    _raise_for(_cluster.closure(sqdist, centroids, near, reach, rng, chosen, chosen_sqdist, counts))
    return chosen, chosen_sqdist, counts


def _checked(x: Floats) -> int:
    if x.ndim != 2 or x.size == 0 or x.dtype != np.float32 or not x.flags.c_contiguous or len(x) >= 2**32:
        raise InputError(f"clustering needs a C-contiguous (n, dim) float32 array, not {x.shape} {x.dtype}")
    return len(x)


def _raise_for(status: int) -> None:
    if status == _BAD_SIMD:
        raise InputError("SPANN_SIMD names a level that is unknown or that this processor lacks")
    if status < 0:
        raise MemoryError("out of memory in clustering")
