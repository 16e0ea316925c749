"""RaBitQ code kernels at every SIMD level against their numpy twins, bit for bit, and the door's checks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spann._kernels import codes as kernels
from spann._kernels.distances import simd_levels
from spann.errors import InputError
from spann.types import MAX_DIM, Array
from tests.kernels import code_twins as twins

DIMS = (1, 2, 31, 32, 33, 96, 100, 128, 200, 384, 960, 1536)
BITS = pytest.mark.parametrize("bits", kernels.CODE_BITS)
SIDES = pytest.mark.parametrize("inner_product", [False, True], ids=["l2", "ip"])


def make_signs(rng: np.random.Generator, dim: int) -> Array:
    return rng.integers(0, 256, (kernels.ROUNDS, kernels.padded_dim(dim) // 8), np.uint8)


def same_bits(found: Array, expected: Array) -> None:
    """Equal bit for bit; zeros may differ in sign."""
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal((found + np.float32(0)).view(np.uint32), (expected + np.float32(0)).view(np.uint32))


def one_span(n: int) -> tuple[Array, Array]:
    return np.zeros(1, np.int64), np.array([n], np.int64)


@pytest.mark.parametrize("dim", [*range(32, 1057, 32), 1, 2, 31, 33, 100, 200, 1536, 4096])
def test_rotation_equals_its_twin(level: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    x, signs = rng.standard_normal((3, dim)).astype(np.float32), make_signs(rng, dim)
    found = kernels.rotate(x, signs)
    same_bits(found, twins.rotate(x, signs))
    same_bits(kernels.prepare(x[0], signs, 1).rotated, found[0])


@BITS
@pytest.mark.parametrize("dim", DIMS)
def test_dots_and_estimates_equal_their_twins(level: str, dim: int, bits: int) -> None:
    rng = np.random.default_rng([dim, bits])
    padded = kernels.padded_dim(dim)
    values = rng.integers(0, 2**bits, (37, padded)).astype(np.uint8)
    codes = twins.pack(values, bits)
    assert codes.shape == (37, kernels.code_bytes(dim, bits))
    np.testing.assert_array_equal(twins.unpack(codes, padded, bits), values)
    add, scale = (rng.integers(0, 65536, 37).astype(np.uint16) for _ in range(2))
    header, base = rng.standard_normal(5).astype(np.float32), np.float32(rng.standard_normal())
    query = kernels.prepare(rng.standard_normal(dim).astype(np.float32), make_signs(rng, dim), bits)
    twin = twins.prepare(query.rotated, bits)
    assert (query.step, query.offset, query.noise) == (twin.step, twin.offset, twin.noise)
    for n in (*range(1, 26), 37):
        np.testing.assert_array_equal(query.dots(codes[:n]), twins.dots(twin, values[:n]))
        found = query.estimate(codes[:n], add[:n], scale[:n], header[None], np.array([base]), *one_span(n))
        same_bits(found, twins.estimate(twin, values[:n], add[:n], scale[:n], header, base))


@BITS
def test_estimates_of_many_postings_are_those_of_each(level: str, bits: int) -> None:
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**bits, (200, 96)).astype(np.uint8)
    codes = twins.pack(values, bits)
    add, scale = (rng.integers(0, 65536, 200).astype(np.uint16) for _ in range(2))
    starts, lengths = np.array([190, 0, 50, 50, 0, 120]), np.array([10, 200, 0, 13, 1, 79])
    headers, base = rng.standard_normal((6, 5)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    query = kernels.prepare(rng.standard_normal(96).astype(np.float32), make_signs(rng, 96), bits)
    twin = twins.prepare(query.rotated, bits)
    found = query.estimate(codes, add, scale, headers, base, starts, lengths)
    parts = [
        twins.estimate(twin, values[s : s + n], add[s : s + n], scale[s : s + n], h, b)
        for s, n, h, b in zip(starts, lengths, headers, base, strict=True)
    ]
    same_bits(found, np.concatenate(parts))


@BITS
@pytest.mark.parametrize("dim", [32, 64, 96, 128, 200, 256, 512])
def test_no_byte_outside_the_contract_is_read(
    level: str, dim: int, bits: int, guarded: Callable[[NDArray[Any]], NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows whose size divides 64 have exactly the 64 bytes of the contract behind them, and then a fault."""
    plain = kernels._tail

    def tail(codes: Array) -> tuple[Array, int]:
        rows, count = plain(codes)
        return guarded(rows), count

    monkeypatch.setattr(kernels, "_tail", tail)
    rng = np.random.default_rng(dim)
    values = rng.integers(0, 2**bits, (19, kernels.padded_dim(dim))).astype(np.uint8)
    query = kernels.prepare(rng.standard_normal(dim).astype(np.float32), make_signs(rng, dim), bits)
    twin = twins.prepare(query.rotated, bits)
    header, base = np.ones(5, np.float32), np.ones(1, np.float32)
    for n in (1, 3, 7, 8, 9, 15, 16, 17, 19):
        codes = guarded(twins.pack(values[:n], bits))
        np.testing.assert_array_equal(query.dots(codes), twins.dots(twin, values[:n]))
        add, scale = (guarded(np.arange(n, dtype=np.uint16)) for _ in range(2))
        found = query.estimate(codes, add, scale, header[None], base, *one_span(n))
        same_bits(found, twins.estimate(twin, values[:n], add, scale, header, base[0]))


