"""Measuring again which settings of an index give which recall: `spann tune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.stages.calibration import COMPARED, SEED, IdsOf, Queries, calibrate_index, own_queries
from spann.building.stages.truth import FILE as TRUTH
from spann.building.stages.truth import answers
from spann.changing.generation import Generation
from spann.config import DEFAULT_CALIBRATION, whole
from spann.elements import memory_dtype
from spann.errors import InputError
from spann.format.postings import PAGE, Record, posting_bytes, posting_span
from spann.measuring.calibration import FEW
from spann.store.arrays import ShardedArray
from spann.store.reader import IndexReader
from spann.types import ELEMENT_TYPES, Array, Metric, Progress
from spann.vectors import StoredSource, VectorSource, for_metric, sample_rows


def recalibrate(
    path: str | Path,
    queries: VectorSource | None,
    *,
    base: VectorSource | None,
    count: int | None,
    created_by: str,
    threads: int,
    restart: bool = False,
    progress: Progress | None = None,
    sizes: Sizes = DEFAULT_SIZES,
) -> None:
    """Calibrates the index at `path` anew and publishes the result as its next generation. Everything else is links.

    It takes up to `count` of `queries`, or of the collection's own vectors. `base` has the vectors of the collection in
    the order of the build; an index without an exact store needs them. An interrupted calibration is resumed. If the
    result is the calibration there is, the index stays as it is.

    Raises `InputError` for bad input, and if other work on the index is unfinished, unless `restart` gives that up.
    Raises `MissingError`, and `ExistsError` while another process changes the index.
    """
    report = progress or (lambda stage, done, total: None)
    wanted = DEFAULT_CALIBRATION if count is None else whole(count, "count", 1)
    if wanted < FEW:
        raise InputError(f"count is {wanted}; a calibration needs at least {FEW} queries")
    with Generation(path, created_by=created_by, sizes=sizes) as following:
        reader, path = following.old, following.path
        about, metric = reader.attributes, reader.collection.metric
        vectors = _vectors(reader, None if base is None else for_metric(base, metric))
        asked, what = _asked(reader, vectors, queries, base, wanted)
        some = vectors.take(sample_rows(vectors.count, min(COMPARED, vectors.count), SEED))
        checkpoint = following.resume(
            "tune",
            {
                "queries": f"{what}, checksum {crc32c(asked.vectors):08x}",
                "base": f"{vectors.count} vectors, checksum {crc32c(some):08x} of some",
            },
            command=f"spann tune {path}" + ("" if queries is None else f" {queries.name}"),
            files={"truth": (TRUTH,)},
            restart=restart,
        )
        known = answers(
            vectors,
            asked.vectors,
            asked.rows,
            metric,
            threads=threads,
            temporary=following.temporary,
            checkpoint=checkpoint,
            progress=report,
            part_rows=sizes.truth_rows,
        )
        found = calibrate_index(path, vectors, asked, known, threads=threads, memory_budget="auto", progress=report)
        if found is None:
            raise InputError(f"{path}: {vectors.count} vectors are too few to calibrate searches")
        if found != about.get("calibration"):
            following.publish({"calibration": found})


def _asked(
    reader: IndexReader, vectors: VectorSource, queries: VectorSource | None, base: VectorSource | None, count: int
) -> tuple[Queries, str]:
    """Up to `count` queries for a calibration, and a description of them."""
    if queries is None:
        if base is not None:
            raise InputError(f"{reader.path}: base was given without queries: the ids of its vectors are unknown")
        own = own_queries(vectors, _own_ids(reader), count)
        return own, f"{len(own.vectors)} of its vectors"
    metric = Metric.parse(reader.attributes["metric"])
    queries = for_metric(queries, metric)
    _check_queries(queries, reader.attributes)
    rows = sample_rows(queries.count, min(count, queries.count), SEED)
    shuffled = np.random.Generator(np.random.PCG64(SEED)).permutation(len(rows))
    return Queries(queries.take(rows)[shuffled]), f"{len(rows)} given"


class _Store(VectorSource):
    """The exact store of an index, in the order of its rows."""

    def __init__(self, array: ShardedArray) -> None:
        super().__init__(str(array.path), array.rows, array.row_shape[0], array.dtype.newbyteorder("="))
        self._array = array

    def _read(self, start: int, stop: int) -> Array:
        return self._array.read_rows(start, stop)

    def _take(self, rows: NDArray[np.int64]) -> Array:
        return np.concatenate([self._array.read_rows(row, row + 1) for row in rows.tolist()])


def _vectors(reader: IndexReader, base: VectorSource | None) -> VectorSource:
    about = reader.attributes
    if reader.collection.live < reader.collection.count:
        raise InputError(
            f"{reader.path}: the index holds deleted or replaced vectors, which would be taken for neighbours: "
            "`spann optimize --purge` first"
        )
    if base is None:
        if not about.get("code_bits", 0):
            raise InputError(
                f"{reader.path}: the index has no codes, and its vectors only in postings: give them as --base (base=)"
            )
        store = _Store(reader.array("vectors/exact"))
        return store if about["dtype"] in ELEMENT_TYPES else StoredSource(store, about["dtype"])
    if (base.count, base.dim, base.element) != (about["count"], about["dim"], about["dtype"]):
        raise InputError(
            f"{base.name} holds {base.count} x {base.dim} {base.element}; {reader.path} was made of "
            f"{about['count']} x {about['dim']} {about['dtype']}"
        )
    return base


def _check_queries(queries: VectorSource, about: Mapping[str, Any]) -> None:
    if (queries.dim, queries.dtype) != (about["dim"], memory_dtype(about["dtype"])):
        raise InputError(
            f"{queries.name} holds {queries.element} vectors of dimension {queries.dim}; the index needs "
            f"{about['dtype']} of dimension {about['dim']}"
        )
    if queries.count < FEW:
        raise InputError(
            f"{queries.name} holds {queries.count} queries; a calibration needs at least {FEW}: give more, or "
            "none, and vectors of the index are taken"
        )


def _own_ids(reader: IndexReader) -> IdsOf:
    """Ids of rows of the exact store, which the postings hold."""
    about = reader.attributes
    record, id_type = Record.of(about), np.dtype(f"<u{about['id_bytes']}")
    page, offset, length, primaries = (
        reader.read(f"postings/directory/{name}") for name in ("page", "offset", "length", "primaries")
    )
    ends = np.cumsum(primaries, dtype=np.int64)
    start, _ = posting_span(page, offset, posting_bytes(about, length, primaries))
    pages = reader.array("postings/pages")

    def ids_of(rows: NDArray[np.int64]) -> Array:
        posting = np.searchsorted(ends, rows, side="right")
        at = start[posting] + record.header + (rows - (ends[posting] - primaries[posting])) * id_type.itemsize
        found = [
            pages.read_rows(int(byte) // PAGE, (int(byte) + id_type.itemsize - 1) // PAGE + 1)
            .reshape(-1)[int(byte) % PAGE :][: id_type.itemsize]
            .view(id_type)[0]
            for byte in at
        ]
        return np.array(found)

    return ids_of
