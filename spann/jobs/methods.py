"""Methods of an open index that work on whole collections: a base class of `spann.Index`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams, thread_count
from spann.elements import unpack
from spann.errors import InputError
from spann.jobs.ahead import ahead
from spann.jobs.clusters import own_clusters
from spann.jobs.graph import Neighbours, RowOrder, as_csr, check_mode, gather
from spann.jobs.groups import Duplicates, check_keep, duplicates_of, find_pairs
from spann.jobs.own import OwnVectors, settled
from spann.jobs.pairs import Pairs
from spann.jobs.parts import Block
from spann.jobs.reach import choose_reach
from spann.jobs.search import Answer, answer_own, answer_queries, search_batches
from spann.progress import reporting
from spann.search import Engine
from spann.store.names import NameTable
from spann.store.reader import IndexReader
from spann.types import Array, Metric, Progress, SearchResult, there

OWN_BLOCK = 1 << 16
"""Vectors of the collection that one call searches for."""


class JobMethods:
    """Methods of an index that go through all of its vectors, or through any number of queries."""

    path: Path
    element: str
    metric: Metric
    search: Callable[..., SearchResult]
    _search: Callable[..., SearchResult]
    _setting: Callable[[int, SearchParams | None, float | None], SearchParams]

    @property
    def _names(self) -> NameTable | None:
        raise NotImplementedError

    @property
    def _reader(self) -> IndexReader:
        raise NotImplementedError

    @property
    def _engine(self) -> Engine:
        raise NotImplementedError

    @property
    def count(self) -> int:
        raise NotImplementedError

    def setting(
        self, k: int = 10, params: SearchParams | None = None, target_recall: float | None = None
    ) -> SearchParams:
        """The parameters that `search` uses for these arguments."""
        return self._setting(k, params, target_recall)

    def _opened(self) -> IndexReader:
        """Opens the index's files, to read arrays that a search does not keep open. Raises `InputError` if the path has
        another index by now."""
        reader = IndexReader.open(self.path)
        if reader.attributes["checksum"] != self._reader.attributes["checksum"]:
            raise InputError(f"{self.path}: the index was replaced since it was opened: open it again")
        return reader

    def vectors(self, batch: int = 65_536) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Yields all vectors of the collection with their ids, `batch` at a time: ids (n,) and vectors (n, dim). They
        come in the order of the index, in which near vectors lie together.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> ids, vectors = next(index.vectors(batch=100))
        >>> vectors.shape, bool((vectors[:, 0] == ids).all())
        ((100, 1), True)
        """
        if batch < 1:
            raise InputError(f"batch is {batch}; it must be at least 1")
        blocks, names = OwnVectors(settled(self._opened())).blocks(batch), self._names
        return blocks if names is None else ((names.objects(ids), vectors) for ids, vectors in blocks)

    def search_batches(self, batches: Iterable[Array], k: int = 10, **options: Any) -> Iterator[SearchResult]:
        """Yields a result for each of `batches`, arrays (n, dim) of queries, in order. While one is searched, another
        thread gets the next from the iterable. No more than two are in memory. An empty batch, (0, dim), has an empty
        result.

        `options` and errors are those of `search`. Batches of some 50,000 queries are searched fastest.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> batches = (line[start : start + 100] + np.float32(0.1) for start in range(0, 1000, 100))
        >>> sum(len(result.ids) for result in index.search_batches(batches, k=2))
        1000
        """
        return search_batches(self.search, batches, k, **options)

    def knn_graph(
        self,
        k: int = 15,
        *,
        include_self: bool = False,
        mode: str = "distance",
        target_recall: float | None = None,
        params: SearchParams | None = None,
        threads: int | None = None,
        progress: Progress | bool | None = None,
    ) -> Any:
        """Finds the `k` nearest neighbours of every vector of the collection among the others, or among all with
        `include_self`. Row i is the vector of row i that the index was built of, whatever ids it has.

        `mode` "distance" returns a scipy.sparse CSR matrix (count, count) of distances, "connectivity" a matrix of
        ones. "arrays" returns rows of neighbours (count, k) int64, nearest first, and distances (count, k) float32;
        with `include_self` UMAP takes them as ``precomputed_knn``. The whole result is in memory; `spann knn-graph`
        writes any size to disk. Other arguments are those of `search`.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> neighbours, distances = index.knn_graph(k=2, mode="arrays")
        >>> sorted(neighbours[500].tolist()), distances[0].tolist()
        ([499, 501], [1.0, 2.0])
        """
        check_mode(mode)
        setting = self.setting(k + (not include_self), params, target_recall)
        answer = (answer_queries if include_self else answer_own)(self._search, k, params=setting, threads=threads)
        with reporting(progress) as report:
            found = self._answers(answer, "knn-graph", report)
            rows, distances = gather(found, self.count, k, RowOrder(self._opened()))
        return (rows, distances) if mode == "arrays" else as_csr(rows, distances, mode)

    def _answers(self, answer: Answer, stage: str, progress: Progress | None) -> Neighbours:
        """Answers for all vectors of the collection, a block at a time."""
        collection, done = OwnVectors(settled(self._opened())), 0
        for ids, vectors in ahead(collection.blocks(OWN_BLOCK)):
            near, distances = answer(Block(vectors, keys=ids))
            yield ids, near, distances
            done += len(ids)
            if progress:
                progress(stage, done, collection.count)

    @property
    def centroids(self) -> Array:
        """The centroids of the clusters, (centroids, dim) float32, or bool for bits. Without codes they are vectors of
        the collection, with codes means; under cosine, means of vectors of length 1.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index.centroids.shape
        (140, 1)
        """
        stored = self._opened().read("centroids/vectors")
        coded = bool(self._reader.attributes.get("code_bits", 0))
        vectors = stored if coded else unpack(stored, self.element)
        return vectors if vectors.dtype == np.bool_ else vectors.astype(np.float32)

    def assign(self, vectors: Array | None = None, *, threads: int | None = None) -> NDArray[np.int64]:
        """The cluster of each vector, as a row of `centroids`. For `vectors` (n, dim) it is the nearest centroid that
        the navigation graph finds, (n,). Without `vectors` it is the cluster that each vector of the collection is in,
        (count,), in the order of the rows that the index was built of.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> clusters = index.assign()
        >>> bool(np.abs(index.centroids[clusters] - line).max() < 20)
        True
        >>> index.assign(line[:5]).shape
        (5,)
        """
        if vectors is not None:
            rows = np.asarray(vectors)
            return self._engine.nearest_centroids(rows[None] if rows.ndim == 1 else rows, threads)
        collection = OwnVectors(settled(self._opened()))
        out = np.empty(collection.count, np.int64)
        out[RowOrder(self._opened()).rows(collection.ids())] = own_clusters(collection)
        return out

    def duplicates(
        self,
        radius: float,
        *,
        target: float | None = None,
        keep: str = "first",
        threads: int | None = None,
        progress: Progress | bool | None = None,
    ) -> Duplicates:
        """Groups vectors of the collection that are within `radius` of each other, directly or through others. `radius`
        is in the unit of the metric; a smaller one is faster. `keep` chooses the kept member of each group: "first" has
        the smallest id, "medoid" is nearest to the mean. With a `target`, a sample of vectors is compared with the
        whole collection first. As many cells are then looked at as find that share of the pairs of the sample. Raises
        `InputError`, also under ip.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> line[::10] += np.float32(0.75)  # 0.75 is near 1, 10.75 near 11, and so on
        >>> index = spann.build(line, "line.spann")
        >>> found = index.duplicates(radius=0.5)
        >>> found.filtered[:3].tolist(), found.duplicate_ratio
        ([1, 11, 21], 0.1)
        >>> found.rethreshold(0.2).filtered.tolist()
        []
        """
        check_keep(keep)
        collection = OwnVectors(settled(self._opened()))
        pairs = Pairs(collection, self.centroids, self.metric, radius)
        if target is not None:
            pairs = pairs.looking(choose_reach(pairs, target).at_once)
        postings = range(len(collection.centroid_of))
        with reporting(progress) as report:
            told = None if report is None else lambda done: report("dedup", done, len(postings))
            edges = find_pairs(pairs, postings, thread_count(threads), told)
        return duplicates_of(collection, edges, float(radius), keep, self.metric, self._names)


