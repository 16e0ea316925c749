"""Columns of values beside the vectors: name, kind and role of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUMBERS = (
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
)  # fmt: skip
"""Kinds of columns that hold numbers; numpy uses the same names."""

BOOL, STRING, DATE, TIMESTAMP, TAGS = "bool", "string", "date", "timestamp", "tags"

KINDS = (*NUMBERS, BOOL, STRING, DATE, TIMESTAMP, TAGS)
"""What a value of a column is. A date is days since 1970-01-01, a timestamp microseconds since then in UTC, and tags
are a set of strings."""

FILTER, PAYLOAD = "filter", "payload"
ROLES = (FILTER, PAYLOAD)
"""What a column is for: a filter may name it, or it is only returned with results."""

MOST_COLUMNS = 1000
LONGEST_NAME = 1000
"""Characters of a name."""


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
    def dtype(self) -> np.dtype[np.generic]:
        """How a value is stored: a number, or that of a word."""
        if self.has_words:
            return np.dtype("uint8" if self.words <= 1 << 8 else "uint16" if self.words <= 1 << 16 else "uint32")
        return np.dtype({BOOL: "uint8", DATE: "int32", TIMESTAMP: "int64"}.get(self.kind, self.kind))
