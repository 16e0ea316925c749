"""Handing the arrays of an index that stay in memory to the native search, and pinning codes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _search
from spann._kernels.distances import element_number, metric_number
from spann._kernels.postings import HEADER_BYTES, SLACK
from spann.errors import CorruptionError
from spann.format.kinds import CodedPostings, PostingKind
from spann.format.live import Bits, all_live
from spann.format.postings import PAGE, posting_span
from spann.search.alive import Alive, AliveIds, AliveRows, dead_ids
from spann.search.budget import MemoryBudget, pinned_bytes
from spann.search.contract import Resident
from spann.store.names import names_memory
from spann.store.reader import IndexReader
from spann.types import Array, Metric

_LINE = 64
"""Bytes of a cache line."""

_BLOCK = 16 << 20
"""Bytes of postings read at a time while codes are pinned."""


@dataclass(frozen=True)
class Files:
    """Descriptors of the shards of both big arrays, (shards,) int32; `exact` is empty without codes."""

    postings: NDArray[np.int32]
    exact: NDArray[np.int32]


@dataclass
class OpenArrays:
    """What of an index is in memory, with the bytes that each part takes in ``memory``. The last ``appended`` postings
    were appended."""

    native: _search.NativeIndex
    length: NDArray[np.uint16]
    primaries: NDArray[np.uint16]
    appended: int
    kind: PostingKind
    first_row: NDArray[np.uint64]
    """(postings + 1,) where the primaries of each posting begin."""
    alive: Alive | None = None
    """The vectors that count as the index has them; None: all."""
    pinned_postings: int = 0
    codes_bytes: int = 0
    memory: dict[str, int] = field(default_factory=dict)

    def all_alive(self, count: int) -> Alive:
        """All `count` stored vectors, to leave some out."""
        if self.kind.is_reranked:
            return AliveRows.of(all_live(count), self.length, self.primaries, self.first_row)
        return AliveIds(np.empty(0, np.int64), self.length, count)


def attach(resident: Resident, reader: IndexReader, files: Files, budget: MemoryBudget) -> OpenArrays:
    """Hands arrays that were checked to the native search, and pins. Raises `CorruptionError` for damaged codes, and
    `InputError` for a budget too small."""
    about, where, kind = resident.collection, resident.where, resident.collection.kind
    native = _search.NativeIndex(
        metric=metric_number(about.metric),
        dtype=element_number(about.element),
        dim=about.width,
        count=about.count,
        entries=about.entries,
        id_bytes=about.id_bytes,
        max_norm=about.max_norm,
    )
    memory: dict[str, int] = {}
    _set_centroids(native, resident, memory)
    page, offset, length, primaries = resident.page, resident.offset, resident.length, resident.primaries
    crc, chain, owner = resident.crc, resident.chain, resident.appended
    appended: Array | None = None
    appended_end: Array | None = None
    if len(owner):
        appended = (np.argsort(owner, kind="stable") + len(page) - len(owner)).astype(np.uint32)
        appended_end = np.searchsorted(np.sort(owner), np.arange(about.centroids + 1)).astype(np.uint32)
    used = primaries if kind.is_reranked else None
    kept: list[Array | None] = [page, offset, length, crc, used, chain, appended, appended_end]
    if about.name_type is not None:
        memory["names"] = names_memory(reader)
    memory["directory"] = sum(array.nbytes for array in kept if array is not None)
    native.set_postings(
        chain,
        appended,
        appended_end,
        page,
        offset,
        length,
        used,
        crc,
        resident.pages.shard_rows,
        files.postings,
    )
    opened = OpenArrays(native, length, primaries, len(owner), kind, _starts(primaries), memory=memory)
    if resident.live is not None and about.live < about.count:
        opened.alive = _alive(resident, resident.live, opened, reader)
        memory["live"] = opened.alive.nbytes
    if resident.shapes is not None:
        shapes = np.concatenate([resident.shapes.reshape(-1), np.zeros(SLACK, np.uint8)])
        native.set_shapes(about.directions, about.shape_record.itemsize, shapes)
        memory["shapes"] = shapes.nbytes
    if isinstance(kind, CodedPostings):
        first_row = first_entry = opened.first_row
        if about.entries > about.count:
            first_entry = _starts(length)
        _set_codes(native, resident, files, first_row, first_entry, memory)
        sizes = pinned_bytes(first_row, first_entry, kind.record.primary, kind.row_bytes)
        opened.codes_bytes = int(sizes[-1]) + SLACK
        opened.pinned_postings = budget.pinned_postings(sum(memory.values()), sizes, where)
        memory["codes"] = 0
        if opened.pinned_postings:
            memory["codes"] = _pin(reader, kind, opened, first_row, first_entry, page, offset)
    else:
        budget.pinned_postings(sum(memory.values()), np.zeros(1, np.int64), where)
    return opened


def _alive(resident: Resident, bits: Bits, opened: OpenArrays, reader: IndexReader) -> Alive:
    if opened.kind.is_reranked:
        return AliveRows.of(bits, opened.length, opened.primaries, opened.first_row)
    dead = dead_ids(resident, reader.array("postings/pages"), bits)
    return AliveIds(dead, opened.length, resident.collection.live)


def _starts(counts: NDArray[np.uint16]) -> NDArray[np.uint64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.uint64)]).astype(np.uint64)


def _set_centroids(native: _search.NativeIndex, resident: Resident, memory: dict[str, int]) -> None:
    about, vectors, ids, graph = resident.collection, resident.vectors, resident.ids, resident.graph
    native.set_centroids(
        metric_number(about.kind.centroid_metric(about.metric)),
        element_number(resident.centroid_element),
        _in_lines(as_bytes(vectors)),
        len(vectors),
        None if ids is None else as_bytes(ids),
        graph.entry,
        [(level.nodes, level.offsets, level.neighbors) for level in graph.levels],
    )
    memory["centroids"] = vectors.nbytes + (0 if ids is None else ids.nbytes)
    memory["graph"] = graph.nbytes


def _set_codes(
    native: _search.NativeIndex,
    resident: Resident,
    files: Files,
    first_row: NDArray[np.uint64],
    first_entry: NDArray[np.uint64],
    memory: dict[str, int],
) -> None:
    about, centroids, exact, crc = resident.collection, resident.vectors, resident.exact, resident.exact_crc
    assert exact is not None
    assert crc is not None
    assert resident.origin is not None
    assert resident.signs is not None
    sqnorm, query_norm = None, 0.0
    if about.metric is Metric.IP:
        sqnorm = np.concatenate(
            [np.square(centroids[i : i + 4096].astype(np.float32)).sum(axis=1) for i in range(0, len(centroids), 4096)]
        )
        # Queries are brought to the length at which they are nearest to the centroids they point at.
        query_norm = float(np.sqrt(sqnorm.mean(dtype=np.float64)))
    native.set_codes(
        about.code_bits,
        about.padded_dim,
        about.row_bytes,
        resident.origin,
        resident.signs,
        first_row,
        first_entry,
        query_norm,
        sqnorm,
        exact.shard_rows,
        crc,
        files.exact,
    )
    kept = [first_row, *([] if first_entry is first_row else [first_entry]), *([] if sqnorm is None else [sqnorm])]
    memory["directory"] += sum(array.nbytes for array in kept)
    memory["checksums"] = crc.nbytes


def _pin(
    reader: IndexReader,
    kind: CodedPostings,
    opened: OpenArrays,
    first_row: NDArray[np.uint64],
    first_entry: NDArray[np.uint64],
    page: NDArray[np.uint32],
    offset: NDArray[np.uint16],
) -> int:
    """Reads the codes of the first `opened.pinned_postings` postings into memory; returns the bytes they take."""
    about, postings, pages = reader.collection, opened.pinned_postings, reader.array("postings/pages")
    entries = int(first_entry[postings])
    ids = np.empty(max(1, entries * about.id_bytes), np.uint8)
    add, scale = np.empty(max(1, 2 * entries), np.uint8), np.empty(max(1, 2 * entries), np.uint8)
    row_bytes = int((entries - int(first_row[postings])) * about.row_bytes)
    rows = np.empty(max(1, row_bytes), np.uint8)
    codes = np.empty(entries * kind.code_bytes + SLACK, np.uint8)
    headers = np.zeros(postings * HEADER_BYTES, np.uint8)
    size = kind.record.size(opened.length, opened.primaries)[:postings]
    start, end = posting_span(page[:postings], offset[:postings], size)
    order = np.argsort(start, kind="stable")
    order = order[size[order] > 0]
    at = 0
    while at < len(order):
        first = int(start[order[at]]) // PAGE
        stop = max(at + 1, int(np.searchsorted(start[order], first * PAGE + _BLOCK)))
        run = order[at:stop]
        block = pages.read_rows(first, -(-int(end[run].max()) // PAGE)).reshape(-1)
        bad = opened.native.unpack(
            run.astype(np.uint32),
            (start[run] - first * PAGE).astype(np.uint64),
            block,
            ids,
            add,
            scale,
            rows,
            codes,
            headers,
        )
        if bad >= 0:
            raise CorruptionError(f"{reader.path}: posting {bad} is damaged (its checksum does not match)")
        at = stop
    opened.native.pin(postings, ids, add, scale, rows, codes, headers)
    return ids.nbytes + add.nbytes + scale.nbytes + row_bytes + codes.nbytes + headers.nbytes


def _in_lines(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of `data` (n,) that begins at a cache line.

    Arrays of numpy begin 16 bytes behind one, and then centroids of 128 bytes lie on three lines instead of two:
    navigating took 1.35 times as long on 80,000, 1.13 times on 8,000. Codes and shapes, longer runs, gain nothing
    (docs/decisions/0016)."""
    space = np.empty(data.size + _LINE, np.uint8)
    skip = -space.ctypes.data % _LINE
    copy = space[skip : skip + data.size]
    copy[:] = data
    return copy


def as_bytes(array: Array) -> NDArray[np.uint8]:
    """The bytes of an array, (n,)."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)
