"""The client of VectorDBBench against a stand-in of its interface, called as its runner calls it; and the real one
where VECTORDBBENCH names a checkout, or the folder in which it is installed."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spann.testing import clustered, exact_neighbours

CLIENTS = "vectordb_bench/backend/clients/"
FILES = {
    CLIENTS + "api.py": """
from enum import StrEnum

class MetricType(StrEnum):
    L2, COSINE, IP, DP = "L2", "COSINE", "IP", "DP"

class Model:
    def __init__(self, **given):
        for name in self.__annotations__:
            setattr(self, name, given.pop(name, getattr(type(self), name, None)))
        for name, value in given.items():
            setattr(self, name, value)

class DBConfig(Model):
    db_label: str = ""

class EmptyDBCaseConfig(Model):
    null: str | None = None

class VectorDB:
    thread_safe = True
    name = ""
""",
    CLIENTS + "__init__.py": '''
from enum import Enum

class DB(Enum):
    Test = "test"

    @property
    def init_cls(self) -> type:  # noqa: C901
        """Import while in use"""
        raise ValueError(self)

    @property
    def config_cls(self) -> type:
        """Import while in use"""
        raise ValueError(self)

    def case_config_cls(
        self,
        index_type: str | None = None,
    ) -> type:
        raise ValueError(self)
''',
    "vectordb_bench/cli/cli.py": """
import typing
import click

ran = []

class CommonTypedDict(typing.TypedDict):
    db_label: typing.Annotated[str, click.option("--db-label", default="")]

@click.group()
def cli(): ...

def click_parameter_decorators_from_typed_dict(kind):
    def decorate(command):
        for hint in typing.get_type_hints(kind, include_extras=True).values():
            command = hint.__metadata__[0](command)
        return command
    return decorate

def run(db, db_config, db_case_config, **parameters):
    ran.append((db, db_config, db_case_config, parameters))
""",
    "vectordb_bench/cli/vectordbbench.py": """
from ..backend.clients import DB
from .cli import cli
import click

@cli.command()
def Test(): ...

cli.add_command(Test)
""",
}


@pytest.fixture
def clients(stand_in):
    stand_in("VectorDBBench", FILES)
    return importlib.import_module("vectordb_bench.backend.clients")


@pytest.mark.parametrize(("metric", "own"), [("L2", "l2"), ("COSINE", "cosine"), ("IP", "ip"), ("DP", "ip")])
def test_a_performance_case(clients, tmp_path, metric, own):
    base, queries = clustered(1200, 16, 10, 3)
    ids = np.random.default_rng(0).permutation(1200) * 3
    kind = clients.DB.Spann
    case = kind.case_config_cls()(target_recall=0.95)
    case.metric_type = importlib.import_module("vectordb_bench.backend.clients.api").MetricType[metric]
    config = kind.config_cls(path=str(tmp_path / "place"), db_label="")
    client = kind.init_cls(16, config.to_dict(), case, "test", drop_old=True)
    parts = [slice(start, start + 100) for start in range(0, 1200, 100)]
    with client.init(), ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda part: client.insert_embeddings(base[part].tolist(), ids[part].tolist()), parts)
        assert list(done) == [(100, None)] * 12
    with client.init():
        client.optimize(data_size=1200)
    truth, _ = exact_neighbours(base, queries, 10, own)
    for other in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client)):  # as other processes and threads get it
        with other.init():
            for query, true in zip(queries, truth, strict=True):
                found = other.search_embedding(query.tolist(), 10)
                assert all(isinstance(one, int) for one in found)
                assert len(set(found) & set(ids[true].tolist())) >= 7
    dropped = kind.init_cls(16, config.to_dict(), case, "test", drop_old=True)
    assert not dropped._path.exists()


def test_the_command_takes_its_options(clients):
    from click.testing import CliRunner

    program = importlib.import_module("vectordb_bench.cli.vectordbbench")
    harness = importlib.import_module("vectordb_bench.cli.cli")
    result = CliRunner().invoke(program.cli, ["spann", "--path", "p", "--target-recall", "0.9", "--db-label", "x"])
    assert result.exit_code == 0, result.output
    ((db, config, case, parameters),) = harness.ran
    assert (db, config.path, config.db_label) == (clients.DB.Spann, "p", "x")
    assert (case.target_recall, case.memory_budget) == (0.9, "auto")
    assert parameters["path"] == "p"


def test_installing_again_changes_nothing(clients, installer, tmp_path):
    known = tmp_path / CLIENTS / "__init__.py"
    before = known.read_text()
    installer.install("VectorDBBench", tmp_path)
    assert known.read_text() == before


def test_a_folder_that_is_not_a_checkout_is_refused(installer, tmp_path):
    with pytest.raises(SystemExit, match="is not a checkout of ann-benchmarks: it has no ann_benchmarks/algorithms"):
        installer.install("ann-benchmarks", tmp_path)
    with pytest.raises(SystemExit, match="harness 'other' is unknown; there are ann-benchmarks, "):
        installer.install("other", tmp_path)


def test_the_real_harness_runs(checkout, run_in, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    place = checkout("VECTORDBBENCH", "VectorDBBench")
    base, queries = clustered(3000, 32, 50, 3)
    truth, _ = exact_neighbours(base, queries, 100, "l2")
    data = tmp_path / "set"
    data.mkdir()
    for name, columns in {
        "train": {"id": np.arange(3000), "emb": list(base)},
        "test": {"id": np.arange(50), "emb": list(queries)},
        "neighbors": {"id": np.arange(50), "neighbors_id": truth.tolist()},
    }.items():
        pq.write_table(pa.table(columns), data / f"{name}.parquet")
    out = run_in(
        place, "-m", "vectordb_bench.cli.vectordbbench", "spann", "--path", tmp_path / "index",
        "--case-type", "PerformanceCustomDataset", "--custom-case-name", "small", "--custom-dataset-name", "small",
        "--custom-dataset-dir", data, "--custom-dataset-size", 3000, "--custom-dataset-dim", 32,
        "--custom-dataset-metric-type", "L2", "--custom-dataset-file-count", 1, "--k", 10,
        "--num-concurrency", "1,2", "--concurrency-duration", 3,
        DATASET_LOCAL_DIR="/", RESULTS_LOCAL_DIR=str(tmp_path / "results"),
    )  # fmt: skip
    results = [json.loads(file.read_text()) for file in (tmp_path / "results").rglob("*.json")]
    assert results, out
    (metrics,) = [result["metrics"] for document in results for result in document["results"]]
    print({name: metrics[name] for name in ("recall", "qps", "serial_latency_p99", "load_duration")})
    assert metrics["recall"] >= 0.9
    assert metrics["qps"] > 0
