"""What a memory budget says, and that the process keeps to it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import spann
from spann.search.budget import MemoryBudget, available_memory
from spann.search.disk import LONGEST_JOIN, join_pages


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


def test_words():
    assert MemoryBudget.parse("auto").automatic
    assert MemoryBudget.parse("none") == MemoryBudget(None)


@pytest.mark.parametrize("text", ["", "much", "-3", 0, -1, True, 1.5, "3 XB", "0", "i", "1.5.2GB"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(spann.InputError, match="memory_budget is"):
        MemoryBudget.parse(text)


def test_postings_that_fit():
    first_row = np.array([0, 10, 10, 30], np.uint64)
    sizes = [100, 100 + 10 * 8 + 20, 100 + 10 * 8 + 40, 100 + 30 * 8 + 60]
    for limit, expected in ((100, 0), (sizes[1] - 1, 0), (sizes[1], 1), (sizes[2], 2), (sizes[3], 3), (10**9, 3)):
        assert MemoryBudget(limit).pinned_postings(100, first_row, 8, "x") == expected
    assert MemoryBudget(None).pinned_postings(100, first_row, 8, "x") == 0
    assert MemoryBudget(None, automatic=True).pinned_postings(100, first_row, 8, "x") == 3


def test_available_memory_is_some():
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