def join(
    left: JobMethods,
    right: JobMethods,
    k: int = 1,
    *,
    radius: float | None = None,
    target_recall: float | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Joined:
    """Finds the `k` nearest vectors in the index `right` for every vector in the index `left`, at most `radius` away if
    given. The whole result is in memory; `spann join` writes any size to disk. Other arguments are those of `search`.

    >>> import numpy as np, spann
    >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
    >>> left, right = spann.build(line[:10] + np.float32(0.1), "left.spann"), spann.build(line, "right.spann")
    >>> joined = spann.join(left, right)
    >>> dict(zip(joined.ids.tolist(), joined.neighbours[:, 0].tolist()))[7]
    7
    """
    setting = right.setting(k, None, target_recall)
    answer = answer_queries(right._search, k, params=setting, threads=threads, radius=radius)
    with reporting(progress) as report:
        found = list(left._answers(answer, "join", report))
    ids, near, distances = (np.concatenate([part[i] for part in found]) for i in range(3))
    order = np.argsort(ids, kind="stable")
    keys, neighbours = ids[order], near[order]
    return Joined(
        keys if left._names is None else left._names.objects(keys),
        neighbours if right._names is None else right._names.objects(neighbours),
        distances[order],
    )


@dataclass(frozen=True)
class Joined:
    """Vectors of one index with their nearest in another. ``ids`` (n,) int64 ascend. ``neighbours`` (n, k) int64 come
    nearest first, -1 if there are fewer. ``distances`` (n, k) are float32."""

    ids: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    distances: Array

    def columns(self) -> dict[str, Array]:
        """A row for each pair: `id`, `rank` (from 0), `neighbor` and `distance`."""
        row, rank = np.nonzero(there(self.neighbours))
        found = self.neighbours[row, rank], self.distances[row, rank]
        return {"id": self.ids[row], "rank": rank, "neighbor": found[0], "distance": found[1]}
