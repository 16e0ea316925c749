"""A dropped index leaves no memory in the heaps of the allocator."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

import spann

trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(trim is None, reason="only glibc keeps a heap for each thread")
def test_a_dropped_index_leaves_nothing_to_trim(tmp_path):
    base = np.random.default_rng(1).normal(size=(2000, 1024)).astype(np.float32)
    spann.build(base, tmp_path / "i", params=spann.BuildParams(code_bits=0, calibration_queries=0)).close()
    index = spann.open(tmp_path / "i", memory_budget="none")
    index.search(base[:64], 10, spann.SearchParams(max_postings=64), threads=4, in_flight=64, order="query")
    trim(0)
    index.close()
    del index
    before = resident_bytes()
    trim(0)
    assert before - resident_bytes() < 4 << 20
