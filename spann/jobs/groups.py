"""Groups of near vectors, and the vector of each group to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.jobs.forest import EDGE, components, forest
from spann.jobs.output import OutputFolder, Shard
from spann.jobs.own import OwnVectors
from spann.jobs.pairs import Pairs
from spann.jobs.parts import Block
from spann.store.names import NameTable
from spann.types import Array, Metric, Progress
from spann.vectors.sinks import write_whole

KEEP = ("first", "medoid")
"""The member of a group that is kept: the one with the smallest id, or the one nearest to the mean."""

MOST_EDGES = 1 << 20
"""Pairs gathered before they are reduced to a forest."""

_MEDOID_ROWS = 1 << 14

GROUP_ROWS = 1 << 20
"""Vectors in a row group of a file."""

COLUMNS = ["id", "group", "keep", "nearest", "distance"]

Choose = Callable[[Sequence[NDArray[np.int64]]], list[int]]
"""Takes groups, each as places of its members. Returns the number of the kept member in each."""


@dataclass(frozen=True)
class Duplicates:
    """Groups of vectors within `radius` of each other, directly or through others of the group. Names follow semhash.

    - ``ids`` (count,): all vectors of the collection, int64 ascending, or names in the order of the rows.
    - ``group`` (count,): for each vector, the id of the kept vector of its group; its own id if it has no group.
    - ``radius``, in the unit of the metric.
    """

    radius: float
    keep: str
    _ids: NDArray[np.int64]
    _group: NDArray[np.int64]
    _edges: NDArray[np.void]
    _choose: Choose
    _names: NameTable | None = None

    @classmethod
    def of(
        cls,
        ids: NDArray[np.int64],
        edges: NDArray[np.void],
        *,
        radius: float,
        keep: str,
        choose: Choose,
        names: NameTable | None = None,
    ) -> Duplicates:
        """Groups the ascending `ids`; `edges` hold places in them. `names` are those of the ids."""
        lowest = components(edges, len(ids))
        if keep == "medoid":
            members = np.flatnonzero(np.bincount(lowest, minlength=len(ids))[lowest] > 1)
            members = members[np.argsort(lowest[members], kind="stable")]
            ends = np.flatnonzero(np.diff(lowest[members])) + 1
            groups = np.split(members, ends) if len(members) else []
            for group, chosen in zip(groups, choose(groups), strict=True):
                lowest[group] = chosen
        return cls(radius, keep, ids, ids[lowest], edges, choose, names)

    @property
    def ids(self) -> Array:
        return self._shown(self._ids)

    @property
    def group(self) -> Array:
        return self._shown(self._group)

    @property
    def selected(self) -> Array:
        """Ids of the vectors that are kept, in the order of `ids`."""
        return self._shown(self._ids[self._group == self._ids])

    @property
    def filtered(self) -> Array:
        """Ids of the others."""
        return self._shown(self._ids[self._group != self._ids])

    def _shown(self, ids: NDArray[np.int64]) -> Array:
        return np.asarray(ids) if self._names is None else self._names.objects(ids)

    @property
    def duplicate_ratio(self) -> float:
        """The share of vectors that are filtered."""
        return float((self._group != self._ids).mean())

    @property
    def exact_duplicate_ratio(self) -> float:
        """The share of vectors that would be filtered at radius 0."""
        return int((self._edges["distance"] == 0).sum()) / len(self._ids)

    def rethreshold(self, radius: float) -> Duplicates:
        """The groups within a smaller `radius`. It takes no search."""
        if not 0 <= radius <= self.radius:
            raise InputError(f"radius is {radius!r}; it must be from 0 to {self.radius}, for which pairs were found")
        edges = self._edges[self._edges["distance"] <= np.float32(radius)]
        return Duplicates.of(self._ids, edges, radius=radius, keep=self.keep, choose=self._choose, names=self._names)

    def columns(self) -> dict[str, Array]:
        """A row for each vector: `id`; `group`, the id of the kept vector; and `keep`, whether this is the kept one.
        `nearest` is the nearest other vector, with its `distance`: -1 and infinity if none is within the radius."""
        nearest, far = self._nearest()
        keep = self._group == self._ids
        shown = map(self._shown, (self._ids, self._group, nearest))
        ids, group, near = shown
        return {"id": ids, "group": group, "keep": keep, "nearest": near, "distance": far}

    def _nearest(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest other vector of each, and its distance."""
        a, b = (np.concatenate([self._edges[x], self._edges[y]]) for x, y in ("ab", "ba"))
        distance = np.concatenate([self._edges["distance"]] * 2)
        order = np.lexsort((b, distance, a))
        at, first = np.unique(a[order], return_index=True)
        nearest, far = np.full(len(self._ids), -1, np.int64), np.full(len(self._ids), np.inf, np.float32)
        nearest[at], far[at] = self._ids[b[order][first]], distance[order][first]
        return nearest, far

    def largest(self, most: int) -> Iterator[tuple[Any, Array, float]]:
        """The `most` largest groups: the id of the kept vector, the ids of the others, and the largest distance of one
        of them from its nearest."""
        _, far = self._nearest()
        kept, sizes = np.unique(self._group, return_counts=True)
        order = np.argsort(-sizes, kind="stable")[:most]
        for one in kept[order[sizes[order] > 1]].tolist():
            members = np.flatnonzero(self._group == one)
            others = self._ids[members][self._ids[members] != one]
            yield self._shown(np.array([one]))[0], self._shown(others), float(far[members].max())

    def sizes(self) -> NDArray[np.int64]:
        """The vectors of each group that has more than one."""
        _, sizes = np.unique(self._group, return_counts=True)
        return np.asarray(sizes[sizes > 1])

    def report(self) -> dict[str, Any]:
        """Counts, ready for JSON."""
        groups = self.sizes()
        return {
            "vectors": len(self._ids),
            "radius": self.radius,
            "groups": len(groups),
            "filtered": int((groups - 1).sum()),
            "duplicate_ratio": self.duplicate_ratio,
            "exact_duplicate_ratio": self.exact_duplicate_ratio,
            "largest_group": int(groups.max(initial=0)),
        }

    def to_arrow(self) -> Any:
        """`columns` as a pyarrow.Table, with null for a missing nearest vector."""
        import pyarrow as pa

        return pa.concat_tables(self._tables())

    def _tables(self) -> Iterator[Any]:
        import pyarrow as pa

        nearest, far = self._nearest()
        for start in range(0, max(1, len(self._ids)), GROUP_ROWS):
            part = slice(start, start + GROUP_ROWS)
            none, ids, group = nearest[part] < 0, self._ids[part], self._group[part]
            yield pa.table(
                [
                    self._arrow(ids),
                    self._arrow(group),
                    pa.array(group == ids),
                    self._arrow(nearest[part], none),
                    pa.array(far[part], mask=none),
                ],
                names=COLUMNS,
            )

    def _arrow(self, ids: NDArray[np.int64], none: NDArray[np.bool_] | None = None) -> Any:
        import pyarrow as pa

        if self._names is None:
            return pa.array(ids, mask=none)
        if none is None:
            return self._names.arrow(ids)
        return self._names.arrow(ids[~none]).take(pa.array(np.cumsum(~none) - 1, mask=none))

    def write(self, path: Path) -> None:
        """Writes `to_arrow` to a Parquet file, whole or not at all."""
        from spann.jobs.tables import parquet_writer

        tables = self._tables()
        first = next(tables)

        def write(file: BinaryIO) -> None:
            with parquet_writer(file, first.schema, ("id", "group", "distance")) as writer:
                for table in chain([first], tables):
                    writer.write_table(table, row_group_size=GROUP_ROWS)

        write_whole(path, write)

    def to_pandas(self) -> Any:
        """`columns` as a pandas.DataFrame. Needs pandas."""
        import pandas

        return pandas.DataFrame(self.columns())


