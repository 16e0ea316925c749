"""RaBitQ: 1 to 8 bits a dimension, an unbiased estimate of the distance, and a bound on its error.

Gao and Long, RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest
Neighbor Search, SIGMOD 2024, section 3 (1 bit), and Gao et al., Practical and Asymptotically Optimal Quantization of
High-Dimensional Vectors in Euclidean Space for Approximate Nearest Neighbor Search, SIGMOD 2025, section 3 (more
bits). ext/c/kernels/codes.h has the formulas as they are computed here.

Chosen over product quantisation because it needs no training, has a bound to stop re-ranking by, and at equal bytes
loses nothing from 2 bits up (benchmarks/codes.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels import codes as kernels
from spann._kernels.postings import HEADER
from spann.errors import InputError
from spann.types import MAX_DIM, Array, Metric

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of the n vectors of p postings, in posting order. Everything of it is stored in the index.

    - ``codes`` (n, code_bytes) uint8, laid out as ext/c/kernels/codes.h says.
    - ``add``, ``scale`` (n,) uint16: an entry's A and S, in steps of its posting's header.
    - ``headers`` (p, 5) float32: A's low and step, S's low and step, and the error E, negative where `far`.
    """

    codes: NDArray[np.uint8]
    add: NDArray[np.uint16]
    scale: NDArray[np.uint16]
    headers: Floats

    @property
    def far(self) -> NDArray[np.bool_]:
        """The postings (p,) so far from the quantiser's origin that their codes are measured from their centroids."""
        far: NDArray[np.bool_] = self.headers[:, 4] < 0
        return far


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Rotation, origin and bits: all that codes of one index have in common. Immutable, so threads may share it.

    - ``dim``: dimensions of vectors; ``bits``: 1, 2, 3, 4 or 8 a dimension.
    - ``metric``: estimates are of the squared distance for L2 and COSINE (of vectors normalised by the caller), of
      -<q, o> for IP.
    - ``origin`` (dim,) float32: m, near the mean of the vectors so that rotated queries are short; 0 for IP. Codes of
      postings far from it have their centroid for an origin.
    - ``signs`` (4, padded_dim / 8) uint8: sign flips of the rotation, kept with the index, which so depends on no
      random generator.
    """

    dim: int
    bits: int
    metric: Metric
    origin: Floats
    signs: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= MAX_DIM:
            raise InputError(f"dim is {self.dim}; it must be from 1 to {MAX_DIM}")
        kernels.check_bits(self.bits)
        for name, dtype, shape in (
            ("origin", np.float32, (self.dim,)),
            ("signs", np.uint8, (kernels.ROUNDS, self.padded_dim // 8)),
        ):
            given: Array = getattr(self, name)
            if given.shape != shape or given.dtype != dtype:
                raise InputError(f"{name} must be {shape} {np.dtype(dtype)}, not {given.shape} {given.dtype}")
            own = np.array(given, order="C")
            own.flags.writeable = False
            object.__setattr__(self, name, own)
        if not np.isfinite(self.origin).all():
            raise InputError("origin has values that are not finite")
        if self.metric is Metric.IP and self.origin.any():
            raise InputError("codes for the inner product have no origin: it must be 0")

    @classmethod
    def make(
        cls, dim: int, bits: int, metric: Metric | str, origin: Floats | None = None, *, seed: int = 0
    ) -> Quantizer:
        """A quantiser with signs drawn from `seed`; `origin` (dim,) float32 is 0 unless given. Raises `InputError`."""
        if not 1 <= dim <= MAX_DIM:
            raise InputError(f"dim is {dim}; it must be from 1 to {MAX_DIM}")
        shape = (kernels.ROUNDS, kernels.padded_dim(dim) // 8)
        signs = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        zero = np.zeros(dim, np.float32)
        return cls(dim, bits, Metric.parse(metric), zero if origin is None else origin, signs)

    @property
    def padded_dim(self) -> int:
        """D: dimensions of rotated vectors."""
        return kernels.padded_dim(self.dim)

    @property
    def code_bytes(self) -> int:
        """Bytes of one code."""
        return kernels.code_bytes(self.dim, self.bits)

    def rotate(self, x: Floats) -> Floats:
        """R x for each row of `x` (n, dim): (n, padded_dim) float32 of the same lengths. Raises `InputError`."""
        return kernels.rotate(self._vectors("x", x), self.signs)

    def encode(
        self, x: Floats, centroids: Floats, lengths: NDArray[np.int64], *, far: NDArray[np.bool_] | None = None
    ) -> Codes:
        """Codes of whole postings: `lengths` (p,) vectors of `x` (n, dim) each, around `centroids` (p, dim).

        `far` (p,) says which have their centroid for an origin; by default those for which it pays. Uses one thread and
        does not hold the GIL. Raises `InputError`, `MemoryError`.
        """
        if len(x) == 0:
            headers = np.zeros((len(lengths), HEADER), np.float32)
            nothing = np.zeros(0, np.uint16)
            return Codes(np.zeros((0, self.code_bytes), np.uint8), nothing, nothing.copy(), headers)
        parts = kernels.encode(
            self._vectors("x", x),
            self._vectors("centroids", centroids),
            np.ascontiguousarray(lengths, np.int64),
            origin=self.origin,
            signs=self.signs,
            bits=self.bits,
            inner_product=self.metric is Metric.IP,
            far=far,
        )
        return Codes(*parts)

    def prepare(self, query: Floats, origin: Floats | None = None) -> kernels.CodeQuery:
        """The query (dim,) float32, rotated and rounded to integers, to be scored against many postings. For a far
        posting, `origin` (dim,) is its centroid."""
        if query.shape != (self.dim,) or query.dtype != np.float32:
            raise InputError(f"query must be ({self.dim},) float32, not {query.shape} {query.dtype}")
        return kernels.prepare(query - (self.origin if origin is None else origin), self.signs, self.bits)

    def estimate(
        self, query: Floats, base: Floats, codes: Codes, lengths: NDArray[np.int64], centroids: Floats | None = None
    ) -> Floats:
        """Estimates (n,) float32 of the distances of `query` (dim,) to the vectors of all p postings of `codes`.

        `base` (p,) float32: |q - c|^2 of each posting, -<q, c> for IP; `centroids` (p, dim), which those that are far
        need. The unit is the square of the vectors' own, for
        IP that of the negated product; estimates may be below the least possible value. Raises `InputError`.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        lengths = np.ascontiguousarray(lengths, np.int64)
        if len(ends) != len(codes.headers) or (ends[-1] if len(ends) else 0) != len(codes.codes):
            raise InputError(f"{len(lengths)} postings of {lengths.sum()} vectors do not fit {len(codes.codes)} codes")
        if len(codes.codes) == 0:
            return np.empty(0, np.float32)
        parts, starts = (codes.codes, codes.add, codes.scale), ends - lengths
        found = self.prepare(query).estimate(*parts, codes.headers, base, starts, lengths)
        far = np.flatnonzero(codes.far)
        for p in far:
            if centroids is None:
                raise InputError(f"posting {p} is measured from its centroid, and no centroids are given")
            one, some = slice(p, p + 1), slice(starts[p], ends[p])
            own = self.prepare(query, centroids[p])
            found[some] = own.estimate(*parts, codes.headers[one], base[one], starts[one], lengths[one])
        return found

    def _vectors(self, name: str, x: Floats) -> Floats:
        if x.ndim != 2 or x.shape[1] != self.dim or x.dtype != np.float32:
            raise InputError(f"{name} must be (n, {self.dim}) float32, not {x.shape} {x.dtype}")
        return np.ascontiguousarray(x)
