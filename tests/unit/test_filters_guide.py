"""Every block of docs/FILTERS.md runs as written, in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import spann
from spann.cli import cli

GUIDE = (Path(__file__).parents[2] / "docs" / "FILTERS.md").read_text(encoding="utf-8")


def test_the_guide_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        exec(compile(code, "FILTERS.md", "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("float32\n")
    assert "'item 7'" in said
    items, found = names["items"], names["found"]
    cheap = np.flatnonzero((items["price"].to_numpy() < 10) & (np.array(items["lang"].to_pylist()) == "en"))
    assert found.matches[0] == len(cheap)
    assert np.isin(found.ids, cheap).all()
    names["index"].close()


def test_the_commands_of_the_guide_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    held = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8), "price": np.arange(300.0)}
    held |= {"lang": ["en"] * 300, "tags": [["a"]] * 300, "published": ["2024"] * 300, "title": ["t"] * 300}
    pq.write_table(pa.table(held), "items.parquet")
    for line in re.findall(r"^```sh\n(.*?)\n```$", GUIDE, re.MULTILINE | re.DOTALL):
        result = CliRunner().invoke(cli, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    with spann.open("items.spann") as index:
        assert [column.role for column in index.schema.values()] == ["filter"] * 4 + ["payload"]
        assert index.matching("price < 3 AND list_contains(tags, 'a')") == 3


@pytest.mark.parametrize("function", ["list_contains", "list_has_any", "list_has_all", "starts_with", "contains"])
def test_the_guide_names_every_function(function):
    assert f"{function}(" in GUIDE
