"""Base, queries and truth of a comparison, and the recall of ids against that truth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DTYPES = {".u8bin": "uint8", ".fbin": "float32"}

TIE = 1e-5
"""A vector as near as the true k-th counts, within the rounding of float32 sums, as in `spann.measuring.recall`."""


@dataclass(frozen=True)
class Data:
    """Files of one collection. Distances are Euclidean; for vectors of length 1 their order is that of the cosine."""

    base: Path
    queries: Path
    dtype: str
    count: int
    dim: int
    true_ids: Array
    true_distances: Array
    """Squared distances (nq, k')."""

    @classmethod
    def open(cls, directory: Path) -> Data:
        """Finds base.*, query.* and truth.ibin in `directory`. Raises `SystemExit` with the reason if they are
        unusable."""
        base = next((f for s in _DTYPES if (f := directory / f"base{s}").is_file()), None)
        if base is None:
            raise SystemExit(f"{directory}: neither base.u8bin nor base.fbin")
        queries, truth = directory / f"query{base.suffix}", directory / "truth.ibin"
        for file in (queries, truth):
            if not file.is_file():
                raise SystemExit(f"{file}: no such file")
        count, dim = np.fromfile(base, np.uint32, 2).tolist()
        nq, k = np.fromfile(truth, np.uint32, 2).tolist()
        if truth.stat().st_size != 8 + 8 * nq * k:
            raise SystemExit(f"{truth}: holds no distances, or is cut short")
        ids = np.fromfile(truth, np.int32, nq * k, offset=8).reshape(nq, k).astype(np.int64)
        distances = np.fromfile(truth, np.float32, nq * k, offset=8 + 4 * nq * k).reshape(nq, k).astype(np.float64)
        if np.fromfile(queries, np.uint32, 2).tolist() != [nq, dim]:
            raise SystemExit(f"{queries}: not {nq} vectors of {dim} dimensions, as {truth.name} and {base.name} want")
        return cls(base.resolve(), queries.resolve(), _DTYPES[base.suffix], count, dim, ids, distances)

    @property
    def row_bytes(self) -> int:
        return self.dim * np.dtype(self.dtype).itemsize

    def fingerprint(self) -> str:
        """A text that changes with the base: of its shape, and of rows from all of it."""
        rows = self._rows(self.base)
        digest = hashlib.sha256(f"{self.count} {self.dim} {self.dtype}".encode())
        digest.update(np.ascontiguousarray(rows[:: max(1, self.count // 1000)]).tobytes())
        return digest.hexdigest()[:12]

    def recall(self, ids: Array, k: int) -> float:
        """The share of the true k nearest that was found. ids are (nq, at least k), -1 for none.

        Distances are computed here from the raw vectors, in float64, not taken from the peer. An id counts once: if it
        is among the true k, or as near as the true k-th.
        """
        base, queries = self._rows(self.base), self._rows(self.queries)
        found = 0
        for row, ours in enumerate(ids[:, :k]):
            known = np.unique(ours[(ours >= 0) & (ours < self.count)])
            difference = base[known].astype(np.float64) - queries[row].astype(np.float64)
            near = np.square(difference).sum(1) <= self.true_distances[row, k - 1] * (1 + TIE)
            found += min(k, int((near | np.isin(known, self.true_ids[row, :k])).sum()))
        return found / (k * len(ids))

    def _rows(self, file: Path) -> Array:
        return np.memmap(file, np.dtype(self.dtype), "r", offset=8).reshape(-1, self.dim)
