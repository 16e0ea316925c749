"""What was appended to an index, merged by centroid and kept in memory (ext/c/search/tail.h).

An append writes new postings for the centroids there are. Read as they lie on disk, each would be a visit and a read of
its own. Merged, the appended entries of a centroid are one run, whatever the number of appends, and are scored together
with its posting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _search
from spann._kernels.postings import HEADER_BYTES, SLACK
from spann.errors import CorruptionError
from spann.format.kinds import CodedPostings
from spann.search.cells import Cells
from spann.search.contract import Resident
from spann.search.loading import Block, read_postings
from spann.store.reader import IndexReader
from spann.types import Array

RUN = np.dtype([("first", "<u8"), ("entries", "<u4"), ("primaries", "<u4"), ("error", "<f4"), ("most", "<f4")])
"""As `spann_tail_run`."""

PART = np.dtype(
    [
        *((name, "<u8") for name in ("start", "first_row", "primary_at", "replica_at")),
        *(("crc", "<u4"), ("length", "<u2"), ("primaries", "<u2")),
    ]
)
"""As `spann_part`."""

_RUNS = _search.TAIL_RUNS


@dataclass(frozen=True)
class Places:
    """Where the entries of appended postings (n,) lie in the tail: ``runs`` (centroids * TAIL_RUNS,) of `RUN`, and of
    each posting the first entry of its primaries and of its replicas."""

    runs: NDArray[np.void]
    primary_at: NDArray[np.uint64]
    replica_at: NDArray[np.uint64]

    @classmethod
    def of(cls, run: NDArray[np.int64], runs: int, length: Array, primaries: Array) -> Places:
        """For postings (n,) of so many entries. Those of posting i go into the run of the number ``run[i]``."""
        p, r = primaries.astype(np.int64), length.astype(np.int64) - primaries
        found = np.zeros(runs, RUN)
        found["entries"] = np.bincount(run, p + r, runs)
        found["primaries"] = np.bincount(run, p, runs)
        found["first"] = np.cumsum(found["entries"], dtype=np.uint64) - found["entries"]
        order = np.argsort(run, kind="stable")
        begin = found["first"].astype(np.int64)[run]
        behind = begin + found["primaries"].astype(np.int64)[run]
        return cls(
            found,
            (begin + _before(p, run, order)).astype(np.uint64),
            (behind + _before(r, run, order)).astype(np.uint64),
        )


def _before(counts: NDArray[np.int64], run: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of `counts` (n,) of earlier items of the same run; `order` sorts by run."""
    sums = np.cumsum(counts[order]) - counts[order]
    first = np.searchsorted(run[order], run[order], side="left")
    found = np.empty(len(counts), np.int64)
    found[order] = sums - sums[first]
    return found


@dataclass(frozen=True)
class CodedTail:
    """The entries of tails with codes, in the order of the runs. Factors and codes have `TAIL_SLACK` entries more."""

    places: Places
    ids: NDArray[np.uint8]
    rows: NDArray[np.uint8]
    add: NDArray[np.float32]
    scale: NDArray[np.float32]
    codes: NDArray[np.uint8]


@dataclass(frozen=True)
class ExactTail:
    """The entries of a tail with vectors, in the order of the runs."""

    places: Places
    ids: NDArray[np.uint8]
    vectors: NDArray[np.uint8]


def attach_tail(native: _search.NativeIndex, resident: Resident, reader: IndexReader, cells: Cells) -> int:
    """Reads the tails of `cells` and hands them to the native search. Returns the bytes they take.

    Raises `CorruptionError` for a damaged posting."""
    kind = resident.collection.kind
    kept: list[Array]
    if isinstance(kind, CodedPostings):
        coded = codes_of(native, resident, reader, cells)
        places, ids = coded.places, coded.ids
        native.set_tail_codes(coded.rows, coded.add, coded.scale, coded.codes)
        first = _first_rows(resident, cells.tail)
        parts = (first, resident.primaries[cells.tail], cells.tail_centroid, places.primary_at)
        native.set_tail_parts(*parts)
        kept = [coded.rows, coded.add, coded.scale, coded.codes, *parts]
    else:
        exact = vectors_of(native, resident, reader, cells)
        places, ids = exact.places, exact.ids
        native.set_tail_vectors(exact.vectors)
        kept = [exact.vectors]
    runs = places.runs.view(np.uint8)
    native.set_tail(runs, ids)
    return sum(array.nbytes for array in [runs, ids, *kept])


