"""The wrapper of ann-benchmarks against a stand-in of its base class, called as its runner calls it; and the real one
where ANN_BENCHMARKS names a checkout."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from spann.testing import clustered, exact_neighbours

BASE = """
class BaseANN(object):
    def done(self):
        pass

    def get_memory_usage(self):
        return 1.0

    def get_batch_results(self):
        return self.res

    def get_additional(self):
        return {}

    def __str__(self):
        return self.name
"""


@pytest.fixture
def constructor(stand_in):
    stand_in("ann-benchmarks", {"ann_benchmarks/algorithms/base/module.py": BASE})
    return importlib.import_module("ann_benchmarks.algorithms.spann.module").Spann


@pytest.mark.parametrize(("metric", "own"), [("euclidean", "l2"), ("angular", "cosine"), ("hamming", "hamming")])
def test_a_run_builds_and_answers(constructor, metric, own):
    base, queries = clustered(1200, 16, 12, 3)
    if metric == "hamming":
        base, queries = base > base.mean(axis=0), queries > base.mean(axis=0)
    else:
        base, queries = base.astype(np.float64), queries.astype(np.float64)
    algo = constructor(metric, {"build": {"seed": 1, "calibration_queries": 200}, "memory_budget": "auto"})
    before = algo.get_memory_usage()
    algo.fit(base)
    assert algo.get_memory_usage() >= before
    truth = exact_neighbours(
        base if metric == "hamming" else base.astype(np.float32), queries.astype(base.dtype), 10, own
    )
    for target in (0.8, 0.95):
        algo.set_query_arguments(target)
        assert str(target) in str(algo)
        one_by_one = [algo.query(q, 10) for q in queries]
        algo.batch_query(queries, 10)
        for found, batched, true in zip(one_by_one, algo.get_batch_results(), truth[0], strict=True):
            assert len(found) == len(set(found)) == 10
            assert sorted(found) == sorted(batched)
            if metric != "hamming":  # there many are equally near
                assert len(set(found) & set(true)) >= 7
    assert algo.get_additional()["postings_scored"] > 0
    place = algo._directory
    algo.done()
    assert not place.exists()


def test_more_neighbours_than_vectors(constructor):
    algo = constructor("euclidean", {"build": {"calibration_queries": 0}})
    algo.fit(np.arange(5, dtype=np.float64)[:, None])
    assert sorted(algo.query(np.zeros(1), 10)) == [0, 1, 2, 3, 4]
    algo.done()


def test_the_definitions_name_existing_parts(stand_in):
    yaml = pytest.importorskip("yaml")
    place = stand_in("ann-benchmarks", {"ann_benchmarks/algorithms/base/module.py": BASE})
    found = yaml.safe_load((place / "ann_benchmarks" / "algorithms" / "spann" / "config.yml").read_text())
    module = importlib.import_module("ann_benchmarks.algorithms.spann.module")
    for entry in (*found["float"]["any"], *found["bit"]["hamming"]):
        assert entry["module"] == "ann_benchmarks.algorithms.spann"
        for group in entry["run_groups"].values():
            for (params,) in group["args"]:
                algo = getattr(module, entry["constructor"])("euclidean", params)
                algo.done()
            assert all(0 < target < 1 for targets in group["query_args"] for target in targets)


@pytest.mark.parametrize("dataset", ["random-xs-20-euclidean", "random-xs-20-angular", "random-xs-16-hamming"])
def test_the_real_harness_runs(checkout, run_in, dataset):
    import h5py

    place = checkout("ANN_BENCHMARKS", "ann-benchmarks")
    metric = dataset.rpartition("-")[2]
    out = run_in(
        place, "run_algorithm.py", "--dataset", dataset, "--module", "ann_benchmarks.algorithms.spann",
        "--constructor", "Spann", "--algorithm", "spann", "--count", 10, "--runs", 1,
        f'["{metric}", {{"build": {{"seed": 0}}}}]', "[0.9]", "[0.99]",
    )  # fmt: skip
    results = list(Path(place, "results").rglob("*.hdf5"))
    assert len(results) == 2, out
    with h5py.File(place / "data" / f"{dataset}.hdf5") as data:
        bound = np.asarray(data["distances"])[:, 9]
    for file in results:
        with h5py.File(file) as result:
            recall = (np.asarray(result["distances"])[:, :10] <= bound[:, None] + 1e-3).mean()
            speed = 1 / result.attrs["best_search_time"]
            print(f"{dataset} {result.attrs['name']}: recall {recall:.4f}, {speed:.0f} queries per second")
            assert recall >= 0.85
