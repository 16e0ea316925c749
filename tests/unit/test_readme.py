"""Commands and code of the documents work, and the files that they name exist."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import spann
from spann import config
from spann.cli import cli
from spann.elements import pack, rounded
from spann.store.reader import IndexReader
from spann.testing import clustered

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(file, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(file):
    """Every `spann ...` of a document, in order: lines of shell blocks and code within text."""
    text = file.read_text(encoding="utf-8")
    return [
        " ".join(found.split())
        for found in re.findall(r"^(?: {4})?(spann .+)$|`(spann [^`]+)`", text, re.MULTILINE)
        for found in found
        if found
    ]


def check_command(line):
    """Fails unless the command, its options and the number of its arguments exist."""
    name, *words = shlex.split(line, comments=True)[1:]
    command = cli.commands[name]
    if "..." in words or not words:
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} - {"..."} <= known
        return
    try:
        command.make_context(name, words)
    except click.UsageError as error:
        pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_commands_in_documents_exist(file):
    for line in commands(file):
        check_command(line)


def test_commands_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands(README) if "..." not in line and len(line.split()) > 2]
    assert {line.split()[1] for line in lines} == set(cli.commands)
    np.save("ids.npy", 10**6 + np.arange(500))
    for line in lines:
        words = shlex.split(line)[1:] + (["--rows", "1000"] if line.startswith("spann demo") else [])
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, f"{line}: {result.output}"
    assert np.load("near.npz")["ids"].shape == (500, 10)


def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "FEWEST_CALIBRATION", 300)
    (code,) = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[0 1 2 3 4]")


def test_the_tutorial_runs_as_written(tmp_path, monkeypatch, capsys):
    """Every block, in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "FEWEST_CALIBRATION", 300)
    text = (ROOT / "docs" / "TUTORIAL.md").read_text(encoding="utf-8")
    names = {}
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(code, "TUTORIAL.md", "exec"), names)
            continue
        for line in code.splitlines():
            result = CliRunner().invoke(cli, shlex.split(line)[1:])
            assert result.exit_code == 0, f"{line}: {result.output}"
    assert len(pq.read_table("near.parquet")) == 300
    *_, grown, updated = capsys.readouterr().out.splitlines()
    assert grown.startswith("20300 ")
    assert updated == "(1, 48) False"


def format_examples():
    names = {}
    for code in blocks(ROOT / "docs" / "FORMAT.md", "python"):
        exec(compile(code, "FORMAT.md", "exec"), names)
    return names


@pytest.mark.parametrize(("dtype", "ids"), [("float32", None), ("uint8", 2**40 + np.arange(500))])
def test_the_example_of_the_format_decodes_postings(tmp_path, decode, dtype, ids):
    names = format_examples()
    base, _ = clustered(500, 20, 0, 1, dtype)
    spann.build(base, tmp_path / "i", ids=ids, params=spann.BuildParams(code_bits=0)).close()
    for p, (expected_ids, expected_vectors) in enumerate(decode(tmp_path / "i")):
        found_ids, found_vectors = names["read_posting"](tmp_path / "i", p)
        assert np.array_equal(found_ids, expected_ids)
        assert np.array_equal(found_vectors, expected_vectors)
        rows = found_ids.astype(np.int64) - (0 if ids is None else 2**40)
        assert np.array_equal(found_vectors, base[rows])


def test_the_example_of_the_format_decodes_bfloat16(tmp_path):
    base = rounded(clustered(500, 20, 0, 1)[0])
    spann.build(pack(base, "bfloat16").view("V2"), tmp_path / "i", params=spann.BuildParams(code_bits=0)).close()
    for p in range(70):
        ids, vectors = format_examples()["read_posting"](tmp_path / "i", p)
        assert np.array_equal(vectors, base[ids])


def test_the_example_of_the_format_decodes_bits(tmp_path):
    base = np.random.default_rng(0).random((500, 40)) < 0.5
    spann.build(base, tmp_path / "i", metric="hamming").close()
    for p in range(70):
        ids, vectors = format_examples()["read_posting"](tmp_path / "i", p)
        assert np.array_equal(vectors, base[ids])


@pytest.mark.parametrize(
    ("dtype", "metric", "bits", "dim", "replicas"),
    [
        ("float32", "l2", 8, 20, 1),
        ("uint8", "l2", 3, 100, 4),
        ("float32", "cosine", 4, 64, 1),
        ("float16", "ip", 2, 40, 3),
        ("int8", "l2", 1, 160, 1),
    ],
)
def test_the_example_of_the_format_decodes_codes(tmp_path, dtype, metric, bits, dim, replicas):
    names = format_examples()
    base, _ = clustered(300, dim, 0, 1, dtype)
    base[(base == 0).all(axis=1)] = 1
    base[:60] = base[0]
    params = spann.BuildParams(code_bits=bits, posting_size=20, max_replicas=replicas)
    spann.build(base, tmp_path / "i", metric=metric, params=params).close()
    index = IndexReader.open(tmp_path / "i")
    exact, length = index.read("vectors/exact"), index.read("postings/directory/length")
    assert "postings/directory/chain" in index.arrays()
    vectors = base / np.linalg.norm(base.astype(float), axis=1, keepdims=True) if metric == "cosine" else base
    wrong = 0.0
    for p, n in enumerate(length):
        ids, rows, approximate = names["read_codes"](tmp_path / "i", p)
        assert len(ids) == len(rows) == len(approximate) == n
        np.testing.assert_array_equal(exact[rows], base[ids])
        wrong += np.square(approximate - vectors[ids]).sum()
    spread = np.square(vectors - vectors.mean(axis=0, dtype=float)).sum() * length.sum() / len(base)
    assert wrong / spread < {1: 0.5, 2: 0.15, 3: 0.05, 4: 0.02, 8: 1e-4}[bits]


def test_one_command_runs_and_one_tests():
    run, test, *_ = (block.splitlines() for block in blocks(README, "sh"))
    assert run == ["scripts/demo"]
    assert test == ["scripts/test"]
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "scripts/test"
    for name in ("demo", "test", "check"):
        assert os.access(ROOT / "scripts" / name, os.X_OK)


def test_extras_in_the_readme_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.findall(r"'(?:\.|spann)\[(\w+)\]'", README.read_text(encoding="utf-8"))
    assert extras
    assert set(extras) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (file.parent / target.split("#")[0]).exists(), target
    for name in re.findall(r"\b(?:docs|benchmarks|scripts|spann|ext)/[\w/]+\.\w+", file.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
