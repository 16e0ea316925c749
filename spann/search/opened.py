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
from spann.search.alive import Alive, AliveIds, AliveRows, dead_ids
from spann.search.budget import MemoryBudget, pinned_bytes
from spann.search.cells import Cells
from spann.search.columns import IndexColumns
from spann.search.contract import Resident
from spann.search.loading import read_postings
from spann.search.tail import attach_tail
from spann.store.names import names_memory
from spann.store.reader import IndexReader
from spann.types import Array, Metric

_LINE = 64
"""Bytes of a cache line."""

COLUMNS_SHARE = 8
"""Columns for filters may take one part in so many of what the budget leaves."""


@dataclass(frozen=True)
class Files:
    """Descriptors of the shards of both big arrays, (shards,) int32; `exact` is empty without codes."""

    postings: NDArray[np.int32]
    exact: NDArray[np.int32]


@dataclass
class OpenArrays:
    """What of an index is in memory, with the bytes that each part takes in ``memory``. ``length`` and ``primaries``
    are those of all stored postings. The last ``appended`` postings were appended."""

    native: _search.NativeIndex
    cells: Cells
    length: NDArray[np.uint16]
    primaries: NDArray[np.uint16]
    appended: int
    kind: PostingKind
    chain: NDArray[np.uint32] | None = None
    columns: IndexColumns | None = None
    alive: Alive | None = None
    """The vectors that count as the index has them; None: all."""
    pinned_postings: int = 0
    codes_bytes: int = 0
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def own(self) -> int:
        """Postings that a search visits."""
        return len(self.cells.posting)

    @property
    def entries(self) -> float:
        """Entries that a visit scores, on average."""
        tails = self.length[self.cells.tail].sum(dtype=np.int64)
        return float(self.cells.length.sum(dtype=np.int64) + tails) / self.own

    def owners(self, postings: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The centroids that have any of these visited postings, ascending."""
        found = postings if self.chain is None else np.searchsorted(self.chain, postings, side="right") - 1
        return np.unique(found).astype(np.uint32)

    def all_alive(self, count: int) -> Alive:
        """All `count` stored vectors, to leave some out."""
        if self.kind.is_reranked:
            return AliveRows.of(all_live(count), self.cells)
        return AliveIds(np.empty(0, np.int64), self.cells.length, count)


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
    cells = Cells.of(resident)
    if about.name_type is not None:
        memory["names"] = names_memory(reader)
    kept: list[Array | None] = [cells.page, cells.offset, cells.length, cells.crc, resident.chain]
    kept += [cells.primaries, cells.first_row] if kind.is_reranked else []
    memory["directory"] = sum(array.nbytes for array in kept if array is not None)
    native.set_postings(
        resident.chain,
        cells.page,
        cells.offset,
        cells.length,
        cells.primaries if kind.is_reranked else None,
        cells.crc,
        resident.pages.shard_rows,
        files.postings,
    )
    opened = OpenArrays(
        native, cells, resident.length, resident.primaries, len(resident.appended), kind, resident.chain, memory=memory
    )
    if resident.live is not None and about.live < about.count:
        opened.alive = _alive(resident, resident.live, cells, reader)
        memory["live"] = opened.alive.nbytes
    if about.columns:
        opened.columns = IndexColumns(reader)
        memory["columns"] = opened.columns.pin(budget.left(sum(memory.values())) // COLUMNS_SHARE)
    if resident.shapes is not None:
        shapes = np.concatenate([resident.shapes[cells.posting].reshape(-1), np.zeros(SLACK, np.uint8)])
        native.set_shapes(about.directions, about.shape_record.itemsize, shapes)
        memory["shapes"] = shapes.nbytes
    first_entry = starts(cells.length)
    if isinstance(kind, CodedPostings):
        _set_codes(native, resident, files, cells.first_row, first_entry, memory)
    if len(cells.tail):
        memory["tail"] = attach_tail(native, resident, reader, cells)
    sizes = np.zeros(1, np.int64)
    if isinstance(kind, CodedPostings):
        replicas = starts(cells.length - cells.primaries)
        sizes = pinned_bytes(first_entry, replicas, kind.record.primary, kind.row_bytes)
        opened.codes_bytes = int(sizes[-1]) + SLACK
    opened.pinned_postings = budget.pinned_postings(sum(memory.values()), sizes, where)
    if isinstance(kind, CodedPostings):
        memory["codes"] = _pin(resident, reader, kind, opened) if opened.pinned_postings else 0
    return opened


def _alive(resident: Resident, bits: Bits, cells: Cells, reader: IndexReader) -> Alive:
    if resident.collection.kind.is_reranked:
        return AliveRows.of(bits, cells)
    dead = dead_ids(resident, reader.array("postings/pages"), bits)
    return AliveIds(dead, cells.length, resident.collection.live)


def starts(counts: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Where each of `counts` (n,) items begins, and where the last ends, (n + 1,)."""
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
    kept = [first_entry, *([] if sqnorm is None else [sqnorm])]
    memory["directory"] += sum(array.nbytes for array in kept)
    memory["checksums"] = crc.nbytes


def _pin(resident: Resident, reader: IndexReader, kind: CodedPostings, opened: OpenArrays) -> int:
    """Reads the codes of the first `opened.pinned_postings` postings into memory; returns the bytes they take."""
    cells, postings = opened.cells, opened.pinned_postings
    entries = int(cells.length[:postings].sum(dtype=np.int64))
    ids = np.empty(max(1, entries * kind.id_bytes), np.uint8)
    add, scale = np.empty(max(1, 2 * entries), np.uint8), np.empty(max(1, 2 * entries), np.uint8)
    row_bytes = int(entries - cells.primaries[:postings].sum(dtype=np.int64)) * kind.row_bytes
    rows = np.empty(max(1, row_bytes), np.uint8)
    codes = np.empty(entries * kind.code_bytes + SLACK, np.uint8)
    headers = np.zeros(postings * HEADER_BYTES, np.uint8)
    filled = np.flatnonzero(cells.length[:postings])
    for block in read_postings(resident, reader, cells.posting[filled]):
        places = filled[block.index].astype(np.uint32)
        bad = opened.native.unpack(places, block.starts, block.content, ids, add, scale, rows, codes, headers)
        if bad >= 0:
            posting = cells.posting[bad]
            raise CorruptionError(f"{reader.path}: posting {posting} is damaged (its checksum does not match)")
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
