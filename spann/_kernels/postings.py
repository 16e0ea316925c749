"""Posting lists in pages, and vectors in pages of the exact store.

The checked doors to ext/c/format/posting_format.c and ext/c/building/pages.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _postings
from spann._kernels.distances import simd_level
from spann.errors import InputError
from spann.types import Array

PAGE = 4096
"""Bytes of a page: postings are placed in, counted in and, with direct I/O, read by pages."""

HEADER = 5
"""Floats of a posting's header: a_low, a_step, s_low, s_step, error (negative where the origin is its centroid)."""

HEADER_BYTES = 4 * HEADER
"""Bytes of the header, at the beginning of a posting of codes."""

FACTOR_BYTES = 2
"""Bytes of each factor of an entry with a code, ``add`` and ``scale``: a uint16."""

SLACK = 64
"""Readable bytes that must follow codes in memory, because kernels read ahead."""

_BAD_SIMD = -2


Number = TypeVar("Number", int, NDArray[np.int64])


class Parts(NamedTuple, Generic[Number]):
    """Where the parts of a posting of codes begin, counted from its first byte. ``end`` is its size.

    The header comes first, and the ids follow it at `HEADER_BYTES`.
    """

    add: Number
    scale: Number
    rows: Number
    codes: Number
    end: Number


def posting_parts(id_bytes: int, row_bytes: int, code_bytes: int, entries: Number, primaries: Number) -> Parts[Number]:
    """The parts of a posting with codes of `entries`, at least one, the first `primaries` of them primary.

    A replica also has `row_bytes`: its row in the exact store. Arrays (postings,) of numbers give arrays.
    """
    add = HEADER_BYTES + entries * id_bytes
    scale = add + entries * FACTOR_BYTES
    rows = scale + entries * FACTOR_BYTES
    codes = rows + (entries - primaries) * row_bytes
    return Parts(add, scale, rows, codes, codes + entries * code_bytes)


def pack(
    ids: Array, vectors: Array, lengths: NDArray[np.uint16], starts: NDArray[np.uint64], out: NDArray[np.uint8]
) -> NDArray[np.uint32]:
    """Writes posting lists into `out` (bytes) and returns each list's crc32c (postings,).

    `ids` (entries,) uint32 or uint64 and `vectors` (entries, dim) hold all lists one after another; list p takes
    ``lengths[p]`` entries and starts at byte ``starts[p]`` of `out`. Raises `InputError` if a list would not fit.
    """
    entries = int(lengths.sum())
    record = ids.itemsize + vectors.itemsize * vectors.shape[1]
    if len(ids) != entries or len(vectors) != entries or len(starts) != len(lengths):
        raise InputError(
            f"{entries} entries in {len(lengths)} postings do not match {len(ids)} ids, {len(vectors)} rows"
        )
    ends = starts + lengths.astype(np.uint64) * np.uint64(record)
    if len(lengths) and int(ends.max()) > out.size:
        raise InputError(f"a posting ends at byte {int(ends.max())} of a buffer of {out.size}")
    crcs = np.zeros(len(lengths), np.uint32)
    if entries:
        _postings.pack(_as_bytes(ids[:, None]), _as_bytes(vectors), lengths, starts, out, crcs)
    return crcs


@dataclass(frozen=True)
class CodedLists:
    """Posting lists of codes, one after the other, n entries in all. Replicas follow the primaries of their list.

    - ``lengths``, ``primaries`` (postings,) uint16; ``headers`` (postings, 5) float32.
    - ``ids`` (n,) uint32 or uint64; ``add``, ``scale`` (n,) uint16; ``codes`` (n, code_bytes) uint8.
    - ``rows`` (replicas,) uint32 or uint64: rows of the exact store.
    """

    lengths: NDArray[np.uint16]
    primaries: NDArray[np.uint16]
    headers: NDArray[np.float32]
    ids: Array
    add: NDArray[np.uint16]
    scale: NDArray[np.uint16]
    rows: Array
    codes: NDArray[np.uint8]


