"""Stage "calibrate": settings for recalls, measured on the index itself and kept in it (spann/tune/calibrate.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels.checksum import crc32c
from spann.build.answers import FILE as TRUTH
from spann.build.answers import answers
from spann.build.checkpoint import FILE as CHECKPOINT
from spann.build.checkpoint import Checkpoint, gone_on_with
from spann.config import DEFAULT_CALIBRATION
from spann.elements import memory_dtype
from spann.errors import InputError
from spann.search import Engine
from spann.storage import (
    PAGE,
    RESERVED,
    IndexReader,
    IndexWriter,
    Record,
    ShardedArray,
    Where,
    files,
    posting_bytes,
    posting_span,
    without_links,
)
from spann.tune import calibrate
from spann.tune.calibrate import FEW, MOST, Asked
from spann.types import ELEMENT_TYPES, Array, Metric, Progress
from spann.vectors import StoredSource, VectorSource, for_metric, sample_rows

SEED = 20_241
"""Start of the choice of the vectors that are queries."""

PRUNE_RANK = 16
"""Of the posting whose distance `epsilon2` is relative to (ext/c/search/prune.c)."""

COMPARED = 1000
"""Vectors of the collection that queries are compared with."""

APPENDED = 2.0
"""Postings that are scored for one of `max_postings`, at most, where vectors were appended: some bring another."""

COSINE_NOISE = 1e-6
"""Of 1 - cos in float32, absolute."""


def own_rows(count: int, queries: int) -> NDArray[np.int64]:
    """Which of `count` vectors of the collection are the `queries` of its calibration, ascending."""
    return sample_rows(count, min(queries, count), SEED)


def calibrate_with_own(
    path: Path,
    vectors: VectorSource,
    ids_of: Callable[[NDArray[np.int64]], Array],
    queries: int,
    threads: int,
    memory_budget: int | str,
    temporary: Where,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any] | None:
    """Calibrates the index at `path` with `queries` of its own vectors: `vectors` has all of them, in any order, and
    `ids_of` tells the ids of its rows. `memory_budget` is that of the search. JSON for the attribute `calibration`;
    None where there are too few vectors. The truth is kept in `temporary` and the `checkpoint`."""
    rows = own_rows(vectors.count, queries)
    # The first of them serve every k, and rows that follow each other may be neighbours.
    rows = rows[np.random.Generator(np.random.PCG64(SEED)).permutation(len(rows))]
    queried = vectors.take(rows)
    return _calibrate(path, vectors, queried, (rows, ids_of), threads, memory_budget, temporary, progress, checkpoint)


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
) -> None:
    """Calibrates the index at `path` anew and publishes that as its next generation, all else being links; where it
    finds what is known, the index stays as it is.

    With up to `count` of `queries`, or of the collection's own vectors. `base` are the vectors of the collection, by id
    where that is the row; needed where the index has no exact store. What an interrupted one found is gone on with.
    Raises `InputError`, also where other work on the index is unfinished and not to be given up with `restart`,
    `MissingError`, and `ExistsError` while another process changes the index.
    """
    report = progress or (lambda stage, done, total: None)
    path = without_links(Path(path))
    wanted = DEFAULT_CALIBRATION if count is None else count
    if wanted < FEW:
        raise InputError(f"count is {wanted}; a calibration needs at least {FEW} queries")
    IndexReader.open(path)
    with IndexWriter(path, created_by=created_by, overwrite=True, resumes=True) as writer:
        writer.keep = files.exists(writer.temporary / CHECKPOINT)  # until it is known what it is of
        reader = IndexReader.open(path)
        about, metric = reader.attributes, reader.collection.metric
        vectors = _vectors(reader, None if base is None else for_metric(base, metric))
        asked, own, what = _asked(reader, vectors, queries, base, wanted)
        some = vectors.take(sample_rows(vectors.count, min(COMPARED, vectors.count), SEED))
        identity = {
            "work": "tune",
            "program": created_by,
            "index": f"generation {about['generation']}, checksum {about['checksum']}",
            "queries": f"{what}, checksum {crc32c(asked):08x}",
            "base": f"{vectors.count} vectors, checksum {crc32c(some):08x} of some",
        }
        command = f"spann tune {path}" + ("" if queries is None else f" {queries.name}")
        with gone_on_with(writer, identity, command, {"truth": (TRUTH,)}, {}, restart=restart) as checkpoint:
            found = _calibrate(path, vectors, asked, own, threads, "auto", writer.temporary, report, checkpoint)
            if found is None:
                raise InputError(f"{path}: {vectors.count} vectors are too few to calibrate searches")
            if found == about.get("calibration"):
                return
            for name in reader.arrays():
                writer.extend_array(name, reader.array(name), reader.checksums(name)).finish()
            kept = {name: value for name, value in about.items() if name not in RESERVED}
            writer.publish(
                {**kept, "calibration": found}, features=about["features"], generation=about["generation"] + 1
            )


IdsOf = Callable[[NDArray[np.int64]], Array]
"""Ids of rows."""

Own = tuple[NDArray[np.int64], IdsOf]
"""Of queries that are vectors of the collection: their rows, and what tells ids of rows."""


def _asked(
    reader: IndexReader, vectors: VectorSource, queries: VectorSource | None, base: VectorSource | None, count: int
) -> tuple[Array, Own | None, str]:
    """Up to `count` queries for a calibration, which of `vectors` they are, and in words what they are."""
    shuffle = np.random.Generator(np.random.PCG64(SEED))
    if queries is None:
        if base is not None:
            raise InputError(f"{reader.path}: base was given without queries: the ids of its vectors are unknown")
        rows = own_rows(vectors.count, count)
        rows = rows[shuffle.permutation(len(rows))]
        return vectors.take(rows), (rows, _own_ids(reader)), f"{len(rows)} of its vectors"
    metric = Metric.parse(reader.attributes["metric"])
    queries = for_metric(queries, metric)
    _check_queries(queries, reader.attributes)
    rows = sample_rows(queries.count, min(count, queries.count), SEED)
    return queries.take(rows)[shuffle.permutation(len(rows))], None, f"{len(rows)} given"


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


def _calibrate(
    path: Path,
    vectors: VectorSource,
    queries: Array,
    own: Own | None,
    threads: int,
    memory_budget: int | str,
    temporary: Where,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any] | None:
    """`own`: the rows of `vectors` that the queries are, where they are from there, and what tells ids of rows."""
    reader = IndexReader.open(path)
    metric = Metric.parse(reader.attributes["metric"])
    own_rows = None if own is None else own[0]
    known = answers(vectors, queries, own_rows, metric, threads, temporary, checkpoint, progress)
    if not known.kth:
        return None
    queries = queries[known.chosen]
    own_ids = None if own is None else _ids_of(known.own, own[1])
    engine = Engine(reader, memory_budget=memory_budget)
    try:
        reach = Reach(engine, queries[:FEW])
        unlike = 0.0
        if own is None:
            some = vectors.take(sample_rows(vectors.count, min(COMPARED, vectors.count), SEED))
            unlike = _difference(reach.nearest, Reach(engine, some).nearest)
        found = calibrate(
            lambda q, k, params: engine.search(q, k, params, threads=threads, order="query"),
            Asked(
                queries,
                known.kth,
                own=own_ids,
                largest_first=metric is Metric.IP,
                noise=COSINE_NOISE if metric is Metric.COSINE else 0.0,
            ),
            reach=reach.of,
            unlike=unlike,
            postings=len(engine.arrays.length),
            each=APPENDED if engine.arrays.appended else 1.0,
            entries=max(1.0, float(engine.arrays.length.mean())),
            coded=engine.arrays.code_bits > 0,
            progress=progress,
        )
    finally:
        engine.close()
    return found.to_json()


def _ids_of(rows: NDArray[np.int64], ids_of: IdsOf) -> NDArray[np.int64]:
    """Ids of `rows`, of any shape; -1 stays."""
    ids = np.full(rows.shape, -1, np.int64)
    ids[rows >= 0] = ids_of(rows[rows >= 0]).astype(np.int64)
    return ids


class Reach:
    """How many of the postings that some queries consider are within (1 + epsilon2) times the distance of the 16th
    nearest of these, by what is expected of them; ``nearest`` (nq,) is the distance of the nearest of all."""

    def __init__(self, engine: Engine, queries: Array) -> None:
        self._expected = engine.expected(queries, MOST)
        self.nearest = self._expected.min(axis=1)

    def of(self, max_postings: int, fill: float) -> float:
        """The epsilon2 at which the mean query has `fill` of `max_postings`, but more than the rank that it is relative
        to, below which the rule says nothing; infinity where it never has as many."""
        return self.at(max(fill * max_postings, 1.25 * PRUNE_RANK), max_postings)

    def at(self, wanted: float, max_postings: int) -> float:
        """The epsilon2 at which the mean query has `wanted` postings of the `max_postings` that it considers."""
        considered = self._expected[:, :max_postings]
        rank = np.minimum(PRUNE_RANK, np.isfinite(considered).sum(axis=1))  # empty postings are not among them
        some = min(PRUNE_RANK, considered.shape[1])
        smallest = np.sort(np.partition(considered, some - 1, axis=1)[:, :some], axis=1)
        own = smallest[np.arange(len(smallest)), np.maximum(rank, 1) - 1]
        with np.errstate(invalid="ignore"):  # where all are empty
            ratio = (considered / np.maximum(own, 1e-30)[:, None]).reshape(-1)
        place = round(wanted * len(considered))
        if place >= np.isfinite(ratio).sum():
            return float(np.inf)
        return float(f"{max(np.partition(ratio, place)[place] - 1, 1e-3):.4g}")


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The largest difference between the cumulative distributions of two samples."""
    at = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())
