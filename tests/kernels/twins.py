"""The kernels once more in numpy, slow and plain: what the native code is tested against.

Order of float sums, which makes results equal bit for bit: products are rounded to float32 before they are added, never
fused. In whole blocks of 16 elements, element i goes to lane i % 16. Then lanes 8, 4, 2 and 1 apart are folded
pairwise. The elements after the last whole block are added one by one. Integer sums are exact and rounded to float32
once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.elements import unpack
from spann.types import Array, Metric

LANES = 16

Floats = NDArray[np.float32]


def distances(query: Array, rows: Array, metric: Metric) -> Floats:
    """Twin of `spann._kernels.distances.score`; any integer type but uint16, which is bfloat16, takes the place of int8
    and uint8."""
    if metric is Metric.HAMMING:
        query, rows, metric = unpack(query[None], "bit")[0], unpack(rows, "bit"), Metric.L2
        return _sums((query ^ rows).astype(np.int64))
    if rows.dtype == np.uint16:
        rows = unpack(rows, "bfloat16")
    wide = np.int64 if np.issubdtype(rows.dtype, np.integer) else np.float32
    q: Array = query.astype(wide)
    v: Array = rows.astype(wide)
    if metric is Metric.L2:
        return _sums((q - v) * (q - v))
    dots = _sums(q * v)
    if metric is Metric.IP:
        return -dots
    squares = _sums(v * v)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squares > 0, -dots / np.sqrt(squares), np.float32(0))


def measures(query: Array, rows: Array, metric: Metric) -> NDArray[np.float64]:
    """Twin of `spann._kernels.distances.measure`: sums in float64, in the order of lanes above."""
    if rows.dtype == np.uint16:
        rows = unpack(rows, "bfloat16")
    whole = np.issubdtype(rows.dtype, np.integer)
    q, v = (x.astype(np.int64 if whole else np.float64) for x in (query, rows))
    if metric is Metric.L2:
        return _wide_sums((q - v) * (q - v))
    dots = _wide_sums(q * v)
    if metric is Metric.IP:
        return -dots
    qq, vv = _wide_sums((q * q)[None])[0], _wide_sums(v * v)
    with np.errstate(divide="ignore", invalid="ignore"):
        if whole:
            lengths = np.sqrt(qq * vv)
            exact = ((qq * vv).astype(np.int64) - np.square(dots.astype(np.int64))) / (lengths * (lengths + dots))
            distance = np.where(dots > 0, exact, 1 - dots / lengths)
        else:
            by_q, by_v = 1 / np.sqrt(qq), 1 / np.sqrt(vv)
            apart = q * by_q - v * by_v[:, None]
            chord = _wide_sums(apart * apart) / 2
            distance = 1 - dots * by_q * by_v
            distance = np.where(distance < 2.0**-10, np.where(chord < 2.0**-100, 0.0, chord), distance)
    return np.where((qq > 0) & (vv > 0), distance, 1.0)


def settled(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to 44 bits, as ext/c/search/sieve.h does before it ranks them."""
    bits = distances.view(np.uint64)
    return (bits + np.uint64(0x80) & ~np.uint64(0xFF)).view(np.float64)


def dot_tile(rows: Floats, tile: Floats) -> Floats:
    """Twin of `spann._kernels.distances.dot_tile`: every sum runs over the dimensions in order."""
    out = np.zeros((len(rows), tile.shape[1]), np.float32)
    for j in range(rows.shape[1]):
        out += rows[:, j : j + 1] * tile[j]
    return out


