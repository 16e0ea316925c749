"""Stage "write" of postings that hold codes: takes vectors from the exact store, encodes them and writes the pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels import postings as packing
from spann.building.centroids import Centroids
from spann.building.ids import Ids
from spann.building.space import Space
from spann.building.stages.partition import Partition
from spann.building.stages.shapes import Floats, shapes_of
from spann.building.stages.write_exact import BATCH_BYTES, Pages, Run, ranges
from spann.building.temporary import RecordFile
from spann.elements import unpack
from spann.format.postings import PAGE
from spann.format.shapes import shape_record
from spann.quantize import Quantizer
from spann.store.arrays import ShardedArray
from spann.types import Array, Metric

GAP_BYTES = 512
"""Vectors of the exact store with no more between them are read together."""

READ_ROWS = 1 << 20
"""Row numbers read at a time."""


@dataclass(frozen=True)
class Coded:
    """What the entries of postings are made of.

    - ``vectors`` in tree order, which knows the rows they come from; ``store``: the same, arranged, from its row
      ``rows_before`` on; ``arranged``: the position in tree order of each of those rows, int64.
    - ``kept``: positions of the entries of all postings, int64, primaries first in each.
    - ``directions`` of the shape of each posting; ``row_bytes`` of the number of a row of the store.
    """

    vectors: Partition
    store: ShardedArray
    rows_before: int
    arranged: RecordFile
    kept: RecordFile
    space: Space
    quantizer: Quantizer
    centroids: Centroids
    directions: int
    names: Ids
    row_bytes: int

    def shapes(
        self,
        plain: Floats,
        vectors: Array,
        length: NDArray[np.int64],
        owner: NDArray[np.int64],
        far: NDArray[np.bool_],
    ) -> Array:
        """The shapes of the postings of `owner`, of `length` of the `vectors` each, which are coded as `plain`, in
        postings that are `far`."""
        around = self.centroids.vectors[owner].astype(np.float32)
        x, c = plain, around
        if self.space.metric is Metric.IP:
            x, c = self.space.map(vectors), self.centroids.working(owner)
        return shapes_of(x - np.repeat(c, length, axis=0), length, c, around, self.quantizer, self.directions, far)


def posting_facts(dim: int, bits: int, directions: int) -> np.dtype[Any]:
    """What is to be known of a posting besides its pages: crc32c and, where it has directions, shape."""
    shape = [("shape", shape_record(dim, bits, directions))] if directions else []
    return np.dtype([("crc32c", "<u4"), *shape])


def write_codes(coded: Coded, out: Pages) -> Array:
    """Fills the pages of `out`; returns the `posting_facts` of all postings (postings,)."""
    directory = out.directory
    entry_end = np.cumsum(directory.length, dtype=np.int64)
    first_row, owner = directory.first_row, directory.owner
    place_of = _places(coded) if entry_end[-1] > coded.vectors.count else None

    def assemble(run: Run) -> tuple[Array, Array]:
        which, first_page, last_page = run
        length, primaries = directory.length[which].astype(np.int64), directory.primaries[which].astype(np.int64)
        places = ranges(first_row[which], primaries)
        rows = coded.arranged.take(places - coded.rows_before)
        replicas = np.empty(0, np.int64)
        if place_of is not None:
            position = ranges(np.zeros_like(length), length)
            replica = position >= np.repeat(primaries, length)
            replica_rows = coded.kept.take(ranges(entry_end[which] - length + primaries, length - primaries))
            replicas = place_of[replica_rows].astype(np.int64)
            places, rows = _merge(replica, places, replicas), _merge(replica, rows, replica_rows)
        vectors = unpack(_gather(coded.store, places), coded.vectors.element)
        plain = coded.space.plain(vectors)
        codes = coded.quantizer.encode(plain, coded.centroids.vectors[owner[which]].astype(np.float32), length)
        lists = packing.CodedLists(
            directory.length[which],
            directory.primaries[which],
            codes.headers,
            coded.names.of(coded.vectors.rows_of(rows)),
            codes.add,
            codes.scale,
            replicas.astype(f"<u{coded.row_bytes}"),
            codes.codes,
        )
        made = np.zeros((last_page - first_page) * PAGE, np.uint8)
        starts = (directory.page[which].astype(np.uint64) - np.uint64(first_page)) * np.uint64(PAGE)
        found = np.zeros(len(which), out.facts.dtype)
        found["crc32c"] = packing.pack_coded(lists, starts + directory.offset[which], made)
        if coded.directions:
            found["shape"] = coded.shapes(plain, vectors, length, owner[which], codes.far)
        return made.reshape(-1, PAGE), found

    # An entry takes far less room in its posting than while it is made.
    entry = coded.names.width + coded.quantizer.code_bytes
    work = coded.store.layout.row_bytes + (20 if coded.directions else 8) * coded.quantizer.dim
    pages = max(1, BATCH_BYTES * entry // (work * PAGE))
    return out.fill(assemble, pages)


def _places(coded: Coded) -> Array:
    """For each position in tree order its row of the exact store, (count,): what replicas refer to."""
    places = np.empty(coded.vectors.count, f"<u{coded.row_bytes}")
    for start in range(0, len(places), READ_ROWS):
        stop = min(start + READ_ROWS, len(places))
        places[coded.arranged.read(start, stop)] = np.arange(start, stop) + coded.rows_before
    return places


def _merge(second: NDArray[np.bool_], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """`b` in order where `second`, `a` in order elsewhere."""
    merged = np.empty(len(second), np.int64)
    merged[~second], merged[second] = a, b
    return merged


def _gather(store: ShardedArray, places: NDArray[np.int64]) -> Array:
    """The vectors at `places` of the exact store."""
    distinct, inverse = np.unique(places, return_inverse=True)
    found = store.take_rows(distinct, gap_bytes=GAP_BYTES)
    return found if len(distinct) == len(places) and (np.diff(places) > 0).all() else found[inverse]
