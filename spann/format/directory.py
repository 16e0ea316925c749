"""The posting directory says where each posting lies. This module checks every number in it (docs/FORMAT.md,
Postings)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError
from spann.format.collection import Collection
from spann.format.layout import ArrayLayout
from spann.format.postings import LARGEST_POSTING, PAGE, posting_span


def check_directory(
    about: Collection,
    *,
    page: NDArray[np.uint32],
    offset: NDArray[np.uint16],
    length: NDArray[np.uint16],
    primaries: NDArray[np.uint16],
    chain: NDArray[np.uint32] | None,
    appended: NDArray[np.uint32],
    pages: ArrayLayout,
    where: str,
) -> None:
    """Raises `CorruptionError` unless the directory holds together: every posting lies within a shard, and every
    centroid owns postings that exist. Primaries, and without codes the centroids, must add up to the collection."""
    own = about.postings - len(appended)
    if chain is not None and (chain[0] != 0 or chain[-1] != own or bool(np.any(chain[1:] <= chain[:-1]))):
        raise CorruptionError(f"{where}: chain does not divide {own} postings among {about.centroids} centroids")
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
    outside = about.kind.outside(about.centroids)
    if rows + outside != about.count:
        raise CorruptionError(
            f"{where}: postings hold {rows} primaries and {outside} vectors are centroids; the collection has "
            f"{about.count} rows"
        )
    sizes = about.record.size(length, primaries)
    start, end = posting_span(page, offset, sizes)
    last_page = (end - 1) // PAGE
    inside = (offset < PAGE) & (last_page < pages.rows) & (sizes <= LARGEST_POSTING)
    inside &= page.astype(np.int64) // pages.shard_rows == last_page // pages.shard_rows
    for p in np.flatnonzero((length > 0) & ~inside)[:1]:
        raise CorruptionError(
            f"{where}: posting {p} lies at bytes {start[p]} to {end[p]}, outside its shard or the {pages.rows} "
            f"pages, or is longer than {LARGEST_POSTING} bytes"
        )
    if int(sizes.sum()) > pages.rows * PAGE:
        raise CorruptionError(f"{where}: postings of {sizes.sum()} bytes in {pages.rows} pages overlap")
