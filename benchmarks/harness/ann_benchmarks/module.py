"""spann in ann-benchmarks: queries one at a time on one thread, or all of them as one batch."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

import spann

from ..base.module import BaseANN

METRICS = {"euclidean": "l2", "angular": "cosine", "hamming": "hamming"}


class Spann(BaseANN):
    """An index on disk, opened with a memory budget. The argument of a query is the recall that it aims at."""

    def __init__(self, metric, params):
        self._metric = METRICS[metric]
        self._params = spann.BuildParams(**params.get("build", {}))
        self._budget = params.get("memory_budget", "auto")
        self._directory = Path(tempfile.mkdtemp(prefix="spann-"))
        self._index, self._target = None, 0.95
        self._settings = {}
        self._postings = np.zeros(0)
        self.name = "spann"

    def fit(self, X):
        path = self._directory / "index.spann"
        spann.build(self._typed(X), path, metric=self._metric, params=self._params, threads=1).close()
        self._index = spann.open(path, memory_budget=self._budget)

    def set_query_arguments(self, target_recall):
        self._target = target_recall
        self._settings.clear()
        self.name = f"spann(target_recall={target_recall}, memory_budget={self._budget})"

    def query(self, v, n):
        found = self._index.search(self._typed(v), n, self._setting(n), threads=1, in_flight=1)
        self._postings = found.stats["postings_scored"]
        return found.ids[0][found.ids[0] >= 0]

    def batch_query(self, X, n):
        found = self._index.search(self._typed(X), n, self._setting(n))
        self._postings = found.stats["postings_scored"]
        self.res = [ids[ids >= 0] for ids in found.ids]

    def get_additional(self):
        if not self._postings.size:
            return {}
        about = self._index.info()
        return {
            "postings_scored": float(self._postings.mean()),
            "index_disk_bytes": about["disk_bytes"],
            "index_memory_bytes": about["open_memory_bytes"],
        }

    def done(self):
        if self._index is not None:
            self._index.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _setting(self, n):
        """The parameters of the target for n neighbours, looked up once for all queries. Without a calibration, the
        default."""
        if n not in self._settings:
            calibrated = self._index.calibration is not None
            self._settings[n] = self._index.params_for(self._target, n) if calibrated else spann.SearchParams()
        return self._settings[n]

    def _typed(self, vectors):
        """ann-benchmarks makes float64 of some data sets, and integers 0 and 1 of bits."""
        return np.ascontiguousarray(vectors, np.bool_ if self._metric == "hamming" else np.float32)
