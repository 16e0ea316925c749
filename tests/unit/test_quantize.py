"""RaBitQ: the rotation, the estimator's law (unbiased, bounded), and faiss as an oracle."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest

from spann._kernels.codes import CODE_BITS
from spann.errors import InputError
from spann.quantize import Codes, Quantizer
from spann.quantize.factors import Entries, prove
from spann.types import MAX_DIM, Array, Metric
from tests.kernels import code_twins

BITS = pytest.mark.parametrize("bits", CODE_BITS)
METRICS = pytest.mark.parametrize("metric", [Metric.L2, Metric.IP], ids=lambda m: m.value)


def truth_and_base(metric: Metric, query: Array, x: Array, centroids: Array) -> tuple[Array, Array]:
    """Distances as estimated, in float64, to vectors and to centroids."""
    q, v, c = (a.astype(np.float64) for a in (query, x, centroids))
    if metric is Metric.IP:
        return -(v @ q), (-(c @ q)).astype(np.float32)
    return ((v - q) ** 2).sum(1), ((c - q) ** 2).sum(1).astype(np.float32)


def scales(codes: Codes, lengths: Array) -> Array:
    """S of every entry."""
    return np.repeat(codes.headers[:, 2], lengths) + np.repeat(codes.headers[:, 3], lengths) * codes.scale


def origin_of(metric: Metric, x: Array) -> Array | None:
    return None if metric is Metric.IP else x.mean(0)


def cosines(quantizer: Quantizer, codes: Codes, residuals: Array) -> Array:
    """cos(u, r) of each entry."""
    u = code_twins.unpack(codes.codes, quantizer.padded_dim, quantizer.bits) - (2**quantizer.bits - 1) / 2
    r = quantizer.rotate(residuals).astype(np.float64)
    return np.asarray((u * r).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(r, axis=1))


@pytest.mark.parametrize("dim", [1, 2, 31, 32, 33, 96, 100, 128, 160, 224, 384, 480, 960, 992, 1536])
def test_rotation_is_orthonormal(dim: int) -> None:
    quantizer = Quantizer.make(dim, 1, Metric.L2, seed=dim)
    rows = quantizer.rotate(np.eye(dim, dtype=np.float32)).astype(np.float64)
    assert rows.shape == (dim, quantizer.padded_dim)
    np.testing.assert_allclose(rows @ rows.T, np.eye(dim), atol=2e-6)


@pytest.mark.parametrize("dim", [32, 96, 160, 224, 352, 384, 672, 736, 992, 1536])
def test_rotation_spreads_sparse_vectors_like_gaussian_ones(dim: int) -> None:
    x = np.zeros((4, dim), np.float32)
    x[0, 0] = x[1, -1] = x[2, dim // 2] = 1
    x[3, :2] = np.sqrt(0.5)
    y = np.stack([Quantizer.make(dim, 1, Metric.L2, seed=s).rotate(x) for s in range(60)]).astype(np.float64)
    kurtosis = (y**4).mean((0, 2)) * dim**2
    np.testing.assert_allclose(kurtosis, 3 * dim / (dim + 2), rtol=0.12)
    energy = (y**2).mean(0) * dim  # of each dimension, 60 draws of chi-square: standard deviation 0.18
    assert energy.min() > 0.3
    assert energy.max() < 2.2
    halves = (y**2).reshape(60, 4, 2, -1).sum(3)
    np.testing.assert_allclose(halves.mean(0), 0.5, atol=0.06)


@METRICS
@BITS
@pytest.mark.parametrize("dim", [24, 96, 160])
def test_estimates_are_unbiased_over_rotations(dim: int, bits: int, metric: Metric) -> None:
    rng = np.random.default_rng([dim, bits])
    x = rng.standard_normal((6, dim)).astype(np.float32) + 1
    centroids, lengths = x[:2] * 0.5 + 0.3, np.array([4, 2])
    query = rng.standard_normal(dim).astype(np.float32) + 1
    truth, base = truth_and_base(metric, query, x, centroids)
    seeds = 400
    errors = np.empty((seeds, 6))
    for seed in range(seeds):
        quantizer = Quantizer.make(dim, bits, metric, origin_of(metric, x), seed=seed)
        errors[seed] = quantizer.estimate(query, base, quantizer.encode(x, centroids, lengths), lengths) - truth
    z = errors.mean(0) / (errors.std(0) / np.sqrt(seeds))
    assert np.abs(z).max() < 4.5


@METRICS
@BITS
@pytest.mark.parametrize("dim", [64, 200, 384])
def test_error_bound_holds_at_its_rate(dim: int, bits: int, metric: Metric) -> None:
    rng = np.random.default_rng([dim, bits])
    lengths = np.full(8, 50)
    centroids = rng.standard_normal((8, dim)).astype(np.float32)
    x = (np.repeat(centroids, lengths, 0) + 0.5 * rng.standard_normal((400, dim))).astype(np.float32)
    inside = []
    for seed in range(20):
        quantizer = Quantizer.make(dim, bits, metric, origin_of(metric, x), seed=seed)
        codes = quantizer.encode(x, centroids, lengths)
        query = (centroids[seed % 8] + 0.5 * rng.standard_normal(dim)).astype(np.float32)
        truth, base = truth_and_base(metric, query, x, centroids)
        away = np.linalg.norm(query - centroids, axis=1)
        per_mult = scales(codes, lengths) * np.repeat(codes.headers[:, 4] * away, lengths)
        rounding = scales(codes, lengths) * quantizer.prepare(query).noise
        error = np.abs(quantizer.estimate(query, base, codes, lengths) - truth)
        inside.append([(error <= mult * np.hypot(per_mult, rounding)).mean() for mult in (1.9, 3.0)])
        inside[-1].append((error <= 3.0 * per_mult).mean())
    ordinary, wide, without_rounding = np.mean(inside, 0)
    assert ordinary > 1 - 0.057 - 0.01
    assert wide > 1 - 0.0027 - 0.002
    assert without_rounding > 0.99


def test_more_bits_point_nearer() -> None:
    rng = np.random.default_rng(0)
    for dim in (32, 100, 384):
        x = rng.standard_normal((40, dim)).astype(np.float32)
        least = 0.0
        for bits, expected in ((1, 0.798), (2, 0.938), (3, 0.981), (4, 0.994), (8, 0.9999)):
            quantizer = Quantizer.make(dim, bits, Metric.L2)
            codes = quantizer.encode(x, np.zeros((1, dim), np.float32), np.array([40]))
            found = cosines(quantizer, codes, x)
            assert found.mean() > expected - 0.01
            assert found.min() > least
            least = found.max() if bits < 3 else found.mean()


@METRICS
def test_rounding_to_16_bits_costs_nothing_that_shows(metric: Metric) -> None:
    """A and S as stored against their values, in units of the error of the code itself."""
    rng = np.random.default_rng(3)
    dim, lengths = 128, np.array([200])
    centroid = rng.standard_normal((1, dim)).astype(np.float32) * 3
    x = centroid + rng.standard_normal((200, dim)).astype(np.float32) * rng.uniform(0.5, 2, (200, 1)).astype(np.float32)
    query = (centroid[0] + rng.standard_normal(dim)).astype(np.float32)
    for bits, share in ((2, 1e-3), (4, 5e-3), (8, 0.1)):
        quantizer = Quantizer.make(dim, bits, metric, origin_of(metric, x))
        codes = quantizer.encode(x, centroid, lengths)
        bound = scales(codes, lengths) * codes.headers[0, 4] * np.linalg.norm(query - centroid[0])
        assert codes.headers[0, 1] / 2 < share * np.median(bound)


def test_threads_share_a_quantizer() -> None:
    rng, dim = np.random.default_rng(0), 96
    x = rng.standard_normal((3000, dim)).astype(np.float32)
    centroids, lengths = x[:30] * 0.5, np.full(30, 100)
    quantizer = Quantizer.make(dim, 3, Metric.L2, x.mean(0), seed=9)
    alone = quantizer.encode(x, centroids, lengths)
    with ThreadPoolExecutor(4) as pool:
        for codes in pool.map(lambda _: quantizer.encode(x, centroids, lengths), range(8)):
            for a, b in zip(dataclasses.astuple(alone), dataclasses.astuple(codes), strict=True):
                np.testing.assert_array_equal(a, b)


def test_nothing_to_encode() -> None:
    quantizer = Quantizer.make(40, 2, Metric.L2)
    codes = quantizer.encode(np.zeros((0, 40), np.float32), np.zeros((3, 40), np.float32), np.zeros(3, np.int64))
    assert (codes.codes.shape, codes.add.shape, codes.headers.shape) == ((0, 16), (0,), (3, 5))
    zero = np.zeros(3, np.float32)
    assert quantizer.estimate(np.zeros(40, np.float32), zero, codes, np.zeros(3, np.int64)).shape == (0,)


def faiss_estimates(x: Array, queries: Array, bits: int) -> Array:
    """(nq, n) estimates of the squared distance by faiss, after a rotation of its own, centred on the mean."""
    rotation = faiss.RandomRotationMatrix(x.shape[1], x.shape[1])
    rotation.init(5)
    index = faiss.IndexRaBitQ(x.shape[1], faiss.METRIC_L2, bits)
    index.qb = 8
    y, q = rotation.apply(x), rotation.apply(queries)
    index.train(y)
    index.add(y)
    distances, ids = index.search(q, len(x))
    out = np.empty_like(distances)
    np.put_along_axis(out, ids, distances, 1)
    return out


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dim", [96, 256])
def test_not_worse_than_faiss(dim: int, bits: int) -> None:
    rng = np.random.default_rng([dim, bits])
    n, nq, k = 3000, 40, 20
    mixing = rng.standard_normal((dim // 2, dim)) / np.sqrt(dim)
    data = (rng.standard_normal((n + nq, dim // 2)) @ mixing + 0.1 * rng.standard_normal((n + nq, dim))) + 1
    x, queries = data[:n].astype(np.float32), data[n:].astype(np.float32)
    mean, lengths = x.mean(0, keepdims=True), np.array([n])
    quantizer = Quantizer.make(dim, bits, Metric.L2, mean[0], seed=1)
    codes = quantizer.encode(x, mean, lengths)
    ours, theirs = np.empty((nq, n)), faiss_estimates(x, queries, bits)
    truth = np.empty((nq, n))
    for i, q in enumerate(queries):
        truth[i], base = truth_and_base(Metric.L2, q, x, mean)
        ours[i] = quantizer.estimate(q, base, codes, lengths)
    deviation = [float(np.sqrt(np.mean((e - truth) ** 2))) for e in (ours, theirs)]
    assert deviation[0] <= 1.03 * deviation[1]
    recall = [mean_overlap(e, truth, k) for e in (ours, theirs)]
    assert recall[0] >= recall[1] - 0.02


def mean_overlap(a: Array, b: Array, k: int) -> float:
    nearest = [np.argsort(v, 1, kind="stable")[:, :k] for v in (a, b)]
    return float(np.mean([len(np.intersect1d(p, q)) / k for p, q in zip(*nearest, strict=True)]))


def test_quantizer_is_read_only_and_keeps_its_own_arrays() -> None:
    origin = np.ones(8, np.float32)
    quantizer = Quantizer.make(8, 2, "l2", origin)
    origin[0] = 7
    assert quantizer.origin[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        quantizer.signs[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        quantizer.bits = 3  # type: ignore[misc]
    assert (quantizer.padded_dim, quantizer.code_bytes) == (32, 8)


ONE = np.zeros((1, 8), np.float32)
SIGNS = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2, Metric.L2, ONE[0], SIGNS), "dim is 0"),
        ((MAX_DIM + 1, 2, Metric.L2, ONE[0], SIGNS), "dim is 32769"),
        ((8, 6, Metric.L2, ONE[0], SIGNS), "codes of 6 bits"),
        ((8, 2, Metric.L2, ONE, SIGNS), r"origin must be \(8,\)"),
        ((8, 2, Metric.L2, ONE[0], SIGNS[:2]), r"signs must be \(4, 4\)"),
        ((8, 2, Metric.L2, ONE[0] + np.float32(np.inf), SIGNS), "not finite"),
        ((8, 2, Metric.IP, ONE[0] + 1, SIGNS), "no origin"),
    ],
)
def test_unusable_quantizers_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Quantizer(*arguments)


def test_unusable_arguments_are_refused() -> None:
    quantizer = Quantizer.make(8, 2, Metric.L2)
    codes = quantizer.encode(ONE, ONE, np.array([1]))
    with pytest.raises(InputError, match="dim is 0"):
        Quantizer.make(0, 2, Metric.L2)
    with pytest.raises(InputError, match="metric 'manhattan'"):
        Quantizer.make(8, 2, "manhattan")
    with pytest.raises(InputError, match=r"x must be \(n, 8\)"):
        quantizer.encode(ONE[:, :4], ONE, np.array([1]))
    with pytest.raises(InputError, match=r"centroids must be .* float64"):
        quantizer.encode(ONE, ONE.astype(np.float64), np.array([1]))
    with pytest.raises(InputError, match="query must be"):
        quantizer.prepare(ONE)
    with pytest.raises(InputError, match="2 postings of 2 vectors do not fit 1 codes"):
        quantizer.estimate(ONE[0], ONE[0, :2], codes, np.array([1, 1]))


def entries_of(codes: Codes, posting: int, lengths: Array) -> Entries:
    ends = np.cumsum(lengths)
    some = slice(ends[posting] - lengths[posting], ends[posting])
    return Entries(codes.codes[some], codes.add[some], codes.scale[some], codes.headers[posting])


@BITS
@pytest.mark.parametrize("metric", list(Metric)[:3], ids=lambda m: m.value)
@pytest.mark.parametrize("dim", [3, 100])
def test_codes_follow_from_their_vectors(bits: int, metric: Metric, dim: int) -> None:
    """Codes of postings near and far, of short and long vectors, match their vectors. Changed codes do not."""
    rng = np.random.default_rng(bits + dim)
    lengths = np.array([40, 1, 30, 30, 20])
    centroids = rng.standard_normal((5, dim)) * np.array([[1], [1], [1e4], [1e-3], [1]])
    width = np.repeat([1, 1, 0.1, 1e-6, 0], lengths)[:, None]
    x = (np.repeat(centroids, lengths, axis=0) + rng.standard_normal((lengths.sum(), dim)) * width).astype(np.float32)
    centroids = centroids.astype(np.float32)
    if metric is Metric.COSINE:
        x, centroids = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, centroids))
    quantizer = Quantizer.make(dim, bits, metric, origin_of(metric, x))
    codes = quantizer.encode(x, centroids, lengths)
    other = None if metric is Metric.IP else dataclasses.replace(quantizer, origin=quantizer.origin + np.float32(50))
    ends = np.cumsum(lengths)
    for p, end in enumerate(ends):
        entries, mine = entries_of(codes, p, lengths), x[end - lengths[p] : end]
        assert prove(quantizer, mine, centroids[p], entries).wrong == -1
        header = entries.header * np.float32([1, 1, 1, 1, 0.5])
        if lengths[p] < 2 or not header[4]:
            continue
        assert prove(quantizer, mine, centroids[p], dataclasses.replace(entries, header=header)).what == "error"
        for name in ("add", "scale"):
            changed = getattr(entries, name).copy()
            changed[-1] ^= 1 << 14
            found = prove(quantizer, mine, centroids[p], dataclasses.replace(entries, **{name: changed}))
            assert (found.what, found.wrong) == (name, lengths[p] - 1)
        flipped = dataclasses.replace(entries, codes=~entries.codes)
        assert prove(quantizer, mine, centroids[p], flipped).cosines < 0
        assert prove(quantizer, mine[::-1].copy(), centroids[p], entries).wrong >= 0
        if other is not None and not codes.far[p]:
            assert prove(other, mine, centroids[p], entries).what == "add"
