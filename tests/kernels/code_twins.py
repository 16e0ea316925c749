"""The code kernels in plain numpy. Tests compare ext/c/kernels/codes.c with them, bit for bit.

All floats are float32, and products are rounded before they are added. Sums over dimensions run as in
tests/kernels/twins.py: element i goes to lane i % 16, and lanes 8, 4, 2 and 1 apart are folded pairwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels.codes import FAR, padded_dim
from spann._kernels.postings import HEADER
from spann.quantize.fields import places, planes
from spann.quantize.fields import unpack as unpack
from spann.types import Array

TINY = np.finfo(np.float32).tiny
STEPS = 16
REFINEMENTS = 4
RANGE = {2: (0.8, 2.4), 3: (0.8, 1.9), 4: (0.8, 1.6), 8: (0.9, 1.02)}
"""Scales to try, in multiples of the scale that clips no coordinate."""
SPREAD = {1: 0.5, 2: 0.94, 3: 1.69, 4: 3.05, 8: 41.0}

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
f32 = np.float32


def pack(values: Bytes, bits: int) -> Bytes:
    """Code rows of values (n, padded) in [0, 2^bits - 1]."""
    rows = []
    for b, shift in planes(bits):
        fields = (values[:, places(values.shape[1], b)] >> shift & (1 << b) - 1).reshape(len(values), -1, 8 // b)
        rows.append((fields << np.arange(0, 8, b)).sum(2).astype(np.uint8))
    return np.ascontiguousarray(np.concatenate(rows, 1))


def rotate(x: Floats, signs: Bytes) -> Floats:
    """Twin of `spann._kernels.codes.rotate`."""
    padded = padded_dim(x.shape[1])
    block, half = 1 << padded.bit_length() - 1, padded // 2
    out = np.zeros((len(x), padded), np.float32)
    out[:, : x.shape[1]] = x
    for i, row in enumerate(signs):
        out = np.where(np.unpackbits(row, bitorder="little").astype(bool), -out, out)
        start = padded - block if i % 2 else 0
        out[:, start : start + block] = hadamard(out[:, start : start + block] * (f32(1) / np.sqrt(f32(block))))
        if block < padded and i % 2:
            a, b = out[:, :half], out[:, half:]
            out = np.concatenate([a + b, a - b], 1) * f32(np.sqrt(0.5))
    return out


def hadamard(x: Floats) -> Floats:
    """Unnormalised Hadamard transform of rows (n, power of 2): butterflies 1, 2, 4, ... apart."""
    h = 1
    while h < x.shape[1]:
        pairs = x.reshape(len(x), -1, 2, h)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        x = np.stack([a + b, a - b], 2).reshape(x.shape)
        h *= 2
    return x


@dataclass(frozen=True)
class TwinQuery:
    """Twin of `spann._kernels.codes.CodeQuery`; x (padded,) int64 in the order of dimensions."""

    x: NDArray[np.int64]
    step: np.float32
    offset: np.float32
    noise: np.float32


def prepare(rotated: Floats, bits: int) -> TwinQuery:
    """Twin of `spann._kernels.codes.prepare`, from the rotated query on."""
    most, limit = np.abs(rotated).max(), largest_of(rotated.size, bits)
    inverse, step = (f32(0), f32(0)) if most < TINY else (limit / most, most / limit)
    x = np.rint(rotated * inverse).astype(np.int64)
    offset = -(step * (f32(2**bits - 1) * f32(0.5))) * f32(x.sum())
    return TwinQuery(x, step, offset, noise_of(step, rotated.size, bits))


def largest_of(padded: int, bits: int) -> np.float32:
    """The largest integer of a query."""
    return f32(min(8191, (2**31 - 1) // (255 * padded)) if bits == 8 else 127)


def noise_of(step: np.float32, padded: int, bits: int) -> np.float32:
    """Standard deviation of what the rounding of a query to multiples of `step` does."""
    noise: np.float32 = step * f32(SPREAD[bits]) * np.sqrt(f32(padded) / f32(12))
    return noise


def dots(query: TwinQuery, values: Bytes) -> NDArray[np.int64]:
    """Twin of `CodeQuery.dots`, of unpacked codes (n, padded)."""
    out: NDArray[np.int64] = values.astype(np.int64) @ query.x
    return out


def estimate(
    query: TwinQuery,
    values: Bytes,
    add: NDArray[np.uint16],
    scale: NDArray[np.uint16],
    header: Floats,
    base: np.float32,
) -> Floats:
    """Twin of `CodeQuery.estimate`, for one posting of unpacked codes."""
    a_low, a_step, s_low, s_step, _ = header
    a, s = a_low + a_step * add.astype(np.float32), s_low + s_step * scale.astype(np.float32)
    out: Floats = (base + a) - s * (query.step * dots(query, values).astype(np.float32) + query.offset)
    return out


def encode(
    x: Floats,
    centroid: Floats,
    *,
    origin: Floats,
    signs: Bytes,
    bits: int,
    inner_product: bool,
    far: bool | None = None,
) -> tuple[Bytes, NDArray[np.uint16], NDArray[np.uint16], Floats]:
    """Twin of `spann._kernels.codes.encode`, for one posting; values (n, padded) in place of packed codes."""
    c = rotate((centroid - origin)[None], signs)
    r = rotate(x - centroid, signs)
    a = np.abs(r)
    norm = _sums(r * r)
    zero = norm < TINY
    size = np.full(r.shape, 0.5, np.float32)
    if bits > 1 and not zero.all():
        size[~zero] = _levels(a[~zero], best_scale(a[~zero], bits), bits)
    u = np.where(r < 0, -size, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = norm / _sums(size * a)
        left = u - r * (f32(1) / s)[:, None]
        error = np.sqrt(_sums(left * left) / f32(r.shape[1] - 1))
    factor = np.where(zero, f32(0), s if inner_product else f32(2) * s)
    header = np.empty(HEADER, np.float32)
    header[4] = np.where(zero, f32(0), error).max()
    cross = _sums(u * c)
    if far is None:
        radius = np.sqrt(np.cumsum(norm, dtype=np.float32)[-1] / f32(len(x)))
        noise = noise_of(np.abs(c).max() / largest_of(c.size, bits), c.size, bits)
        far = bool(noise > f32(FAR) * header[4] * radius)
    if far and header[4] > 0:
        header[4], cross = -header[4], np.zeros_like(cross)
    header[2:4], scale = _to_16_bits(factor)
    start = -_sums(r * c) if inner_product else norm
    header[:2], add = _to_16_bits(start + (header[2] + header[3] * scale.astype(np.float32)) * cross)
    return (u + f32(2**bits - 1) * f32(0.5)).astype(np.uint8), add, scale, header


def best_scale(a: Floats, bits: int) -> Floats:
    """The scale (n,) whose levels are chosen for magnitudes `a` (n, padded)."""
    whole = f32(2 ** (bits - 1)) / a.max(1)
    low, high = (f32(v) for v in RANGE[bits])
    gap = (high - low) / f32(STEPS - 1)
    best, scale, after = np.full(len(a), -1, np.float32), np.zeros(len(a), np.float32), np.zeros(len(a), np.float32)
    trying = np.ones(len(a), bool)
    for i in range(STEPS + REFINEMENTS):
        t = (low + f32(i) * gap) * whole if i < STEPS else after
        u = _levels(a, t, bits)
        d, square = _sums(u * a), _sums(u * u)
        gain = d * (d / square)
        better = (gain > best) & trying
        if i >= STEPS:
            trying = better
        best, scale = np.where(better, gain, best), np.where(better, t, scale)
        after = np.where(better, square / d, after)
    return scale


def _levels(a: Floats, t: Floats, bits: int) -> Floats:
    """|u| (n, padded) at scales `t` (n,)."""
    out: Floats = np.minimum(a * t[:, None], f32(2 ** (bits - 1)) - f32(1)).astype(np.int32).astype(np.float32) + f32(
        0.5
    )
    return out


def _to_16_bits(values: Floats) -> tuple[Array, NDArray[np.uint16]]:
    """(low, step) and the codes (n,)."""
    low = values.min()
    step = (values.max() - low) / f32(65535)
    if step < TINY:
        return np.array([low, 0], np.float32), np.zeros(len(values), np.uint16)
    codes = np.minimum(np.rint((values - low) / step), f32(65535))
    return np.array([low, step], np.float32), codes.astype(np.uint16)


def _sums(terms: Floats) -> Floats:
    lanes = np.zeros((len(terms), 16), np.float32)
    for block in range(0, terms.shape[1], 16):
        lanes += terms[:, block : block + 16]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    out: Floats = lanes[:, 0]
    return out
