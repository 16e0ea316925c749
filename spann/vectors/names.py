"""Ids that are no integers: texts, UUIDs, bytes. An index numbers its vectors, and keeps such names beside."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spann._kernels.checksum import crc32c
from spann.errors import InputError
from spann.format.names import LONGEST, UUID_BYTES, parts_of

if TYPE_CHECKING:
    import pyarrow as pa


AT_ONCE = 1 << 14
"""Names of a chunk."""


@dataclass(frozen=True, eq=False)
class NameList:
    """Names of one of `spann.format.names.TYPES`, ``count`` of them, and where they come from as errors say it; None
    for those of the caller. ``chunks()`` begins anew each time: Arrow arrays of large_binary."""

    kind: str
    count: int
    chunks: Callable[[], Iterator[pa.Array]]
    origin: str | None = None

    @property
    def note(self) -> str:
        """What an error about a name ends with."""
        return f" ({self.origin})" if self.origin else ""

    def first(self, count: int | None) -> NameList:
        """The first `count` of them; all for None."""
        if count is None or count >= self.count:
            return self
        return replace(self, count=count, chunks=lambda: _first(self.chunks(), count))

    def of(self, count: int, name: str) -> NameList:
        """These names, for the `count` vectors called `name`; `InputError` for another number of them."""
        if self.count != count:
            raise InputError(f"there are {self.count} ids{self.note}; {name} has {count} vectors")
        return self

    def likely_size(self) -> int:
        """Bytes of all names, as far as the first of them tell."""
        first = next(self.chunks(), None)
        return 0 if not first else int(len(parts_of(first)[1]) / len(first) * self.count)

    def checksum(self) -> int:
        """By what the same names are known again, however they come in chunks."""
        lengths = values = 0
        for sizes, data in map(parts_of, self.chunks()):
            lengths, values = crc32c(sizes.astype("<u4"), lengths), crc32c(data, values)
        return crc32c(lengths.to_bytes(4, "little") + values.to_bytes(4, "little"))


def _first(chunks: Iterator[pa.Array], count: int) -> Iterator[pa.Array]:
    for chunk in chunks:
        if count <= 0:
            return
        yield chunk[:count]
        count -= len(chunk)


def type_of_names(kind: pa.DataType) -> str | None:
    """Which of the types an Arrow type is; None for what cannot be names."""
    import pyarrow as pa

    if isinstance(kind, pa.UuidType):
        return "uuid"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return "bytes" if binary else None


def as_binary(chunk: pa.Array, first: int, origin: str) -> pa.Array:
    """A part of a column of names as large_binary; `InputError` for a name that cannot be. `first` is its row."""
    import pyarrow as pa

    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    if pa.types.is_dictionary(chunk.type):
        chunk = chunk.dictionary_decode()
    if chunk.null_count:
        row = first + int(np.argmax(chunk.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"row {row} of {origin} is null: every vector needs an id")
    if pa.types.is_string_view(chunk.type):
        chunk = chunk.cast(pa.large_string())
    found = chunk.cast(pa.large_binary())
    lengths, _ = parts_of(found)
    wrong = np.flatnonzero((lengths < 1) | (lengths > LONGEST))
    if len(wrong):
        raise InputError(
            f"row {first + wrong[0]} of {origin} has an id of {lengths[wrong[0]]} bytes; it must have 1 to {LONGEST}"
        )
    return found


def of_arrays(arrays: Sequence[pa.Array], kind: pa.DataType, origin: str, shown: str | None = None) -> NameList | None:
    """The names in Arrow arrays in memory; None where these hold something else."""
    found = type_of_names(kind)
    if found is None:
        return None
    firsts = list(itertools.accumulate(map(len, arrays), initial=0))
    chunks = [as_binary(array, first, origin) for array, first in zip(arrays, firsts, strict=False)]
    some = [chunk.slice(at, AT_ONCE) for chunk in chunks for at in range(0, len(chunk), AT_ONCE)]
    return NameList(found, firsts[-1], lambda: iter(some), shown)


def of_values(values: Iterable[Any], origin: str) -> NameList | None:
    """The names in a list or an array of str, bytes or `uuid.UUID`; None where the first is none of these."""
    import pyarrow as pa

    given = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if not given or not isinstance(given[0], str | bytes | uuid.UUID):
        return None
    expected = type(given[0])
    for row, one in enumerate(given):
        if not isinstance(one, expected):
            raise InputError(f"row {row} of {origin} is {one!r}; the first id is {given[0]!r}, and all are of one type")
    kind = {str: "text", bytes: "bytes", uuid.UUID: "uuid"}[expected]
    try:
        plain = [one.bytes if isinstance(one, uuid.UUID) else one for one in given]
        array = pa.array(plain, pa.large_string() if kind == "text" else pa.large_binary())
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise InputError(f"{origin} hold a text that is not Unicode: {error}") from error
    found = of_arrays([array], array.type, origin)
    return None if found is None else replace(found, kind=kind)


def check_types(chunk: pa.Array, kind: str) -> int | None:
    """The first of an array of large_binary that is no name of `kind`; None where all are."""
    lengths, _ = parts_of(chunk)
    wrong = (lengths < 1) | (lengths > LONGEST)
    if kind == "uuid":
        wrong |= lengths != UUID_BYTES
    if wrong.any():
        return int(np.argmax(wrong))
    if kind == "text":
        import pyarrow as pa

        try:
            chunk.cast(pa.large_string())
        except pa.ArrowInvalid:
            return next(row for row, one in enumerate(chunk.to_pylist()) if not _is_text(one))
    return None


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
