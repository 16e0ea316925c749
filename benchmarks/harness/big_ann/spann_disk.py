"""spann in big-ann-benchmarks: nearest neighbours and ranges from an index on disk."""

import os

import numpy as np
from benchmark.algorithms.base import BaseANN
from benchmark.datasets import DATASETS

import spann

METRICS = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}


class Spann(BaseANN):
    """`params`: "build" for `spann.BuildParams`, and "memory_budget", "memory_limit" and "threads" of `spann`.

    Arguments of a query are those of a search: target_recall, threads, order.
    """

    def __init__(self, metric, params):
        self._metric, self._params = METRICS[metric], params
        self._index, self._stats = None, None
        self._how = {}
        self.name = "spann"

    def track(self):
        return "T2"

    def fit(self, dataset):
        ds = DATASETS[dataset]()
        options = {name: self._params[name] for name in ("threads", "memory_limit") if name in self._params}
        params = spann.BuildParams(**self._params.get("build", {}))
        spann.build(
            _vectors(ds), self._path(dataset), metric=self._metric, params=params, overwrite=True, **options
        ).close()
        self.load_index(dataset)

    def load_index(self, dataset):
        try:
            self._index = spann.open(self._path(dataset), memory_budget=self._params.get("memory_budget", "auto"))
        except spann.MissingError:
            return False
        return True

    def index_files_to_store(self, dataset):
        path = self._path(dataset)
        inside = [os.path.relpath(os.path.join(at, name), path) for at, _, names in os.walk(path) for name in names]
        return os.path.dirname(path), os.path.basename(path) + "/", sorted(inside)

    def set_query_arguments(self, query_args):
        self._how = dict(query_args)
        self.name = "spann(" + ", ".join(f"{name}={value}" for name, value in sorted(query_args.items())) + ")"

    def query(self, X, k):
        found = self._index.search(X, k, **self._how)
        self.res, self._stats = found.ids, found.stats

    def range_query(self, X, radius):
        # Under l2 a radius here is a squared distance, and so are the results; spann has Euclidean distances.
        squared = self._metric == "l2"
        how = {name: value for name, value in self._how.items() if name != "order"}
        found = self._index.search_range(X, radius**0.5 if squared else radius, **how)
        distances = found.distances * found.distances if squared else found.distances
        self.res, self._stats = (found.limits, distances, found.ids), found.stats

    def get_additional(self):
        if self._stats is None:
            return {}
        s = self._stats
        more = {"mean_ssd_ios": float(s["reads"].mean()), "dist_comps": float((s["estimates"] + s["distances"]).sum())}
        if self._how.get("order") == "query":  # in another order a query's time is that of its batch
            microseconds = s["total_ns"] / 1e3
            more["mean_latency"] = float(microseconds.mean())
            more["latency_999"] = float(np.percentile(microseconds, 99.9))
        return more

    def done(self):
        if self._index is not None:
            self._index.close()

    def _path(self, dataset):
        folder = os.path.join("data", "indices", self.track(), "spann", DATASETS[dataset]().short_name())
        os.makedirs(folder, exist_ok=True)
        built = self._params.get("build", {})
        return os.path.join(folder, "-".join([self._metric, *(f"{name}{built[name]}" for name in sorted(built))]))


def _vectors(ds):
    """The base vectors as a memory map. The data set tells their type; names of files do not."""
    path = ds.get_dataset_fn()
    count, dim = (int(value) for value in np.fromfile(path, np.uint32, 2))
    return np.memmap(path, ds.dtype, "r", offset=8, shape=(count, dim))[: ds.nb]
