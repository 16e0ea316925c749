"""Shapes of postings: the directions in which the vectors of each spread most, as codes (docs/DESIGN.md, Shapes)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.format.shapes import shape_record
from spann.quantize import Quantizer
from spann.types import Array, Metric

ROUNDS = 4
"""Steps of subspace iteration. A search of 1M SIFT for recall@10 0.95 takes 68.6 postings, 68.5 with exact
directions."""

TOGETHER_BYTES = 8 << 20
"""Bytes of the residuals that are worked on at once."""

Floats = NDArray[np.float32]


def shapes_of(
    residuals: Floats,
    lengths: NDArray[np.int64],
    working: Floats,
    plain: Floats,
    *,
    quantizer: Quantizer,
    directions: int,
    far: NDArray[np.bool_],
) -> Array:
    """Shapes (p,), records of `shape_record`, of p postings with `lengths` (p,) vectors each.

    `residuals` (n, d) of the vectors to their centroids, in the working space, where the centroids are `working` (p,
    d). Codes are made around the centroids `plain` (p, quantizer.dim). The codes of postings that are `far` (p,) are
    measured from their centroid, like those of their vectors.
    """
    out = np.zeros(len(lengths), shape_record(quantizer.dim, quantizer.bits, directions))
    ends, dim = np.cumsum(lengths), quantizer.dim
    together = max(1, TOGETHER_BYTES // (4 * dim * max(directions, int(lengths.max(initial=0)))))
    for first in range(0, len(lengths), together):
        some = slice(first, first + together)
        rows = residuals[ends[first] - lengths[first] : ends[some][-1]]
        axes, spread, rest = _principal(rows, lengths[some], directions)
        around = (plain[some, None] + axes[:, :, :dim]).reshape(-1, dim).astype(np.float32)
        codes = quantizer.encode(around, plain[some], np.full(len(axes), directions, np.int64), far=far[some])
        part = out[some]
        part["header"], part["spread"], part["rest"] = codes.headers, spread, rest
        if quantizer.metric is Metric.IP:
            part["offsets"] = -np.einsum("prd,pd->pr", axes, working[some])
        else:
            part["offsets"] = np.einsum("prd,prd->pr", axes, axes) / 2
        part["add"], part["scale"] = codes.add.reshape(-1, directions), codes.scale.reshape(-1, directions)
        part["codes"] = codes.codes.reshape(len(axes), directions, -1)
        part[lengths[some] == 0] = np.zeros((), part.dtype)
    return out


def _principal(rows: Floats, lengths: NDArray[np.int64], directions: int) -> tuple[Floats, Floats, Floats]:
    """The main directions of the residuals in `rows`; posting i has ``lengths[i]``. Returns the `directions`
    of the largest variance, each as long as its standard deviation (p, directions, d); the mean squared length (p,);
    and the rest of it for each dimension (p,). Found by subspace iteration (Halko et al., SIAM Review 2011, algorithm
    4.4), from one start for all."""
    dim, count = rows.shape[1], np.maximum(lengths, 1)[:, None, None].astype(np.float32)
    x = np.zeros((len(lengths), max(1, int(lengths.max())), dim), np.float32)
    x[np.arange(x.shape[1]) < lengths[:, None]] = rows
    unit = np.maximum(np.abs(x).max(axis=(1, 2), keepdims=True), np.float32(1e-30))  # squares of squares stay finite
    x /= unit
    found = min(directions, dim)
    start = np.random.Generator(np.random.PCG64(0)).standard_normal((dim, found), np.float32)
    basis = np.broadcast_to(start, (len(lengths), dim, found))
    for _ in range(ROUNDS):
        basis = np.linalg.qr(x.transpose(0, 2, 1) @ (x @ basis))[0]
    along = x @ basis
    variance, turn = np.linalg.eigh(along.transpose(0, 2, 1) @ along / count)
    variance = np.maximum(variance, 0)
    axes = np.zeros((len(lengths), directions, dim), np.float32)
    axes[:, :found] = (basis @ turn * np.sqrt(variance)[:, None]).transpose(0, 2, 1)[:, ::-1]
    spread = np.einsum("pnd,pnd->p", x, x) / count[:, 0, 0]
    rest = np.maximum(spread - variance.sum(axis=1), 0) / dim
    square = np.square(unit[:, 0, 0])
    return axes * unit, spread * square, rest * square
