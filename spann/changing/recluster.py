"""New centroids of dirty cells, and the cell of every vector that is near them (the conditions of LIRE)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels.clustering import balanced_kmeans
from spann.building.centroids import Centroids
from spann.building.job import Job
from spann.building.stages.cluster import BALANCE, ITERATIONS
from spann.building.stages.partition import mix

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CANDIDATES = 128
"""Centroids nearest to a dirty cell that its vectors are compared with."""

NEIGHBOURS = 32
"""Clean cells nearest to a dirty one whose vectors are compared with the new centroids."""

SMALL = 0.35
"""Share of the posting size below which a dirty cell gives its vectors to others."""

BLOCK_BYTES = 16 << 20
"""Distances to centroids that one thread works out at a time."""

SEED = 7_919


@dataclass(frozen=True)
class Members:
    """Vectors and the centroids they belong to now.

    - ``entry`` (n,): the row of the index or, from its last one on, a vector that comes with the change.
    - ``target`` (n,): the number of a centroid among all old ones and the new ones behind them.
    """

    entry: Ints
    target: Ints


@dataclass(frozen=True)
class Reclustered:
    """What became of dirty cells.

    - ``parent`` (new,): the dirty cell of each new centroid, ascending; ``means`` (new, space.dim): where they are.
    - ``members``: all vectors of dirty cells, and ``moved`` vectors of clean cells that went to a new centroid.
    """

    parent: Ints
    means: Floats
    members: Members
    moved: int


class Recluster:
    """The dirty cells of `centroids`, and how to read the vectors of a cell.

    ``entries(cell)`` has the entries of a cell, all of them live, and ``working(entries)`` their working vectors.
    """

    def __init__(
        self,
        job: Job,
        centroids: Centroids,
        dirty: NDArray[np.bool_],
        entries: Callable[[int], Ints],
        working: Callable[[Ints], Floats],
    ) -> None:
        self.job, self.dirty, self.entries, self.working = job, dirty, entries, working
        self.old = centroids.working(slice(0, len(centroids)))
        self.clean = np.flatnonzero(~dirty)
        self.cells = np.flatnonzero(dirty)

    def run(self) -> Reclustered:
        """Splits, merges and reassigns."""
        parent, centres = self._centres()
        around, near = self._around(parent, centres)
        parts, sums, counts = [], np.zeros(centres.shape), np.zeros(len(centres), np.int64)

        def add(part: Members, x: Floats) -> None:
            parts.append(part)
            child = part.target - len(self.old)
            new = np.flatnonzero(child >= 0)
            if len(new):
                order = new[np.argsort(child[new], kind="stable")]
                which, first, found = np.unique(child[order], return_index=True, return_counts=True)
                sums[which] += np.add.reduceat(x[order], first, axis=0, dtype=np.float64)
                counts[which] += found

        for part, x in self.job.map(lambda cell: self._assigned(cell, around, centres), self.cells.tolist()):
            add(part, x)
        moved = 0
        for part, x in self.job.map(lambda cell: self._moved(cell, near, centres), sorted(near)):
            add(part, x)
            moved += len(x)
        members = Members(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("entry", "target")))
        used = counts > 0
        means = (sums[used] / counts[used, None]).astype(np.float32)
        number = np.cumsum(used) - 1
        new = members.target >= len(self.old)
        members.target[new] = len(self.old) + number[members.target[new] - len(self.old)]
        return Reclustered(parent[used], means, members, moved)

    def _centres(self) -> tuple[Ints, Floats]:
        """First centres: as many for each dirty cell as its vectors fill postings, none for a small one.

        The largest cell keeps one if there would be no centroid at all."""
        size = self.job.decision.posting_size
        parts: list[Floats] = []
        counts = []

        def one(cell: int) -> tuple[int, Floats]:
            x = self.working(self.entries(cell))
            wanted = max(1, round(len(x) / size)) if len(x) >= SMALL * size else 0
            if wanted == 0:
                return len(x), x[:0]
            if wanted == 1:
                return len(x), x.mean(axis=0, dtype=np.float64).astype(np.float32)[None]
            seed = mix(SEED, self.job.decision.seed, cell)
            return len(x), balanced_kmeans(x, wanted, iterations=ITERATIONS, balance=BALANCE, seed=seed)[0]

        lengths = []
        for length, centres in self.job.map(one, self.cells.tolist()):
            lengths.append(length)
            parts.append(centres)
            counts.append(len(centres))
        if not len(self.clean) and not sum(counts):
            largest = int(np.argmax(lengths))
            x = self.working(self.entries(int(self.cells[largest])))
            parts[largest], counts[largest] = x.mean(axis=0, dtype=np.float64).astype(np.float32)[None], 1
        return np.repeat(self.cells, counts), np.concatenate(parts)

    def _around(self, parent: Ints, centres: Floats) -> tuple[dict[int, Ints], dict[int, Ints]]:
        """For each dirty cell the numbers of the centroids near it, clean ones and new ones; for each clean cell that
        is near one, the new centroids that its vectors may move to."""
        every = np.concatenate([self.old[self.clean], centres])
        number = np.concatenate([self.clean, len(self.old) + np.arange(len(centres))])
        around: dict[int, Ints] = {}
        near: dict[int, set[int]] = {}
        ends = np.searchsorted(parent, self.cells, side="right")
        starts = np.searchsorted(parent, self.cells, side="left")
        points = _Points(every)
        for block in range(0, len(self.cells), points.rows):
            cells = self.cells[block : block + points.rows]
            sqdist = points.sqdist(self.old[cells])
            for at, cell in enumerate(cells.tolist()):
                nearest = _smallest(sqdist[at], CANDIDATES)
                around[cell] = number[nearest]
                children = range(int(starts[block + at]), int(ends[block + at]))
                if not children:
                    continue
                for clean in _smallest(sqdist[at, : len(self.clean)], NEIGHBOURS).tolist():
                    near.setdefault(int(self.clean[clean]), set()).update(children)
        return around, {cell: np.array(sorted(children)) for cell, children in near.items()}

    def _points(self, numbers: Ints, centres: Floats) -> Floats:
        """Working vectors of centroids, old or new ones, by number."""
        points = np.empty((len(numbers), self.old.shape[1]), np.float32)
        new = numbers >= len(self.old)
        points[~new], points[new] = self.old[numbers[~new]], centres[numbers[new] - len(self.old)]
        return points

    def _assigned(self, cell: int, around: dict[int, Ints], centres: Floats) -> tuple[Members, Floats]:
        """The vectors of a dirty cell, each at the nearest centroid."""
        entries = self.entries(cell)
        x, numbers = self.working(entries), around[cell]
        nearest = np.argmin(_Points(self._points(numbers, centres)).sqdist(x), axis=1)
        return Members(entries, numbers[nearest]), x

    def _moved(self, cell: int, near: dict[int, Ints], centres: Floats) -> tuple[Members, Floats]:
        """The vectors of a clean cell that are nearer to a new centroid than to their own."""
        entries, children = self.entries(cell), near[cell]
        x = self.working(entries)
        around = x - self.old[cell]
        sqdist = _Points(centres[children]).sqdist(x)
        nearest = np.argmin(sqdist, axis=1)
        moves = sqdist[np.arange(len(x)), nearest] < np.einsum("ij,ij->i", around, around)
        return Members(entries[moves], len(self.old) + children[nearest[moves]]), x[moves]


def nearest_of(job: Job, centroids: Centroids, x: Floats) -> Ints:
    """The number of the centroid nearest to each of `x` (n, space.dim)."""
    points = _Points(centroids.working(slice(0, len(centroids))))
    blocks = range(0, len(x), points.rows)
    found = job.map(lambda at: np.argmin(points.sqdist(x[at : at + points.rows]), axis=1), blocks)
    return np.concatenate([np.empty(0, np.int64), *found])


class _Points:
    """Points (m, dim) that vectors are compared with, `rows` of them at a time. Both are taken less the mean of the
    points, so that sums do not cancel far from the origin."""

    def __init__(self, points: Floats) -> None:
        self._middle = points.mean(axis=0)
        self._points = points - self._middle
        self._squares = np.einsum("ij,ij->i", self._points, self._points)
        self.rows = max(1, BLOCK_BYTES // (4 * len(points)))

    def sqdist(self, x: Floats) -> Floats:
        """Squared distances (n, m) of `x` (n, dim)."""
        around = x - self._middle
        found: Floats = around @ self._points.T
        found *= -2
        found += self._squares
        found += np.einsum("ij,ij->i", around, around)[:, None]
        return found


def _smallest(values: Floats, n: int) -> Ints:
    """Places of the `n` smallest values, ascending."""
    return np.arange(len(values)) if n >= len(values) else np.sort(np.argpartition(values, n)[:n])
