"""Where the bytes of posting lists lie (docs/FORMAT.md, Postings)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.codes import code_bytes
from spann._kernels.postings import HEADER_BYTES, posting_parts
from spann._kernels.postings import PAGE as PAGE
from spann.elements import stored_bytes
from spann.types import Array

LARGEST_POSTING = 1 << 30
"""The most bytes of a posting. A search reads it at once."""


@dataclass(frozen=True)
class Record:
    """Bytes of a posting that is not empty: `header` once, then `primary` or `replica` for each entry."""

    header: int
    primary: int
    replica: int

    @classmethod
    def exact(cls, id_bytes: int, vector_bytes: int) -> Record:
        """The record of postings that hold vectors."""
        return cls(0, id_bytes + vector_bytes, id_bytes + vector_bytes)

    @classmethod
    def coded(cls, id_bytes: int, row_bytes: int, dim: int, bits: int) -> Record:
        """The record of postings that hold codes. A replica also has its row of the exact store, in `row_bytes`."""
        primary, replica = (
            posting_parts(id_bytes, row_bytes, code_bytes(dim, bits), 1, primaries).end - HEADER_BYTES
            for primaries in (1, 0)
        )
        return cls(HEADER_BYTES, primary, replica)

    @classmethod
    def of(cls, about: dict[str, Any]) -> Record:
        """The record of the index with the attributes `about`."""
        dim, id_bytes, bits = int(about["dim"]), int(about["id_bytes"]), int(about.get("code_bits", 0))
        if bits:
            return cls.coded(id_bytes, int(about["row_bytes"]), dim, bits)
        return cls.exact(id_bytes, stored_bytes(about["dtype"], dim))

    @property
    def row_bytes(self) -> int:
        """Bytes of a replica's row number."""
        return self.replica - self.primary

    def size(self, length: Array, primaries: Array) -> NDArray[np.int64]:
        """Bytes of postings of `length` entries, `primaries` of them primary: (postings,)."""
        n, p = length.astype(np.int64), primaries.astype(np.int64)
        sizes: NDArray[np.int64] = (n > 0) * self.header + p * self.primary + (n - p) * self.replica
        return sizes


def posting_bytes(about: dict[str, Any], length: Array, primaries: Array) -> NDArray[np.int64]:
    """Bytes of each posting, (postings,), of the index with the attributes `about`."""
    return Record.of(about).size(length, primaries)


def posting_span(page: Array, offset: Array, size: NDArray[np.int64]) -> tuple[Array, Array]:
    """First byte of each posting, and the first byte after it: (postings,) int64, counted through all pages."""
    start = page.astype(np.int64) * PAGE + offset
    return start, start + size
