"""Pages of the exact store: a search reads it page by page (docs/FORMAT.md, Vectors)."""

from __future__ import annotations

from spann.format.layout import ArrayLayout
from spann.format.postings import PAGE


def exact_pages(layout: ArrayLayout) -> int:
    """Pages of an array, counted through its shards. The last page of each shard may be shorter."""
    if layout.shards == 0:
        return 0
    return (layout.shards - 1) * shard_pages(layout, 0) + shard_pages(layout, layout.shards - 1)


def shard_pages(layout: ArrayLayout, shard: int) -> int:
    """Pages of one shard; the last may be shorter."""
    rows = min(layout.shard_rows, layout.rows - shard * layout.shard_rows)
    return -(-rows * layout.row_bytes // PAGE)
