"""The invariants of an index beyond its checksums: what must be true of its content."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spann.elements import unpack
from spann.errors import SpannError
from spann.format.live import all_live, is_live
from spann.format.names import BYTES, parts_of
from spann.quantize import Quantizer
from spann.quantize.factors import prove
from spann.search.columns import check_columns
from spann.search.contract import Resident, first_unusable
from spann.search.engine import Engine
from spann.search.held import HeldRows
from spann.search.postings import CodeLists, Postings, RowSet
from spann.store.arrays import Problem
from spann.store.exact import page_checksums
from spann.store.log import log_of
from spann.store.names import find_repeated, names_of
from spann.store.reader import IndexReader
from spann.types import Array, Metric
from spann.vectors.names import check_types

ROWS_AT_A_TIME = 8 << 20
"""Bytes of the exact store that are looked at together."""

DECODED_BYTES = 8 << 20
"""Numbers of decoded codes, as float64, that are compared with their vectors together."""

GAP_BYTES = 64 << 10
"""Bytes between two rows of the exact store that are read along rather than passed over."""

LEAST_COSINE = 0.5
"""Between the vectors that codes stand for and those that they are of, on average: it is 0.8 with 1 bit, and 0 with a
rotation that is not theirs."""

ROUNDING = 1e-4
"""Share by which a length may be off that was worked out in float32."""


Rows = RowSet | HeldRows
"""What a walk over the postings tells of the rows that it has met."""


def verify_index(reader: IndexReader, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """All that is wrong with an index: every checksum, and if those hold, what docs/FORMAT.md says must be.

    First come the entries of the manifest, with the arrays that follow from them, then what search relies on
    (spann/search/contract.py), then all else: ids are different, and ones that the collection has; every vector
    represents a centroid or is primary once; replicas are copies; numbers are finite; postings match the checksums that
    searches compare, none overlaps another; bytes between them are 0. Of codes besides: a replica names the row of the
    exact store that has its id; codes stand for the vectors that they are of; the checksums of pages of the exact store
    are those of its pages. Last comes the log of an index with updates.
    """
    problems = reader.verify(progress)
    if problems:
        return problems
    try:
        resident = Resident.read(reader)
        resident.check()
        with closing(Engine(reader, io="buffered", memory_budget="none")):
            pass
        found = next(_content(reader, resident), None)
    except SpannError as error:
        return [Problem("damaged", reader.path, str(error))]
    if found is not None:
        return [Problem("damaged", reader.path / "postings", found)]
    return [] if reader.collection.updates is None else list(log_of(reader).problems())


def _content(reader: IndexReader, resident: Resident) -> Iterator[str]:
    """What is wrong, in words; what comes later takes for granted that nothing came before."""
    about = resident.collection
    yield from _check_centroids(reader, resident)
    postings = Postings.of(resident, reader.array("postings/pages"))
    yield from _check_directory(resident)
    yield from _check_shapes(resident)
    rows: Rows
    if about.held is not None:
        rows = HeldRows(about, reader, all_live(about.count) if resident.live is None else resident.live)
    else:
        rows = RowSet(about, reader.read("vectors/ids") if about.user_ids else None)
    yield from rows.bad_ids()
    yield from _check_names(reader)
    if resident.ids is not None:
        yield from rows.represent(resident.ids)
    yield from _check_walk(postings, rows)
    missing = rows.missing()
    if missing is not None and about.held is not None:
        yield f"row {missing} has the id of another, which without codes no row may have"
    elif missing is not None:
        yield f"row {missing} is in no posting and represents no centroid"
    yield from _check_replicas(postings, rows)
    yield from check_columns(reader)
    largest = postings.largest_sqnorm
    if isinstance(postings, CodeLists):
        store = _Store(reader, resident)
        yield from store.check()
        largest = store.largest_sqnorm
        yield from _check_codes(postings, resident, store)
    elif about.metric is Metric.IP:
        largest = max(largest, float(_sqnorms(unpack(resident.vectors, about.element)).max()))
    if about.metric is Metric.IP and abs(np.sqrt(largest) - about.max_norm) > ROUNDING * about.max_norm:
        yield f"max_norm is {about.max_norm}; the longest vector has length {np.sqrt(largest):.6g}"


def _check_names(reader: IndexReader) -> Iterator[str]:
    names = names_of(reader)
    if names is None:
        return
    number, end = 0, 0
    for chunk in names.chunks():
        bad = check_types(chunk, names.kind)
        if bad is not None:
            yield f"name {number + bad} is no {names.kind}"
        number, end = number + len(chunk), end + len(parts_of(chunk)[1])
    if end != reader.layout(BYTES).rows:
        yield f"the names end at byte {end} of {reader.layout(BYTES).rows}"
    found = find_repeated(names.chunks, number, Path(tempfile.gettempdir()))
    if found is not None:
        yield f"vectors {found[1]} and {found[2]} have the same name"


def _check_centroids(reader: IndexReader, resident: Resident) -> Iterator[str]:
    stored = np.ascontiguousarray(resident.vectors)
    if stored.dtype.kind == "f":
        stored = stored + stored.dtype.type(0)  # one zero, not two
    order = np.sort(stored.view(np.dtype((np.void, stored.shape[1] * stored.itemsize))).reshape(-1))
    if bool((order[1:] == order[:-1]).any()):
        yield "two centroids are equal"
    if resident.origin is not None and resident.collection.metric is Metric.IP and resident.origin.any():
        yield "quantizer/origin is not 0, as it must be under ip"
    if "centroids/lift" in reader.arrays():
        lift = reader.read("centroids/lift")
        if not bool(np.all((lift >= 0) & np.isfinite(lift))):
            yield "centroids/lift holds what is no length"


def _check_directory(resident: Resident) -> Iterator[str]:
    empty = resident.length == 0
    for p in np.flatnonzero(empty & (resident.crc != 0))[:1]:
        yield f"posting {p} is empty and has a checksum that is not 0"
    if resident.chain is not None:
        several = np.repeat(np.diff(resident.chain) > 1, np.diff(resident.chain))
        own = len(several)
        for p in np.flatnonzero(several & (resident.length[:own] > resident.primaries[:own]))[:1]:
            yield f"posting {p} is one of several of its centroid, and holds replicas"


def _check_shapes(resident: Resident) -> Iterator[str]:
    if resident.shapes is None:
        return
    empty = resident.length == 0
    if resident.live is not None and len(resident.appended):  # the cell may have been laid anew
        own = len(empty) - len(resident.appended)
        owner = (
            np.arange(own)
            if resident.chain is None
            else np.repeat(np.arange(resident.collection.centroids), np.diff(resident.chain))
        )
        empty[:own] &= ~np.isin(owner, resident.appended)
    for p in np.flatnonzero(empty & resident.shapes.any(axis=1))[:1]:
        yield f"posting {p} is empty, and its shape is not 0"


def _check_walk(postings: Postings, rows: Rows) -> Iterator[str]:
    """Reads all pages. Primaries and what is between postings."""
    if postings.overlap():
        yield "two postings overlap"
    for pages, run, between in postings.runs():
        if between.any():
            yield f"bytes between postings in {pages} are not 0"
        for p, content in run:
            yield from postings.check(p, content)
            yield from rows.add_primaries(p, content, postings)


def _check_replicas(postings: Postings, rows: Rows) -> Iterator[str]:
    """Reads all pages again, where there are replicas."""
    if not (postings.length > postings.primaries).any():
        return
    for _, run, _ in postings.runs():
        for p, content in run:
            if postings.length[p] > postings.primaries[p]:
                yield from rows.check_replicas(p, content, postings)


class _Store:
    """The exact store of an index with codes."""

    def __init__(self, reader: IndexReader, resident: Resident) -> None:
        self._array, self._resident = reader.array("vectors/exact"), resident
        self.largest_sqnorm = 0.0

    def take(self, rows: NDArray[np.int64]) -> Array:
        """The vectors at `rows` (n,), as numbers (n, dim)."""
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first == len(rows) and bool((np.diff(rows) == 1).all()):
            stored = self._array.read_rows(first, last)
        else:
            distinct, place = np.unique(rows, return_inverse=True)
            stored = self._array.take_rows(distinct, gap_bytes=GAP_BYTES)[place]
        return unpack(stored, self._resident.collection.element)

    def check(self) -> Iterator[str]:
        about, resident = self._resident.collection, self._resident
        directions = about.metric is Metric.COSINE
        step = max(1, ROWS_AT_A_TIME // self._array.layout.row_bytes)
        for start in range(0, about.count, step):
            some = self._array.read_rows(start, min(start + step, about.count))
            bad = first_unusable(some, about.element, directions=directions)
            if bad is not None:
                yield f"row {start + bad} of vectors/exact is not finite, or not of a length that can be worked with"
            if about.metric is Metric.IP:
                self.largest_sqnorm = max(self.largest_sqnorm, float(_sqnorms(unpack(some, about.element)).max()))
        for p in np.flatnonzero(page_checksums(self._array) != resident.exact_crc)[:1]:
            yield f"page {p} of vectors/exact does not match its checksum in vectors/exact_crc32c"


def _check_codes(postings: CodeLists, resident: Resident, store: _Store) -> Iterator[str]:
    """Reads all pages again: whether codes follow from the vectors that they are of."""
    about = resident.collection
    assert resident.signs is not None
    assert resident.origin is not None
    quantizer = Quantizer(about.dim, about.code_bits, about.metric, resident.origin, resident.signs)
    step = max(1, DECODED_BYTES // (8 * about.padded_dim))
    cosines, counted = 0.0, 0
    for _, run, _ in postings.runs():
        for p, content in run:
            centroid = resident.vectors[postings.centroid(p)].astype(np.float32)
            places = postings.places(p, content)
            if resident.live is not None and not is_live(resident.live, places).any():
                continue  # the centroid may have moved since
            for start in range(0, len(places), step):
                some = slice(start, start + step)
                x = store.take(places[some]).astype(np.float32)
                if about.metric is Metric.COSINE:
                    x /= np.sqrt(_sqnorms(x))[:, None]
                found = prove(quantizer, x, centroid, postings.entries(p, content, some))
                if found.wrong >= 0:
                    yield (
                        f"posting {p}: `{found.what}` of entry {start + found.wrong} does not follow from its vector, "
                        "its code, the origin and the rotation"
                    )
                cosines, counted = cosines + found.cosines, counted + found.counted
    if counted and cosines / counted < LEAST_COSINE:
        yield "codes do not stand for the vectors of the exact store: the rotation, or they, are others"


def _sqnorms(x: Array) -> Array:
    found: Array = np.einsum("ij,ij->i", x, x, dtype=np.float64)
    return found