def check_keep(keep: str) -> None:
    if keep not in KEEP:
        raise InputError(f"keep is {keep!r}; it must be one of {', '.join(KEEP)}")


def find_pairs(
    pairs: Pairs, postings: range, threads: int, told: Callable[[int], None] | None = None
) -> NDArray[np.void]:
    """The forest of all pairs of the cells of `postings`. Calls `told` with the number of postings done."""
    held, size, limit = [np.empty(0, EDGE)], 0, MOST_EDGES
    for stop, found in pairs.of(postings.start, postings.stop, threads):
        held.append(found)
        size += len(found)
        if size > limit:
            held = [forest(np.concatenate(held))]
            size = len(held[0])
            limit = max(MOST_EDGES, 2 * size)
        if told:
            told(stop)
    return forest(np.concatenate(held))


def duplicates_of(
    collection: OwnVectors,
    edges: NDArray[np.void],
    radius: float,
    keep: str,
    metric: Metric,
    names: NameTable | None = None,
) -> Duplicates:
    """The groups that pairs of rows make of the `collection`, whose vectors have `names` or not."""
    ids = collection.ids()
    order = np.argsort(ids, kind="stable")
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    moved = edges.copy()
    a, b = place[edges["a"]], place[edges["b"]]
    moved["a"], moved["b"] = np.minimum(a, b), np.maximum(a, b)
    medoids = _Medoids(collection, order, metric)
    return Duplicates.of(ids[order], moved, radius=radius, keep=keep, choose=medoids, names=names)


