"""The memory budget, and that the process keeps to it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import spann
from spann.cli import cli
from spann.search import opened
from spann.search.budget import MemoryBudget, pinned_bytes
from spann.search.disk import LONGEST_JOIN, join_pages
from spann.system import available_memory
from spann.testing import clustered


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (44_000_000, 44_000_000),
        ("44MB", 44_000_000),
        ("44mb", 44_000_000),
        ("1.5GiB", 3 << 29),
        ("512 KiB", 512 << 10),
        ("100k", 100_000),
        ("7", 7),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text, expected):
    assert MemoryBudget.parse(text) == MemoryBudget(expected)


def test_budgets_can_be_words():
    assert MemoryBudget.parse("auto").automatic
    assert MemoryBudget.parse("none") == MemoryBudget(None)


@pytest.mark.parametrize("text", ["", "much", "-3", 0, -1, True, 1.5, "3 XB", "0", "i", "1.5.2GB"])
def test_invalid_size_is_rejected_by_name(text):
    with pytest.raises(spann.InputError, match="memory_budget is"):
        MemoryBudget.parse(text)


def test_postings_that_fit():
    first_row, first_entry = np.array([[0, 10, 10, 30], [0, 12, 12, 35]], np.uint64)
    given = pinned_bytes(first_entry, first_entry - first_row, 8, 4)
    sizes = [100, 100 + 12 * 8 + 2 * 4 + 20, 100 + 12 * 8 + 2 * 4 + 40, 100 + 35 * 8 + 5 * 4 + 60]
    for limit, expected in ((100, 0), (sizes[1] - 1, 0), (sizes[1], 1), (sizes[2], 2), (sizes[3], 3), (10**9, 3)):
        assert MemoryBudget(limit).pinned_postings(100, given, "x") == expected
    assert MemoryBudget(None).pinned_postings(100, given, "x") == 0
    assert MemoryBudget(None, automatic=True).pinned_postings(100, given, "x") == 3


def test_available_memory_is_positive():
    assert 1 << 20 < available_memory() < 1 << 50


def test_joins_are_measured(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(5 << 20))
    with path.open("rb") as file:
        assert join_pages(file.fileno(), 5 << 20, direct=False) == 1
        assert 0 <= join_pages(file.fileno(), 5 << 20, direct=True) <= LONGEST_JOIN


CHILD = """
import sys
import numpy as np
import spann
path, budget = sys.argv[1], int(sys.argv[2])

with spann.open(path, io="direct", memory_budget=budget) as index:
    queries = np.random.default_rng(0).integers(0, 255, (3000, 128), np.uint8)
    for order in ("query", "posting"):
        index.search(queries, 10, threads=2, order=order)
    assert index.open_memory_bytes <= budget
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")))
"""


def test_the_process_keeps_to_the_budget(tmp_path):
    base = np.random.default_rng(1).integers(0, 255, (60_000, 128), np.uint8)
    with spann.build(base, tmp_path / "i") as index:
        needed = index.open_memory_bytes
    for budget in (needed, needed // 2):
        try:
            out = subprocess.check_output([sys.executable, "-c", CHILD, tmp_path / "i", str(budget)], text=True)
        except subprocess.CalledProcessError as error:
            pytest.fail(f"search failed: {error}")
        assert int(out) <= budget + (64 << 20)


def test_an_index_that_was_just_built_keeps_within_the_limit_of_its_build(tmp_path, monkeypatch):
    base, more = clustered(3000, 32, 10, 7, np.float32)
    path, params = tmp_path / "i", spann.BuildParams(code_bits=2)

    def left(room):
        monkeypatch.setattr(spann.functions, "resident_bytes", lambda: (1 << 30) - room)
        return spann.build(base, path, params=params, memory_limit="1GiB", overwrite=True)

    with spann.build(base, path, params=params) as index:
        about = index.info()
    assert about["open_memory_most"] == about["open_memory_bytes"]
    least, most = about["open_memory_least"], about["open_memory_most"]
    assert least < most - 20_000
    for room, expected in ((-5, least), (least, least), (most, most), (2 * most, most)):
        with left(room) as index:
            assert index.open_memory_bytes == expected
            assert len(index.search(base[:3], 5).ids) == 3
    with left((least + most) // 2) as index:
        assert least < index.open_memory_bytes <= (least + most) // 2
    with spann.build(base, path, params=params, memory_budget="none", overwrite=True) as index:
        assert index.open_memory_bytes == least
        assert index.info()["open_memory_most"] == most
    monkeypatch.setattr(spann.functions, "resident_bytes", lambda: 1 << 30)
    with spann.append(path, more, memory_limit="1GiB") as index:
        assert index.info()["pinned_postings"] == 0


def test_a_wrong_budget_is_told_before_the_build(tmp_path):
    base = np.zeros((3000, 8), np.float32)
    with pytest.raises(spann.InputError, match="memory_budget"):
        spann.build(base, tmp_path / "i", memory_budget="much")
    assert not (tmp_path / "i").exists()


def test_commands_that_make_an_index_do_not_read_its_codes(tmp_path, monkeypatch):
    base, _ = clustered(3000, 32, 10, 7, np.float32)
    np.save(tmp_path / "base.npy", base)

    def read(*arguments):
        raise AssertionError("all codes are read")

    monkeypatch.setattr(opened, "_pin", read)
    for command in (["build", "base.npy", "i", "--code-bits", "2"], ["append", "i", "base.npy"]):
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
