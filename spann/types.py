"""Plain data shared by all layers: metrics, element types."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.frames import arrow_table, html_table, pandas_frame, polars_frame, rows, short

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
        """Whether the squared Euclidean distance of the vectors as given decides what is near. For vectors of 0 and 1
        it is the Hamming distance."""
        return self in (Metric.L2, Metric.HAMMING)

    @classmethod
    def parse(cls, value: Metric | str) -> Metric:
        """The metric with this name, in any case. Names of other libraries are known too (`METRIC_NAMES`).

        >>> import spann
        >>> spann.Metric.parse("Euclidean"), spann.Metric.parse("dot")
        (<Metric.L2: 'l2'>, <Metric.IP: 'ip'>)
        """
        if isinstance(value, cls):
            return value
        name = value.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(value, str) else ""
        if name in METRIC_NAMES:
            return cls(METRIC_NAMES[name])
        message = f"metric {value!r} is unknown; it must be one of {', '.join(m.value for m in cls)}"
        if name in _SQUARES:
            message += ": distances under l2 are Euclidean, not their squares, and the order is the same"
        elif close := difflib.get_close_matches(name, METRIC_NAMES, 1):
            message += f". Did you mean {close[0]!r}?"
        raise InputError(message)


METRIC_NAMES = {
    **{metric.value: metric.value for metric in Metric},
    **dict.fromkeys(("euclidean",), "l2"),
    **dict.fromkeys(("cos", "angular"), "cosine"),
    **dict.fromkeys(("dot", "dotproduct", "dot_product", "inner_product", "innerproduct"), "ip"),
}
"""The metric that each name means."""

_SQUARES = ("l2sq", "sqeuclidean", "l2_squared", "squared_l2")


ELEMENT_TYPES = ("uint8", "int8", "float16", "float32")
"""Element types of vectors by their numpy names, in the order of the native enumeration."""


def element_type(dtype: Any, where: str) -> np.dtype[Any]:
    """The little-endian native dtype of `dtype`; `InputError` naming `where` if vectors cannot have it."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found.name not in ELEMENT_TYPES or found.byteorder == ">":
        known = ", ".join((*ELEMENT_TYPES, "bfloat16", "bool"))
        raise InputError(
            f"{where}: element type {found.str} ({found.name}) is not supported; "
            f"it must be one of {known}, little endian"
        )
    return found


Progress = Callable[[str, int, int], None]
"""A function of (stage, done, total), called from the calling thread as work proceeds. done == total ends a stage."""

