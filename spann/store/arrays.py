"""Sharded, uncompressed Zarr v3 arrays, written and read without a Zarr library.

zarr-python's sharded writer reaches 26-130 MB/s and its reader costs 75 times a direct read, where plain files run at
the speed of the disk; and the search reads rows by arithmetic offset anyway. So the library is used by the tests alone,
to prove that what stands here is Zarr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spann._kernels.checksum import crc32c, crc32c_blocks
from spann.errors import CorruptionError, FormatError, InputError, MissingError, SpannError
from spann.format.json_text import parse_json, to_json
from spann.format.layout import CHUNK_BYTES, SHARD_BYTES, ArrayLayout
from spann.format.manifest import LARGEST_MANIFEST
from spann.store import files
from spann.store.places import Where, as_path
from spann.store.stored import SMALL, check_stored, open_stored, read_stored, reading
from spann.types import Array

METADATA = "zarr.json"

State = dict[str, int]
"""The state of a `ShardedWriter`: `rows` appended so far, and the CRC-32C of their bytes."""

_INDEX_STEP = 1 << 16
"""Entries of a shard index compared at a time."""

_MOST_UNREADABLE = 16
"""Shards of an array that are missing, or not of their size, after which a verification looks for no more of it."""

_SCAN_BYTES = 8 << 20
"""Bytes read at once when everything is verified: beyond some MB a disk gets no faster."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file of an index. `detail` is a sentence fragment for people."""

    kind: Literal["missing", "damaged", "unexpected"]
    path: Path
    detail: str

    @classmethod
    def of(cls, error: SpannError, path: Where) -> Problem:
        return cls("missing" if isinstance(error, MissingError) else "damaged", as_path(path), str(error))


class ChunkChecksums:
    """CRC-32C of each chunk of a stream of bytes that arrives in pieces of any size."""

    def __init__(self, chunks: int, chunk_bytes: int) -> None:
        self.values: NDArray[np.uint32] = np.zeros(chunks, dtype=np.uint32)
        self._chunk_bytes = chunk_bytes
        self._seen = 0

    def begin_with(self, values: NDArray[np.uint32]) -> None:
        """Takes the checksums of the first chunks, whole ones, as known."""
        self.values[: values.size] = values
        self._seen = values.size * self._chunk_bytes

    def update(self, data: NDArray[np.uint8]) -> None:
        chunk, fill = divmod(self._seen, self._chunk_bytes)
        self._seen += data.size
        if fill:
            head, data = np.split(data, [self._chunk_bytes - fill])
            self.values[chunk] = crc32c(head, int(self.values[chunk]))
            chunk += 1
        blocks = crc32c_blocks(data, self._chunk_bytes)
        self.values[chunk : chunk + blocks.size] = blocks


