"""Stage "partition": the collection copied region by region, so that what is near in space is near on disk.

All stages after it read runs of that copy, never single rows here and there of a source that may be far larger than
memory, compressed, or both. The cut is a balanced k-means trained on a sample; where there are more regions than one
such cut can tell apart at a bearable cost, regions are cut out of coarse ones (SPANN section 3.2.1, hierarchical).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels import clustering
from spann.building.job import Job
from spann.building.sizes import Sizes
from spann.building.temporary import RecordFile, State
from spann.elements import pack, stored_dtype, stored_width, unpack
from spann.store.places import Where
from spann.types import Array
from spann.vectors import VectorSource, sample_rows

SAMPLE_BYTES = 64 << 20
"""Working vectors of the sample that a cut is trained on."""

SAMPLE_PER_REGION = 256

REGION_ITERATIONS = 12

REGION_BALANCE = 0.1
"""Step of the size penalty (ext/c/building/cluster.h)."""

FLAT = 64
"""Regions that one level of centres tells apart; more have two."""

CANCELS = 0.001
"""Where centres are nearer to another than the root of this share of their squared length, float32 would keep less than
13 bits of what they are apart. None are of SIFT or MiniLM; those of groups are that lie far from each other
(docs/decisions/0024)."""

SCATTER_BYTES = 8 << 20
"""Vectors that are sorted by region and written at a time, by one thread: what a region gets of them is one write."""


class Partition(VectorSource):
    """The vectors of a collection in an order of the build's, in temporary files under `directory`.

    Its rows are called positions, to tell them from the collection's rows, which it also keeps.
    """

    def __init__(
        self, directory: Where, name: str, source: VectorSource, state: dict[str, State] | None = None
    ) -> None:
        super().__init__(source.name, source.count, source.dim, source.dtype, source.element)
        self.directory = directory
        known = state or {}
        shape = (stored_width(self.element, self.dim),)
        self._vectors = RecordFile(
            directory / f"{name}-vectors", stored_dtype(self.element), shape, known.get("vectors")
        )
        try:
            self._rows = RecordFile(directory / f"{name}-rows", np.dtype(np.int64), (), known.get("rows"))
        except BaseException:
            self._vectors.close()
            raise

    def put(self, start: int, vectors: Array, rows: NDArray[np.int64]) -> None:
        """Writes `vectors` (n, dim) and the `rows` (n,) they come from at positions `start` and following."""
        self._vectors.put(start, pack(vectors, self.element))
        self._rows.put(start, rows)

    def take_stored(self, positions: NDArray[np.int64]) -> Array:
        """The vectors at `positions` (n,) as they lie in an index (`elements.pack`)."""
        return self._vectors.take(positions)

    @property
    def written(self) -> int:
        """Positions up to the last that was put."""
        return self._rows.count

    def state(self) -> dict[str, State]:
        """Makes all durable that was put; what another one goes on from (`RecordFile`)."""
        return {"vectors": self._vectors.state(), "rows": self._rows.state()}

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The collection's rows at positions `start` to `stop` (exclusive)."""
        return self._rows.read(start, stop)

    def rows_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The collection's rows at `positions` (n,)."""
        return self._rows.take(positions)

    def close(self) -> None:
        """Lets go of the files."""
        self._vectors.close()
        self._rows.close()

    def remove(self) -> None:
        """Closes the files and gives their space back."""
        self._vectors.remove()
        self._rows.remove()

    def _read(self, start: int, stop: int) -> Array:
        return unpack(self._vectors.read(start, stop), self.element)

    def _take(self, rows: NDArray[np.int64]) -> Array:
        return unpack(self._vectors.take(rows), self.element)


@dataclass(frozen=True)
class _Part:
    """Positions `start` to `stop` of `source`; `partition` knows where they come from, or is None for themselves."""

    source: VectorSource
    partition: Partition | None
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.arange(start, stop) if self.partition is None else self.partition.rows(start, stop)