def codes_of(native: _search.NativeIndex, resident: Resident, reader: IndexReader, cells: Cells) -> CodedTail:
    """Reads tails with codes."""
    kind = resident.collection.kind
    assert isinstance(kind, CodedPostings)
    length, primaries = resident.length[cells.tail], resident.primaries[cells.tail]
    errors = _errors(resident, reader, cells.tail)
    run = _RUNS * cells.tail_centroid.astype(np.int64) + (errors < 0)  # far codes have the second one
    places = Places.of(run, _RUNS * resident.collection.centroids, length, primaries)
    np.maximum.at(places.runs["error"], run, np.abs(errors))
    places.runs["error"][1::_RUNS] *= -1
    entries = int(length.sum(dtype=np.int64))
    padded = entries + _search.TAIL_SLACK
    found = CodedTail(
        places,
        ids=np.empty(entries * kind.id_bytes, np.uint8),
        rows=np.empty(entries * kind.row_bytes, np.uint8),
        add=np.zeros(padded, np.float32),
        scale=np.zeros(padded, np.float32),
        codes=np.zeros(padded * kind.code_bytes + SLACK, np.uint8),
    )
    for parts, block in _parts(resident, reader, cells.tail, places):
        bad = native.unpack_tail(parts, block.content, found.ids, found.rows, found.add, found.scale, found.codes)
        _refuse(bad, cells.tail[block.index], reader)
    filled = places.runs["entries"] > 0
    places.runs["most"][filled] = np.maximum.reduceat(found.scale, places.runs["first"][filled].astype(np.int64))
    return found


def vectors_of(native: _search.NativeIndex, resident: Resident, reader: IndexReader, cells: Cells) -> ExactTail:
    """Reads tails with vectors."""
    kind, length = resident.collection.kind, resident.length[cells.tail]
    run = _RUNS * cells.tail_centroid.astype(np.int64)
    places = Places.of(run, _RUNS * resident.collection.centroids, length, length)
    entries = int(length.sum(dtype=np.int64))
    ids = np.empty(entries * kind.id_bytes, np.uint8)
    vectors = np.empty(entries * (kind.record.primary - kind.id_bytes), np.uint8)
    for parts, block in _parts(resident, reader, cells.tail, places):
        _refuse(native.unpack_vectors(parts, block.content, ids, vectors), cells.tail[block.index], reader)
    return ExactTail(places, ids, vectors)


def _parts(
    resident: Resident, reader: IndexReader, tail: NDArray[np.int64], places: Places
) -> Iterator[tuple[NDArray[np.uint8], Block]]:
    """The postings of a tail with their bytes, as records of `PART`, some at a time."""
    first = _first_rows(resident, tail)
    for block in read_postings(resident, reader, tail):
        at, stored = block.index, tail[block.index]
        parts = np.zeros(len(at), PART)
        parts["start"], parts["first_row"], parts["crc"] = block.starts, first[at], resident.crc[stored]
        parts["primary_at"], parts["replica_at"] = places.primary_at[at], places.replica_at[at]
        parts["length"], parts["primaries"] = resident.length[stored], resident.primaries[stored]
        yield parts.view(np.uint8).reshape(len(parts), PART.itemsize), block


def _first_rows(resident: Resident, postings: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The stored row of the first primary of each of `postings`."""
    ends = np.cumsum(resident.primaries, dtype=np.uint64)
    first: NDArray[np.uint64] = ends[postings] - resident.primaries[postings]
    return first


def _errors(resident: Resident, reader: IndexReader, postings: NDArray[np.int64]) -> NDArray[np.float32]:
    """The error in the header of each of `postings`, (n,): negative for far codes."""
    found = np.zeros(len(postings), np.float32)
    last = np.arange(HEADER_BYTES - 4, HEADER_BYTES)
    for block in read_postings(resident, reader, postings):
        headers = block.content[block.starts.astype(np.int64)[:, None] + last]
        found[block.index] = headers.view("<f4")[:, 0]
    return found


def _refuse(bad: int, postings: NDArray[np.int64], reader: IndexReader) -> None:
    if bad >= 0:
        raise CorruptionError(f"{reader.path}: posting {postings[bad]} is damaged (its checksum does not match)")


if _search.tail_bytes() != (RUN.itemsize, PART.itemsize):
    raise ImportError("spann's native search was built for other records of tails; rebuild it")
