"""Plain data shared by all layers: metrics, element types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError

Array = NDArray[Any]

MAX_DIM = 32_768
"""Largest dimension. The integer kernels sum squared uint8 differences in an int32: 255^2 * 32768 < 2^31."""

MAX_K = 1_000_000
"""Largest k of one search: bounds the result buffer of a query (16 MB)."""


class Metric(Enum):
    """What "near" means. The value is the name used in files and commands.

    - ``L2``: Euclidean distance, ordered by its square; smaller is nearer.
    - ``COSINE``: 1 - cos(q, v), in [0, 2]; smaller is nearer. A zero vector has no direction and is refused.
    - ``IP``: inner product; larger is nearer.
    - ``HAMMING``: the number of bits that differ, of binary vectors; smaller is nearer.
    """

    L2 = "l2"
    COSINE = "cosine"
    IP = "ip"
    HAMMING = "hamming"

    @property
    def is_euclidean(self) -> bool:
        """Whether the squared Euclidean distance of the vectors as given decides what is near: of vectors of 0 and 1 it
        is the Hamming distance."""
        return self in (Metric.L2, Metric.HAMMING)

    @classmethod
    def parse(cls, value: Metric | str) -> Metric:
        if isinstance(value, cls):
            return value
        try:
            return cls(value)
        except ValueError:
            known = ", ".join(m.value for m in cls)
            raise InputError(f"metric {value!r} is unknown; it must be one of {known}") from None


ELEMENT_TYPES = ("uint8", "int8", "float16", "float32")
"""Element types that vectors can have, by numpy name, in the order of the native code's enumeration."""


def element_type(dtype: Any, where: str) -> np.dtype[Any]:
    """The little-endian native dtype of `dtype`; `InputError` naming `where` if vectors cannot have it."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found.name not in ELEMENT_TYPES or found.byteorder == ">":
        known = ", ".join(ELEMENT_TYPES)
        raise InputError(
            f"{where}: element type {found.str} ({found.name}) is not supported; "
            f"it must be one of {known}, little endian"
        )
    return found


Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as work goes on, from the calling thread; done == total ends a stage."""

QUERY_STATS: np.dtype[Any] = np.dtype(
    [
        ("bytes_read", "<u8"),
        ("navigate_ns", "<u8"),
        ("read_ns", "<u8"),
        ("score_ns", "<u8"),
        ("rerank_ns", "<u8"),
        ("total_ns", "<u8"),
        ("postings_scored", "<u4"),
        ("postings_read", "<u4"),
        ("pages_read", "<u4"),
        ("exact_pages_read", "<u4"),
        ("reads", "<u4"),
        ("estimates", "<u4"),
        ("distances", "<u4"),
        ("centroid_distances", "<u4"),
    ]
)
"""What one query cost: bytes read from disk; nanoseconds of navigating, of having reads under way, of scoring postings,
of re-ranking, and from beginning to end (other queries in flight included); postings scored, and those of them read
from disk; 4 KiB pages read in all, those of them of the exact store, and reads; codes scored, vectors scored exactly
and centroids scored."""


@dataclass(frozen=True)
class SearchResult:
    """Neighbours of a batch of queries.

    - ``ids`` (nq, k) int64, nearest first; -1 where fewer than k vectors exist, or are within the limits given.
    - ``distances`` (nq, k) float32 in the metric's own unit: Euclidean distance for l2, 1 - cos for cosine, the inner
      product for ip (largest first), bits for hamming; inf (-inf for ip) where the id is -1.
    - ``stats`` (nq,) records of `QUERY_STATS`.

    Unpacks as ``ids, distances = result``.

    >>> import numpy as np, spann
    >>> index = spann.build(np.arange(1000, dtype=np.float32)[:, None], "line.spann")
    >>> result = index.search(np.float32([[7.1], [500.4]]), k=2)
    >>> result.columns()["id"].tolist(), result.columns()["query"].tolist()
    ([7, 8, 500, 501], [0, 0, 1, 1])
    >>> float(result.stats["postings_scored"].mean())
    64.0
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    stats: NDArray[np.void]

    def __iter__(self) -> Iterator[Array]:
        return iter((self.ids, self.distances))

    def columns(self) -> dict[str, Array]:
        """A row for each neighbour that was found: `query`, `rank` (from 0) and `id` int64, `distance` float32."""
        query, rank = np.nonzero(self.ids >= 0)
        found = self.ids[query, rank], self.distances[query, rank]
        return {"query": query, "rank": rank, "id": found[0], "distance": found[1]}

    def to_pandas(self) -> Any:
        """`columns` as a pandas.DataFrame. Needs pandas.

        >>> import numpy as np, spann
        >>> index = spann.build(np.arange(1000, dtype=np.float32)[:, None], "line.spann")
        >>> index.search(np.float32([[7.25]]), k=2).to_pandas()
           query  rank  id  distance
        0      0     0   7      0.25
        1      0     1   8      0.75
        """
        return _pandas(self.columns())

    def to_arrow(self) -> Any:
        """`columns` as a pyarrow.Table. Needs pyarrow.

        >>> import numpy as np, spann
        >>> index = spann.build(np.arange(1000, dtype=np.float32)[:, None], "line.spann")
        >>> index.search(np.float32([[7.25]]), k=2).to_arrow()["id"].to_pylist()
        [7, 8]
        """
        return _arrow(self.columns())


@dataclass(frozen=True)
class RangeResult:
    """All vectors near enough to each of a batch of queries, in one array: those of query i are at positions
    ``limits[i]`` to ``limits[i + 1]`` (exclusive), nearest first.

    - ``limits`` (nq + 1,) int64; ``ids`` (n,) int64; ``distances`` (n,) float32 in the metric's own unit.
    - ``stats`` (nq,) records of `QUERY_STATS`, of all searches that a query took.
    """

    limits: NDArray[np.int64]
    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    stats: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.limits) - 1

    def of(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and distances of one query."""
        part = slice(self.limits[query], self.limits[query + 1])
        return self.ids[part], self.distances[part]

    def columns(self) -> dict[str, Array]:
        """As `SearchResult.columns`."""
        counts = np.diff(self.limits)
        query = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(len(self.ids)) - np.repeat(self.limits[:-1], counts)
        return {"query": query, "rank": rank, "id": self.ids, "distance": self.distances}

    def to_pandas(self) -> Any:
        """`columns` as a pandas.DataFrame. Needs pandas."""
        return _pandas(self.columns())

    def to_arrow(self) -> Any:
        """`columns` as a pyarrow.Table. Needs pyarrow."""
        return _arrow(self.columns())


def _pandas(columns: dict[str, Array]) -> Any:
    import pandas

    return pandas.DataFrame(columns)


def _arrow(columns: dict[str, Array]) -> Any:
    import pyarrow

    return pyarrow.table(columns)