@dataclass(frozen=True)
class _Cut:
    """A cut into about `regions` regions of at most 2 * `limit` rows; `stream` sets its randomness apart."""

    regions: int
    limit: int
    stream: tuple[int, ...]


def partition(job: Job, out: Partition) -> NDArray[np.int64]:
    """Fills `out` with the vectors of the job, region by region; returns the end of each region (regions,) int64.

    Within a region they keep their order. No region has more than twice its share of rows: where copies cannot be told
    apart, a region is cut by position.
    """
    source, seed = job.source, job.decision.seed
    limit = region_rows(job.space.dim, job.sizes)
    regions = -(-source.count // limit)
    whole = _Part(source, None, 0, source.count)
    done = 0

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        job.report("partition", done, 2 * levels * source.count)

    levels = 1 if regions <= job.sizes.region_fanout else 2
    if levels == 1:
        return _cut(job, whole, out, _Cut(regions, limit, (seed, 0)), report)
    found = []
    with Partition(out.directory, "coarse", source) as coarse:
        ends = _cut(job, whole, coarse, _Cut(round(math.sqrt(regions)), source.count, (seed, 0)), report)
        for number, (start, stop) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
            part = _Part(coarse, coarse, start, stop)
            found.append(_cut(job, part, out, _Cut(-(-len(part) // limit), limit, (seed, 0, number + 1)), report))
        coarse.remove()
    return np.concatenate(found)


def region_rows(dim: int, sizes: Sizes) -> int:
    """Vectors that a region should have."""
    return max(256, sizes.region_bytes // (4 * dim))


def _cut(job: Job, part: _Part, out: Partition, cut: _Cut, report: Callable[[int], None]) -> NDArray[np.int64]:
    """Copies `part` to the same positions of `out`, region by region; returns the end of each region.

    Two passes: one finds the region of each vector, which takes the time, and one copies. The place of a region depends
    on the sizes of those before it."""
    space, regions, limit, stream = job.space, cut.regions, cut.limit, cut.stream
    if regions == 1:
        _copy(part, out, report)
        return np.array([part.stop])
    sample = min(len(part), max(regions, min(regions * SAMPLE_PER_REGION, SAMPLE_BYTES // (4 * space.dim))))
    rows_of_sample = part.start + sample_rows(len(part), sample, mix(*stream))
    tree = _Regions(space.map(part.source.take(rows_of_sample)), regions, stream)
    block = max(1, job.sizes.region_bytes // (4 * max(space.dim, tree.compared)))
    labels = RecordFile(out.directory / "labels", np.dtype(np.uint16 if tree.count <= 1 << 16 else np.uint32))

    def find(start: int) -> NDArray[np.uint32]:
        return tree.find(space.map(part.source.read(start, min(start + block, part.stop))))

    try:
        sizes = np.zeros(tree.count, np.int64)
        for label in job.map(find, range(part.start, part.stop, block)):
            labels.append(label)
            sizes += np.bincount(label, minlength=tree.count)
            report(len(label))
        cursor = part.start + np.cumsum(sizes) - sizes
        rows = max(1, SCATTER_BYTES // part.source.row_bytes)

        def sort(start: int) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
            stop = min(start + rows, part.stop)
            label = labels.read(start - part.start, stop - part.start)
            order = np.argsort(label, kind="stable")
            counts = np.bincount(label, minlength=tree.count)
            return part.source.read(start, stop)[order], part.rows(start, stop)[order], counts

        for vectors, origins, counts in job.map(sort, range(part.start, part.stop, rows)):
            end = np.cumsum(counts)
            for region in np.flatnonzero(counts).tolist():
                taken = slice(int(end[region] - counts[region]), int(end[region]))
                out.put(int(cursor[region]), vectors[taken], origins[taken])
            cursor += counts
            report(len(vectors))
    finally:
        labels.remove()
    pieces = [np.full(-(-int(n) // (2 * limit)), 2 * limit) for n in sizes if n]
    for piece, n in zip(pieces, sizes[sizes > 0], strict=True):
        piece[-1] = n - piece[:-1].sum()
    ends: NDArray[np.int64] = part.start + np.cumsum(np.concatenate(pieces))
    return ends


def _copy(part: _Part, out: Partition, report: Callable[[int], None]) -> None:
    rows = max(1, SCATTER_BYTES // part.source.row_bytes)
    for start in range(part.start, part.stop, rows):
        stop = min(start + rows, part.stop)
        out.put(start, part.source.read(start, stop), part.rows(start, stop))
        report(2 * (stop - start))


class _Regions:
    """Centres of regions, trained on `x` (n, dim), in two levels where that is cheaper than one: a vector is compared
    with the coarse centres, then with those of its coarse centre's regions. With 610 regions, of 10M SIFT vectors, that
    takes a fifth of the time."""

    def __init__(self, x: NDArray[np.float32], regions: int, stream: tuple[int, ...]) -> None:
        coarse = round(math.sqrt(regions)) if regions > FLAT else 1
        self._coarse = _centres(x, coarse, mix(*stream))
        label = _nearest(x, self._coarse)
        share = np.cumsum(np.bincount(label, minlength=coarse)) * (regions / len(x))
        # At least one each, and no more than there are vectors to train them.
        counts = np.maximum(1, np.diff(np.rint(share).astype(np.int64), prepend=0))
        self._fine = [
            _centres(x[label == c], min(int(n), max(1, int((label == c).sum()))), mix(*stream, c + 1))
            if (label == c).any()
            else self._coarse[c : c + 1]
            for c, n in enumerate(counts)
        ]
        self._first = np.cumsum([0, *map(len, self._fine)])
        self.count, self.compared = int(self._first[-1]), max(coarse, int(counts.max()))

    def find(self, x: NDArray[np.float32]) -> NDArray[np.uint32]:
        """The region of each row of `x`, (n,)."""
        if len(self._fine) == 1:
            return _nearest(x, self._fine[0])
        label = _nearest(x, self._coarse)
        order = np.argsort(label, kind="stable")
        ends = np.cumsum(np.bincount(label, minlength=len(self._fine)))
        found = np.empty(len(x), np.uint32)
        for c, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            rows = order[start:stop]
            found[rows] = self._first[c] + _nearest(x[rows], self._fine[c])
        return found


def _centres(x: NDArray[np.float32], count: int, seed: int) -> Array:
    """Centres (count, dim + 1) of balanced clusters of `x`: -2 c, then |c|^2 and the weight that evens sizes out.

    Of float32, or of float64 where products of float32 cannot tell them apart.
    """
    if count == 1:
        return np.zeros((1, x.shape[1] + 1), np.float32)
    centres, weights = clustering.balanced_kmeans(
        x, count, iterations=REGION_ITERATIONS, balance=REGION_BALANCE, seed=seed
    )
    wide = centres.astype(np.float64)
    squares = np.einsum("ij,ij->i", wide, wide)
    apart = squares[:, None] + squares - 2 * (wide @ wide.T)
    np.fill_diagonal(apart, np.inf)
    lifted = np.column_stack([-2 * wide, squares + weights])
    return lifted if (apart.min(axis=1) < CANCELS * squares).any() else lifted.astype(np.float32)


def _nearest(x: NDArray[np.float32], centres: Array) -> NDArray[np.uint32]:
    """For each row of `x` the nearest of `centres`. One product gives |c|^2 + w - 2 x.c: two passes over it, for the
    sum and the factor, would take as long again."""
    lifted = np.ones((len(x), x.shape[1] + 1), centres.dtype)
    lifted[:, :-1] = x
    nearest: NDArray[np.uint32] = np.argmin(lifted @ centres.T, axis=1).astype(np.uint32)
    return nearest


def mix(*stream: int) -> int:
    """A seed of its own for each use of randomness (`numpy.random.SeedSequence` keeps them apart)."""
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0])
