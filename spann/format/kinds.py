"""The two kinds of postings: those that hold vectors, and those that hold codes of them (docs/FORMAT.md, Postings).

An index has one kind. Whoever needs to know what a posting holds asks its kind, and compares no number of bits. Both
kinds have the same interface; `PostingKind` names either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from spann._kernels.codes import code_bytes
from spann._kernels.postings import HEADER_BYTES, Parts, posting_parts
from spann.config import CODED_POSTINGS, DEFAULT_POSTINGS
from spann.elements import stored_bytes, stored_dtype, stored_width
from spann.format.postings import Record
from spann.types import Array, Metric

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class ExactPostings:
    """Postings that hold vectors. Centroids are vectors of the collection, and lie in no posting."""

    id_bytes: int
    element: str
    dim: int

    code_bits: ClassVar[int] = 0
    is_reranked: ClassVar[bool] = False
    """Whether a search finds candidates in postings, and exact vectors elsewhere."""
    read_arrays: ClassVar[tuple[str, ...]] = ("postings/pages",)
    """What searches read from disk."""
    default_postings: ClassVar[int] = DEFAULT_POSTINGS
    """Postings that a query scores unless told."""
    beam: ClassVar[int] = 3
    """Candidates of the navigation for each posting. Small cells lie many to a neighbourhood, and the graph finds their
    order worse than that of large ones: with 8,000 centroids of 1M SIFT 2 finds not one neighbour more than 1
    (docs/decisions/0008)."""

    @cached_property
    def record(self) -> Record:
        """Bytes of a posting."""
        return Record.exact(self.id_bytes, stored_bytes(self.element, self.dim))

    def outside(self, centroids: int) -> int:
        """Vectors of the collection that no posting holds as a primary."""
        return centroids

    def centroid_metric(self, metric: Metric) -> Metric:
        """By what queries are compared with centroids."""
        return metric

    def centroid_elements(self, metric: Metric) -> tuple[str, ...]:
        """Types that the numbers of centroids may have."""
        return (self.element,)

    def ids(self, content: Bytes, entries: int) -> Array:
        """The ids (n,) in the bytes of a posting, primaries first."""
        ids: Array = content[: entries * self.id_bytes].view(f"<u{self.id_bytes}")
        return ids

    def vectors(self, content: Bytes, entries: int) -> Array:
        """The vectors (n, width) in the bytes of a posting, as they are stored."""
        vectors: Array = content[entries * self.id_bytes :].view(stored_dtype(self.element))
        return vectors.reshape(entries, stored_width(self.element, self.dim))


@dataclass(frozen=True)
class CodedPostings:
    """Postings that hold codes of `code_bits` a dimension. Centroids are means. Every vector lies once in the exact
    store, where a replica names its row in `row_bytes`."""

    id_bytes: int
    element: str
    dim: int
    code_bits: int
    row_bytes: int

    is_reranked: ClassVar[bool] = True
    read_arrays: ClassVar[tuple[str, ...]] = ("postings/pages", "vectors/exact")
    default_postings: ClassVar[int] = CODED_POSTINGS
    beam: ClassVar[int] = 1

    @property
    def code_bytes(self) -> int:
        """Bytes of a code."""
        return code_bytes(self.dim, self.code_bits)

    @cached_property
    def record(self) -> Record:
        """Bytes of a posting."""
        return Record.coded(self.id_bytes, self.row_bytes, self.dim, self.code_bits)

    def outside(self, centroids: int) -> int:
        """Vectors of the collection that no posting holds as a primary."""
        return 0

    def centroid_metric(self, metric: Metric) -> Metric:
        """By what queries are compared with centroids: in the working space, cosine is l2 of unit vectors."""
        return Metric.L2 if metric is Metric.COSINE else metric

    def centroid_elements(self, metric: Metric) -> tuple[str, ...]:
        """Types that the numbers of centroids may have: means are not vectors of the collection."""
        whole = metric is Metric.L2 and self.element in ("uint8", "int8")
        return (self.element, "float16", "float32") if whole else ("float16", "float32")

    def parts(self, entries: int, primaries: int) -> Parts[int]:
        """Where the parts of a posting begin in its bytes."""
        return posting_parts(self.id_bytes, self.row_bytes, self.code_bytes, entries, primaries)

    def header(self, content: Bytes) -> NDArray[np.float32]:
        """The numbers (5,) by which the factors of entries are stored."""
        header: NDArray[np.float32] = content[:HEADER_BYTES].view("<f4")
        return header

    def ids(self, content: Bytes, entries: int) -> Array:
        """The ids (n,) in the bytes of a posting, primaries first."""
        ids: Array = content[HEADER_BYTES:][: entries * self.id_bytes].view(f"<u{self.id_bytes}")
        return ids

    def rows(self, content: Bytes, entries: int, primaries: int) -> Array:
        """The rows (replicas,) of the exact store that the replicas of a posting name."""
        parts = self.parts(entries, primaries)
        rows: Array = content[parts.rows : parts.codes].view(f"<u{self.row_bytes}")
        return rows

    def factors(self, content: Bytes, entries: int, primaries: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """`add` and `scale` (n,) of the entries of a posting."""
        parts = self.parts(entries, primaries)
        return content[parts.add : parts.scale].view("<u2"), content[parts.scale : parts.rows].view("<u2")

    def codes(self, content: Bytes, entries: int, primaries: int) -> Bytes:
        """The codes (n, bytes) of the entries of a posting."""
        return content[self.parts(entries, primaries).codes :].reshape(entries, -1)


PostingKind = ExactPostings | CodedPostings
