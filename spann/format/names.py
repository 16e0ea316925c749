"""Names of vectors: ids that are no integers. docs/FORMAT.md, section Names, is normative."""

from __future__ import annotations

from typing import Any

import numpy as np

from spann.types import Array

NAMES = "names"
"""The feature of an index whose vectors have names."""

ENDS, BYTES = "names/ends", "names/bytes"
"""Arrays: where the bytes of each name end, and the bytes of all names, one after the other."""

TYPES = ("text", "uuid", "bytes")
"""What names can be: text in UTF-8, UUIDs of 16 bytes, or any bytes."""

LONGEST = 65_535
"""The most bytes of a name."""

UUID_BYTES = 16

CHUNK_BYTES = 4096
"""Bytes of a chunk of these arrays: what is read and checked to find one name."""


def parts_of(chunk: Any) -> tuple[Array, Array]:
    """Lengths (n,) int64 and bytes of an Arrow array of large_binary without nulls."""
    _, offsets, values = chunk.buffers()
    ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    if not len(ends):
        return np.empty(0, np.int64), np.empty(0, np.uint8)
    data = np.frombuffer(values, np.uint8) if values is not None else np.empty(0, np.uint8)
    return np.diff(ends), data[ends[0] : ends[-1]]


def arrow_type(kind: str) -> Any:
    """The Arrow type of names of one of `TYPES`."""
    import pyarrow as pa

    return {"text": pa.string(), "uuid": pa.uuid(), "bytes": pa.binary()}[kind]


def typed(chunk: Any, kind: str) -> Any:
    """An array of large_binary as one of `arrow_type`."""
    import pyarrow as pa

    if kind == "uuid":
        return pa.ExtensionArray.from_storage(pa.uuid(), chunk.cast(pa.binary(16)))
    return chunk.cast(arrow_type(kind))
