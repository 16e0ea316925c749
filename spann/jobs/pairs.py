"""All pairs of vectors within a radius: the collection joined with itself, cell by cell.

A cell holds the vectors of one posting. Let x be in the cell of centroid p, y in the cell of q, and take the plane
halfway between p and q. If both vectors are more than half of the radius from the plane, each on its own side, they are
more than the radius apart. So x is compared with the whole cell of q only if x is beyond the plane, or within half of
the radius of it; and y likewise. If two vectors are within the radius, at least one of them is. This holds whatever
cell a vector was put in. Only the list of centroids is cut short: it goes from near to far, until `AT_ONCE` in a row
have no vector near their plane (docs/decisions/0025).

Distances of candidates come from one product of matrices, around the centroid. Undecided pairs, and the distances
returned, are computed in double precision.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from spann.errors import InputError
from spann.jobs.forest import EDGE, forest
from spann.jobs.own import OwnVectors
from spann.types import Array, Metric

AT_ONCE = 128
"""Centroids looked at together. If no vector is near the plane of any of them, farther centroids are skipped."""

CACHE_BYTES = 128 << 20
"""Bytes of cells kept in memory: all cells of a neighbourhood read each other."""

TASK_CELLS = 32
"""Cells that a thread takes at a time."""

DENSE = 1 << 12
"""From so many pairs of two cells on, only a spanning tree of them is kept."""

_CANCELS = 0.001
"""Share of a centroid's squared length. If `AT_ONCE` centroids are within it, products cannot order them."""

_ROUNDING = 4e-6
"""Share of squared lengths by which float32 may miss a squared distance, with room."""

_EXACT_PAIRS = 1 << 13

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Cell:
    """The different vectors of a posting. ``rows`` (n,) are the first row of each. ``raw`` (n, dim) are the vectors as
    given, ``x`` float32 vectors whose Euclidean distance counts. ``copies`` (m, 2): the row of a vector, and the row of
    a copy."""

    rows: NDArray[np.int64]
    raw: Floats
    x: Floats
    copies: NDArray[np.int64]