QUERY_STATS: np.dtype[Any] = np.dtype(
    [
        ("bytes_read", "<u8"),
        ("navigate_ns", "<u8"),
        ("read_ns", "<u8"),
        ("score_ns", "<u8"),
        ("rerank_ns", "<u8"),
        ("total_ns", "<u8"),
        ("restarts", "<u8"),
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
"""The cost of one query. Bytes are those read from disk. Times are nanoseconds: of navigating, of having reads under
way, of scoring postings, of re-ranking, and from beginning to end, with other queries in flight. Restarts are the times
that a query began again, farther out, because it had found fewer than k vectors. Then come postings scored, and those
of them read from disk; 4 KiB pages read, and those of them from the exact store; and reads. Last come codes scored,
vectors scored exactly, and centroids scored."""


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """Neighbours of a batch of queries.

    - ``ids`` (nq, k) int64, nearest first; -1 if fewer than k vectors exist, or lie within the limits given. If the
      vectors of the index have names, objects (nq, k): str, `uuid.UUID` or bytes, and None instead of -1.
    - ``distances`` (nq, k) float32 in the metric's own unit. That is the Euclidean distance for l2, 1 - cos for cosine,
      the inner product for ip (largest first), bits for hamming. An id of -1 has inf (-inf for ip).
    - ``stats`` (nq,) records of `QUERY_STATS`.
    - ``matches`` (nq,) int64: the vectors that the filter of each query leaves; without a filter, those of the index.
    - ``attributes``: by name, the values (nq, k) of the columns that were selected, masked where there is none.

    Unpacks as ``ids, distances = result``. ``len(result)`` is the number of queries. ``result[i]`` gives the ids and
    distances that query i found, ``result[i:j]`` the result of these queries.

    >>> import numpy as np, spann
    >>> index = spann.build(np.arange(1000, dtype=np.float32)[:, None], "line.spann")
    >>> result = index.search(np.float32([[7.25], [500.25]]), k=2)
    >>> result
    SearchResult(2 queries, k=2; query 0: ids [7, 8], distances [0.25, 0.75])
    >>> ids, distances = result[1]
    >>> ids.tolist(), distances.tolist()
    ([500, 501], [0.25, 0.75])
    >>> result.columns()["id"].tolist(), result.columns()["query"].tolist()
    ([7, 8, 500, 501], [0, 0, 1, 1])
    >>> float(result.stats["postings_scored"].mean())
    64.0
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    stats: NDArray[np.void]
    matches: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    attributes: Mapping[str, Array] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.ids, self.distances))

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, query: SupportsIndex) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    @overload
    def __getitem__(self, query: slice) -> SearchResult: ...
    def __getitem__(self, query: SupportsIndex | slice) -> Any:
        if isinstance(query, slice):
            some = {name: values[query] for name, values in self.attributes.items()}
            return SearchResult(self.ids[query], self.distances[query], self.stats[query], self.matches[query], some)
        return self.of(_position(query, len(self)))

    def __repr__(self) -> str:
        about = f"{_counted(len(self), 'query', 'queries')}, k={self.ids.shape[1]}"
        return f"SearchResult({about}{_first_found(self)})"

    def of(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and distances that one query found."""
        found = there(self.ids[query])
        return self.ids[query][found], self.distances[query][found]

    def columns(self) -> dict[str, Array]:
        """A row for each neighbour that was found: `query`, `rank` (from 0) and `id` int64, `distance` float32, and the
        columns that were selected."""
        query, rank = np.nonzero(there(self.ids))
        found = self.ids[query, rank], self.distances[query, rank]
        more = {name: values[query, rank] for name, values in self.attributes.items()}
        return {"query": query, "rank": rank, "id": found[0], "distance": found[1], **more}

    def to_list(self) -> list[dict[str, Any]]:
        """`columns` as a dictionary for each row.

        >>> import numpy as np, spann
        >>> index = spann.build(np.arange(1000, dtype=np.float32)[:, None], "line.spann")
        >>> index.search(np.float32([[7.25]]), k=2).to_list()[1]
        {'query': 0, 'rank': 1, 'id': 8, 'distance': 0.75}
        """
        return rows(self.columns())

    def to_pandas(self) -> Any:
        """`columns` as a pandas.DataFrame. Needs pandas.

        >>> import numpy as np, spann
        >>> index = spann.build(np.arange(1000, dtype=np.float32)[:, None], "line.spann")
        >>> index.search(np.float32([[7.25]]), k=2).to_pandas()
           query  rank  id  distance
        0      0     0   7      0.25
        1      0     1   8      0.75
        """
        return pandas_frame(self.columns())

    def to_polars(self) -> Any:
        """`columns` as a polars.DataFrame. Needs polars."""
        return polars_frame(self.columns())

    def to_arrow(self) -> Any:
        """`columns` as a pyarrow.Table.

        >>> import numpy as np, spann
        >>> index = spann.build(np.arange(1000, dtype=np.float32)[:, None], "line.spann")
        >>> index.search(np.float32([[7.25]]), k=2).to_arrow()["id"].to_pylist()
        [7, 8]
        """
        return arrow_table(self.columns())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """`columns` for libraries that take Arrow streams, such as ``polars.DataFrame(result)``."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        return html_table(f"{_counted(len(self), 'query', 'queries')}, k {self.ids.shape[1]}", self.columns())


@dataclass(frozen=True, eq=False, repr=False)
class RangeResult:
    """All vectors within a radius of each query, in one array. The vectors of query i are at positions ``limits[i]`` to
    ``limits[i + 1]`` (exclusive), nearest first.

    - ``limits`` (nq + 1,) int64; ``ids`` (n,) int64; ``distances`` (n,) float32 in the metric's own unit.
    - ``stats`` (nq,) records of `QUERY_STATS`, of all searches that a query took.
    - ``matches`` and ``attributes`` as of `SearchResult`; values are (n,).

    Unpacks as ``limits, distances, ids = result``, the order that faiss has. ``len(result)`` is the number of queries.
    ``result[i]`` gives the ids and distances of query i, ``result[i:j]`` the result of these queries.
    """

    limits: NDArray[np.int64]
    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    stats: NDArray[np.void]
    matches: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    attributes: Mapping[str, Array] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.limits, self.distances, self.ids))

    def __len__(self) -> int:
        return len(self.limits) - 1

    @overload
    def __getitem__(self, query: SupportsIndex) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    @overload
    def __getitem__(self, query: slice) -> RangeResult: ...
    def __getitem__(self, query: SupportsIndex | slice) -> Any:
        if not isinstance(query, slice):
            return self.of(_position(query, len(self)))
        chosen = range(len(self))[query]
        parts = [np.arange(self.limits[i], self.limits[i + 1]) for i in chosen]
        limits = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        places = np.concatenate([np.zeros(0, np.int64), *parts])
        some = {name: values[places] for name, values in self.attributes.items()}
        return RangeResult(
            limits, self.ids[places], self.distances[places], self.stats[query], self.matches[query], some
        )

    def __repr__(self) -> str:
        about = f"{_counted(len(self), 'query', 'queries')}, {_counted(len(self.ids), 'neighbour', 'neighbours')}"
        return f"RangeResult({about}{_first_found(self)})"

    def of(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and distances of one query."""
        part = slice(self.limits[query], self.limits[query + 1])
        return self.ids[part], self.distances[part]

    def columns(self) -> dict[str, Array]:
        """The same columns as `SearchResult.columns`."""
        counts = np.diff(self.limits)
        query = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(len(self.ids)) - np.repeat(self.limits[:-1], counts)
        return {"query": query, "rank": rank, "id": self.ids, "distance": self.distances, **self.attributes}

    def to_list(self) -> list[dict[str, Any]]:
        """`columns` as a dictionary for each row."""
        return rows(self.columns())

    def to_pandas(self) -> Any:
        """`columns` as a pandas.DataFrame. Needs pandas."""
        return pandas_frame(self.columns())

    def to_polars(self) -> Any:
        """`columns` as a polars.DataFrame. Needs polars."""
        return polars_frame(self.columns())

    def to_arrow(self) -> Any:
        """`columns` as a pyarrow.Table."""
        return arrow_table(self.columns())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """`columns` for libraries that take Arrow streams."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        return html_table(f"{_counted(len(self), 'query', 'queries')}, all within a radius", self.columns())


def there(ids: Array) -> NDArray[np.bool_]:
    """Which places of results have an id: none is -1, or None among names."""
    found: NDArray[np.bool_] = ids >= 0 if ids.dtype != object else np.asarray(ids != None, bool)  # noqa: E711
    return found


def _position(query: SupportsIndex, count: int) -> int:
    """The number of a query, counted from the end if negative."""
    at = operator.index(query)
    if not -count <= at < count:
        raise IndexError(f"query {at} is not there: the result has {_counted(count, 'query', 'queries')}")
    return at % count


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _first_found(result: SearchResult | RangeResult) -> str:
    if not len(result):
        return ""
    ids, distances = result.of(0)
    return f"; query 0: ids {short(ids)}, distances {short(distances)}"
