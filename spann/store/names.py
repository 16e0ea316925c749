"""Names of vectors in an index: written, found by number, and compared with each other in bounded memory."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c_blocks
from spann._kernels.io import read_many
from spann.errors import CorruptionError, StorageError
from spann.format.names import BYTES, CHUNK_BYTES, ENDS, LONGEST, NAMES, parts_of, typed
from spann.store import files
from spann.store.arrays import ShardedArray, ShardedWriter
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter
from spann.system import reason
from spann.types import Array

FOUND_AT_ONCE = 1 << 16
"""Names that are looked up at a time."""

PARTITION_BYTES = 48 << 20
"""Bytes that names are compared in: of hashes with their numbers, and of the same sorted."""

_HASHED = np.dtype([("hash", "<u8"), ("number", "<i8")])

Chunks = Callable[[], Iterable[Any]]
"""Arrow arrays of large_binary without nulls, from the beginning each time."""


class NameTable:
    """The names of an open index, found by number. They stay on disk; in memory are 4 bytes for each 4 KiB of them.

    Any thread may call. Raises `CorruptionError` for a chunk that does not match its checksum."""

    def __init__(self, reader: IndexReader, *, check: bool = True) -> None:
        self.kind = str(reader.attributes["name_type"])
        self._ends, self._bytes = (_Chunks(reader, name, check) for name in (ENDS, BYTES))
        self.count = self._ends.array.rows

    def close(self) -> None:
        self._ends.close()
        self._bytes.close()

    def arrow(self, numbers: NDArray[np.int64]) -> Any:
        """The names of `numbers` (n,), each at least 0, as an Arrow array of string, uuid or binary."""
        import pyarrow as pa

        distinct, place = np.unique(numbers, return_inverse=True)
        if len(distinct) and distinct[-1] >= self.count:
            raise CorruptionError(f"{self._ends.array.path}: has {self.count} names, and none for id {distinct[-1]}")
        steps = range(0, len(distinct), FOUND_AT_ONCE)
        found = [self._binary(distinct[at : at + FOUND_AT_ONCE]) for at in steps]
        every = pa.concat_arrays(found) if found else pa.array([], pa.large_binary())
        return typed(every.take(pa.array(place.reshape(-1))), self.kind)

    def objects(self, numbers: NDArray[np.int64]) -> Any:
        """The names of `numbers`, of any shape, as str, `uuid.UUID` or bytes; None for numbers below 0."""
        out = np.full(numbers.shape, None, object)
        there = numbers >= 0
        distinct, place = np.unique(numbers[there], return_inverse=True)
        if len(distinct):
            values = np.empty(len(distinct), object)
            values[:] = self.arrow(distinct).to_pylist()
            out[there] = values[place.reshape(-1)]
        return out

    def chunks(self) -> Iterator[Any]:
        """All names in order, some at a time, as large_binary."""
        for start in range(0, self.count, FOUND_AT_ONCE):
            yield self._binary(np.arange(start, min(start + FOUND_AT_ONCE, self.count)))

    def _binary(self, numbers: NDArray[np.int64]) -> Any:
        """The names of ascending numbers."""
        import pyarrow as pa

        ends = self._ends.take(numbers).view("<u8").reshape(-1)
        before = self._ends.take(np.maximum(numbers - 1, 0)).view("<u8").reshape(-1)
        begins = np.where(numbers > 0, before, 0)
        if not bool(((begins < ends) & (ends <= self._bytes.array.rows) & (ends - begins <= LONGEST)).all()):
            raise CorruptionError(f"{self._ends.array.path}: names end where they cannot")
        lengths = (ends - begins).astype(np.int64)
        data = self._bytes.ranges(begins.astype(np.int64), lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        )


class _Chunks:
    """An array whose chunks are read one by one, each compared with its checksum."""

    def __init__(self, reader: IndexReader, name: str, check: bool) -> None:
        self.array: ShardedArray = reader.array(name)
        self._crcs = reader.checksums(name) if check else None
        self._fds = [self.array.open_shard(shard) for shard in range(self.array.layout.shards)]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        while getattr(self, "_fds", None):
            files.close(self._fds.pop())

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bytes of the ascending `rows`, (n, row_bytes)."""
        layout = self.array.layout
        chunks, place = np.unique(rows // layout.chunk_rows, return_inverse=True)
        data = self._read(chunks).reshape(-1, layout.row_bytes)
        return np.asarray(data[place * layout.chunk_rows + rows % layout.chunk_rows])

    def ranges(self, begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The bytes from each of the ascending `begins` on, one after the other."""
        size = self.array.layout.chunk_bytes
        first, last = begins // size, (begins + lengths - 1) // size
        chunks = np.unique(_spread(first, last - first + 1))
        data = self._read(chunks)
        starts = np.searchsorted(chunks, first) * size + begins % size  # chunks of a range lie one after the other
        return data[_spread(starts, lengths)]

    def _read(self, chunks: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The bytes of ascending chunks."""
        layout = self.array.layout
        size, per = layout.chunk_bytes, layout.chunks_per_shard
        out = np.empty(len(chunks) * size, np.uint8)
        shards = chunks // per
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            if not self._fds:
                raise StorageError(f"{self.array.path}: has been closed")
            raw, got = read_many(self._fds[shard], chunks[mine] % per * size, np.full(len(mine), size, np.uint32))
            if bool((got != size).any()):
                raise CorruptionError(f"{self.array.shard_path(shard)}: ends early, or cannot be read")
            out.reshape(-1, size)[mine] = raw.reshape(-1, size)
        if self._crcs is not None:
            bad = np.flatnonzero(crc32c_blocks(out, size) != self._crcs[chunks])
            if len(bad):
                row = int(chunks[bad[0]]) * layout.chunk_rows
                raise CorruptionError(
                    f"{self.array.shard_path(row // layout.shard_rows)}: rows from {row} on do not match their checksum"
                )
        return out


def _spread(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each start on, as many as its length, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    found: NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return found


def names_of(reader: IndexReader, *, check: bool = True) -> NameTable | None:
    """The names of the vectors of an index; None where they have none."""
    return NameTable(reader, check=check) if NAMES in reader.attributes["features"] else None


def names_memory(reader: IndexReader) -> int:
    """Bytes that a `NameTable` keeps in memory."""
    if NAMES not in reader.attributes["features"]:
        return 0
    return 4 * sum(reader.layout(name).chunks for name in (ENDS, BYTES))


def names_bytes(count: int, size: int) -> int:
    """Bytes on disk of `count` names of `size` bytes in all."""
    return (8 * count + size) * (CHUNK_BYTES + 20) // CHUNK_BYTES


def write_names(writer: IndexWriter, chunks: Iterable[Any], count: int, size: int) -> None:
    """Writes `count` names of `size` bytes in all."""
    ends = writer.create_array(ENDS, count, np.uint64, chunk_bytes=CHUNK_BYTES)
    data = writer.create_array(BYTES, size, np.uint8, chunk_bytes=CHUNK_BYTES)
    add_names(ends, data, chunks, 0)


def add_names(ends: ShardedWriter, data: ShardedWriter, chunks: Iterable[Any], at: int) -> None:
    """Appends names to arrays whose last name ends at byte `at`, and finishes them."""
    for lengths, values in map(parts_of, chunks):
        placed = at + np.cumsum(lengths)
        ends.append(placed.astype("<u8"))
        data.append(values)
        at = int(placed[-1]) if len(placed) else at
    ends.finish()
    data.finish()


def find_repeated(chunks: Chunks, count: int, scratch: Path) -> tuple[bytes, int, int] | None:
    """A name that comes twice among the `count` of `chunks`, and the numbers of two that have it; None if all differ.

    Memory does not grow with the names: their hashes lie in a temporary file in the directory `scratch`, and are
    compared by parts. Names of equal hashes are read again, and compared as they are."""
    table = np.random.default_rng(secrets.randbits(64)).integers(0, 1 << 64, LONGEST + 1, np.uint64, endpoint=False)
    parts = max(1, -(-count * _HASHED.itemsize * 2 // PARTITION_BYTES))
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            for lengths, values in map(parts_of, chunks()):
                _hashes(lengths, values, table).tofile(file)
            for part in range(parts):
                for numbers in _alike(file, part, parts):
                    if (found := _compare(chunks, numbers)) is not None:
                        return found
    except OSError as error:
        raise StorageError(f"{scratch}: a temporary file cannot be written: {reason(error)}") from error
    return None


def _hashes(lengths: Array, values: Array, table: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number of 64 bits for each name: the sum of its bytes, each multiplied by a random number of its place."""
    ends = np.cumsum(lengths)
    if not len(ends):
        return np.empty(0, np.uint64)
    place = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)
    weighted = (values.astype(np.uint64) + np.uint64(1)) * table[place]
    sums = np.add.reduceat(weighted, (ends - lengths).astype(np.int64))
    sums = (sums ^ (sums >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(sums ^ (sums >> np.uint64(32)))


def _alike(file: Any, part: int, parts: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of names of one part whose hashes are equal to that of another, ascending, about `FOUND_AT_ONCE` at a
    time; those of one hash come together."""
    file.seek(0)
    held, at = [], 0
    while len(block := np.fromfile(file, np.uint64, 1 << 20)):
        mine = np.flatnonzero(block % np.uint64(parts) == part)
        records = np.empty(len(mine), _HASHED)
        records["hash"], records["number"] = block[mine], at + mine
        held.append(records)
        at += len(block)
    every = np.concatenate(held) if held else np.empty(0, _HASHED)
    every.sort(order="hash", kind="stable")
    same = every["hash"][1:] == every["hash"][:-1]
    alike = every[np.concatenate([same, [False]]) | np.concatenate([[False], same])]
    ends = np.append(np.flatnonzero(np.diff(alike["hash"])) + 1, len(alike))
    start = 0
    while start < len(alike):
        stop = int(ends[np.searchsorted(ends, min(start + FOUND_AT_ONCE, len(alike)))])
        yield np.sort(alike["number"][start:stop])
        start = stop


def _compare(chunks: Chunks, numbers: NDArray[np.int64]) -> tuple[bytes, int, int] | None:
    """Two equal names among those of the ascending `numbers`, which are read again."""
    seen: dict[bytes, int] = {}
    at = 0
    for chunk in chunks():
        first, last = np.searchsorted(numbers, [at, at + len(chunk)])
        for number in numbers[first:last].tolist():
            name = chunk[number - at].as_py()
            if name in seen:
                return name, seen[name], number
            seen[name] = number
        at += len(chunk)
    return None
