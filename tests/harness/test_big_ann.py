"""The wrapper of big-ann-benchmarks against a stand-in of its base class and data sets, called as its runner calls it;
and the real one where BIG_ANN names a checkout."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from spann.testing import clustered, exact_neighbours

FILES = {
    "benchmark/algorithms/base.py": """
class BaseANN(object):
    def track(self):
        raise NotImplementedError

    def get_results(self):
        return self.res

    def get_range_results(self):
        return self.res

    def get_memory_usage(self):
        return 1.0

    def __str__(self):
        return self.name
""",
    "benchmark/datasets.py": """
class Small:
    nb, d, dtype = 1500, 32, "uint8"
    metric = "euclidean"

    def get_dataset_fn(self):
        return "data/base.1B.u8bin.crop_nb_1500"

    def short_name(self):
        return "small-1500"

    def distance(self):
        return self.metric

DATASETS = {"small": Small}
""",
    "install/Dockerfile": "",
}


@pytest.fixture
def place(stand_in):
    place = stand_in("big-ann-benchmarks", FILES)
    (place / "data").mkdir()
    return place


@pytest.fixture
def base(place):
    """Written with 20 rows more than the data set says it has."""
    base, _ = clustered(1520, 32, 0, 5, "uint8")
    with (place / "data" / "base.1B.u8bin.crop_nb_1500").open("wb") as file:
        np.array(base.shape, np.uint32).tofile(file)
        base.tofile(file)
    return base[:1500]


def algorithm(**params):
    module = importlib.import_module("benchmark.algorithms.spann_disk")
    return module.Spann("euclidean", {"build": {"calibration_queries": 200, "seed": 1}, **params})


def test_nearest_neighbours(base):
    queries = base[::50]
    algo = algorithm(memory_budget="none")
    assert algo.track() == "T2"
    assert algo.load_index("small") is False
    algo.fit("small")
    truth, _ = exact_neighbours(base, queries, 10, "l2")
    for arguments in ({"target_recall": 0.8}, {"target_recall": 0.95, "order": "query", "threads": 1}):
        algo.set_query_arguments(arguments)
        algo.query(queries, 10)
        found = algo.get_results()
        assert found.shape == (len(queries), 10)
        share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
        assert share >= arguments["target_recall"] - 0.05
        more = algo.get_additional()
        assert more["dist_comps"] > 0
        assert more["mean_ssd_ios"] > 0
        assert ("mean_latency" in more) == ("latency_999" in more) == (arguments.get("order") == "query")
    algo.done()
    again = algorithm()
    assert again.load_index("small") is True
    again.done()


def test_ranges_are_of_squared_distances(base):
    algo = algorithm()
    algo.fit("small")
    algo.set_query_arguments({"target_recall": 0.95})
    queries = base[:20]
    squares = np.square(base[None].astype(np.int64) - queries[:, None]).sum(axis=2)
    radius = int(np.sort(squares, axis=1)[:, 8].mean())
    algo.range_query(queries, radius)
    limits, distances, ids = algo.get_range_results()
    assert limits[0] == 0
    assert limits[-1] == len(ids) == len(distances)
    assert 0.9 <= len(ids) / (squares <= radius).sum() <= 1
    query = np.repeat(np.arange(20), np.diff(limits))
    np.testing.assert_allclose(distances, squares[query, ids], rtol=1e-5)
    algo.done()


def test_the_files_of_an_index(place, base):
    algo = algorithm()
    algo.fit("small")
    folder, prefix, names = algo.index_files_to_store("small")
    assert "zarr.json" in names
    inside = {
        str(file.relative_to(place / folder / prefix))
        for file in (place / folder / prefix).rglob("*")
        if file.is_file()
    }
    assert set(names) == inside
    algo.done()


def test_the_definitions_name_existing_parts(place):
    yaml = pytest.importorskip("yaml")
    import json

    (spann,) = yaml.safe_load((place / "algos-spann.yaml").read_text())["any"].values()
    module = importlib.import_module(spann["module"])
    group = spann["run-groups"]["base"]
    for params in json.loads(group["args"]):
        algo = getattr(module, spann["constructor"])("ip", params)
        for arguments in json.loads(group["query-args"]):
            algo.set_query_arguments(arguments)
            assert str(arguments["target_recall"]) in str(algo)
        algo.done()
    assert (place / "install" / "Dockerfile.spann").exists()


@pytest.mark.parametrize("dataset", ["random-xs", "random-range-xs"])
def test_the_real_harness_runs(checkout, run_in, dataset):
    import h5py

    place = checkout("BIG_ANN", "big-ann-benchmarks")
    run_in(place, "create_dataset.py", "--dataset", dataset)
    out = run_in(
        place, "run.py", "--nodocker", "--definitions", "algos-spann.yaml", "--algorithm", "spann",
        "--dataset", dataset, "--runs", 1, "--rebuild",
    )  # fmt: skip
    results = list(Path(place, "results").rglob("*.hdf5"))
    assert len(results) == 4, out
    for file in results:
        with h5py.File(file) as result:
            print(f"{dataset} {result.attrs['name']}: {len(result['neighbors'])} {dict(result.attrs)}")
            assert result.attrs["best_search_time"] > 0
