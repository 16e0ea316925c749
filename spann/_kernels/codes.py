"""RaBitQ codes: the checked door to ext/c/kernels/codes.c. Its header has the mathematics and the layout of the bytes.

Everything but `CodeQuery.estimate`'s floats is integer arithmetic, and results are the same, bit for bit, at every SIMD
level. Values must be finite with squared lengths below 1e37: they are not looked at here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _codes
from spann._kernels.distances import simd_level
from spann._kernels.postings import HEADER, SLACK
from spann.errors import InputError
from spann.types import MAX_DIM, Array

ROUNDS = 4
"""Rounds of the rotation: rows of its array of signs."""

CODE_BITS = (1, 2, 3, 4, 8)
"""Bits a dimension that codes can have."""

FAR = 0.3
"""Share of the error, at the centroid, from which on the rounding of a query asks for that origin
(ext/c/kernels/codes.h)."""

_BAD_SIMD = -2

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def padded_dim(dim: int) -> int:
    """Dimensions of a rotated vector: `dim` rounded up to a multiple of 32."""
    return -(-dim // 32) * 32


def code_bytes(dim: int, bits: int) -> int:
    """Bytes of one code of a vector of `dim` dimensions."""
    return padded_dim(dim) // 8 * bits


@dataclass(frozen=True, eq=False)
class CodeQuery:
    """A rotated query in integers, ready to meet codes of `bits` bits. Made by `prepare`.

    q_j ~ step * x_j for the integers x; ``<u, q> ~ step * (v . x) + offset`` for a code v; ``noise`` is the standard
    deviation of what the rounding of q adds to that, for codes of Gaussian residuals.
    """

    rotated: Floats
    bits: int
    step: float
    offset: float
    noise: float
    _buffer: Bytes = field(repr=False)

    def dots(self, codes: Bytes) -> NDArray[np.int32]:
        """v . x of each of `codes` (n, bytes) uint8: (n,) int32, exact. Raises `InputError` for other arrays."""
        n = self._checked(codes)
        out = np.empty(n, np.int32)
        tail, rows = _tail(codes)
        if _codes.dots(self._buffer, self.rotated.size, self.bits, codes, tail, rows, out) < 0:
            simd_level()
        return out

    def estimate(
        self,
        codes: Bytes,
        add: NDArray[np.uint16],
        scale: NDArray[np.uint16],
        headers: Floats,
        base: Floats,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Floats:
        """Estimates of the entries of p postings, one posting after the other: (sum of lengths,) float32.

        `codes` (n, bytes) uint8, `add` and `scale` (n,) uint16 hold all entries; posting i has rows ``starts[i]`` to
        ``starts[i] + lengths[i]``, header ``headers[i]`` (p, 5) and ``base[i]`` (p,): |q - c|^2, for ip -<q, c>.
        Raises `InputError` for arrays that do not fit each other, and rows that do not exist.
        """
        n = self._checked(codes)
        p = len(base)
        for name, array, dtype, shape in (
            ("add", add, np.uint16, (n,)),
            ("scale", scale, np.uint16, (n,)),
            ("headers", headers, np.float32, (p, HEADER)),
            ("base", base, np.float32, (p,)),
            ("starts", starts, np.int64, (p,)),
            ("lengths", lengths, np.int64, (p,)),
        ):
            _check(name, array, dtype, shape)
        if p and (int(starts.min()) < 0 or int(lengths.min()) < 0 or int((starts + lengths).max()) > n):
            raise InputError(f"postings reach outside of the {n} codes")
        out = np.empty(int(lengths.sum()), np.float32)
        if out.size == 0:
            return out
        tail, rows = _tail(codes)
        status = _codes.estimate(
            self._buffer,
            self.rotated.size,
            self.bits,
            self.step,
            self.offset,
            codes,
            tail,
            rows,
            add,
            scale,
            headers,
            base,
            starts,
            lengths,
            out,
        )
        if status < 0:
            simd_level()
        return out

    def _checked(self, codes: Bytes) -> int:
        _check("codes", codes, np.uint8, (len(codes), self.rotated.size // 8 * self.bits))
        if len(codes) == 0:
            raise InputError("no codes to score")
        return len(codes)


def rotate(x: Floats, signs: Bytes) -> Floats:
    """Rotated images (n, padded) of `x` (n, dim) float32; `signs` (4, padded / 8) uint8, bit set: flip.

    Raises `InputError` for other shapes, types or layouts.
    """
    padded = _check_vectors(x, signs)
    out = np.empty((len(x), padded), np.float32)
    if _codes.rotate(x, signs, out) < 0:
        simd_level()
    return out


def prepare(x: Floats, signs: Bytes, bits: int) -> CodeQuery:
    """The query `x` (dim,), from which the origin has been taken, rotated and in integers. Raises `InputError`."""
    padded = _check_vectors(x[None], signs)
    check_bits(bits)
    size = _codes.query_bytes(padded, bits)
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    buffer, rotated = memory[start : start + size], np.empty(padded, np.float32)
    made = _codes.prepare(x, signs, rotated, bits, buffer)
    if made is None:
        raise InputError(f"SPANN_SIMD is {simd_level()!r}, which this processor lacks")
    return CodeQuery(rotated, bits, *made, buffer)


def encode(
    x: Floats,
    centroids: Floats,
    lengths: NDArray[np.int64],
    *,
    origin: Floats,
    signs: Bytes,
    bits: int,
    inner_product: bool,
    far: NDArray[np.bool_] | None = None,
) -> tuple[Bytes, NDArray[np.uint16], NDArray[np.uint16], Floats]:
    """Codes (n, bytes), add (n,), scale (n,) and headers (p, 5) of whole postings.

    `x` (n, dim) holds the vectors of p postings one after the other, `lengths` (p,) of them each, `centroids` (p, dim)
    and `origin` (dim,) float32. Those that are `far` (p,) are measured from their centroid instead, which a negative
    error in the header says; by default those so far that it pays (ext/c/kernels/codes.h). Raises `InputError` for
    arrays that do not fit each other, `MemoryError`.
    """
    padded = _check_vectors(x, signs)
    check_bits(bits)
    n, dim = x.shape
    p = len(lengths)
    _check("centroids", centroids, np.float32, (p, dim))
    _check("lengths", lengths, np.int64, (p,))
    _check("origin", origin, np.float32, (dim,))
    if far is not None:
        _check("far", far, np.bool_, (p,))
    if (lengths < 0).any() or int(lengths.sum()) != n:
        raise InputError(f"the lengths of {p} postings do not add up to {n} vectors")
    codes = np.empty((n, padded // 8 * bits), np.uint8)
    add, scale, headers = np.empty(n, np.uint16), np.empty(n, np.uint16), np.empty((p, HEADER), np.float32)
    marks = None if far is None else far.view(np.int8)
    status = _codes.encode(x, centroids, lengths, origin, signs, bits, inner_product, marks, codes, add, scale, headers)
    if status == _BAD_SIMD:
        simd_level()
    if status < 0:
        raise MemoryError(f"out of memory encoding {n} vectors")
    return codes, add, scale, headers


def check_bits(bits: int) -> None:
    if bits not in CODE_BITS:
        raise InputError(f"codes of {bits} bits are unknown; it must be one of {', '.join(map(str, CODE_BITS))}")


def _check_vectors(x: Array, signs: Array) -> int:
    """The padded dimension."""
    if x.ndim != 2 or x.dtype != np.float32 or x.size == 0 or not x.flags.c_contiguous or not x.flags.aligned:
        raise InputError(f"vectors must be a C-contiguous, non-empty (n, dim) float32 array, not {x.shape} {x.dtype}")
    if x.shape[1] > MAX_DIM:
        raise InputError(f"vectors have {x.shape[1]} dimensions; the limit is {MAX_DIM}")
    padded = padded_dim(x.shape[1])
    _check("signs", signs, np.uint8, (ROUNDS, padded // 8))
    return padded


def _check(name: str, array: Array, dtype: Any, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous or not array.flags.aligned:
        raise InputError(
            f"{name} must be a C-contiguous {shape} {np.dtype(dtype)} array, not {array.shape} {array.dtype}"
        )


def _tail(codes: Bytes) -> tuple[Bytes, int]:
    """The last rows once more, with the bytes behind them that kernels may read, and how many rows that is."""
    n, width = codes.shape
    rows = min(n, -(-SLACK // width))
    tail = np.zeros((rows + -(-SLACK // width), width), np.uint8)
    tail[:rows] = codes[n - rows :]
    return tail, rows
