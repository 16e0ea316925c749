"""The ids of vectors: given by the caller, or row numbers, which may have names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.errors import InputError
from spann.format.names import parts_of
from spann.store.names import NameTable, find_repeated
from spann.types import Array
from spann.vectors import IdList, NameList, VectorSource
from spann.vectors.names import check_types

Given = IdList | NameList | None
"""Ids as the caller gave them; None for row numbers."""


@dataclass(frozen=True)
class NewNames:
    """Names that were checked, and their `size` in bytes."""

    names: NameList
    size: int

    def chunks(self) -> Iterator[Any]:
        return self.names.chunks()


@dataclass(frozen=True)
class Ids:
    """The ids of all rows. ``user`` is (count,) int64, or None if ids are row numbers, from ``first`` on. These may
    have ``names``. On disk an id takes ``width`` bytes."""

    user: NDArray[np.int64] | None
    width: int
    first: int = 0
    names: NewNames | None = None

    @classmethod
    def check(cls, ids: Given, source: VectorSource, scratch: Path) -> Ids:
        """The ids of the vectors of `source`; `InputError` for any that cannot be, naming the row. Temporary files are
        in `scratch`."""
        width = 4 if source.count <= 2**32 else 8
        if ids is None:
            return cls(None, width)
        if isinstance(ids, NameList):
            return cls(None, width, names=_checked(ids.of(source.count, source.name), source, None, scratch))
        user = ids.of(source.count, source.name)
        return cls(user, 4 if int(user.max()) < 2**32 else 8)

    @classmethod
    def more(cls, ids: Given, source: VectorSource, known: Known, *, count: int, width: int) -> Ids:
        """The ids of the vectors of `source`, added to an index of `count` that has the ids `known`, in `width` bytes.
        `InputError` for any that cannot be."""
        known.check(ids, source)
        if isinstance(ids, IdList):
            user = ids.of(source.count, source.name)
            assert known.user is not None
            taken = np.flatnonzero(np.isin(user, known.user))
            if len(taken):
                row = taken[0]
                raise InputError(f"id {user[row]} of row {row} of {source.name} is in the index already{ids.note}")
            found, largest = cls(user, width), int(user.max())
        else:
            names = None
            if isinstance(ids, NameList):
                names = _checked(ids.of(source.count, source.name), source, known.names, known.scratch)
            found, largest = cls(None, width, count, names), count + source.count - 1
        if largest >= 1 << 8 * width:
            raise InputError(f"id {largest} of {source.name} does not fit the {width} bytes of an id in this index")
        return found

    def of(self, rows: NDArray[np.int64]) -> Array:
        """Ids of `rows` (n,) as they are stored."""
        return (rows + self.first if self.user is None else self.user[rows]).astype(f"<u{self.width}")


@dataclass(frozen=True)
class Known:
    """The ids of an index that is added to: ``user`` (count,), or None where they are row numbers, which may have
    ``names``. Temporary files are in ``scratch``. An index with updates may have ``numbered`` its vectors itself."""

    user: NDArray[np.int64] | None
    names: NameTable | None
    scratch: Path
    numbered: bool = False

    def check(self, ids: Given, source: VectorSource) -> None:
        """Refuse ids of another kind than the index has."""
        if self.names is not None:
            if not isinstance(ids, NameList) or ids.kind != self.names.kind:
                given = "no ids" if ids is None else f"{ids.kind if isinstance(ids, NameList) else 'integers'}"
                raise InputError(
                    f"{source.name} has {given} as ids; the ids of the index are {self.names.kind}: name the column of "
                    "such with --id (ids=)"
                )
        elif self.user is None:
            if ids is not None:
                raise InputError(
                    f"{source.name} has ids{ids.note}, and the index numbers its vectors by row: leave them out "
                    "with --no-ids (ids=False)"
                )
        elif not isinstance(ids, IdList) and not (ids is None and self.numbered):
            what = "needs ids" if ids is None else f"has {ids.kind} as ids{ids.note}"
            raise InputError(f"{source.name} {what}: the vectors of the index have ids that were given, integers")


def mark_of(ids: Given, source: VectorSource) -> str:
    """By what the ids of the vectors of `source` are known again, as text."""
    if ids is None:
        return "row numbers"
    if isinstance(ids, NameList):
        return f"{ids.kind}, checksum {ids.of(source.count, source.name).checksum():08x}"
    return f"checksum {crc32c(ids.of(source.count, source.name)):08x}"


def _checked(names: NameList, source: VectorSource, known: NameTable | None, scratch: Path) -> NewNames:
    """`names` once they are sure to be such, and all different, also from those `known`."""
    row = size = 0
    for chunk in names.chunks():
        bad = check_types(chunk, names.kind)
        if bad is not None:
            value = chunk[bad].as_py()
            raise InputError(f"id {value!r} of row {row + bad} of {source.name} is no {names.kind}{names.note}")
        row, size = row + len(chunk), size + len(parts_of(chunk)[1])
    if row != source.count:
        raise InputError(f"there are {row} ids{names.note}; {source.name} has {source.count} vectors")
    before = 0 if known is None else known.count

    def every() -> Iterator[Any]:
        return chain(known.chunks(), names.chunks()) if known is not None else names.chunks()

    found = find_repeated(every, before + row, scratch)
    if found is not None:
        name, first, second = found
        if first < before:
            raise InputError(
                f"id {_shown(name, names.kind)} of row {second - before} of {source.name} is in the index "
                f"already{names.note}"
            )
        raise InputError(
            f"id {_shown(name, names.kind)} is given to rows {first - before} and {second - before} of {source.name}; "
            f"ids must differ{names.note}"
        )
    return NewNames(names, size)


def _shown(name: bytes, kind: str) -> str:
    if kind == "uuid":
        return str(uuid.UUID(bytes=name))
    return repr(name.decode("utf-8", "replace") if kind == "text" else name)