def pack_coded(lists: CodedLists, starts: NDArray[np.uint64], out: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Writes posting lists of codes into `out` (bytes), list p at byte ``starts[p]``, and returns each list's crc32c
    (postings,). Raises `InputError` if arrays do not match, or if a list would not fit in `out`."""
    length, primary = lists.lengths.astype(np.int64), lists.primaries.astype(np.int64)
    n, postings, replicas = int(length.sum()), len(length), int((length - primary).sum())
    entries = (lists.ids, lists.add, lists.scale, lists.codes)
    if (
        any(len(a) != n for a in entries)
        or not len(starts) == len(primary) == len(lists.headers) == postings
        or len(lists.rows) != replicas
        or bool((primary > length).any())
        or lists.headers.shape[1:] != (HEADER,)
    ):
        raise InputError(
            f"{n} entries, {replicas} of them replicas, in {postings} postings do not match "
            f"{[len(a) for a in entries]} entries, {len(lists.rows)} rows, {len(lists.headers)} headers and "
            f"{len(starts)} places"
        )
    sizes = posting_parts(lists.ids.itemsize, lists.rows.itemsize, lists.codes.shape[1], length, primary).end
    ends = starts + np.where(length > 0, sizes, 0).astype(np.uint64)
    if postings and int(ends.max()) > out.size:
        raise InputError(f"a posting ends at byte {int(ends.max())} of a buffer of {out.size}")
    crcs = np.zeros(postings, np.uint32)
    if n:
        _postings.pack_coded(
            _as_bytes(lists.headers),
            _as_bytes(lists.ids[:, None]),
            _as_bytes(lists.add[:, None]),
            _as_bytes(lists.scale[:, None]),
            _as_bytes(lists.rows[:, None]),
            lists.rows.itemsize,
            lists.codes,
            lists.lengths,
            lists.primaries,
            starts,
            out,
            crcs,
        )
    return crcs


def arrange(x: NDArray[np.float32], lengths: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order of the rows of `x` (n, dim) in which near rows of a posting share pages: (n,), the row for each place.

    Posting p holds the next ``lengths[p]`` rows, and keeps them; pages begin at rows `bounds`, ascending. `x` is
    overwritten. Each posting is halved at the bound nearest to its middle, by its principal axis and then four rounds
    of 2-means of fixed sizes, and its halves again. Raises `InputError`, `MemoryError`.
    """
    if x.ndim != 2 or x.dtype != np.float32 or not x.flags.c_contiguous or not x.flags.writeable:
        raise InputError(f"rows to arrange must be a C-contiguous, writable (n, dim) float32 array, not {x.shape}")
    if int(lengths.sum()) != len(x) or bool((lengths < 0).any()) or len(x) >= 2**32:
        raise InputError(f"the lengths of {len(lengths)} postings do not add up to {len(x)} vectors")
    inside = np.diff(bounds, prepend=0, append=max(len(x), 1) if len(bounds) else 1)
    if bool((inside <= 0).any()):
        raise InputError(f"rows at which pages begin are not ascending between 0 and {len(x)}")
    order = np.empty(len(x), np.int64)
    if len(x):
        status = _postings.arrange(x, lengths, bounds, order)
        if status == _BAD_SIMD:
            simd_level()
        if status < 0:
            raise MemoryError(f"out of memory arranging {len(x)} vectors")
    return order


def _as_bytes(rows: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows).view(np.uint8)


def shape_parts(code_bytes: int, directions: int) -> tuple[int, ...]:
    """Offsets of spread, rest, offsets, add, scale and codes in a shape of the native code, and its size."""
    return _postings.shape_parts(code_bytes, directions)


def check_native(name: str, ours: object, native: object) -> None:
    """Raises `ImportError` if the native modules were built for another layout of bytes."""
    if ours != native:
        raise ImportError(f"{name} is {ours}, and spann's native modules were built for {native}; rebuild them")


for _name in ("PAGE", "HEADER_BYTES", "FACTOR_BYTES", "SLACK"):
    check_native(_name, globals()[_name], getattr(_postings, _name))
check_native("the order of a posting's parts", posting_parts(4, 8, 5, 7, 3), _postings.posting_parts(4, 8, 5, 7, 3)[1:])