class ShardedWriter:
    """Writes one array, front to back, in memory that does not grow with it (4 bytes per chunk apart).

    ``path`` is the array's directory, which must not exist in a parent that does. Exactly `rows` rows of `row_shape`
    and `dtype` are to be appended before `finish`. As a context manager it lets go of its file, finished or not.
    With the `state` that an earlier one had, in a process that may have been killed since, it goes on after the rows
    there were then. Raises `InputError` for what cannot be stored, `ExistsError`, `CorruptionError` where the rows are
    not those that `state` speaks of, and `StorageError` when the system refuses.
    """

    def __init__(
        self,
        path: Where,
        dtype: DTypeLike,
        row_shape: Sequence[int],
        *,
        rows: int,
        shard_bytes: int = SHARD_BYTES,
        chunk_bytes: int = CHUNK_BYTES,
        state: State | None = None,
    ) -> None:
        self.path = path
        self.layout = ArrayLayout.plan(rows, dtype, row_shape, shard_bytes=shard_bytes, chunk_bytes=chunk_bytes)
        self.finished = False
        self._checksums = ChunkChecksums(self.layout.chunks, self.layout.chunk_bytes)
        self._written = 0  # bytes of the array so far, indexes not counted
        self._complete = False  # down to the padding of the last chunk
        self._fd: int | None = None  # of the shard being written, if any
        self._crc = 0  # of all rows that were appended
        if state is None:
            files.make_dir(self.path)
        else:
            self._go_on(state)

    def begin_with(self, old: ShardedArray, crcs: NDArray[np.uint32]) -> None:
        """Begins with all rows of `old`, an array of the same type whose chunks have the CRC-32C `crcs` (chunks,).

        Shards that stay as they are become links to those of `old`, which nothing ever writes to again; the rows of a
        shard that grows are copied. `CorruptionError` where those do not match their checksums."""
        new, was = self.layout, old.layout
        shards = 0
        if (new.chunk_rows, new.shard_rows) == (was.chunk_rows, was.shard_rows):
            shards = new.shards if new.rows == was.rows else was.rows // new.shard_rows
        self._complete = shards == new.shards
        for shard in range(shards):
            path = self._make_room(shard)
            files.link(as_path(old.shard_path(shard)), path)
            self._sync_directories(path)
        first = min(shards * new.shard_rows, was.rows)
        known = crcs[: -(-first // was.chunk_rows)]
        self._checksums.begin_with(known)
        self._written = first * new.row_bytes
        for rows in old.checked_rows(first, crcs):
            self.append(rows)

    def state(self) -> State:
        """Makes durable what was appended, in a directory that is durable itself; what another one goes on from."""
        if self._fd is not None:
            path = self.path / self.layout.shard_key(self._written // self.layout.shard_bytes)
            files.sync_file(self._fd, path)
            self._sync_directories(path)
        files.sync_dir(self.path)
        return {"rows": self.rows, "crc": self._crc}

    @property
    def rows(self) -> int:
        """Rows so far."""
        return min(self._written // self.layout.row_bytes, self.layout.rows)

    def _go_on(self, state: State) -> None:
        layout, array = self.layout, ShardedArray(self.path, self.layout)
        size = state["rows"] * layout.row_bytes
        full, used = divmod(size, layout.shard_bytes)
        shards = [array.shard_path(shard) for shard in range(full + (used > 0))]
        for path, _ in list(files.walk_files(self.path)):
            if path not in shards:
                files.remove_file(path)
        for shard in range(full):
            with array.reading(shard) as fd:
                array.check_index(shard, fd)
        if used:
            self._fd = files.open_again(as_path(shards[full]), used)
        try:
            step = max(1, _SCAN_BYTES // layout.row_bytes)
            for start in range(0, state["rows"], step):
                data = array.read_rows(start, min(start + step, state["rows"])).reshape(-1).view(np.uint8)
                self._checksums.update(data)
                self._crc = crc32c(data, self._crc)
            if self._crc != state["crc"]:
                raise CorruptionError(f"{self.path}: its first {state['rows']} rows are not those that were written")
        except BaseException:
            self.close()
            raise
        self._written = size

    def append(self, rows: Array) -> None:
        """Appends (n, *row_shape) rows of exactly the array's dtype; other values are refused, never cast."""
        layout = self.layout
        if rows.dtype != layout.dtype or rows.shape[1:] != layout.row_shape or rows.ndim != 1 + len(layout.row_shape):
            raise InputError(
                f"{self.path}: rows of shape {rows.shape} and type {rows.dtype.str} were appended to an array of shape "
                f"{layout.shape} and type {layout.dtype.str}"
            )
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        if self._written + data.size > layout.rows * layout.row_bytes:
            raise InputError(f"{self.path}: more than the promised {layout.rows} rows were appended")
        self._crc = crc32c(data, self._crc)
        self._write(data)

    def finish(self) -> NDArray[np.uint32]:
        """Makes everything durable, writes the metadata and returns `checksums`."""
        layout = self.layout
        if self._written != layout.rows * layout.row_bytes:
            got = self._written // layout.row_bytes
            raise InputError(f"{self.path}: {got} rows were appended, {layout.rows} were promised")
        if not self._complete:
            self._write(np.zeros(layout.padding_bytes, dtype=np.uint8))
        if self._fd is not None:
            self._close_shard(self._fd, layout.shards - 1)
        files.write_file(self.path / METADATA, to_json(layout.metadata()), "metadata")
        files.sync_dir(self.path)
        self.finished = True
        return self.checksums

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """CRC-32C of each inner chunk, (chunks,) uint32; complete once `finished`."""
        return self._checksums.values

    def close(self) -> None:
        """Lets go of the file being written. What was written stays, and is no array unless finished."""
        if self._fd is not None:
            files.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self, data: NDArray[np.uint8]) -> None:
        while data.size:
            shard, used = divmod(self._written, self.layout.shard_bytes)
            part, data = np.split(data, [self.layout.shard_bytes - used])
            fd = self._open_shard(shard) if self._fd is None else self._fd
            first = self._written // self.layout.row_bytes
            files.write_all(fd, part, self.path / self.layout.shard_key(shard), f"rows from {first}")
            self._checksums.update(part)
            self._written += part.size
            if used + part.size == self.layout.shard_bytes:
                self._close_shard(fd, shard)

    def _open_shard(self, shard: int) -> int:
        self._fd = files.open_new(self._make_room(shard))
        return self._fd

    def _make_room(self, shard: int) -> Where:
        """Makes the directories of a shard file. Returns its path."""
        path = self.path / self.layout.shard_key(shard)
        for parent in reversed(self._directories(path)):
            files.ensure_dir(parent)
        return path

    def _close_shard(self, fd: int, shard: int) -> None:
        path = self.path / self.layout.shard_key(shard)
        files.write_all(fd, self.layout.index(shard), path, "the shard index")
        files.sync_file(fd, path)
        self.close()
        self._sync_directories(path)

    def _sync_directories(self, path: Where) -> None:
        for parent in self._directories(path):
            files.sync_dir(parent)

    def _directories(self, shard: Where) -> list[Where]:
        """The directories of a shard file below the array's own, innermost first."""
        found = []
        while (shard := shard.parent) != self.path:
            found.append(shard)
        return found


class ShardedArray:
    """One stored array, open for reading. No file is held open between calls; any thread may call.

    `layout` and the properties derived from it say where each row is, for readers that go to the files themselves.
    """

    def __init__(self, path: Where, layout: ArrayLayout) -> None:
        """Takes the layout on trust and looks at no file; `open` is the way in that checks."""
        self.path = path
        self.layout = layout

    @classmethod
    def open(cls, path: Where, layout: ArrayLayout | None = None) -> ShardedArray:
        """Opens the array in directory `path`, checking its metadata and the size and index of every shard.

        `layout` is given where the caller has it already (from the manifest); otherwise the array's zarr.json is read.
        Raises `MissingError`, `FormatError`, `CorruptionError` or `StorageError`, each naming the file and what was
        expected of it.
        """
        if layout is None:
            where = path / METADATA
            data = read_stored(where, LARGEST_MANIFEST)
            layout = ArrayLayout.parse(parse_json(data, str(where)), str(where))
        array = cls(path, layout)
        for shard in range(array.layout.shards):
            with array.reading(shard) as fd:
                array.check_index(shard, fd)
        return array

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def shard_rows(self) -> int:
        return self.layout.shard_rows

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layout.dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.layout.row_shape

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shard files."""
        return self.layout.stored_bytes

    def shard_path(self, shard: int) -> Where:
        return self.path / self.layout.shard_key(shard)

    def open_shard(self, shard: int, flags: int = 0) -> int:
        """A descriptor of a shard file, which the caller closes. `flags` are added to those of open(2). Raises
        `MissingError`, `StorageError`, and `CorruptionError` for what is no regular file or has not exactly its size.
        """
        path = self.shard_path(shard)
        fd = open_stored(path, flags)
        try:
            check_stored(fd, self.layout.file_bytes(shard), path)
        except BaseException:
            files.close(fd)
            raise
        return fd

    @contextmanager
    def reading(self, shard: int) -> Iterator[int]:
        """`open_shard` for the time of a `with` block."""
        fd = self.open_shard(shard)
        try:
            yield fd
        finally:
            files.close(fd)

    def check_index(self, shard: int, fd: int) -> None:
        """Raises `CorruptionError` for a damaged shard index, `FormatError` for an undamaged but unexpected one."""
        path, layout = self.shard_path(shard), self.layout
        offset = layout.file_bytes(shard) - layout.index_bytes
        crc = 0
        same = True
        for first in range(0, layout.chunks_per_shard, _INDEX_STEP):
            last = min(first + _INDEX_STEP, layout.chunks_per_shard)
            expected = layout.index_entries(shard, first, last).view(np.uint8).reshape(-1)
            found = np.empty(expected.size + (4 if last == layout.chunks_per_shard else 0), np.uint8)
            files.read_exact(fd, found, offset + expected.size // (last - first) * first, path)
            entries, end = found[: expected.size], found[expected.size :]
            same &= entries.tobytes() == expected.tobytes()
            crc = crc32c(entries, crc)
            if not same and layout.index_bytes > SMALL:
                break  # whether it matches its checksum is not worth hours
        matches = int.from_bytes(end.tobytes(), "little") == crc
        if same and matches:
            return
        if matches:
            raise FormatError(f"{path}: the shard index at byte {offset} lists other chunks than one after the other")
        raise CorruptionError(f"{path}: the shard index at byte {offset} does not match its checksum")

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows start..stop (stop excluded) as (stop - start, *row_shape), not verified against any checksum."""
        layout = self.layout
        if not 0 <= start <= stop <= layout.rows:
            raise InputError(f"{self.path}: rows {start} to {stop} were asked of an array of {layout.rows} rows")
        out = np.empty((stop - start, *layout.row_shape), dtype=layout.dtype)
        rest = out.reshape(-1).view(np.uint8)
        position = start * layout.row_bytes
        while rest.size:
            shard, offset = divmod(position, layout.shard_bytes)
            part, rest = np.split(rest, [layout.shard_bytes - offset])
            self._read_into(part, shard, offset)
            position += part.size
        return out

    def take_rows(self, rows: NDArray[np.int64], *, gap_bytes: int) -> Array:
        """The `rows` (n,), ascending, as (n, *row_shape), not verified; those with at most `gap_bytes` between them in
        one read."""
        layout = self.layout
        out = np.empty((len(rows), *layout.row_shape), dtype=layout.dtype)
        data = out.reshape(-1).view(np.uint8).reshape(len(rows), layout.row_bytes)
        shard = rows // layout.shard_rows
        for number in np.unique(shard).tolist():
            first, last = np.searchsorted(shard, (number, number + 1))
            path = self.shard_path(number)
            with reading(path) as fd:
                inside = rows[first:last] - number * layout.shard_rows
                data[first:last] = files.read_rows(fd, inside, layout.row_bytes, path, gap_bytes=gap_bytes)
        return out

    def checked_rows(self, first: int, crcs: NDArray[np.uint32]) -> Iterator[Array]:
        """Rows from `first` on, which begins a chunk, some at a time. After the last, raises `CorruptionError` if any
        did not match the CRC-32C `crcs` (chunks,) of all chunks."""
        layout = self.layout
        self._check_count(crcs)
        if first >= layout.rows:
            return
        found = ChunkChecksums(layout.chunks, layout.chunk_bytes)
        found.begin_with(crcs[: first // layout.chunk_rows])
        step = max(1, _SCAN_BYTES // layout.chunk_bytes) * layout.chunk_rows
        for start in range(first, layout.rows, step):
            rows = self.read_rows(start, min(start + step, layout.rows))
            found.update(rows.reshape(-1).view(np.uint8))
            yield rows
        found.update(self._padding())
        self._compare(found, crcs)

    def _compare(self, found: ChunkChecksums, expected: NDArray[np.uint32]) -> None:
        bad = np.flatnonzero(found.values != expected)
        if bad.size:
            shard, detail = self._describe(int(bad[0]), int(bad[0]))
            raise CorruptionError(f"{self.shard_path(shard)}: {detail} do not match their checksum")

    def read_all(self, expected_crcs: NDArray[np.uint32] | None = None) -> Array:
        """The whole array, (rows, *row_shape). Given the (chunks,) uint32 CRC-32C of its chunks, verifies each of them;
        indexes of shards and padding are verified in any case. Raises as `open`, and `CorruptionError` naming the first
        rows that are damaged."""
        layout = self.layout
        for shard in range(1, layout.shards):  # before memory is taken for what may not be there
            with self.reading(shard) as fd:
                self.check_index(shard, fd)
        out, padding = np.empty((0, *layout.row_shape), layout.dtype), np.empty(0, np.uint8)
        for shard in range(layout.shards):
            with self.reading(shard) as fd:
                if shard == 0:
                    self.check_index(shard, fd)
                    out = np.empty(layout.shape, layout.dtype)
                first = shard * layout.shard_rows
                part = out[first : first + layout.shard_rows].reshape(-1).view(np.uint8)
                files.read_exact(fd, part, 0, self.shard_path(shard))
                if shard == layout.shards - 1:
                    padding = np.empty(layout.padding_bytes, np.uint8)
                    files.read_exact(fd, padding, part.size, self.shard_path(shard))
        if padding.any():
            last = self.shard_path(self.layout.shards - 1)
            raise CorruptionError(f"{last}: the padding after the last row is not zero")
        if expected_crcs is not None:
            found = ChunkChecksums(self.layout.chunks, self.layout.chunk_bytes)
            found.update(out.reshape(-1).view(np.uint8))
            found.update(padding)
            self._check_count(expected_crcs)
            self._compare(found, expected_crcs)
        return out

    def verify(
        self, expected_crcs: NDArray[np.uint32] | None = None, progress: Callable[[int], None] | None = None
    ) -> Iterator[Problem]:
        """Reads every byte of every shard, a few MB at a time, and yields what is wrong.

        `expected_crcs` is the (chunks,) uint32 CRC-32C of the chunks; without it only sizes, indexes and padding can be
        checked. `progress` is told the bytes of each step; over a whole array they sum to `stored_bytes`. What has
        been read is dropped from the page cache: a scan must not push out what searches are using.
        """
        if expected_crcs is not None:
            self._check_count(expected_crcs)
        unreadable = 0
        for shard in range(self.layout.shards):
            path = self.shard_path(shard)
            told = 0
            try:
                with self.reading(shard) as fd:
                    for bad, step in self._scan(shard, fd, expected_crcs):
                        yield from self._damage(bad)
                        told += step
                        if progress:
                            progress(step)
                    self.check_index(shard, fd)
            except SpannError as error:
                yield Problem.of(error, path)
                unreadable += told == 0
                if unreadable == _MOST_UNREADABLE and shard + 1 < self.layout.shards:
                    left = self.layout.shards - shard - 1
                    yield Problem("missing", as_path(self.path), f"{left} shards more were not looked at")
                    return
            if progress:
                progress(self.layout.file_bytes(shard) - told)

    def _scan(self, shard: int, fd: int, expected: NDArray[np.uint32] | None) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Reads the chunks of a shard; yields, step by step, the numbers of the bad ones and the bytes read."""
        layout, path = self.layout, self.shard_path(shard)
        total = layout.shard_chunks(shard) * layout.chunk_bytes
        buffer = np.empty(min(total, max(1, _SCAN_BYTES // layout.chunk_bytes) * layout.chunk_bytes), dtype=np.uint8)
        files.will_stream(fd)
        for offset in range(0, total, buffer.size):
            data = buffer[: total - offset]
            files.read_exact(fd, data, offset, path)
            files.forget(fd, offset, data.size)
            first = shard * layout.chunks_per_shard + offset // layout.chunk_bytes
            crcs = crc32c_blocks(data, layout.chunk_bytes)
            wrong = np.zeros(crcs.size, dtype=bool)
            if expected is not None:
                wrong = crcs != expected[first : first + crcs.size]
            if first + crcs.size == layout.chunks and data[data.size - layout.padding_bytes :].any():
                wrong[-1] = True
            yield first + np.flatnonzero(wrong), data.size

    def _damage(self, bad: NDArray[np.intp]) -> Iterator[Problem]:
        """One problem per run of neighbouring bad chunks: a lost file system block must not become a thousand lines."""
        for run in np.split(bad, np.flatnonzero(np.diff(bad) > 1) + 1):
            if run.size:
                shard, detail = self._describe(int(run[0]), int(run[-1]))
                yield Problem("damaged", as_path(self.shard_path(shard)), f"{detail} do not match their checksum")

    def _describe(self, first: int, last: int) -> tuple[int, str]:
        """The shard of chunks first..last, all of one shard, and their place in words."""
        layout = self.layout
        shard, start = divmod(first, layout.chunks_per_shard)
        rows = f"rows {first * layout.chunk_rows}..{min((last + 1) * layout.chunk_rows, layout.rows) - 1}"
        end = (start + last - first + 1) * layout.chunk_bytes
        return shard, f"{rows} (chunks {first}..{last}, bytes {start * layout.chunk_bytes}..{end - 1} of the file)"

    def _check_count(self, crcs: NDArray[np.uint32]) -> None:
        if crcs.shape != (self.layout.chunks,):
            raise FormatError(f"{self.path}: {crcs.shape} checksums for an array of {self.layout.chunks} chunks")

    def _padding(self) -> NDArray[np.uint8]:
        layout = self.layout
        if not layout.padding_bytes:
            return np.empty(0, dtype=np.uint8)
        shard = layout.shards - 1
        end = layout.shard_chunks(shard) * layout.chunk_bytes
        return self._read(shard, end - layout.padding_bytes, layout.padding_bytes)

    def _read(self, shard: int, offset: int, length: int) -> NDArray[np.uint8]:
        out = np.empty(length, dtype=np.uint8)
        self._read_into(out, shard, offset)
        return out

    def _read_into(self, out: NDArray[np.uint8], shard: int, offset: int) -> None:
        path = self.shard_path(shard)
        with reading(path) as fd:  # of a shard, perhaps, that is still written: it need not have its size
            files.read_exact(fd, out, offset, path)
