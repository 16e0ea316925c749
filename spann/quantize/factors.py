"""Whether codes follow from the vectors they are of, as docs/FORMAT.md, Quantiser, says they must."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.quantize.fields import unpack
from spann.quantize.rabitq import Floats, Quantizer
from spann.types import Metric

HALF_STEP = 0.51
"""Steps by which a factor may be off that is rounded to one."""

ROUNDING = 2e-5
"""Share of its terms by which a sum in float32 may be off."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""Squared length of a residual below which its code stands for no direction."""


@dataclass(frozen=True, eq=False)
class Entries:
    """Some entries of a posting as they are stored: codes (n, bytes), add and scale (n,), and its header (5,)."""

    codes: NDArray[np.uint8]
    add: NDArray[np.uint16]
    scale: NDArray[np.uint16]
    header: Floats


@dataclass(frozen=True, eq=False)
class Proof:
    """What was seen of some entries.

    - ``wrong``: the first whose factors do not follow from its vector, -1 if all do; ``what`` names the factor.
    - ``cosines``: the sum of the cosines between residuals and their codes, over ``counted`` entries.
    """

    wrong: int
    what: str
    cosines: float
    counted: int


def prove(quantizer: Quantizer, x: Floats, centroid: Floats, entries: Entries) -> Proof:
    """Compares `entries` with the vectors `x` (n, dim) of the coded space around `centroid` (dim,)."""
    inner = quantizer.metric is Metric.IP
    a_low, a_step, s_low, s_step, error = entries.header.astype(np.float64)
    r = quantizer.rotate(x - centroid).astype(np.float64)
    c = quantizer.rotate((centroid - quantizer.origin)[None])[0].astype(np.float64)
    u = unpack(entries.codes, quantizer.padded_dim, quantizer.bits) - (2**quantizer.bits - 1) / 2
    norm, size, along = _dots(r, r), _dots(u, u), _dots(u, r)
    some = norm >= SMALLEST
    s = np.divide(norm, along, out=np.zeros(len(r)), where=some & (along > 0))
    factor = s if inner else 2 * s
    stored = s_low + s_step * entries.scale
    bad_scale = np.abs(stored - factor) > HALF_STEP * s_step + ROUNDING * (np.abs(factor) + abs(s_low))
    cross = u @ c if error >= 0 else np.zeros(len(r))
    start = -(r @ c) if inner else norm
    add = start + stored * cross
    terms = np.abs(start) + (stored * np.sqrt(size) + np.sqrt(norm) * inner) * np.sqrt(c @ c) * (error >= 0 or inner)
    bad_add = np.abs(a_low + a_step * entries.add - add) > HALF_STEP * a_step + ROUNDING * (terms + abs(a_low))
    left = np.where(some[:, None], u - r / np.where(s > 0, s, 1)[:, None], 0)
    bad_error = np.sqrt(_dots(left, left) / (quantizer.padded_dim - 1)) > abs(error) * (1 + 1e-3) + ROUNDING
    cosines = along[some] / np.sqrt(norm[some] * size[some])
    for bad, what in ((bad_scale, "scale"), (bad_add, "add"), (bad_error, "error")):
        if bad.any():
            return Proof(int(np.argmax(bad)), what, float(cosines.sum()), int(some.sum()))
    return Proof(-1, "", float(cosines.sum()), int(some.sum()))


def _dots(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The products (n,) of the rows of `a` with those of `b`, (n, d) both."""
    found: NDArray[np.float64] = np.einsum("ij,ij->i", a, b)
    return found
