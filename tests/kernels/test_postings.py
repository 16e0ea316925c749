"""The bytes of posting lists, and the order of vectors in pages against its numpy twin."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spann._kernels.checksum import crc32c
from spann._kernels.postings import CodedLists, arrange, pack_coded
from spann.errors import InputError
from tests.kernels import twins


def lists(length, primaries, id_type="<u4", row_type="<u4", code_bytes=5, seed=0):
    """Random contents for lists of these lengths."""
    rng = np.random.default_rng(seed)
    n, replicas = sum(length), sum(length) - sum(primaries)
    return CodedLists(
        np.array(length, np.uint16),
        np.array(primaries, np.uint16),
        rng.random((len(length), 5), np.float32),
        rng.integers(0, 2**32, n).astype(id_type),
        rng.integers(0, 2**16, n).astype(np.uint16),
        rng.integers(0, 2**16, n).astype(np.uint16),
        rng.integers(0, 2**32, replicas).astype(row_type),
        rng.integers(0, 256, (n, code_bytes)).astype(np.uint8),
    )


@pytest.mark.parametrize(("id_type", "row_type"), [("<u4", "<u4"), ("<u8", "<u4"), ("<u4", "<u8")])
@pytest.mark.parametrize(
    ("length", "primaries"),
    [([3], [3]), ([3], [0]), ([4, 0, 7, 1], [2, 0, 7, 0]), ([0, 0], [0, 0]), ([0, 300, 0], [0, 299, 0])],
)
def test_lists_of_codes_are_packed_as_documented(length, primaries, id_type, row_type):
    given = lists(length, primaries, id_type, row_type)
    expected = []
    entry = row = 0
    for n, p, header in zip(length, primaries, given.headers, strict=True):
        own, rows = slice(entry, entry + n), slice(row, row + n - p)
        parts = [header, given.ids[own], given.add[own], given.scale[own], given.rows[rows], given.codes[own]]
        expected.append(b"".join(part.tobytes() for part in parts) if n else b"")
        entry, row = entry + n, row + n - p
    gaps = np.array([7, 0, 3, 1, 0][: len(length)])
    sizes = np.array([len(data) for data in expected])
    starts = np.cumsum(gaps + sizes) - sizes
    out = np.full(int((gaps + sizes).sum()) + 4, 0xAB, np.uint8)
    crcs = pack_coded(given, starts.astype(np.uint64), out)
    wanted = np.full(len(out), 0xAB, np.uint8)
    for start, data in zip(starts, expected, strict=True):
        wanted[start : start + len(data)] = np.frombuffer(data, np.uint8)
    np.testing.assert_array_equal(out, wanted)
    assert crcs.tolist() == [crc32c(data) for data in expected]


def test_lists_that_do_not_fit_are_refused():
    good = lists([4, 2], [3, 2])
    out, starts = np.zeros(100, np.uint8), np.zeros(2, np.uint64)
    changes = [
        {"ids": good.ids[:-1]},
        {"add": good.add[:-1]},
        {"scale": good.scale[1:]},
        {"codes": good.codes[:-1]},
        {"rows": good.rows[:0]},
        {"headers": good.headers[:1]},
        {"headers": good.headers[:, :4]},
        {"primaries": np.array([5, 2], np.uint16)},
        {"primaries": np.array([3], np.uint16)},
    ]
    for change in changes:
        with pytest.raises(InputError, match="do not match"):
            pack_coded(dataclasses.replace(good, **change), starts, out)
    with pytest.raises(InputError, match="do not match"):
        pack_coded(good, starts[:1], out)
    end = 20 + 4 * (4 + 4 + 5) + 4
    assert len(pack_coded(good, starts, out[:end])) == 2
    with pytest.raises(InputError, match=f"ends at byte {end} of a buffer of {end - 1}"):
        pack_coded(good, starts, out[: end - 1])


@st.composite
def postings(draw):
    """(x, lengths, bounds): some rows equal, some values far from 0 or tiny."""
    lengths = np.array(draw(st.lists(st.integers(0, 40), min_size=1, max_size=6)), np.int64)
    n, dim = int(lengths.sum()), draw(st.sampled_from([1, 2, 7, 16, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((n, dim)).astype(np.float32) * np.float32(draw(st.sampled_from([1, 1e-18, 1e12, 0])))
    x += np.float32(draw(st.sampled_from([0, 1000])))
    if draw(st.booleans()) and n:
        x[rng.integers(0, n, n // 2)] = x[rng.integers(0, n)]
    step = draw(st.integers(1, 20))
    bounds = np.arange(draw(st.integers(0, step)), max(n, 1), step, dtype=np.int64)
    return x, lengths, bounds[bounds > 0]


@given(postings())
@settings(max_examples=150, deadline=None)
def test_the_order_in_pages_equals_its_twin(case):
    x, lengths, bounds = case
    expected = twins.arrange(x, lengths, bounds)
    np.testing.assert_array_equal(arrange(x.copy(), lengths, bounds), expected)
    ends = np.cumsum(lengths)
    for start, end in zip(ends - lengths, ends, strict=True):
        np.testing.assert_array_equal(np.sort(expected[start:end]), np.arange(start, end))


def test_the_order_is_the_same_at_every_level(level):
    x = np.random.default_rng(1).standard_normal((500, 50)).astype(np.float32)
    lengths, bounds = np.array([200, 0, 300]), np.arange(30, 500, 31)
    np.testing.assert_array_equal(arrange(x.copy(), lengths, bounds), twins.arrange(x, lengths, bounds))


def test_clusters_come_to_lie_on_pages_of_their_own():
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((8, 20)).astype(np.float32) * 10
    label = rng.permutation(np.repeat(np.arange(8), 16))
    x = centres[label] + rng.standard_normal((128, 20)).astype(np.float32)
    order = arrange(x, np.array([128]), np.arange(16, 128, 16))
    pages = label[order].reshape(8, 16)
    assert (pages == pages[:, :1]).all()


def test_postings_within_a_page_keep_their_order():
    x = np.random.default_rng(3).standard_normal((60, 4)).astype(np.float32)
    bounds = np.array([20, 40])
    order = arrange(x.copy(), np.array([20, 20, 20]), bounds)
    np.testing.assert_array_equal(order, np.arange(60))
    assert len(arrange(x[:0], np.array([0, 0]), bounds[:0])) == 0


@pytest.mark.parametrize(
    ("x", "lengths", "bounds", "match"),
    [
        (np.zeros((4, 2)), [4], [], "float32"),
        (np.zeros((4, 2), np.float32).T, [2], [], "C-contiguous"),
        (np.zeros(4, np.float32), [4], [], "float32"),
        (np.zeros((4, 2), np.float32), [3], [], "do not add up to 4 vectors"),
        (np.zeros((4, 2), np.float32), [5, -1], [], "do not add up"),
        (np.zeros((4, 2), np.float32), [4], [2, 2], "not ascending"),
        (np.zeros((4, 2), np.float32), [4], [3, 2], "not ascending"),
        (np.zeros((4, 2), np.float32), [4], [0], "not ascending"),
        (np.zeros((4, 2), np.float32), [4], [4], "not ascending"),
    ],
)
def test_invalid_rows_to_arrange_are_refused(x, lengths, bounds, match):
    with pytest.raises(InputError, match=match):
        arrange(x, np.array(lengths, np.int64), np.array(bounds, np.int64))
