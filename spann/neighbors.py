"""Neighbour graphs for scikit-learn: what `sklearn.neighbors.KNeighborsTransformer` does, from an index on disk.

Its parameters have scikit-learn's names. Only this module needs scikit-learn: pip install 'spann-index[neighbors]'.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from spann.config import BuildParams, SearchParams, whole
from spann.errors import InputError
from spann.functions import build
from spann.index import Index
from spann.types import ELEMENT_TYPES, MAX_K, Array, Metric
from spann.vectors import narrowed

MODES = ("distance", "connectivity")


_REMOVALS: weakref.WeakKeyDictionary[KNeighborsTransformer, Callable[[], object]] = weakref.WeakKeyDictionary()
"""The function that removes the temporary index of an object. It is no attribute, because a pickled copy must not have
it."""


class KNeighborsTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Replaces scikit-learn's class of this name in a pipeline, before an estimator with ``metric="precomputed"``.

    Parameters
    ----------
    mode : "distance" or "connectivity"
        Entries of the graph: distances in the metric's own unit, or ones.
    n_neighbors : int
        Neighbours of each sample. In mode "distance" one more, because a sample is its own nearest neighbour.
    metric : "l2" (also "euclidean") or "cosine" (1 - cos)
        Not "ip", which is no distance.
    path : str, optional
        Directory of the index, which is kept. By default a temporary directory, removed with the object. An existing
        index is replaced only by another `fit` of the object that made it.
    overwrite : bool
        Replace whatever index is at `path`.
    build_params, search_params : optional
        How the index is built and searched.
    threads : int, optional

    Examples
    --------
    >>> import numpy as np
    >>> from spann.neighbors import KNeighborsTransformer
    >>> line = np.arange(100, dtype=np.float32)[:, None]  # sample i is [i]
    >>> graph = KNeighborsTransformer(n_neighbors=2).fit_transform(line)
    >>> graph.shape
    (100, 100)
    >>> graph[7].indices.tolist(), graph[7].data.tolist()
    ([7, 6, 8], [0.0, 1.0, 1.0])
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        metric: str = "l2",
        path: str | None = None,
        overwrite: bool = False,
        build_params: BuildParams | None = None,
        search_params: SearchParams | None = None,
        threads: int | None = None,
    ) -> None:
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.path = path
        self.overwrite = overwrite
        self.build_params = build_params
        self.search_params = search_params
        self.threads = threads

    def fit(self, X: Array, y: Any = None) -> Self:
        """Builds the index of `X` (samples, features), and closes the index of an earlier fit.

        float64 becomes float32. Under l2 the mean is subtracted first, which changes no distance. Raises `InputError`
        if rounding would make samples equal, and `ExistsError` if another object made the index at `path`.
        """
        if self.mode not in MODES:
            raise InputError(f"mode is {self.mode!r}; it must be one of {', '.join(MODES)}")
        metric = Metric.parse(self.metric)
        if metric not in (Metric.L2, Metric.COSINE):
            raise InputError(
                f"metric is {self.metric!r}; it must be l2 (euclidean) or cosine (1 - cos): others are no distances"
            )
        whole(self.n_neighbors, "n_neighbors", 1, MAX_K - 1)
        mine = getattr(self, "index_", None)
        removal: Callable[[], object] | None = None
        if self.path is None:
            directory = tempfile.mkdtemp(prefix="spann-")
            removal = weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            place = Path(directory) / "index.spann"
        else:
            place = Path(self.path)
        again = mine is not None and mine.path.absolute() == place.absolute()
        x = self._valid(X, reset=True)
        self.mean_: NDArray[np.float64] | None = None
        if metric is Metric.L2 and x.dtype == np.float64 and x.ndim == 2 and len(x):
            self.mean_ = x.mean(axis=0)
        self.index_: Index = build(
            self._single(x, spread=True),
            place,
            metric=metric,
            params=self.build_params,
            threads=self.threads,
            overwrite=self.overwrite or again,
        )
        if mine is not None:
            mine.close()
        before = _REMOVALS.pop(self, None)
        if before is not None:
            before()
        if removal is not None:
            _REMOVALS[self] = removal
        self.n_samples_fit_: int = len(self.index_)
        return self

    def transform(self, X: Array) -> csr_matrix:
        """The graph (samples of `X`, samples of fit), CSR, nearest first in each row."""
        check_is_fitted(self)
        x = self._valid(X, reset=False)
        k = self.n_neighbors + (self.mode == "distance")
        ids, distances = self.index_.search(self._single(x, spread=False), k, self.search_params, threads=self.threads)
        found = ids >= 0
        data = distances[found] if self.mode == "distance" else np.ones(int(found.sum()), np.float32)
        starts = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
        return csr_matrix((data, ids[found], starts), shape=(len(ids), self.n_samples_fit_))

    def fit_transform(self, X: Array, y: Any = None) -> csr_matrix:
        """`fit`, then `transform` of the same samples."""
        return self.fit(X).transform(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # distances are float32
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_

    def _valid(self, X: Any, *, reset: bool) -> Array:
        """`X` as an array of a type that an index can hold, or float64; errors are those of scikit-learn."""
        x: Array = validate_data(self, X, reset=reset, dtype="numeric")
        return x if x.dtype.name in (*ELEMENT_TYPES, "float64") else x.astype(np.float64)

    def _single(self, x: Array, *, spread: bool) -> Array:
        """Samples in a type that the index takes."""
        if self.mean_ is not None and x.ndim == 2 and x.shape[1] == len(self.mean_):
            x = x - self.mean_
        narrow = x.dtype == np.float64 and x.ndim == 2 and len(x)
        return narrowed(x, 0, "X", spread=spread) if narrow else np.ascontiguousarray(x)
