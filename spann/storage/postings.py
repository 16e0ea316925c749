"""Where the bytes of posting lists lie, and what a directory must satisfy to be trusted (docs/FORMAT.md, Postings)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.codes import HEADER, code_bytes
from spann.elements import stored_bytes
from spann.errors import CorruptionError
from spann.storage.layout import ArrayLayout
from spann.types import Array

if TYPE_CHECKING:
    from spann.storage.collection import Collection

PAGE = 4096
"""Bytes of a page: postings are placed in, counted in and, with direct I/O, read by pages."""

LARGEST_POSTING = 1 << 30
"""Bytes of a posting at most: a search reads it at once."""

HEADER_BYTES = 4 * HEADER
"""What a posting of codes begins with: float32 numbers."""

FACTOR_BYTES = 4
"""Of an entry with a code: two uint16."""


@dataclass(frozen=True)
class Record:
    """Bytes of a posting that is not empty: `header` once, `primary` or `replica` for each entry of the kind."""

    header: int
    primary: int
    replica: int

    @classmethod
    def exact(cls, id_bytes: int, vector_bytes: int) -> Record:
        """Postings that hold vectors."""
        return cls(0, id_bytes + vector_bytes, id_bytes + vector_bytes)

    @classmethod
    def coded(cls, id_bytes: int, row_bytes: int, dim: int, bits: int) -> Record:
        """Postings that hold codes; a replica also says, in `row_bytes`, which row of the exact store it is."""
        entry = id_bytes + FACTOR_BYTES + code_bytes(dim, bits)
        return cls(HEADER_BYTES, entry, entry + row_bytes)

    @classmethod
    def of(cls, about: dict[str, Any]) -> Record:
        """The record of the index that `about`, its attributes, describes."""
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
    """Bytes of each posting, (postings,), of the index that `about`, its attributes, describes."""
    return Record.of(about).size(length, primaries)


def posting_span(page: Array, offset: Array, size: NDArray[np.int64]) -> tuple[Array, Array]:
    """First byte of each posting and first byte after it, (postings,) int64, counted through all pages."""
    start = page.astype(np.int64) * PAGE + offset
    return start, start + size


def check_directory(
    about: Collection,
    page: NDArray[np.uint32],
    offset: NDArray[np.uint16],
    length: NDArray[np.uint16],
    primaries: NDArray[np.uint16],
    chain: NDArray[np.uint32] | None,
    appended: NDArray[np.uint32],
    pages: ArrayLayout,
    where: str,
) -> None:
    """Raises `CorruptionError` unless every posting lies within a shard, every centroid owns postings that exist, and
    the vectors of the collection are shared out among the postings and, where there are no codes, the centroids."""
    own = about.postings - len(appended)
    if chain is not None and (chain[0] != 0 or chain[-1] != own or bool(np.any(chain[1:] <= chain[:-1]))):
        raise CorruptionError(f"{where}: chain does not share {own} postings among {about.centroids} centroids")
    if bool(np.any(appended >= about.centroids)):
        raise CorruptionError(
            f"{where}: a posting was appended to centroid {appended.max()}; there are {about.centroids}"
        )
    for p in np.flatnonzero(length > about.posting_bound)[:1]:
        raise CorruptionError(f"{where}: posting {p} has {length[p]} entries, over its bound of {about.posting_bound}")
    for p in np.flatnonzero(primaries > length)[:1]:
        raise CorruptionError(f"{where}: posting {p} has {length[p]} entries and claims {primaries[p]} primaries")
    entries, rows = int(length.sum(dtype=np.int64)), int(primaries.sum(dtype=np.int64))
    if entries != about.entries:
        raise CorruptionError(f"{where}: postings hold {entries} entries; the manifest says {about.entries}")
    if about.code_bits and rows != about.count:
        raise CorruptionError(f"{where}: postings hold {rows} primaries; the exact store has {about.count} rows")
    if not about.code_bits and rows + about.centroids != about.count:
        raise CorruptionError(
            f"{where}: centroids and primaries are {rows + about.centroids} together; the collection has "
            f"{about.count} rows"
        )
    sizes = about.record.size(length, primaries)
    start, end = posting_span(page, offset, sizes)
    last_page = (end - 1) // PAGE
    inside = (offset < PAGE) & (last_page < pages.rows) & (sizes <= LARGEST_POSTING)
    inside &= page.astype(np.int64) // pages.shard_rows == last_page // pages.shard_rows
    for p in np.flatnonzero((length > 0) & ~inside)[:1]:
        raise CorruptionError(
            f"{where}: posting {p} would lie at bytes {start[p]} to {end[p]}, outside its shard or the {pages.rows} "
            f"pages, or be longer than {LARGEST_POSTING} bytes"
        )
    if int(sizes.sum()) > pages.rows * PAGE:
        raise CorruptionError(f"{where}: postings of {sizes.sum()} bytes in {pages.rows} pages overlap")