@dataclass(frozen=True)
class _Medoids:
    """Chooses the member of each group nearest to its mean. `rows` (count,) are the collection's rows of the places."""

    collection: OwnVectors
    rows: NDArray[np.int64]
    metric: Metric

    def __call__(self, groups: Sequence[NDArray[np.int64]]) -> list[int]:
        return [self._one(group) for group in groups]

    def _one(self, group: NDArray[np.int64]) -> int:
        order = np.argsort(self.rows[group])
        members = group[order]
        rows = self.rows[members]
        pieces = [rows[start : start + _MEDOID_ROWS] for start in range(0, len(rows), _MEDOID_ROWS)]
        mean = sum(self._vectors(piece).sum(axis=0) for piece in pieces) / len(rows)
        sqdist = np.concatenate([np.square(self._vectors(piece) - mean).sum(axis=1) for piece in pieces])
        best = np.flatnonzero(sqdist == sqdist.min())
        return int(members[best].min())

    def _vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        vectors = self.collection.take(rows).astype(np.float64)
        if self.metric is Metric.COSINE:
            vectors /= np.linalg.norm(vectors, axis=1)[:, None]
        return vectors


@dataclass(frozen=True)
class PostingPart:
    """The cells of some postings of a collection."""

    collection: OwnVectors
    postings: range

    @property
    def name(self) -> str:
        return f"{self.collection.path}, postings from {self.postings.start} on"

    @property
    def rows(self) -> int:
        return int(self.collection.first[self.postings.stop] - self.collection.first[self.postings.start])

    def fingerprint(self) -> str:
        return self.collection.checksum

    def schema(self) -> None:
        return None

    def blocks(self, rows: int) -> Iterator[Block]:
        raise NotImplementedError("a part of postings is read by its cells")


def posting_parts(collection: OwnVectors, part_rows: int) -> list[PostingPart]:
    """All postings, in parts of about `part_rows` vectors."""
    first, parts, start = collection.first, [], 0
    postings = len(first) - 1
    while start < postings:
        stop = int(np.searchsorted(first, first[start] + part_rows, side="right")) - 1
        stop = min(max(stop, start + 1), postings)
        parts.append(PostingPart(collection, range(start, stop)))
        start = stop
    return parts


def dedup_parts(
    pairs: Pairs, parts: Sequence[PostingPart], folder: OutputFolder, threads: int, progress: Progress | None
) -> int:
    """Writes the pairs of the missing parts. Returns the number of vectors in these parts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    mine = folder.missing(Shard())
    total, before = sum(parts[number].rows for number in mine), 0
    for number in mine:
        part = parts[number]
        start = int(pairs.collection.first[part.postings.start])

        def told(stop: int, done: int = before - start) -> None:
            if progress:
                progress("dedup", int(pairs.collection.first[stop]) + done, total)

        with folder.writing(number) as path:
            edges = find_pairs(pairs, part.postings, threads, told)
            pq.write_table(pa.table({name: edges[name] for name in EDGE.names or ()}), path)
        before += part.rows
    return total


def read_pairs(files: Sequence[Path]) -> NDArray[np.void]:
    """The forest of the pairs in all files."""
    import pyarrow.parquet as pq

    held = np.empty(0, EDGE)
    for file in files:
        table = pq.read_table(file)
        edges = np.empty(len(table), EDGE)
        for name in EDGE.names or ():
            edges[name] = table[name].to_numpy()
        held = forest(np.concatenate([held, edges]))
    return held