def closure(
    sqdist: Floats, centroids: Floats, *, near: int, replicas: int, reach: float, rng: float
) -> tuple[NDArray[np.uint32], Floats, NDArray[np.uint32]]:
    """Twin of `spann._kernels.clustering.closure`: (chosen, their sqdist, counts), unused places are 0.

    For each row, the `near` nearest candidates by (sqdist, number) are looked at in that order, up to `reach` times the
    nearest's sqdist. One is passed over if an accepted a has rng * sqdist(a, it) <= sqdist(row, it). The first
    `replicas` accepted stay.
    """
    n = len(sqdist)
    chosen = np.zeros((n, replicas), np.uint32)
    chosen_sqdist = np.zeros((n, replicas), np.float32)
    counts = np.zeros(n, np.uint32)
    for i, row in enumerate(np.maximum(sqdist, np.float32(0))):
        ranked = np.argsort(row, kind="stable")[:near]
        limit = row[ranked[0]] * np.float32(reach)
        accepted: list[int] = []
        for c in ranked.tolist():
            if len(accepted) == replicas or row[c] > limit:
                break
            between = distances(centroids[c], centroids[accepted], Metric.L2)
            if not (np.float32(rng) * between <= row[c]).any():
                accepted.append(c)
        counts[i] = len(accepted)
        chosen[i, : len(accepted)] = accepted
        chosen_sqdist[i, : len(accepted)] = row[accepted]
    return chosen, chosen_sqdist, counts


def arrange(x: Floats, lengths: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Twin of `spann._kernels.postings.arrange`, which leaves `x` alone. Sums over rows run in their order."""
    order = np.arange(len(x))
    start = 0
    for n in lengths.tolist():
        inside = bounds[(bounds > start) & (bounds < start + n)] - start
        order[start : start + n] = start + _halved(x[start : start + n], inside)
        start += n
    return order


def _halved(x: Floats, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order of the rows of one posting, or a part of it."""
    order = np.arange(len(x))
    if len(bounds) == 0:
        return order
    left = int(bounds[np.argmin(np.abs(2 * bounds - len(x)))])
    mean = (_running(x.astype(np.float64)) / len(x)).astype(np.float32)
    farthest = np.argmax(distances(mean, x, Metric.L2))
    x = x - mean
    axis = _direction(x[farthest])
    if axis is None:
        return order
    for _ in range(6):
        along = distances(axis, x, Metric.IP)
        most = np.abs(along).max()
        following = _direction(_running(-(along / most)[:, None] * x)) if most else None
        if following is None:
            break
        axis = following
    order = np.argsort(distances(axis, x, Metric.IP), kind="stable")
    for _ in range(4):
        axis = _direction(_running(x[order[:left]]))
        if axis is None:
            break
        order = np.argsort(distances(axis, x, Metric.IP), kind="stable")
    first = _halved(x[order[:left]], bounds[bounds < left])
    last = _halved(x[order[left:]], bounds[bounds > left] - left)
    return np.concatenate([order[:left][first], order[left:][last]])


def _running(terms: Array) -> Array:
    """Sums over the first axis, one term after the other."""
    total: Array = np.cumsum(terms, axis=0)[-1]
    return total


def _direction(total: Floats) -> Floats | None:
    wide = total.astype(np.float64)
    length = np.cumsum(wide * wide)[-1]
    return None if length == 0 else (wide * (1 / np.sqrt(length))).astype(np.float32)


def _sums(terms: Floats) -> Floats:
    """Sums over the last axis of (n, dim) terms, in the order given above."""
    if np.issubdtype(terms.dtype, np.integer):
        exact: Array = terms.sum(axis=1)
        return exact.astype(np.float32)
    total: Floats = _in_lanes(terms)
    return total


def _wide_sums(terms: Array) -> NDArray[np.float64]:
    """The same as float64, in which integers stay exact."""
    if np.issubdtype(terms.dtype, np.integer):
        exact: NDArray[np.float64] = terms.sum(axis=1).astype(np.float64)
        return exact
    return _in_lanes(terms)


def _in_lanes(terms: Array) -> Array:
    n, dim = terms.shape
    blocks = dim // LANES
    lanes = np.zeros((n, LANES), terms.dtype)
    for b in range(blocks):
        lanes += terms[:, b * LANES : (b + 1) * LANES]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    total: Array = lanes[:, 0]
    for j in range(blocks * LANES, dim):
        total = total + terms[:, j]
    return total