class Pairs:
    """Finds the pairs of a `collection` within `radius`, in the unit of `metric`. Threads may share it."""

    def __init__(
        self, collection: OwnVectors, centroids: Array, metric: Metric, radius: float, *, at_once: int = AT_ONCE
    ) -> None:
        """`centroids` (centroids, dim) are in the working space if there are codes; otherwise they are vectors. After
        `at_once` of them without a near vector, those beyond are passed over."""
        if metric is Metric.IP:
            raise InputError(
                f"{collection.path}: under ip a large product does not mean that vectors are alike. Pairs within a "
                "radius need an index under l2, cosine or hamming"
            )
        if not (np.isfinite(radius) and radius >= 0):
            raise InputError(f"radius is {radius!r}; it must be a number of at least 0")
        self.collection, self.metric, self.radius = collection, metric, float(radius)
        self.sqradius = {Metric.L2: radius**2, Metric.COSINE: 2 * radius, Metric.HAMMING: radius}[metric]
        self._at_once = at_once
        self._centroids = centroids.astype(np.float32) if collection.led == 0 else self.working(centroids)
        self._sqnorm = np.einsum("ij,ij->i", self._centroids, self._centroids)
        order = np.argsort(collection.centroid_of, kind="stable")
        ends = np.searchsorted(collection.centroid_of[order], np.arange(len(centroids) + 1))
        self._postings = order, ends
        self._cells: OrderedDict[int, Cell] = OrderedDict()
        self._lock, self._held = Lock(), 0

    def of(self, first: int, stop: int, threads: int) -> Iterator[tuple[int, NDArray[np.void]]]:
        """Yields, for runs of the postings `first` to `stop` (exclusive), in order: the last posting of the run, and
        the pairs of its cells with any other as records of `EDGE`. Many pairs are reduced to a forest of the
        shortest."""
        tasks = [range(start, min(start + TASK_CELLS, stop)) for start in range(first, stop, TASK_CELLS)]
        with threadpool_limits(1), ThreadPoolExecutor(threads, "spann-pairs") as pool:
            coming = [pool.submit(self._task, task) for task in tasks[: 2 * threads]]
            for number, task in enumerate(tasks):
                found = coming.pop(0).result()
                if number + 2 * threads < len(tasks):
                    coming.append(pool.submit(self._task, tasks[number + 2 * threads]))
                yield task.stop, found

    @property
    def centroids(self) -> int:
        """How many centroids there are."""
        return len(self._centroids)

    def looking(self, at_once: int) -> Pairs:
        """The same pairs, looked for with another number of centroids."""
        found = copy(self)
        found._at_once = at_once
        return found

    def between(self, postings: NDArray[np.int64]) -> NDArray[np.void]:
        """The pairs that the cells of some postings have with any, as a forest."""
        parts = np.array_split(postings, -(-len(postings) // TASK_CELLS))
        return forest(np.concatenate([self._task(part) for part in parts]))

    def maybe_near(self, x: Floats, y: Floats) -> NDArray[np.bool_]:
        """Which of `x` (n, dim) and `y` (m, dim), of the working space, may be within the radius, (n, m)."""
        a, b = np.einsum("ij,ij->i", x, x)[:, None], np.einsum("ij,ij->i", y, y)
        near: NDArray[np.bool_] = a + b - 2 * (x @ y.T) <= self.sqradius + _ROUNDING * (a + b)
        return near

    def within(self, a: Array, i: NDArray[np.int64], b: Array, j: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether rows `i` of the vectors `a` are within the radius of rows `j` of `b`."""
        return np.asarray(self._distance(a, i, b, j).astype(np.float32) <= np.float32(self.radius))

    def _task(self, postings: Sequence[int] | NDArray[np.int64]) -> NDArray[np.void]:
        homes = self.collection.centroid_of[np.asarray(postings)]
        nearest = self._near(homes)
        every = zip(postings, nearest, strict=True)
        found = [edges for posting, near in every for edges in self._cell(int(posting), near)]
        return forest(np.concatenate([np.empty(0, EDGE), *found]))

    def _near(self, homes: NDArray[np.int64]) -> Floats:
        """What orders all centroids by their distance from each of `homes`, (homes, centroids)."""
        nearest: Floats = self._sqnorm - 2 * (self._centroids[homes] @ self._centroids.T)
        if nearest.shape[1] > self._at_once:
            farthest = np.partition(nearest, self._at_once, axis=1)[:, self._at_once] + self._sqnorm[homes]
            for row in np.flatnonzero(farthest < _CANCELS * self._sqnorm[homes]):
                apart = self._centroids - self._centroids[homes[row]]
                nearest[row] = np.einsum("ij,ij->i", apart, apart)
        return nearest

    def _cell(self, posting: int, nearest: Floats) -> Iterator[NDArray[np.void]]:
        cell, home = self.cell(posting), int(self.collection.centroid_of[posting])
        if len(cell.copies):
            edges = np.zeros(len(cell.copies), EDGE)
            edges["a"], edges["b"] = cell.copies[:, 0], cell.copies[:, 1]
            yield edges
        if not len(cell.rows):
            return
        center = self._centroids[home]
        mine = cell.x - center
        for other in self._postings_of(home):
            if other >= posting:
                yield from self._compare(cell, mine, np.arange(len(mine)), self.cell(other), center, other == posting)
        for centroids, near in self._planes(mine, home, nearest):
            for column in np.flatnonzero(near.any(axis=0)):
                rows = np.flatnonzero(near[:, column])
                for other in self._postings_of(int(centroids[column])):
                    yield from self._compare(cell, mine, rows, self.cell(other), center, False)

    def _planes(
        self, mine: Floats, home: int, nearest: Floats
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Other centroids (m,), from near to far, and whether each vector of the cell is near the plane between, (n,
        m)."""
        count, done = len(nearest), 0
        sqnorm = np.einsum("ij,ij->i", mine, mine)
        reach = float(np.sqrt(self.sqradius)) / 2
        chosen = np.empty(0, np.int64)
        while done + 1 < count:
            wanted = min(count, max(done + self._at_once + 1, 4 * self._at_once if done else self._at_once + 1))
            if wanted > len(chosen):
                wanted = min(count, 2 * wanted)
                chosen = np.argpartition(nearest, wanted - 1)[:wanted]
                chosen = chosen[np.lexsort((chosen, nearest[chosen]))]
                chosen = chosen[chosen != home]
            some = chosen[done : done + self._at_once]
            if not len(some):
                return
            between = self._centroids[some] - self._centroids[home]
            sqdist = np.maximum(np.einsum("ij,ij->i", between, between), 1e-30)
            # The distance of x from the plane is (|x - q|^2 - |x - p|^2) / 2 |q - p|, with p the origin.
            away = (sqdist - 2 * (mine @ between.T)) / (2 * np.sqrt(sqdist))
            slack = _ROUNDING * (sqdist + sqnorm.max()) / np.sqrt(sqdist)
            near = away <= reach + slack
            if not near.any():
                return
            yield some, near
            done += len(some)

    def _compare(
        self, cell: Cell, mine: Floats, rows: NDArray[np.int64], other: Cell, center: Floats, same: bool
    ) -> Iterator[NDArray[np.void]]:
        if not len(other.rows):
            return
        x, y = mine[rows], other.x - center
        a, b = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
        sqdist = a[:, None] + b - 2 * (x @ y.T)
        slack = _ROUNDING * (a[:, None] + b)
        near = sqdist <= self.sqradius + slack
        if same:
            near &= np.arange(len(y)) > rows[:, None]
        i, j = np.nonzero(near)
        if not len(i):
            return
        if len(i) > DENSE:
            # Pairs that are certainly within the radius: few of them connect the same vectors.
            sure = sqdist[i, j] <= self.sqradius - slack[i, j]
            few = forest(_edges(i[sure], len(rows) + j[sure], np.maximum(sqdist[i, j][sure], 0)))
            i = np.concatenate([i[~sure], few["a"]])
            j = np.concatenate([j[~sure], few["b"] - len(rows)])
        distance = self._distance(cell.raw, rows[i], other.raw, j)
        within = distance.astype(np.float32) <= np.float32(self.radius)
        yield _edges(cell.rows[rows[i[within]]], other.rows[j[within]], distance[within])

    def _distance(self, a: Array, i: NDArray[np.int64], b: Array, j: NDArray[np.int64]) -> NDArray[np.float64]:
        """The distance of rows `i` of `a` from rows `j` of `b`, in the unit of the metric."""
        out = np.empty(len(i))
        for start in range(0, len(i), _EXACT_PAIRS):
            part = slice(start, start + _EXACT_PAIRS)
            x, y = a[i[part]].astype(np.float64), b[j[part]].astype(np.float64)
            if self.metric is Metric.COSINE:
                # For vectors of length 1, half of the squared difference is 1 - cos, without cancellation.
                x /= np.linalg.norm(x, axis=1)[:, None]
                y /= np.linalg.norm(y, axis=1)[:, None]
            difference = x - y
            square = np.einsum("ij,ij->i", difference, difference)
            out[part] = {Metric.L2: np.sqrt(square), Metric.COSINE: square / 2, Metric.HAMMING: square}[self.metric]
        return out

    def _postings_of(self, centroid: int) -> Sequence[int]:
        order, ends = self._postings
        found: list[int] = order[ends[centroid] : ends[centroid + 1]].tolist()
        return found

    def cell(self, posting: int) -> Cell:
        """The cell of a posting, kept in the cache."""
        with self._lock:
            if posting in self._cells:
                self._cells.move_to_end(posting)
                return self._cells[posting]
        cell = self._read(posting)
        with self._lock:
            if posting not in self._cells:
                self._cells[posting] = cell
                self._held += _bytes(cell)
                while self._held > CACHE_BYTES and len(self._cells) > 1:
                    self._held -= _bytes(self._cells.popitem(last=False)[1])
        return cell

    def _read(self, posting: int) -> Cell:
        rows, vectors = self.collection.cell(posting)
        as_bytes = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.shape[1] * vectors.itemsize)))
        if not len(rows):
            empty = np.empty((0, self.collection.dim), np.float32)
            return Cell(rows, empty, empty, np.empty((0, 2), np.int64))
        _, first, inverse = np.unique(as_bytes.reshape(-1), return_index=True, return_inverse=True)
        original = first[inverse.reshape(-1)]
        copy = np.flatnonzero(original != np.arange(len(rows)))
        kept = np.sort(first)
        raw = vectors[kept].astype(np.float32)
        return Cell(rows[kept], raw, self.working(raw), np.stack([rows[original[copy]], rows[copy]], axis=1))

    def working(self, vectors: Array) -> Floats:
        """The vectors in the space where their distance is Euclidean."""
        x = vectors.astype(np.float32)
        if self.metric is not Metric.COSINE:
            return x
        length = np.linalg.norm(x.astype(np.float64), axis=1)
        unit: Floats = (x / length[:, None]).astype(np.float32)
        return unit


def _edges(a: Any, b: Any, distance: Any) -> NDArray[np.void]:
    edges = np.zeros(len(a), EDGE)
    edges["a"], edges["b"], edges["distance"] = np.minimum(a, b), np.maximum(a, b), distance
    return edges


def _bytes(cell: Cell) -> int:
    return cell.raw.nbytes + (0 if cell.x is cell.raw else cell.x.nbytes) + 24 * len(cell.rows)
