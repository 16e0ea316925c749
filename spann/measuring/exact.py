"""Exact nearest neighbours by looking at every vector: the truth that recall is measured against.

Two passes make the answer exact rather than nearly so. The first one ranks every row with one matrix product per block
in float32, |b|^2 - 2ab for l2, keeps somewhat more than k rows of each query and computes their distances directly in
float64. The rounding error of a matrix product has a known bound, so it is known for each query whether a row that was
not kept could still belong to the answer. Only queries for which it could (large groups of equal distances, data far
from the origin) take the second pass: float64 throughout, and every row within the error bound is computed directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from spann.config import thread_count
from spann.elements import in_memory
from spann.errors import InputError
from spann.types import Array, Metric, Progress
from spann.vectors import VectorSource, check_finite, check_nonzero, for_metric

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_BLOCK_ROWS = 4096
"""Rows read at a time: few, for of the first block every row is a candidate, of later ones hardly any."""

_BLOCK_BYTES = 32 << 20
"""Bytes of a block of rows in float64 at most."""

_TILE = 1 << 20
"""Keys (query, row) that a thread computes at a time: 4 MB in float32, half of the last-level cache of a core."""

_PRODUCTS = 1 << 28
"""Multiplications that a thread does at a time: an interrupt waits for them, some 50 ms with what follows."""

_MANY = 1 << 17
"""Keys that are merged at a time, by tiles with fewer queries where a block has more: merging takes some 90 bytes of
each, which were 190 MB for each thread when all keys of the first block were merged at once."""

_PAIR_BYTES = 16 << 20
"""Bytes of base rows in float64 whose distances a thread computes directly at a time."""

_FLOAT32_SAFE = 1e37
"""Sums of squares below this fit float32 with room for the factor 2 of |b|^2 - 2ab."""


def exact_search(
    base: VectorSource,
    queries: Array,
    k: int,
    metric: Metric | str,
    *,
    threads: int | None = None,
    block_rows: int | None = None,
    within: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest rows of `base` for each query, exactly; equal distances in the order of row numbers.

    Memory does not grow with `base`: a block of rows in its own type and as floats (about 64 MB), 64 MB for each
    thread, and 24 * 1.25 k bytes for each query. While it runs, BLAS is held to one thread in the whole process:
    the threads here are Python's.

    Parameters
    ----------
    base : VectorSource
        (n, dim); read from front to back once, for few queries twice, and some rows again by number.
    queries : (nq, dim) array of the element type of `base`
        Of binary vectors bool, or uint8 with 8 bits in each; `base` too.
    k : int
        From 1 to n.
    metric : Metric or its name
    threads : int, optional
        By default as many as there are processors for this process.
    block_rows : int, optional
        Rows read at a time. By default 4096, or as many as are 32 MB in float64.
    within : float32 (nq,), optional
        The k-th distance, in the unit of the results, among rows that come before those of `base` where distances are
        equal; infinite (minus, for inner product) where fewer are known. Rows as far or farther may be left out, and
        the search is the faster for it.
    progress : Progress, optional
        Called with the stages "neighbours" and, where a second pass is needed, "ties"; counts rows.

    Returns
    -------
    ids : int64 (nq, k)
        Row numbers, nearest first; -1 where `within` left fewer.
    distances : float32 (nq, k)
        SQUARED Euclidean distance for l2 (the convention of truth files), 1 - cos for cosine, inner product for ip,
        bits for hamming.
        Computed in float64 from the differences of the elements, then rounded. Infinite (minus, for inner product)
        where the id is -1.

    Raises
    ------
    InputError
        k outside 1 to n; queries of another type or dimension; NaN, infinities, or zero vectors under cosine, in
        either; distances beyond float32.
    """
    metric = Metric.parse(metric)
    base = for_metric(base, metric)
    queries = in_memory(queries, base.element)
    _check(base, queries, k, metric, block_rows)
    farthest = _farthest(within, len(queries), metric)
    workers = thread_count(threads)
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        scan = _Scan(base, queries, metric, block_rows or _default_rows(base.dim), pool, workers)
        near = scan.candidates(min(base.count, k + k // 4 + 16), farthest, progress)
        rows, order = _first(near.rows, scan.measure(near.rows), k)
        farthest = np.minimum(farthest, order[:, -1])
        unsure = np.flatnonzero(scan.key_of(farthest) + scan.error(np.float32) >= near.cutoff)
        if len(unsure):
            rows[unsure], order[unsure] = scan.within(unsure, farthest[unsure], k, progress)
    return rows, _rounded(-order if metric is Metric.IP else order, metric)


def _farthest(within: NDArray[np.float32] | None, count: int, metric: Metric) -> Floats:
    """Orders (count,) from which on rows do not matter: somewhat more than `within`, which is rounded."""
    if within is None:
        return np.full(count, np.inf)
    if within.shape != (count,) or within.dtype != np.float32 or np.isnan(within).any():
        raise InputError(f"within is {within.dtype.name} {within.shape}: it must be float32 ({count},) without NaN")
    return np.nextafter(-within if metric is Metric.IP else within, np.float32(np.inf)).astype(np.float64)


def _check(base: VectorSource, queries: Array, k: int, metric: Metric, block_rows: int | None) -> None:
    if queries.ndim != 2 or not len(queries):
        raise InputError(f"queries have shape {queries.shape}: they must be (nq, {base.dim}) with at least one query")
    if queries.dtype != base.dtype:
        raise InputError(
            f"queries are {queries.dtype.name} and {base.name} is {base.dtype.name}: they must be the same"
        )
    if queries.shape[1] != base.dim:
        raise InputError(f"queries have dimension {queries.shape[1]} and {base.name} has {base.dim}")
    if not 1 <= k <= base.count:
        raise InputError(f"k {k} is outside 1 to {base.count}, the number of vectors in {base.name}")
    if block_rows is not None and block_rows < 1:
        raise InputError(f"block_rows {block_rows} is too small: it must be at least 1")
    check_finite(queries, 0, "the queries")
    if metric is Metric.COSINE:
        check_nonzero(queries, 0, "the queries")


def _default_rows(dim: int) -> int:
    return min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // (8 * dim)))


@dataclass(frozen=True)
class _Near:
    """`rows` (nq, m): the m rows with the smallest keys, -1 where there are fewer; no other row that matters has a key
    below `cutoff` (nq,)."""

    rows: Rows
    cutoff: Floats


@dataclass(frozen=True)
class _Job:
    """What the threads share for one block: its first row, queries and rows as floats, and the rows' |b|^2."""

    first: int
    left: Array
    right: Array
    squares: Floats


class _Scan:
    """One search. A *key* ranks the rows of one query as the distance does, and costs one matrix product:
    |b|^2 - 2ab for l2 and hamming, -ab for ip and, of normalised vectors, for cosine. An *order* value is the distance
    itself (squared for l2, negated for ip), computed directly. `key_of` maps orders to keys."""

    def __init__(
        self,
        base: VectorSource,
        queries: Array,
        metric: Metric,
        block_rows: int,
        pool: ThreadPoolExecutor,
        workers: int,
    ) -> None:
        self._base = base
        self._metric = metric
        self._block_rows = min(block_rows, base.count)
        self._pool = pool
        self._workers = workers
        self._queries = queries
        self._norms = np.sqrt(_square_norms(queries))
        self._longest = 0.0

    def candidates(self, m: int, farthest: Floats, progress: Progress | None) -> _Near:
        """The m rows of smallest key for each query, of those whose order may be below `farthest` (nq,)."""
        count = len(self._queries)
        best = np.full((count, m), np.inf)
        rows = np.full((count, m), -1, np.int64)
        tiles = self._tiles(count)
        left32 = self._left(self._queries, np.float32)
        for first, block in self._blocks("neighbours", progress):
            # Only here are all rows seen once, so this is where they are checked.
            check_finite(block, first, self._base.name)
            if self._metric is Metric.COSINE:
                check_nonzero(block, first, self._base.name)
            squares = _square_norms(block)
            self._longest = max(self._longest, float(np.sqrt(squares.max())))
            narrow = self._metric is Metric.COSINE or (self._longest + self._norms.max()) ** 2 < _FLOAT32_SAFE
            left = left32 if narrow else self._left(self._queries, np.float64)
            job = _Job(first, left, self._right(block, np.float32 if narrow else np.float64), squares)
            limit = self.key_of(farthest) + self.error(np.float32)

            def work(tile: slice, job: _Job = job, limit: Floats = limit) -> None:
                keys = self._keys(tile, job)
                _keep_smallest(best[tile], rows[tile], keys, job.first, limit[tile])

            list(self._pool.map(work, tiles))
        return _Near(rows, best.max(axis=1))

    def within(self, which: Rows, farthest: Floats, k: int, progress: Progress | None) -> tuple[Rows, Floats]:
        """Rows and orders (len(which), k) of the queries `which`, whose k-th order is known to be at most `farthest`,
        or for which rows only matter up to that.

        Every row whose float64 key does not rule it out is computed directly.
        """
        best = np.full((len(which), k), np.inf)
        rows = np.full((len(which), k), -1, np.int64)
        limit = self.key_of(farthest, which) + self.error(np.float64)[which]
        left = self._left(self._queries[which], np.float64)
        tiles = self._tiles(len(which))
        for first, block in self._blocks("ties", progress):
            job = _Job(first, left, self._right(block, np.float64), _square_norms(block))

            def work(tile: slice, job: _Job = job, block: Array = block) -> None:
                keys = self._keys(tile, job)
                hits, columns = np.nonzero(keys <= limit[tile, None])
                order = np.empty(len(hits))
                for piece in self._pieces(len(hits)):
                    order[piece] = self._order(block[columns[piece]], self._queries[which[tile][hits[piece]]])
                bounds = np.searchsorted(hits, np.arange(tile.stop - tile.start + 1))
                for query, (low, high) in enumerate(pairwise(bounds), tile.start):
                    found = np.concatenate((rows[query], job.first + columns[low:high]))
                    values = np.concatenate((best[query], order[low:high]))
                    rows[[query]], best[[query]] = _first(found[None], values[None], k)

            list(self._pool.map(work, tiles))
        return rows, best

    def measure(self, rows: Rows) -> Floats:
        """Orders (nq, m) of the listed rows of each query, computed directly; inf where the row is -1."""
        order = np.full(rows.size, np.inf)
        # In the order of the rows, so that the base is read from front to back, once.
        pairs = np.argsort(rows, axis=None, kind="stable")
        pairs = pairs[rows.ravel()[pairs] >= 0]

        def work(piece: slice) -> None:
            chosen = pairs[piece]
            wanted, place = np.unique(rows.ravel()[chosen], return_inverse=True)
            vectors = self._base.take(wanted)
            order[chosen] = self._order(vectors[place], self._queries[chosen // rows.shape[1]])

        list(self._pool.map(work, self._pieces(len(pairs))))
        return order.reshape(rows.shape)

    def key_of(self, order: Floats, which: Rows | slice = slice(None)) -> Floats:
        """The exact keys that belong to one order value for each of the queries `which`."""
        if self._metric.is_euclidean:
            return order - np.square(self._norms[which])
        exact: Floats = order - 1 if self._metric is Metric.COSINE else order
        return exact

    def error(self, dtype: type[np.floating]) -> Floats:
        """How far a key in `dtype` can be from the exact one, for each query (Higham, Accuracy and Stability, 3.5).

        A sum of d products is off by at most d u |a||b|; the constant covers the roundings of |b|^2, of the
        subtraction, of normalising and of the order itself. Products can also underflow, each by less than `tiny`.
        """
        if self._metric is Metric.HAMMING:  # keys are whole, and exact in float32 as well
            return np.full(len(self._norms), 0.25)
        info = np.finfo(dtype)
        if self._metric is Metric.L2:
            scale = (self._norms + self._longest) ** 2
        else:
            scale = self._norms * self._longest if self._metric is Metric.IP else np.ones(len(self._norms))
        bound: Floats = (self._base.dim + 8) * float(info.eps) * scale + 2 * self._base.dim * float(info.tiny)
        return bound

    def _blocks(self, stage: str, progress: Progress | None) -> Iterator[tuple[int, Array]]:
        for first, block in self._base.blocks(self._block_rows):
            yield first, block
            if progress:
                progress(stage, first + len(block), self._base.count)

    def _tiles(self, count: int) -> list[slice]:
        """Queries in groups that give every thread work and stay within `_TILE` and `_PRODUCTS`."""
        keys = min(_TILE, _PRODUCTS // self._base.dim)
        step = max(1, min(-(-count // self._workers), keys // self._block_rows))
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def _pieces(self, pairs: int) -> list[slice]:
        step = max(1, _PAIR_BYTES // (8 * self._base.dim))
        return [slice(start, min(start + step, pairs)) for start in range(0, pairs, step)]

    def _left(self, queries: Array, dtype: type[np.floating]) -> Array:
        """The queries' side of the matrix product, with the factor of the key: powers of 2 cost no accuracy."""
        left = self._right(queries, dtype)
        np.multiply(left, -2 if self._metric.is_euclidean else -1, out=left)
        return left

    def _right(self, vectors: Array, dtype: type[np.floating]) -> Array:
        """The rows' side of the matrix product."""
        floats: Array = (_normalised(vectors) if self._metric is Metric.COSINE else vectors).astype(dtype)
        return floats

    def _keys(self, tile: slice, job: _Job) -> Array:
        """Keys (t, r) of a tile of the queries and the rows of a block."""
        keys: Array = job.left[tile] @ job.right.T
        if self._metric.is_euclidean:
            keys += job.squares.astype(keys.dtype)
        return keys

    def _order(self, vectors: Array, queries: Array) -> Floats:
        """Orders of the pairs (vectors[i], queries[i]), in float64."""
        if self._metric is Metric.IP:
            order: Floats = -np.multiply(vectors, queries, dtype=np.float64).sum(axis=1)
        elif self._metric.is_euclidean:
            order = np.square(np.subtract(vectors, queries, dtype=np.float64)).sum(axis=1)
        else:
            # Half the squared chord is 1 - cos without the cancellation when the two are nearly parallel.
            order = np.square(_normalised(vectors) - _normalised(queries)).sum(axis=1) / 2
        return order


def _keep_smallest(best: Floats, rows: Rows, keys: Array, first: int, limit: Floats) -> None:
    """Replace entries of `best` and `rows` (t, m) by smaller `keys` (t, r), those of rows `first` and on; keys above
    `limit` (t,) do not matter."""
    with np.errstate(over="ignore"):
        above = np.nextafter(limit.astype(keys.dtype), keys.dtype.type(np.inf))
        hit = keys < np.minimum(best.max(axis=1).astype(keys.dtype), above)[:, None]
    hits = np.count_nonzero(hit)
    if hits == 0:
        return
    if hits > _MANY and len(keys) > 1:
        for half in (slice(None, len(keys) // 2), slice(len(keys) // 2, None)):
            _keep_smallest(best[half], rows[half], keys[half], first, limit[half])
        return
    query, column = np.divmod(np.flatnonzero(hit), keys.shape[1])
    counts = np.bincount(query, minlength=len(keys))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    new = np.full((len(keys), counts.max()), np.inf)
    new[query, place] = keys[query, column]
    new_rows = np.full(new.shape, -1, np.int64)
    new_rows[query, place] = first + column
    merged, merged_rows = np.hstack((best, new)), np.hstack((rows, new_rows))
    kept = np.argpartition(merged, best.shape[1] - 1, axis=1)[:, : best.shape[1]]
    best[:] = np.take_along_axis(merged, kept, axis=1)
    rows[:] = np.take_along_axis(merged_rows, kept, axis=1)


def _first(rows: Rows, order: Floats, k: int) -> tuple[Rows, Floats]:
    """The first k (row, order) of each query by order, then row; what is missing (row -1) has order inf."""
    ranked = np.lexsort((rows, order), axis=1)[:, :k]
    return np.take_along_axis(rows, ranked, axis=1), np.take_along_axis(order, ranked, axis=1)


def _square_norms(vectors: Array) -> Floats:
    if vectors.dtype.itemsize == 1 and vectors.shape[1] <= 256:
        # Whole numbers below 2^24, which float32 sums exactly and in a tenth of the time.
        narrow = vectors.astype(np.float32)
        whole: Floats = np.einsum("ij,ij->i", narrow, narrow).astype(np.float64)
        return whole
    squares: Floats = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return squares


def _normalised(vectors: Array) -> Floats:
    wide = vectors.astype(np.float64)
    wide /= np.sqrt(_square_norms(wide))[:, None]
    return wide


def _rounded(distances: Floats, metric: Metric) -> NDArray[np.float32]:
    largest = np.abs(distances).max(initial=0, where=np.isfinite(distances))
    if largest > np.finfo(np.float32).max:
        raise InputError(f"a distance under {metric.value} is {largest:.3g}, beyond float32: scale the vectors down")
    return distances.astype(np.float32)
