"""What an open index does with whole collections: a base of `spann.Index`, which has the search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams
from spann.errors import InputError
from spann.jobs.collection import Collection
from spann.jobs.search import search_batches
from spann.search import Engine
from spann.storage import IndexReader
from spann.types import Array, SearchResult


class JobMethods:
    """Methods of an index that go through all of its vectors, or through any number of queries."""

    _reader: IndexReader
    _engine: Engine
    path: Path
    count: int
    search: Callable[..., SearchResult]
    _setting: Callable[[int, SearchParams | None, float | None], SearchParams]

    def setting(
        self, k: int = 10, params: SearchParams | None = None, target_recall: float | None = None
    ) -> SearchParams:
        """The parameters that a `search` with these arguments goes by."""
        return self._setting(k, params, target_recall)

    def vectors(self, batch: int = 65_536) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """All vectors of the collection with their ids, `batch` at a time: ids (n,) and vectors (n, dim). They come in
        the order in which the index holds them, in which near ones lie together.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> ids, vectors = next(index.vectors(batch=100))
        >>> vectors.shape, bool((vectors[:, 0] == ids).all())
        ((100, 1), True)
        """
        if batch < 1:
            raise InputError(f"batch is {batch}; it must be at least 1")
        return Collection(self._reader).blocks(batch)

    def search_batches(self, batches: Iterable[Array], k: int = 10, **options: Any) -> Iterator[SearchResult]:
        """A result for each of `batches`, arrays (n, dim) of queries, in order. While one is searched the next is got
        from the iterable, on a thread of its own; no more than two are in memory. An empty batch, (0, dim), has an
        empty result.

        `options` and errors are those of `search`. Batches of some 50,000 queries are searched fastest.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> batches = (line[start : start + 100] + np.float32(0.1) for start in range(0, 1000, 100))
        >>> sum(len(result.ids) for result in index.search_batches(batches, k=2))
        1000
        """
        return search_batches(self.search, batches, k, **options)
