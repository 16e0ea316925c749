"""Every block of docs/RECIPES.md runs as written, in order, and does what its text says."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from click.testing import CliRunner

import spann
from spann import config
from spann.cli import cli

RECIPES = Path(__file__).parents[2] / "docs" / "RECIPES.md"


class Umap:
    """Stands in for UMAP: checks what it takes, and places every vector at 0."""

    def __init__(self, *, n_neighbors, metric, precomputed_knn):
        self.n_neighbors = n_neighbors
        self.indices, self.distances, _ = precomputed_knn

    def fit_transform(self, vectors):
        assert self.indices.shape == self.distances.shape == (len(vectors), self.n_neighbors)
        assert (self.distances[:, 0] < 1e-6).all()  # each its own nearest, or a copy of it
        return np.zeros((len(vectors), 2))


def test_the_recipes_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "FEWEST_CALIBRATION", 200)
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    names = {}
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", RECIPES.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(code, "RECIPES.md", "exec"), names)
        for line in code.splitlines() if language == "sh" else ():
            result = CliRunner().invoke(cli, shlex.split(line)[1:])
            assert result.exit_code == 0, f"{line}: {result.output}"
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "4050 documents, 4000 without near copies"
    assert [line.split()[0] for line in told[1:4]] == ["0.05", "0.02", "0.001"]
    assert told[3] == "0.001 1.2% near another"
    assert names["place"].shape == (4050, 2)
    assert scipy.sparse.load_npz("graph.npz").nnz == names["graph"].nnz == 4050 * 15
    assert names["near"].column_names == ["query", "query_id", "text", "ids", "distances"]
    assert pq.read_table("near/part-00001.parquet")["query_id"].to_pylist() == [*range(10_300, 10_600)]
    with spann.open("docs.spann") as index:
        assert len(index) == 4550
        assert index.info()["ids"] == "user"


def test_the_cron_line_is_a_search_in_parts():
    (line,) = re.findall(r"^\*/10 \* .*(spann search .*)$", RECIPES.read_text(), re.MULTILINE)
    name, *words = shlex.split(line)[1:]
    try:
        cli.commands[name].make_context(name, words)
    except Exception as error:
        pytest.fail(f"{line}: {error}")
