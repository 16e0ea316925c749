"""Columns of values beside the vectors: what the manifest says of each, and its arrays (docs/FORMAT.md, Attributes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import FormatError
from spann.format.entries import Entries
from spann.types import Array

ATTRIBUTES = "attributes"
"""Name of the feature: there are columns. Persistent."""

NUMBERS = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
)  # fmt: skip
"""Kinds of columns that hold numbers; numpy uses the same names."""

BOOL, STRING, DATE, TIMESTAMP, TAGS, TEXT = "bool", "string", "date", "timestamp", "tags", "text"

KINDS = (*NUMBERS, BOOL, STRING, DATE, TIMESTAMP, TAGS, TEXT)
"""What a value of a column is. A date is days since 1970-01-01, a timestamp microseconds since then in UTC, tags are a
set of strings, and text is a string that no dictionary has."""

FILTER, PAYLOAD = "filter", "payload"
ROLES = (FILTER, PAYLOAD)
"""What a column is for: a filter may name it, or it is only returned with results."""

MOST_COLUMNS = 1000
LONGEST_NAME = 1000
"""Characters of a name."""

MOST_WORDS = 2**32 - 1


@dataclass(frozen=True)
class Column:
    """One column: its `name`, the `kind` of its values, its `role`, whether `nulls` are among them, and how many
    different `words` its strings or tags have."""

    name: str
    kind: str
    role: str = FILTER
    nulls: bool = False
    words: int = 0

    @property
    def has_words(self) -> bool:
        """Whether its values are numbers of words in a dictionary."""
        return self.kind in (STRING, TAGS)

    @property
    def has_ends(self) -> bool:
        """Whether its values have different lengths."""
        return self.kind in (TAGS, TEXT)

    @property
    def dtype(self) -> np.dtype[Any]:
        """How a value is stored: a number, or that of a word."""
        if self.has_words:
            return np.dtype("uint8" if self.words <= 1 << 8 else "uint16" if self.words <= 1 << 16 else "uint32")
        return np.dtype({BOOL: "uint8", DATE: "int32", TIMESTAMP: "int64", TEXT: "uint8"}.get(self.kind, self.kind))

    def to_json(self) -> dict[str, Any]:
        """The column as it stands in the manifest."""
        return {"name": self.name, "kind": self.kind, "role": self.role, "nulls": self.nulls, "words": self.words}


@dataclass(frozen=True)
class ColumnArray:
    """An array of a column: its name, type, and how many rows it has; None if they follow from no entry."""

    name: str
    dtype: np.dtype[Any]
    rows: int | None


def column_name(number: int, part: str) -> str:
    """Name of an array of column `number`."""
    return f"{ATTRIBUTES}/c{number}/{part}"


def column_arrays(column: Column, number: int, count: int) -> list[ColumnArray]:
    """The arrays of a column, for `count` stored rows."""

    def array(part: str, dtype: Any, rows: int | None) -> ColumnArray:
        return ColumnArray(column_name(number, part), np.dtype(dtype), rows)

    found = [array("values", column.dtype, None if column.has_ends else count)]
    if column.has_ends:
        found.append(array("ends", "uint64", count))
    if column.has_words:
        found += [array("words", "uint8", None), array("word_ends", "uint64", column.words)]
    if column.nulls:
        found.append(array("valid", "uint8", -(-count // 8)))
    return found


def parse_columns(values: Sequence[Any], where: str) -> tuple[Column, ...]:
    """The entry `columns` of the manifest. Raises `FormatError` that names `where`, the column and what it must be."""
    found: list[Column] = []
    if not 1 <= len(values) <= MOST_COLUMNS:
        raise FormatError(f"{where}: {len(values)} columns; there must be from 1 to {MOST_COLUMNS}")
    for number, value in enumerate(values):
        place = f"{where}: column {number}"
        if not isinstance(value, Mapping) or set(value) != {"name", "kind", "role", "nulls", "words"}:
            raise FormatError(f"{place} must have name, kind, role, nulls and words, and nothing else")
        entry, name = Entries(value, place), value["name"]
        if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME:
            raise FormatError(f"{place}: name must be text of 1 to {LONGEST_NAME} characters")
        kind, role = entry.one_of("kind", KINDS), entry.one_of("role", ROLES)
        words = entry.number("words", 0, MOST_WORDS if kind in (STRING, TAGS) else 0)
        column = Column(name, kind, role, entry.one_of("nulls", (False, True)), words)
        if kind == TEXT and role == FILTER:
            raise FormatError(f"{place}: text is payload, never for filters")
        if any(name == other.name for other in found):
            raise FormatError(f"{place}: the name is that of an earlier column")
        found.append(column)
    return tuple(found)


def bad_values(column: Column, values: Array) -> str:
    """What is wrong with some values, in words; empty if nothing is."""
    if column.has_words and len(values) and int(values.max()) >= max(1, column.words):
        return f"a number of a word is {values.max()}, and there are {column.words}"
    if column.kind == BOOL and len(values) and int(values.max()) > 1:
        return f"a boolean is {values.max()}"
    if values.dtype.kind == "f" and bool(np.isnan(values).any()):
        return "a number is NaN; it must be null"
    return ""


def bad_ends(ends: NDArray[np.uint64], first: int, total: int) -> str:
    """What is wrong with ends that come after `first`, in words: they ascend to at most `total`."""
    if len(ends) and (int(ends[0]) < first or bool((ends[1:] < ends[:-1]).any()) or int(ends[-1]) > total):
        return "ends do not ascend within what they end in"
    return ""
