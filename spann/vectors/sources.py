"""Where vectors come from: the interface the build and the search read through, and arrays in memory."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from spann.elements import memory_dtype, stored_bytes, unpack
from spann.errors import InputError
from spann.system import check_room
from spann.types import MAX_DIM, Array, Metric, element_type
from spann.vectors import paging

if TYPE_CHECKING:
    from spann.vectors.id_list import IdList
    from spann.vectors.names import NameList


def vector_dtype(dtype: Any, name: str) -> np.dtype[Any]:
    """The element type of the vectors in `name`; For an unsupported type, `InputError` tells how to convert it."""
    if np.dtype(dtype) == np.bool_:
        return np.dtype(np.bool_)
    try:
        return element_type(dtype, name)
    except InputError as error:
        raise InputError(f"{error}; convert the vectors with .astype(np.float32)") from None


WIDE = ("float64", "int16", "int32", "int64", "uint16", "uint32", "uint64")
"""Types of numbers that no index holds, and that become float32 (`spann.vectors.narrow`)."""


def given_dtype(dtype: Any, name: str) -> np.dtype[Any]:
    """The type of the numbers in `name`: a type of vectors, or one of `WIDE`. Raises `InputError` for all others."""
    found: np.dtype[Any] = np.dtype(dtype)
    return found if found.name in WIDE and found.byteorder != ">" else vector_dtype(found, name)


def check_dim(dim: int, name: str) -> None:
    """Refuse a dimension that vectors cannot have."""
    if not 1 <= dim <= MAX_DIM:
        raise InputError(f"dimension {dim} of {name} is outside 1 to {MAX_DIM}")


def usable_rows(name: str, *, announced: int, present: int, max_rows: int | None) -> int:
    """How many rows of `name` to serve: all, or its first `max_rows`.

    `announced` is what the header says, `present` what is really there. A source with fewer rows than announced (a
    file cut short while it was copied, or cropped on purpose) is used only where the caller states `max_rows`.
    """
    if max_rows is not None and (not isinstance(max_rows, int | np.integer) or max_rows < 1):
        raise InputError(f"max_rows {max_rows} for {name} cannot be: it must be a whole number of at least 1")
    if announced < 1 or present < 1:
        raise InputError(f"{name} holds 0 whole vectors: at least 1 is needed")
    if max_rows is None:
        if present < announced:
            raise InputError(
                f"{name} is cut short: it should hold {announced} rows and holds {present}; "
                f"to use those, pass --max-rows {present} (max_rows={present})"
            )
        return announced
    if max_rows > present:
        raise InputError(f"max_rows {max_rows} is larger than the {present} rows that {name} holds")
    return int(max_rows)


class VectorSource(ABC):
    """A table of `count` vectors of `dim` elements, read by row number. Any method may be called from any thread.

    Attributes
    ----------
    name : str
        The path, or "array": what error messages call this source.
    count, dim : int
        Rows, and elements in a row; both at least 1.
    dtype : numpy.dtype
        Of the arrays that are read: uint8, int8, float16, float32 or bool.
    element : str
        What its elements are: the name of `dtype`, or "bfloat16", which is read as the float32 of the same value, or
        "bit", read as bool.
    copies : bool
        Whether what is read takes memory of its own.
    columns : tuple of str
        Columns beside the vectors. `own_ids` can read each of them; of tables, `own_column` too.
    metric : Metric, optional
        What the source says that near means; None where it says nothing.
    named : bool
        Whether `own_ids` are names rather than integers.
    """

    copies = True
    columns: tuple[str, ...] = ()
    metric: Metric | None = None
    named = False

    def __init__(self, name: str, count: int, dim: int, dtype: np.dtype[Any], element: str | None = None) -> None:
        self.name = name
        self.count = count
        self.dim = dim
        self.dtype = dtype
        self.element: str = element or ("bit" if dtype == np.bool_ else dtype.name)

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector in memory."""
        return self.dim * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes of one vector in an index."""
        return stored_bytes(self.element, self.dim)

    def read(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` (exclusive): C-contiguous (stop - start, dim) of `dtype`; do not write to it.

        Raises `InputError` for rows outside the source or a file that ends early, `StorageError` where the operating
        system refuses the read.
        """
        if not 0 <= start <= stop <= self.count:
            raise InputError(f"rows {start} to {stop} are not within the {self.count} rows of {self.name}")
        if self.copies:
            check_room((stop - start) * self.row_bytes, f"rows {start} to {stop} of {self.name}")
        return self._read(start, stop)

    def take(self, rows: NDArray[np.int64]) -> Array:
        """The listed rows, in the order given, repeats allowed: C-contiguous (len(rows), dim) of `dtype`.

        Besides the result, at most about 64 MiB are resident at a time (for Zarr: the chunks being decoded). Raises
        as `read` does.
        """
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise InputError(f"rows to take from {self.name} are {rows.ndim}-D {rows.dtype}: they must be 1-D integers")
        outside = np.flatnonzero((rows < 0) | (rows >= self.count))
        if len(outside):
            raise InputError(f"row {rows[outside[0]]} is not within the {self.count} rows of {self.name}")
        return self._take(rows.astype(np.int64, copy=False))

    def blocks(self, rows_per_block: int) -> Iterator[tuple[int, Array]]:
        """All rows in order, as (first row, block); every block but the last has `rows_per_block` rows."""
        if rows_per_block < 1:
            raise InputError(f"rows_per_block {rows_per_block} for {self.name} is too small: it must be at least 1")
        return self._blocks(rows_per_block)

    def own_ids(self, column: str | None = None) -> IdList | NameList | None:
        """Ids that come with the vectors: the named one of `columns`, by default "id"; None without such."""
        if column is not None:
            raise InputError(f"{self.name} has no column {column!r}: it has vectors and nothing else")
        return None

    def own_column(self, name: str) -> tuple[Any, Iterator[Any]]:
        """The Arrow type of the named one of `columns`, and its values in order, as Arrow arrays."""
        raise InputError(
            f"{self.name} cannot give column {name!r} beside its vectors: give a dictionary or a table of columns"
        )

    def close(self) -> None:  # noqa: B027 - arrays hold nothing to let go of
        """Let go of the file, if there is one; no other method may be called during or after this."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, count={self.count}, dim={self.dim}, dtype={self.element})"

    def _blocks(self, rows_per_block: int) -> Iterator[tuple[int, Array]]:
        for piece in paging.pieces(self.count, rows_per_block):
            yield piece.start, self._read(piece.start, piece.stop)

    @abstractmethod
    def _read(self, start: int, stop: int) -> Array: ...

    @abstractmethod
    def _take(self, rows: NDArray[np.int64]) -> Array: ...


class UnreadSource(VectorSource):
    """Knows how many vectors there are and of what type, and has none: enough to plan, and to lay out files."""

    def __init__(self, name: str, count: int, dim: int, element: str) -> None:
        super().__init__(name, count, dim, memory_dtype(element), element)

    def _read(self, start: int, stop: int) -> Array:
        raise NotImplementedError(f"{self.name}: only the number and the type of its vectors are known")

    def _take(self, rows: NDArray[np.int64]) -> Array:
        return self._read(0, 0)


class ArraySource(VectorSource):
    """Vectors of a 2-D NumPy array or memory map; `read` gives read-only views where the rows are contiguous."""

    copies = False

    def __init__(
        self, array: Array, *, max_rows: int | None = None, name: str = "array", element: str | None = None
    ) -> None:
        """`element` is what the elements are where the type of the array does not say so: that is then not checked."""
        if array.ndim != 2:
            raise InputError(f"{name} has {array.ndim} dimensions (shape {array.shape}): vectors must be a 2-D array")
        dtype = array.dtype if element else given_dtype(array.dtype, name)
        rows, dim = array.shape
        check_dim(dim, name)
        count = usable_rows(name, announced=rows, present=rows, max_rows=max_rows)
        super().__init__(name, count, dim, dtype, element)
        self._map = _evictable_map(array)
        self._touched = 0
        self._array = np.asarray(array)[: self.count].view()
        self._array.flags.writeable = False

    def _read(self, start: int, stop: int) -> Array:
        self._count_touched((stop - start) * self.row_bytes)
        return np.ascontiguousarray(self._array[start:stop])

    def _take(self, rows: NDArray[np.int64]) -> Array:
        if self._map is None:
            return np.ascontiguousarray(self._array[rows])
        out = np.empty((len(rows), self.dim), self.dtype)
        for piece in paging.touch_pieces(len(rows), self.row_bytes):
            out[piece] = self._array[rows[piece]]
            self._map.madvise(mmap.MADV_DONTNEED)
        return out

    def _count_touched(self, size: int) -> None:
        # Threads may lose each other's additions here: the pages then go back a block later, which does no harm.
        self._touched += size
        if self._map is not None and self._touched > paging.MAX_TOUCHED:
            self._touched = 0
            self._map.madvise(mmap.MADV_DONTNEED)


class StoredSource(VectorSource):
    """Vectors whose elements numpy has no type for: `stored` reads what there is of them on disk."""

    def __init__(self, stored: VectorSource, element: str) -> None:
        dim = 8 * stored.dim if element == "bit" else stored.dim
        check_dim(dim, stored.name)
        super().__init__(stored.name, stored.count, dim, memory_dtype(element), element)
        self._stored = stored

    def close(self) -> None:
        self._stored.close()

    def _read(self, start: int, stop: int) -> Array:
        return unpack(self._stored.read(start, stop), self.element)

    def _take(self, rows: NDArray[np.int64]) -> Array:
        return unpack(self._stored.take(rows), self.element)

    def _blocks(self, rows_per_block: int) -> Iterator[tuple[int, Array]]:
        for start, block in self._stored.blocks(rows_per_block):
            yield start, unpack(block, self.element)


def for_metric(source: VectorSource, metric: Metric) -> VectorSource:
    """`source` as `metric` takes its vectors: under hamming uint8 are bits, packed. Closing `source` is left to the
    caller.

    Raises `InputError` for vectors that are not binary under hamming, and for bits under all else.
    """
    if metric is not Metric.HAMMING:
        if source.element == "bit":
            raise InputError(
                f"{source.name} holds bool, which metric hamming compares; under {metric.value} convert the vectors "
                "with .astype(np.uint8)"
            )
        return source
    if source.element == "uint8":
        return StoredSource(source, "bit")
    if source.element != "bit":
        raise InputError(
            f"{source.name} holds {source.element} vectors; metric hamming needs binary ones: uint8 with 8 bits in "
            "each (numpy.packbits), or bool"
        )
    if source.dim % 8:
        raise InputError(f"{source.name} holds vectors of {source.dim} bits; under hamming it must be a multiple of 8")
    return source


def metric_of(source: VectorSource, metric: Metric | str | None) -> Metric:
    """The metric that was asked for, or else what `source` says, or l2. Raises `InputError` where these differ."""
    wanted = None if metric is None else Metric.parse(metric)
    if wanted is None:
        return source.metric or Metric.L2
    if source.metric is not None and source.metric is not wanted:
        raise InputError(
            f"{source.name} says that its metric is {source.metric.value}, and {wanted.value} was asked for: leave the "
            "metric out, or give a copy of the vectors without that attribute"
        )
    return wanted


def _evictable_map(array: Array) -> mmap.mmap | None:
    """The map below a file-backed array, if its pages can be dropped and read again.

    Those of a copy-on-write map (mode "c") cannot: they may be the only place of values that the caller has changed.
    """
    if not isinstance(array, np.memmap) or array.mode == "c":
        return None
    mapped = getattr(array, "_mmap", None)
    return mapped if isinstance(mapped, mmap.mmap) else None
