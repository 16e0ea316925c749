"""How much a build works on at a time. The product has the defaults; tests give smaller sizes."""

from __future__ import annotations

from dataclasses import dataclass

from spann.format.layout import SHARD_BYTES


@dataclass(frozen=True)
class Sizes:
    """Sizes of blocks, files and candidate sets. docs/PARAMETERS.md gives the reasons.

    Those of the first group decide bytes of the index, as parameters do. The others show in no byte of it.
    """

    region_bytes: int = 8 << 20
    """Working vectors of a region, which one thread clusters at a time."""
    region_fanout: int = 1024
    """Regions of one cut. A cut compares every vector with all its regions: two cuts are cheaper than a larger one."""
    neighborhood_rows: int = 2048
    """Rows whose groups share one gathering of centroids."""
    refine_candidates: tuple[int, ...] = (256, 1024)
    """Centroids that the vectors of a group are compared with, for each pass of the refinement."""
    closure_candidates: int = 4000
    """Centroids that the closures of a group of vectors are chosen from."""
    closure_reached: int = 10_000
    """Centroids of the runs nearest to a group. The group picks its closure candidates among them."""
    graph_block: int = 4096
    """Centroids handed to faiss at a time."""
    shard_bytes: int = SHARD_BYTES
    """A shard file of the index, at most."""

    bucket_bytes: int = 48 << 20
    """Edges of a bucket, which is sorted in memory."""
    arrange_bytes: int = 16 << 20
    """Vectors that one thread arranges at a time, with their working copies."""
    page_bytes: int = 16 << 20
    """Pages of exact vectors that one thread assembles at a time."""
    code_bytes: int = 16 << 20
    """Working memory of one thread that assembles pages of codes."""
    gap_bytes: int = 512
    """Vectors of the exact store with no more than this between them are read together."""
    place_rows: int = 1 << 20
    """Row numbers of the exact store read at a time."""
    truth_rows: int = 1 << 17
    """Vectors of a part of the truth, at least."""
    mark_seconds: float = 1.0
    """Seconds between two marks of the checkpoint, at least, and before the first."""
    mark_share: float = 0.05
    """Share of the time that marks may take; where they are slow, the next comes later."""


DEFAULT_SIZES = Sizes()
