"""Stage "write" of postings that hold codes: takes vectors from the exact store, encodes them and writes the pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels import postings as packing
from spann.building.centroids import Centroids
from spann.building.job import Job
from spann.building.stages.arrange import ExactStore
from spann.building.stages.layout import Laid
from spann.building.stages.partition import Partition
from spann.building.stages.shapes import Floats, shapes_of
from spann.building.stages.write_exact import Pages, Run, ranges
from spann.elements import unpack
from spann.format.postings import PAGE
from spann.format.shapes import shape_record
from spann.quantize import Quantizer
from spann.store.arrays import ShardedArray
from spann.types import Array, Metric


@dataclass(frozen=True)
class Coded:
    """What the entries of postings of codes are made of.

    - ``vectors`` lie in tree order, and know the rows they come from. ``store`` has the same vectors, arranged.
    - ``laid`` has the postings, around ``centroids``. ``quantizer`` makes the codes.
    """

    job: Job
    vectors: Partition
    store: ExactStore
    laid: Laid
    centroids: Centroids
    quantizer: Quantizer

    def shapes(
        self,
        plain: Floats,
        vectors: Array,
        length: NDArray[np.int64],
        owner: NDArray[np.int64],
        far: NDArray[np.bool_],
    ) -> Array:
        """The shapes of postings of `owner` with `length` of the `vectors` each, which are coded as `plain`.

        Postings that are `far` have codes that are measured from the origin."""
        space, around = self.job.space, self.centroids.vectors[owner].astype(np.float32)
        x, c = plain, around
        if space.metric is Metric.IP:
            x, c = space.map(vectors), self.centroids.working(owner)
        return shapes_of(
            x - np.repeat(c, length, axis=0),
            length,
            c,
            around,
            quantizer=self.quantizer,
            directions=self.job.decision.directions,
            far=far,
        )


def posting_facts(dim: int, bits: int, directions: int) -> np.dtype[Any]:
    """What is known of a posting besides its pages: its crc32c and, if it has directions, its shape."""
    shape = [("shape", shape_record(dim, bits, directions))] if directions else []
    return np.dtype([("crc32c", "<u4"), *shape])


def write_codes(coded: Coded, out: Pages) -> Array:
    """Fills the pages of `out`; returns the `posting_facts` of all postings (postings,)."""
    job, directory, kept, positions = coded.job, coded.laid.directory, coded.laid.kept, coded.store.positions
    directions, store = job.decision.directions, coded.store.array
    entry_end = np.cumsum(directory.length, dtype=np.int64)
    first_row, owner = directory.first_row, directory.owner
    place_of = _places(coded) if entry_end[-1] > coded.vectors.count else None

    def assemble(run: Run) -> tuple[Array, Array]:
        which, first_page, last_page = run
        length, primaries = directory.length[which].astype(np.int64), directory.primaries[which].astype(np.int64)
        places = ranges(first_row[which], primaries)
        rows = positions.take(places - directory.rows_before)
        replicas = np.empty(0, np.int64)
        if place_of is not None:
            position = ranges(np.zeros_like(length), length)
            replica = position >= np.repeat(primaries, length)
            replica_rows = kept.take(ranges(entry_end[which] - length + primaries, length - primaries))
            replicas = place_of[replica_rows].astype(np.int64)
            places, rows = _merge(replica, places, replicas), _merge(replica, rows, replica_rows)
        vectors = unpack(_gather(store, places, job.sizes.gap_bytes), coded.vectors.element)
        plain = job.space.plain(vectors)
        codes = coded.quantizer.encode(plain, coded.centroids.vectors[owner[which]].astype(np.float32), length)
        lists = packing.CodedLists(
            directory.length[which],
            directory.primaries[which],
            codes.headers,
            job.ids.of(coded.vectors.rows_of(rows)),
            codes.add,
            codes.scale,
            replicas.astype(f"<u{job.record.row_bytes}"),
            codes.codes,
        )
        made = np.zeros((last_page - first_page) * PAGE, np.uint8)
        starts = (directory.page[which].astype(np.uint64) - np.uint64(first_page)) * np.uint64(PAGE)
        found = np.zeros(len(which), out.facts.dtype)
        found["crc32c"] = packing.pack_coded(lists, starts + directory.offset[which], made)
        if directions:
            found["shape"] = coded.shapes(plain, vectors, length, owner[which], codes.far)
        return made.reshape(-1, PAGE), found

    # An entry takes far less room in its posting than while it is made.
    entry = job.ids.width + coded.quantizer.code_bytes
    work = store.layout.row_bytes + (20 if directions else 8) * coded.quantizer.dim
    pages = max(1, job.sizes.code_bytes * entry // (work * PAGE))
    return out.fill(assemble, pages)


def _places(coded: Coded) -> Array:
    """For each position in tree order its row of the exact store, (count,): replicas name it."""
    step, positions = coded.job.sizes.place_rows, coded.store.positions
    places = np.empty(coded.vectors.count, f"<u{coded.job.record.row_bytes}")
    for start in range(0, len(places), step):
        stop = min(start + step, len(places))
        places[positions.read(start, stop)] = np.arange(start, stop) + coded.laid.directory.rows_before
    return places


def _merge(second: NDArray[np.bool_], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """`b` in order where `second`, `a` in order elsewhere."""
    merged = np.empty(len(second), np.int64)
    merged[~second], merged[second] = a, b
    return merged


def _gather(store: ShardedArray, places: NDArray[np.int64], gap_bytes: int) -> Array:
    """The vectors at `places` of the exact store."""
    distinct, inverse = np.unique(places, return_inverse=True)
    found = store.take_rows(distinct, gap_bytes=gap_bytes)
    return found if len(distinct) == len(places) and (np.diff(places) > 0).all() else found[inverse]
