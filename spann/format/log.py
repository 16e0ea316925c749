"""The bytes of the write log: a header for each file, then frames of operations (docs/FORMAT.md, Log).

Arithmetic only; `spann/store/log.py` reads and writes the files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.errors import CorruptionError, FormatError
from spann.types import Array

PUT, DELETE = 1, 2
"""Kinds of frames. A put gives ids their vectors, also where they had others. A delete takes ids away."""

HEADER_BYTES = 56
"""Bytes of a file's header: what it belongs to (40 bytes) and its mark (16 bytes)."""

MARK_OFFSET = 40

FRAME_BYTES = 40
"""Bytes of a frame before its ids."""

LARGEST_BODY = 64 << 20
"""Bytes of the ids and vectors of a frame at most."""

_MAGIC = b"spannlog"
_FRAME_MAGIC = b"spnf"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQ")
_FRAME = struct.Struct("<4sIQQQ")
_CRC = struct.Struct("<I")
_MARK = struct.Struct("<QII")


@dataclass(frozen=True)
class FileHeader:
    """What a file of the log begins with: the `lineage` of the index, its own `number` and the `sequence` number of its
    first frame."""

    lineage: str
    number: int
    sequence: int

    def encode(self) -> bytes:
        """The header, with a mark that promises no frame."""
        head = _HEADER.pack(_MAGIC, _VERSION, int(self.lineage, 16), self.number, self.sequence)
        return head + _CRC.pack(crc32c(head)) + bytes(4) + encode_mark(HEADER_BYTES)

    @classmethod
    def parse(cls, data: bytes, where: str) -> FileHeader:
        """Raises `FormatError` for another or a newer file, and `CorruptionError` for a damaged header."""
        if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
            raise FormatError(f"{where}: not a file of a spann log")
        _, version, lineage, number, sequence = _HEADER.unpack(data[: _HEADER.size])
        if _CRC.unpack_from(data, _HEADER.size)[0] != crc32c(data[: _HEADER.size]) or any(data[36:40]):
            raise CorruptionError(f"{where}: the header of the log file, bytes 0 to 39, does not match its checksum")
        if version > _VERSION:
            raise FormatError(f"{where}: log version {version}, this spann reads {_VERSION}: upgrade spann-index")
        return cls(f"{lineage:08x}", number, sequence)


def encode_mark(length: int) -> bytes:
    """The mark that says: the first `length` bytes of the file are durable."""
    body = struct.pack("<Q", length)
    return body + _CRC.pack(crc32c(body)) + bytes(4)


def parse_mark(data: bytes) -> int | None:
    """The length that a mark promises; None for a mark that was torn."""
    length, crc, zero = _MARK.unpack(data)
    return length if crc == crc32c(data[:8]) and zero == 0 else None


@dataclass(frozen=True, eq=False)
class Frame:
    """Operations that were acknowledged together: `ids` (n,) int64 and, of a put, their `vectors` (n, width) as they
    are stored."""

    kind: int
    sequence: int
    ids: NDArray[np.int64]
    vectors: Array | None = None

    def encode(self) -> bytes:
        body = self.ids.astype("<i8").tobytes()
        if self.vectors is not None:
            body += np.ascontiguousarray(self.vectors).tobytes()
        head = _FRAME.pack(_FRAME_MAGIC, self.kind, self.sequence, len(self.ids), len(body))
        return head + _CRC.pack(crc32c(head)) + _CRC.pack(crc32c(body)) + body


@dataclass(frozen=True)
class FrameHead:
    """What a frame begins with. `body_bytes` follow it, with the CRC-32C `crc`."""

    kind: int
    sequence: int
    count: int
    body_bytes: int
    crc: int

    @classmethod
    def parse(cls, data: bytes) -> FrameHead | None:
        """None for bytes that are no whole, sound head of a frame."""
        if len(data) < FRAME_BYTES:
            return None
        magic, kind, sequence, count, body_bytes = _FRAME.unpack_from(data)
        head_crc, crc = struct.unpack_from("<II", data, _FRAME.size)
        if magic != _FRAME_MAGIC or head_crc != crc32c(data[: _FRAME.size]):
            return None
        return cls(kind, sequence, count, body_bytes, crc)

    def check(self, sequence: int, row_bytes: int, where: str) -> None:
        """Raises `CorruptionError` unless this is the head of frame `sequence`, of vectors of `row_bytes`."""
        if self.sequence != sequence:
            raise CorruptionError(f"{where}: frame {self.sequence} stands where frame {sequence} belongs")
        per_id = {PUT: 8 + row_bytes, DELETE: 8}.get(self.kind)
        if per_id is None:
            raise CorruptionError(f"{where}: frame {sequence} is of the unknown kind {self.kind}")
        if self.body_bytes != self.count * per_id or not 0 < self.body_bytes <= max(LARGEST_BODY, per_id):
            raise CorruptionError(
                f"{where}: frame {sequence} has {self.body_bytes} bytes for {self.count} ids; it needs {per_id} for "
                f"each, and {LARGEST_BODY} at most"
            )

    def frame(self, body: bytes, dtype: np.dtype[np.generic], where: str) -> Frame:
        """The whole frame, with vectors of the stored `dtype`. Raises `CorruptionError` for ids below 0."""
        ids = np.frombuffer(body, "<i8", self.count).astype(np.int64)
        if bool((ids < 0).any()):
            raise CorruptionError(f"{where}: frame {self.sequence} holds id {ids.min()}, and ids are at least 0")
        if self.kind == DELETE:
            return Frame(DELETE, self.sequence, ids)
        vectors = np.frombuffer(body, dtype.newbyteorder("<"), offset=8 * self.count)
        return Frame(PUT, self.sequence, ids, vectors.reshape(self.count, -1))
