"""Where the rows of an array lie: in which shard and inner chunk, with the Zarr v3 metadata that says so.

This is arithmetic only and touches no file. docs/FORMAT.md, section "Arrays", is the normative text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spann._kernels.checksum import crc32c
from spann.errors import FormatError, InputError
from spann.format.json_text import shown

SHARD_BYTES = 256 << 20
"""Default size of a shard file. Large enough that a 1 TB array is 4000 files, small enough to copy and to retry."""

CHUNK_BYTES = 32 << 10
"""Default size of an inner chunk: the unit of checksums, and of reads by other Zarr clients."""

MISSING = 2**64 - 1
"""Offset and length of an inner chunk that is missing from a shard (Zarr sharding codec)."""

LARGEST_CHUNK = 16 << 20
"""The most bytes of a chunk, and so of a row."""

LARGEST_SHARD = 1 << 40
"""The most bytes of the rows in a shard."""

LARGEST_ARRAY = 1 << 60
"""The most bytes of the rows of an array: no sum of offsets in it exceeds 64 bits."""

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")
"""Element types of arrays; numpy and Zarr v3 use the same names."""

_ENTRY_BYTES = 16
_CRC_BYTES = 4


@dataclass(frozen=True)
class ArrayLayout:
    """An array of shape (rows, *row_shape) and little-endian `dtype`, in shards of `shard_rows` and chunks of
    `chunk_rows`.

    Row r lies at byte ``(r % shard_rows) * row_bytes`` of shard ``r // shard_rows``. Chunks are stored whole; the last
    is padded with zeros. `shard_rows` is a multiple of `chunk_rows`; all sizes but `rows` are at least 1.
    """

    rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int
    shard_rows: int

    @classmethod
    def plan(
        cls,
        rows: int,
        dtype: DTypeLike,
        row_shape: Sequence[int],
        *,
        shard_bytes: int = SHARD_BYTES,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> ArrayLayout:
        """The layout for a new array. Chunks and shards have at most these sizes, but at least one row and one chunk.

        An array smaller than a chunk or a shard gets one of its own size, so it needs no padding and no long index.
        Raises `InputError` if type, shape or size cannot be stored.
        """
        found = np.dtype(dtype)
        if found.name not in DTYPES:
            raise InputError(f"element type {found.name} cannot be stored; it must be one of {', '.join(DTYPES)}")
        if rows < 0 or any(n < 1 for n in row_shape) or shard_bytes < 1 or chunk_bytes < 1:
            raise InputError(
                f"array of {rows} rows of shape {tuple(row_shape)} in shards of {shard_bytes} and chunks of "
                f"{chunk_bytes} bytes cannot be stored; rows must be at least 0 and all other sizes at least 1"
            )
        row_bytes = math.prod(row_shape) * found.itemsize
        chunk_rows = max(1, min(chunk_bytes // row_bytes, rows))
        chunks_per_shard = max(1, min(shard_bytes // (chunk_rows * row_bytes), -(-rows // chunk_rows)))
        shape = tuple(int(n) for n in row_shape)
        layout = cls(int(rows), shape, found.newbyteorder("<"), chunk_rows, chunk_rows * chunks_per_shard)
        if layout.excess:
            raise InputError(f"an array of {rows} rows of shape {shape} and type {found.name} has {layout.excess}")
        return layout

    @classmethod
    def parse(cls, document: object, where: str) -> ArrayLayout:
        """The layout that an array's metadata describes. Raises `FormatError`, which names `where`, unless `metadata`
        would write exactly the same: an unknown codec or key would change the meaning of the bytes."""
        layout = cls._extract(document)
        if layout is None:
            raise FormatError(f"{where}: not the Zarr v3 metadata of an array written by spann")
        if layout.excess:
            raise FormatError(f"{where}: the array has {layout.excess}")
        expected = layout.metadata()
        # Compare as text first: this also tells 1 from 1.0, and takes a tenth of the time.
        same = json.dumps(document, sort_keys=True) == json.dumps(expected, sort_keys=True)
        if not same and (difference := _first_difference(document, expected, "")):
            raise FormatError(f"{where}: not an array that spann can read: {difference}")
        return layout

    @classmethod
    def _extract(cls, document: Any) -> ArrayLayout | None:
        try:
            shape = document["shape"]
            shard_rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
            chunk_rows = document["codecs"][0]["configuration"]["chunk_shape"][0]
            sizes = [*shape[1:], chunk_rows, shard_rows]
            dtype = document["data_type"]
            if any(type(n) is not int for n in [shape[0], *sizes]) or shape[0] < 0 or min(sizes) < 1 or len(shape) > 8:
                return None
        except (KeyError, IndexError, TypeError):
            return None
        if dtype not in DTYPES or shard_rows % chunk_rows:
            return None
        return cls(shape[0], tuple(shape[1:]), np.dtype(dtype).newbyteorder("<"), chunk_rows, shard_rows)

    @property
    def excess(self) -> str:
        """Which size is over its limit, in words; empty if none is."""
        for what, found, most in (
            ("chunks", self.chunk_bytes, LARGEST_CHUNK),
            ("shards", self.shard_bytes, LARGEST_SHARD),
            ("rows", self.rows * self.row_bytes, LARGEST_ARRAY),
        ):
            if found > most:
                return f"{what} of {found if found < 1 << 100 else 'over 2^100'} bytes, more than {most}"
        return ""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.row_shape)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_rows * self.row_bytes

    @property
    def chunks(self) -> int:
        """Inner chunks stored in the whole array."""
        return -(-self.rows // self.chunk_rows)

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def shard_bytes(self) -> int:
        """Bytes of rows in a full shard, without its index."""
        return self.shard_rows * self.row_bytes

    @property
    def chunks_per_shard(self) -> int:
        return self.shard_rows // self.chunk_rows

    @property
    def padding_bytes(self) -> int:
        """Zero bytes after the last row, up to the end of its chunk."""
        return self.chunks * self.chunk_bytes - self.rows * self.row_bytes

    @property
    def index_bytes(self) -> int:
        return self.chunks_per_shard * _ENTRY_BYTES + _CRC_BYTES

    def shard_key(self, shard: int) -> str:
        """Path of a shard file below the array's directory."""
        return "/".join(["c", str(shard), *("0" for _ in self.row_shape)])

    def shard_chunks(self, shard: int) -> int:
        """Inner chunks stored in one shard; only the last shard can have fewer than the others."""
        return min(self.chunks_per_shard, self.chunks - shard * self.chunks_per_shard)

    def file_bytes(self, shard: int) -> int:
        """Exact size of a shard file: its chunks, then its index."""
        return self.shard_chunks(shard) * self.chunk_bytes + self.index_bytes

    @property
    def stored_bytes(self) -> int:
        """Exact size of all shard files together."""
        return self.chunks * self.chunk_bytes + self.shards * self.index_bytes

    def index(self, shard: int) -> bytes:
        """The index of a shard: (offset, length) of each chunk, then their CRC. It follows from the layout alone."""
        entries = self.index_entries(shard, 0, self.chunks_per_shard)
        return entries.tobytes() + crc32c(entries).to_bytes(_CRC_BYTES, "little")

    def index_entries(self, shard: int, first: int, last: int) -> NDArray[np.uint64]:
        """Index entries of chunks `first` to `last` (exclusive) of a shard, (last - first, 2)."""
        stored = max(0, min(last, self.shard_chunks(shard)) - first)
        entries: NDArray[np.uint64] = np.full((last - first, 2), MISSING, dtype="<u8")
        entries[:stored, 0] = np.arange(first, first + stored, dtype=np.uint64) * np.uint64(self.chunk_bytes)
        entries[:stored, 1] = self.chunk_bytes
        return entries

    def metadata(self) -> dict[str, Any]:
        """The array's Zarr v3 metadata document."""
        to_bytes = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": [self.chunk_rows, *self.row_shape],
            "codecs": [to_bytes],
            "index_codecs": [to_bytes, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.shard_rows, *self.row_shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0.0 if self.dtype.kind == "f" else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
        }


def _first_difference(found: Any, expected: Any, at: str) -> str:
    """Where two JSON values differ, in words; empty when they do not."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(found.keys() | expected.keys()):
            place = f"{at}.{key}".lstrip(".")
            if key not in expected:
                return f"{shown(place)} is unknown"
            if key not in found:
                return f"{place} is missing"
            inner = _first_difference(found[key], expected[key], place)
            if inner:
                return inner
        return ""
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(found, expected, strict=True))
        return next((d for i, (a, b) in pairs if (d := _first_difference(a, b, f"{at}[{i}]"))), "")
    if type(found) is type(expected) and found == expected:
        return ""
    return f"{at} is {shown(found)}, expected {shown(expected)}"