@BITS
@pytest.mark.parametrize("dim", [32, 96, 1024, MAX_DIM])
def test_largest_sums_are_exact(level: str, bits: int, dim: int) -> None:
    values = np.empty((9, dim), np.uint8)
    values[:8] = 2**bits - 1
    values[1, ::2] = 0
    values[8] = 0
    signs = np.zeros((kernels.ROUNDS, dim // 8), np.uint8)
    codes = twins.pack(values, bits)
    for pattern in ([1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]):
        wanted = np.tile(np.array(pattern, np.float32), dim // 2)
        x = unrotate(wanted, signs)
        query = kernels.prepare(x, signs, bits)
        twin = twins.prepare(query.rotated, bits)
        assert np.abs(twin.x).min() > 0.98 * np.abs(twin.x).max()
        np.testing.assert_array_equal(query.dots(codes), twins.dots(twin, values))


def unrotate(y: Array, signs: Array) -> Array:
    """R^T y, for signs that flip nothing: the transform's steps are their own inverse."""
    padded, x = y.size, y.astype(np.float64)
    block, half = 1 << padded.bit_length() - 1, padded // 2
    for i in reversed(range(len(signs))):
        if block < padded and i % 2:
            x = np.concatenate([x[:half] + x[half:], x[:half] - x[half:]]) * np.sqrt(0.5)
        start = padded - block if i % 2 else 0
        part = x[None, start : start + block]
        x[start : start + block] = twins.hadamard(part)[0] / np.sqrt(block)
    return x.astype(np.float32)


@SIDES
@BITS
@pytest.mark.parametrize("dim", DIMS)
def test_encoding_equals_its_twin(level: str, dim: int, bits: int, inner_product: bool) -> None:
    rng = np.random.default_rng([dim, bits])
    lengths = np.array([1, 0, 14, 3])
    x = rng.standard_normal((18, dim)).astype(np.float32)
    centroids = rng.standard_normal((4, dim)).astype(np.float32)
    x[0], x[5] = centroids[0], centroids[2]
    x[7] = 0
    x[9, 0] += 100
    x[10] *= np.float32(1e-15)
    check_encoding(x, centroids, lengths, rng, bits, inner_product)


@SIDES
@BITS
def test_postings_far_from_the_origin_are_measured_from_their_centroid(
    level: str, bits: int, inner_product: bool
) -> None:
    rng = np.random.default_rng(bits)
    centroids = rng.standard_normal((3, 100)).astype(np.float32) * np.array([[1], [1e3], [1e6]], np.float32)
    lengths = np.array([20, 20, 20])
    x = np.repeat(centroids, lengths, axis=0) + rng.standard_normal((60, 100)).astype(np.float32)
    headers = check_encoding(x, centroids, lengths, rng, bits, inner_product, np.zeros(100, np.float32))
    np.testing.assert_array_equal(headers[:, 4] < 0, [False, True, True])
    for far in ([True, False, False], [False, False, True]):
        headers = check_encoding(x, centroids, lengths, rng, bits, inner_product, np.zeros(100, np.float32), far)
        np.testing.assert_array_equal(headers[:, 4] < 0, far)


@BITS
def test_queries_that_are_not_finite_stay_within_bounds(level: str, bits: int) -> None:
    """As a damaged origin makes them: no integer of the query may leave its type."""
    rng = np.random.default_rng(0)
    signs, codes = make_signs(rng, 64), rng.integers(0, 256, (9, 8 * bits)).astype(np.uint8)
    for bad in (np.inf, -np.inf, np.nan, 3e38):
        x = rng.standard_normal(64).astype(np.float32)
        x[5] = bad
        found = kernels.prepare(x, signs, bits).dots(codes)
        assert np.abs(found.astype(np.int64)).max() <= 64 * (2**bits - 1) * twins.largest_of(64, bits)


def check_encoding(
    x: Array,
    centroids: Array,
    lengths: Array,
    rng: np.random.Generator,
    bits: int,
    inner_product: bool,
    origin: Array | None = None,
    far: list[bool] | None = None,
) -> Array:
    dim = x.shape[1]
    if origin is None:
        origin = np.zeros(dim, np.float32) if inner_product else x.mean(0)
    rest: dict[str, Any] = {"origin": origin, "signs": make_signs(rng, dim)}
    rest |= {"bits": bits, "inner_product": inner_product}
    codes, add, scale, headers = kernels.encode(
        x, centroids, lengths, far=None if far is None else np.array(far), **rest
    )
    start = 0
    for i, n in enumerate(lengths):
        part = slice(start, start + n)
        start += n
        if n == 0:
            assert not headers[i].any()
            continue
        given = None if far is None else far[i]
        values, twin_add, twin_scale, header = twins.encode(x[part], centroids[i], far=given, **rest)
        np.testing.assert_array_equal(codes[part], twins.pack(values, bits))
        np.testing.assert_array_equal(scale[part], twin_scale)
        same_bits(headers[i], header)
        np.testing.assert_array_equal(add[part], twin_add)
    return headers


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_encoding_the_largest_dimension(level: str, bits: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, MAX_DIM)).astype(np.float32)
    check_encoding(x, x[:1] * np.float32(0.5), np.array([3]), rng, bits, False)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_levels_agree_bit_for_bit(data: st.DataObject) -> None:
    bits, dim = data.draw(st.sampled_from(kernels.CODE_BITS)), data.draw(st.integers(1, 600))
    n = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = (rng.standard_normal((n + 1, dim)) * 10.0 ** data.draw(st.integers(-12, 12))).astype(np.float32)
    origin, signs = x.mean(0), make_signs(rng, dim)
    results = []
    for level in simd_levels():
        with mock.patch.dict(os.environ, SPANN_SIMD=level):
            parts = kernels.encode(
                x[:n], x[:1] * 0.9, np.array([n]), origin=origin, signs=signs, bits=bits, inner_product=False
            )
            query = kernels.prepare(x[n] - origin, signs, bits)
            estimates = query.estimate(*parts, np.zeros(1, np.float32), *one_span(n))
            results.append([np.ascontiguousarray(p).view(np.uint8) for p in (*parts, estimates)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_chosen_codes_are_nearly_the_best_there_are() -> None:
    """Against the paper's search, which tries every scale at which a code changes."""
    rng = np.random.default_rng(5)
    for bits, allowed in ((2, 0.003), (3, 0.004), (4, 0.005), (8, 0.25)):
        for dim in (32, 128, 384):
            a = np.abs(rng.standard_normal((8, dim))).astype(np.float32)
            chosen = cosines(a, twins.best_scale(a, bits), bits)
            best = np.array([exhaustive(row, bits) for row in a])
            assert (chosen <= best + 1e-6).all()
            assert ((1 - chosen**2).mean() / (1 - best**2).mean()) < 1 + allowed


def cosines(a: Array, t: Array, bits: int) -> Array:
    u = np.minimum(np.floor(a.astype(np.float64) * t[:, None]), 2 ** (bits - 1) - 1) + 0.5
    return np.asarray((u * a).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(a.astype(np.float64), axis=1))


def exhaustive(a: Array, bits: int) -> float:
    events = np.unique(np.arange(1, 2 ** (bits - 1)) / a[:, None].astype(np.float64)) * (1 + 1e-12)
    events = events[(events > 0.4 * 2 ** (bits - 1) / a.max()) & (events < 4 * 2 ** (bits - 1) / a.max())]
    return float(max(cosines(a[None], np.array([t]), bits)[0] for t in events[:: max(1, len(events) // 3000)]))


@BITS
def test_zero_queries_and_equal_vectors(level: str, bits: int) -> None:
    rng = np.random.default_rng(1)
    signs, zero = make_signs(rng, 40), np.zeros(40, np.float32)
    x = np.tile(rng.standard_normal(40).astype(np.float32), (9, 1))
    parts = kernels.encode(x, x[:1], np.array([9]), origin=zero, signs=signs, bits=bits, inner_product=False)
    assert not parts[1].any()
    assert not parts[2].any()
    assert not parts[3].any()
    query = kernels.prepare(zero, signs, bits)
    assert (query.step, query.noise) == (0, 0)
    found = query.estimate(*parts, np.array([7.5], np.float32), *one_span(9))
    np.testing.assert_array_equal(found, np.full(9, 7.5, np.float32))


SIGNS = np.zeros((4, 4), np.uint8)
X = np.ones((3, 20), np.float32)
L = np.array([1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X[:, ::2]}, "C-contiguous"),
        ({"x": X[:0]}, "non-empty"),
        ({"x": X.astype(np.float64)}, "float64"),
        ({"x": np.ones((1, MAX_DIM + 1), np.float32)}, f"limit is {MAX_DIM}"),
        ({"centroids": X}, r"\(2, 20\)"),
        ({"centroids": X[:2].astype(np.float16)}, "float16"),
        ({"lengths": L.astype(np.int32)}, "int32"),
        ({"lengths": np.array([1, 1])}, "do not add up to 3"),
        ({"lengths": np.array([-1, 4])}, "do not add up to 3"),
        ({"origin": X[0, :5]}, r"\(20,\)"),
        ({"signs": SIGNS[:3]}, r"\(4, 4\)"),
        ({"bits": 5}, "one of 1, 2, 3, 4, 8"),
    ],
)
def test_unusable_arguments_of_encode_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "centroids": X[:2].copy(), "lengths": L, "origin": X[0].copy()}
    arguments |= {"signs": SIGNS, "bits": 2, "inner_product": False} | change
    with pytest.raises(InputError, match=message):
        kernels.encode(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((3, 9), np.uint8)}, r"\(3, 8\)"),
        ({"codes": np.zeros((0, 8), np.uint8)}, "no codes"),
        ({"codes": np.zeros((3, 8), np.int8)}, "int8"),
        ({"add": np.zeros(2, np.uint16)}, r"add .*\(3,\)"),
        ({"scale": np.zeros(3, np.int16)}, "scale .*int16"),
        ({"headers": np.zeros((2, 4), np.float32)}, "headers"),
        ({"base": np.zeros(2)}, "base .*float64"),
        ({"starts": np.array([0, 2])}, "outside of the 3 codes"),
        ({"starts": np.array([-1, 1])}, "outside of the 3 codes"),
        ({"lengths": np.array([1, -1])}, "outside of the 3 codes"),
    ],
)
def test_unusable_arguments_of_estimate_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"codes": np.zeros((3, 8), np.uint8), "add": np.zeros(3, np.uint16)}
    arguments |= {"scale": np.zeros(3, np.uint16), "headers": np.zeros((2, 5), np.float32)}
    arguments |= {"base": np.zeros(2, np.float32), "starts": np.array([0, 1]), "lengths": L} | change
    with pytest.raises(InputError, match=message):
        kernels.prepare(X[0], SIGNS, 2).estimate(**arguments)


def test_a_level_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    query = kernels.prepare(X[0], SIGNS, 2)
    monkeypatch.setenv("SPANN_SIMD", "sse9")
    codes, two = np.zeros((3, 8), np.uint8), np.zeros(3, np.uint16)
    nothing = np.zeros(1, np.float32)
    for call in (
        lambda: kernels.rotate(X, SIGNS),
        lambda: query.dots(codes),
        lambda: query.estimate(codes, two, two, np.zeros((1, 5), np.float32), nothing, *one_span(3)),
        lambda: kernels.encode(X, X[:1].copy(), np.array([3]), origin=X[0], signs=SIGNS, bits=2, inner_product=False),
    ):
        with pytest.raises(InputError, match="sse9"):
            call()
