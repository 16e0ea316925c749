"""Reading and checking the arrays of an index that stay in memory, and handing them to the native search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _search
from spann.centroids import Graph, Level, check_graph
from spann.elements import STORED_TYPES, stored_dtype, stored_width
from spann.errors import CorruptionError, FormatError, InputError
from spann.quantize import Quantizer
from spann.search.budget import HEADER_BYTES, MemoryBudget, pinned_bytes
from spann.storage import (
    PAGE,
    IndexReader,
    check_directory,
    code_bytes,
    directions_of,
    exact_pages,
    posting_bytes,
    posting_span,
    shape_record,
)
from spann.types import Array, Metric

METRIC_NUMBERS = {Metric.L2: 0, Metric.IP: 1, Metric.COSINE: 2, Metric.HAMMING: 0}

_DIRECTORY = "postings/directory"
_SLACK = 64
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
    code_bits: int
    pinned_postings: int = 0
    codes_bytes: int = 0
    memory: dict[str, int] = field(default_factory=dict)


def load(reader: IndexReader, files: Files, budget: MemoryBudget) -> OpenArrays:
    """Reads, verifies and pins. Raises `CorruptionError`, `FormatError`, and `InputError` for a budget too small."""
    about, where = reader.attributes, str(reader.path)
    bits, metric = int(about.get("code_bits", 0)), Metric.parse(about["metric"])
    kind, binary = about["dtype"], metric is Metric.HAMMING
    if kind not in STORED_TYPES or binary != (kind == "bit") or (binary and (about["dim"] % 8 or bits)):
        raise CorruptionError(
            f"{where}: {kind} vectors of dimension {about['dim']} with codes of {bits} bits cannot be under "
            f"{metric.value}"
        )
    native = _search.NativeIndex(
        metric=METRIC_NUMBERS[metric],
        dtype=STORED_TYPES.index(about["dtype"]),
        dim=stored_width(about["dtype"], about["dim"]),
        count=about["count"],
        entries=about["entries"],
        id_bytes=about["id_bytes"],
        max_norm=float(about["max_norm"]),
    )
    memory: dict[str, int] = {}
    vectors = _set_centroids(native, reader, metric, bits, memory)
    names = ("page", "offset", "length", "primaries", "crc32c")
    page, offset, length, primaries, crc = (reader.read(f"{_DIRECTORY}/{name}") for name in names)
    chain = reader.read(f"{_DIRECTORY}/chain") if f"{_DIRECTORY}/chain" in reader.arrays() else None
    owner = reader.read(f"{_DIRECTORY}/appended") if "appended" in about["features"] else np.empty(0, np.uint32)
    pages = reader.array("postings/pages")
    check_directory(about, page, offset, length, primaries, crc, chain, owner, pages.rows, pages.shard_rows, where)
    appended = appended_end = None
    if len(owner):
        appended = (np.argsort(owner, kind="stable") + len(page) - len(owner)).astype(np.uint32)
        appended_end = np.searchsorted(np.sort(owner), np.arange(about["centroids"] + 1)).astype(np.uint32)
    kept = [page, offset, length, crc, primaries if bits else None, chain, appended, appended_end]
    memory["directory"] = sum(array.nbytes for array in kept if array is not None)
    native.set_postings(
        chain,
        appended,
        appended_end,
        page,
        offset,
        length,
        primaries if bits else None,
        crc,
        max(1, pages.shard_rows),
        files.postings,
    )
    opened = OpenArrays(native, length, primaries, len(owner), bits, memory=memory)
    _set_shapes(native, reader, len(length), memory)
    if bits:
        first_row = np.concatenate([[0], np.cumsum(primaries, dtype=np.uint64)]).astype(np.uint64)
        _set_codes(native, reader, vectors, files, first_row, metric, memory)
        row_bytes = about["id_bytes"] + 4 + code_bytes(about["dim"], bits)
        opened.codes_bytes = int(pinned_bytes(first_row, row_bytes)[-1]) + _SLACK
        opened.pinned_postings = budget.pinned_postings(sum(memory.values()), first_row, row_bytes, where)
        memory["codes"] = _pin(reader, opened, first_row, page, offset) if opened.pinned_postings else 0
    else:
        budget.pinned_postings(sum(memory.values()), np.zeros(1, np.uint64), 0, where)
    return opened


def _set_centroids(
    native: _search.NativeIndex, reader: IndexReader, metric: Metric, bits: int, memory: dict[str, int]
) -> Array:
    about, where = reader.attributes, str(reader.path)
    vectors = reader.read("centroids/vectors")
    ids = None if bits else reader.read("centroids/ids")
    # With codes centroids are means in the working space, where cosine is l2 of unit vectors.
    element = vectors.dtype.name if bits else about["dtype"]
    sound = vectors.shape == (about["centroids"], stored_width(element, about["dim"]))
    sound &= element in STORED_TYPES and vectors.dtype == stored_dtype(element)
    if ids is not None:
        sound &= ids.shape == (len(vectors),) and ids.itemsize == about["id_bytes"]
    if not sound:
        raise CorruptionError(f"{where}: centroid arrays do not have the shape that the manifest gives")
    graph = _read_graph(reader, about["graph"])
    check_graph(graph, len(vectors), where)
    space = Metric.L2 if bits and metric is Metric.COSINE else metric
    native.set_centroids(
        METRIC_NUMBERS[space],
        STORED_TYPES.index(element),
        _in_lines(as_bytes(vectors)),
        len(vectors),
        None if ids is None else as_bytes(ids),
        graph.entry,
        [(level.nodes, level.offsets, level.neighbors) for level in graph.levels],
    )
    memory["centroids"] = vectors.nbytes + (0 if ids is None else ids.nbytes)
    memory["graph"] = graph.nbytes
    return vectors


def _read_graph(reader: IndexReader, about: dict[str, Any]) -> Graph:
    levels = []
    for number in range(about["levels"]):
        name = f"centroids/graph/level{number}"
        nodes = reader.read(f"{name}/nodes") if number else None
        levels.append(Level(nodes, reader.read(f"{name}/offsets"), reader.read(f"{name}/neighbors")))
    if not levels:
        raise FormatError(f"{reader.path}: the navigation graph has no level")
    return Graph(int(about["entry"]), levels)


def _set_codes(
    native: _search.NativeIndex,
    reader: IndexReader,
    centroids: Array,
    files: Files,
    first_row: NDArray[np.uint64],
    metric: Metric,
    memory: dict[str, int],
) -> None:
    about, where = reader.attributes, str(reader.path)
    dim, bits = int(about["dim"]), int(about["code_bits"])
    crc, exact = reader.read("vectors/exact_crc32c"), reader.array("vectors/exact")
    try:
        quantizer = Quantizer(dim, bits, metric, reader.read("quantizer/origin"), reader.read("quantizer/signs"))
    except InputError as error:
        raise CorruptionError(f"{where}: the quantizer's arrays are unsound: {error}") from error
    sound = exact.layout.shape == (about["count"], dim) and exact.dtype == stored_dtype(about["dtype"])
    if not sound or crc.dtype != np.uint32 or crc.shape != (exact_pages(exact.layout),):
        raise CorruptionError(f"{where}: the exact store does not have the shape that the manifest gives")
    sqnorm, query_norm = None, 0.0
    if metric is Metric.IP:
        sqnorm = np.concatenate(
            [np.square(centroids[i : i + 4096].astype(np.float32)).sum(axis=1) for i in range(0, len(centroids), 4096)]
        )
        # Queries are brought to the length at which they are nearest to the centroids they point at.
        query_norm = float(np.sqrt(sqnorm.mean(dtype=np.float64)))
    native.set_codes(
        bits,
        quantizer.padded_dim,
        about["row_bytes"],
        quantizer.origin,
        quantizer.signs,
        first_row,
        query_norm,
        sqnorm,
        exact.shard_rows,
        crc,
        files.exact,
    )
    memory["directory"] += first_row.nbytes + (0 if sqnorm is None else sqnorm.nbytes)
    memory["checksums"] = crc.nbytes


def _set_shapes(native: _search.NativeIndex, reader: IndexReader, postings: int, memory: dict[str, int]) -> None:
    about = reader.attributes
    directions = directions_of(about, str(reader.path))
    if directions == 0:
        return
    kind = shape_record(about["dim"], about["code_bits"], directions)
    stored = reader.read("postings/shapes")
    if stored.shape != (postings, kind.itemsize) or stored.dtype != np.uint8:
        raise CorruptionError(f"{reader.path}: postings/shapes does not have the shape that the manifest gives")
    shapes = np.concatenate([stored.reshape(-1), np.zeros(_SLACK, np.uint8)])
    native.set_shapes(directions, kind.itemsize, shapes)
    memory["shapes"] = shapes.nbytes


def _pin(
    reader: IndexReader,
    opened: OpenArrays,
    first_row: NDArray[np.uint64],
    page: NDArray[np.uint32],
    offset: NDArray[np.uint16],
) -> int:
    """Reads the codes of the first `opened.pinned_postings` postings into memory; returns the bytes they take."""
    about, postings, pages = reader.attributes, opened.pinned_postings, reader.array("postings/pages")
    rows = int(first_row[postings])
    ids = np.empty(max(1, rows * about["id_bytes"]), np.uint8)
    add, scale = np.empty(max(1, 2 * rows), np.uint8), np.empty(max(1, 2 * rows), np.uint8)
    codes = np.empty(rows * code_bytes(about["dim"], opened.code_bits) + _SLACK, np.uint8)
    headers = np.zeros(postings * HEADER_BYTES, np.uint8)
    size = posting_bytes(about, opened.length, opened.primaries)[:postings]
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
            run.astype(np.uint32), (start[run] - first * PAGE).astype(np.uint64), block, ids, add, scale, codes, headers
        )
        if bad >= 0:
            raise CorruptionError(f"{reader.path}: posting {bad} is damaged (its checksum does not match)")
        at = stop
    opened.native.pin(postings, ids, add, scale, codes, headers)
    return ids.nbytes + add.nbytes + scale.nbytes + codes.nbytes + headers.nbytes


def _in_lines(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of `data` (n,) that begins at a cache line.

    Arrays of numpy begin 16 bytes behind one, and then centroids of 128 bytes lie on three lines instead of two:
    navigating took 1.35 times as long on 80,000, 1.13 times on 8,000. Codes and shapes, longer runs, gain nothing."""
    space = np.empty(data.size + _LINE, np.uint8)
    skip = -space.ctypes.data % _LINE
    copy = space[skip : skip + data.size]
    copy[:] = data
    return copy


def as_bytes(array: Array) -> NDArray[np.uint8]:
    """The bytes of an array, (n,)."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)
