"""Samples of row numbers: distinct, uniform, and cheap for any number of rows."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from spann.errors import InputError
from spann.vectors.sampling import sample_rows


@pytest.mark.parametrize(
    ("count", "size"), [(0, 0), (1, 1), (10, 0), (10, 10), (10, 9), (10, 5), (1000, 501), (10**9, 50)]
)
def test_sample_is_sorted_distinct_and_repeatable(count: int, size: int) -> None:
    rows = sample_rows(count, size, 7)
    assert rows.dtype == np.int64
    assert len(rows) == size
    assert (np.diff(rows) > 0).all()
    assert ((rows >= 0) & (rows < count)).all()
    np.testing.assert_array_equal(rows, sample_rows(count, size, 7))


def test_seeds_differ() -> None:
    assert not np.array_equal(sample_rows(10**9, 50, 1), sample_rows(10**9, 50, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_sample_is_uniform(size: int) -> None:
    trials = 3000
    hits = np.zeros(11)
    for seed in range(trials):
        hits[sample_rows(11, size, seed)] += 1
    share = size / 11
    # Six standard deviations of a binomial: seeds are fixed, so this either always or never holds.
    assert np.abs(hits - trials * share).max() < 6 * np.sqrt(trials * share * (1 - share))


def test_memory_follows_the_sample_not_the_collection() -> None:
    tracemalloc.start()
    try:
        sample_rows(10**9, 20_000, 0)
        sample_rows(10**6, 60_000, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_impossible_samples_are_refused() -> None:
    with pytest.raises(InputError, match="sample size 11 is outside 0 to 10, the number of rows"):
        sample_rows(10, 11, 0)
    with pytest.raises(InputError, match="sample size -1 is outside 0 to 10"):
        sample_rows(10, -1, 0)
    with pytest.raises(InputError, match="seed -3 is negative: it must be at least 0"):
        sample_rows(10, 1, -3)
