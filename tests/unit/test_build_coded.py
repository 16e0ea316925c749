"""Indexes with codes: their bytes describe the vectors, for any type, metric, dimension and number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

import spann
from spann._kernels.checksum import crc32c
from spann.building.centroids import HALF_ERROR, HALF_RANGE
from spann.building.pipeline import build_index
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.stages import arrange
from spann.format.exact import exact_pages
from spann.format.layout import ArrayLayout
from spann.format.postings import PAGE, Record, posting_span
from spann.store.exact import PageChecksums
from spann.store.reader import IndexReader
from spann.testing import clustered
from spann.types import Metric
from spann.vectors import as_ids, open_source
from tests.kernels import code_twins

METRICS = ("l2", "cosine", "ip")
DTYPES = ("uint8", "int8", "float16", "float32")


@dataclass
class Posting:
    """One posting, taken apart with numpy alone."""

    centroid: int
    primaries: int
    header: NDArray[np.float32]
    ids: NDArray[np.int64]
    add: NDArray[np.uint16]
    scale: NDArray[np.uint16]
    rows: NDArray[np.int64]
    codes: NDArray[np.uint8]


@dataclass
class Coded:
    """An index with codes, read array by array."""

    reader: IndexReader

    def __post_init__(self):
        self.about = about = self.reader.attributes
        directory = "postings/directory"
        names = ("page", "offset", "length", "primaries", "crc32c")
        page, offset, self.length, self.primaries, self.crc = (self.read(f"{directory}/{n}").astype(int) for n in names)
        chain = f"{directory}/chain"
        self.chain = self.read(chain).astype(int) if chain in self.reader.arrays() else np.arange(len(page) + 1)
        owner = np.repeat(np.arange(len(self.chain) - 1), np.diff(self.chain))
        self.start, self.end = posting_span(page, offset, Record.of(about).size(self.length, self.primaries))
        self.pages = self.read("postings/pages").reshape(-1)
        self.exact, self.centroids = self.read("vectors/exact"), self.read("centroids/vectors")
        self.first_row = np.cumsum(self.primaries) - self.primaries
        self.postings = [self._posting(p, owner[p]) for p in range(len(page))]

    def read(self, name):
        return self.reader.read(name)

    def _posting(self, p, centroid):
        n, primaries, about = self.length[p], self.primaries[p], self.about
        data, parts, at = self.pages[self.start[p] : self.end[p]], [], 0
        width = -(-about["dim"] // 32) * 32 * about["code_bits"] // 8
        id_type, row_type = f"<u{about['id_bytes']}", f"<u{about['row_bytes']}"
        own = self.first_row[p] + np.arange(primaries)
        if n == 0:
            return Posting(centroid, 0, np.zeros(5, "f4"), own, own, own, own, np.empty((0, width), np.uint8))
        for kind, count in (("<f4", 5), (id_type, n), ("<u2", n), ("<u2", n), (row_type, n - primaries)):
            size = count * np.dtype(kind).itemsize
            parts.append(data[at : at + size].view(kind))
            at += size
        assert len(data) - at == n * width
        header, ids, add, scale, rows = parts
        rows = np.concatenate([own, rows.astype(int)])
        return Posting(centroid, primaries, header, ids.astype(int), add, scale, rows, data[at:].reshape(n, width))

    def approximate(self, posting):
        """The vectors that the codes of a posting stand for, (n, dim) in the coded space."""
        about = self.about
        dim, bits = about["dim"], about["code_bits"]
        padded = -(-dim // 32) * 32
        rotation = code_twins.rotate(np.eye(dim, dtype=np.float32), self.read("quantizer/signs"))
        u = code_twins.unpack(posting.codes, padded, bits) - (2**bits - 1) / 2
        s = posting.header[2] + posting.header[3] * posting.scale.astype(float)
        s = s if about["metric"] == "ip" else s / 2
        return self.centroids[posting.centroid].astype(float) + s[:, None] * u @ rotation.T


def make(path, base, metric="l2", ids=None, threads=None, sizes=DEFAULT_SIZES, **params):
    build_index(
        open_source(base),
        path,
        Metric(metric),
        spann.BuildParams(**params),
        created_by="test",
        ids=as_ids(ids),
        threads=threads,
        sizes=sizes,
    )
    return Coded(IndexReader.open(path))


def plain(base, metric):
    """The coded space: vectors as given or, under cosine, of length 1."""
    x = base.astype(float)
    return x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x


def data(n, dim, seed, dtype):
    base = clustered(n, dim, 0, seed, dtype)[0]
    base[(base == 0).all(axis=1)] = 1
    return base


def check(index, base, metric, ids=None, replicas=1):
    """Checks the invariants of every index with codes. Returns the collection's row at each row of the exact store."""
    given = np.arange(len(base)) if ids is None else ids
    order = np.argsort(given)
    about = index.about
    assert about["features"] == ["codes", "shapes"][: 1 if about["parameters"]["max_replicas"] > 1 else 2]
    assert about["count"] == len(base) == len(index.exact) == index.primaries.sum()
    assert index.exact.dtype == base.dtype
    held = np.concatenate([p.ids[: p.primaries] for p in index.postings])
    row = order[np.searchsorted(given[order], held)]
    np.testing.assert_array_equal(np.sort(row), np.arange(len(base)), "each vector is primary once")
    np.testing.assert_array_equal(given[row], held)
    np.testing.assert_array_equal(index.exact, base[row])
    for number, posting in enumerate(index.postings):
        assert posting.primaries <= len(posting.ids) <= about["posting_bound"]
        np.testing.assert_array_equal(given[row[posting.rows]], posting.ids, "a replica names its row")
        assert len(np.unique(posting.ids)) == len(posting.ids), "a vector twice in one posting"
        data = index.pages[index.start[number] : index.end[number]]
        assert index.crc[number] == crc32c(np.ascontiguousarray(data))
        assert np.isfinite(posting.header).all()
    entries = np.concatenate([p.rows for p in index.postings])
    assert len(entries) == about["entries"] == index.length.sum()
    assert np.bincount(entries).max() <= replicas
    assert len(np.unique(index.centroids, axis=0)) == len(index.centroids) == about["centroids"]
    assert ("centroids/ids" in index.reader.arrays()) is False
    assert ("vectors/ids" in index.reader.arrays()) is (ids is not None)
    step = index.reader.array("vectors/exact").layout.shard_rows * index.exact[0].nbytes
    raw = index.exact.reshape(-1).view(np.uint8).tobytes()
    crcs = [
        crc32c(raw[page : min(page + PAGE, start + step)])
        for start in range(0, len(raw), step)
        for page in range(start, min(start + step, len(raw)), PAGE)
    ]
    np.testing.assert_array_equal(index.read("vectors/exact_crc32c"), crcs)
    return row


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_codes_tell_the_vectors(tmp_path, metric, dtype, bits):
    base = data(900, 40, 1, dtype)
    index = make(tmp_path / "i", base, metric, code_bits=bits, posting_size=50)
    row = check(index, base, metric)
    x = plain(base, metric)
    wrong = radius = 0.0
    cells = {}
    for posting in index.postings:
        truth = x[row[posting.rows]]
        centre = index.centroids[posting.centroid].astype(float)
        wrong += np.square(index.approximate(posting) - truth).sum()
        radius += np.square(truth - centre).sum()
        cells.setdefault(posting.centroid, []).append(truth)
    for centroid, parts in cells.items():
        centre, truth = index.centroids[centroid].astype(float), np.concatenate(parts)
        if metric == "l2" and dtype in ("uint8", "int8"):
            np.testing.assert_array_equal(centre, np.rint(truth.mean(axis=0)))
        else:
            np.testing.assert_allclose(centre, truth.mean(axis=0), atol=2e-3 * np.abs(truth).max())
    # One bit leaves tan(acos(sqrt(2 / pi))) of a residual. Each further bit about halves the rest.
    limit = {1: 0.85, 2: 0.45, 3: 0.24, 4: 0.13, 8: 0.01}[bits]
    assert np.sqrt(wrong / radius) < limit
    assert spann.verify(tmp_path / "i") == []


@pytest.mark.parametrize(
    ("dim", "dtype"),
    [
        (1, "float32"),
        (31, "uint8"),
        (32, "int8"),
        (33, "float16"),
        (100, "uint8"),
        (384, "float32"),
        (700, "float32"),
        (1023, "float32"),
        (1024, "float32"),
        (1025, "float32"),
    ],
)
def test_every_dimension_is_coded(tmp_path, dim, dtype):
    """Rows that fill pages evenly, cross them, fill one or more than one."""
    base = data(700, dim, 2, dtype)
    index = make(tmp_path / "i", base, code_bits=2, posting_size=40)
    check(index, base, "l2")
    assert spann.verify(tmp_path / "i") == []


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 1000])
@pytest.mark.parametrize("replicas", [1, 4])
def test_few_vectors(tmp_path, count, replicas):
    base = data(count, 20, 3, "float32")
    for metric in METRICS:
        index = make(tmp_path / metric, base, metric, code_bits=4, max_replicas=replicas, posting_size=10)
        check(index, base, metric, replicas=replicas)
        assert spann.verify(tmp_path / metric) == []


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_replicas_of_codes_follow_closure(tmp_path, metric, dtype):
    """Centroids are vectors of the coded space, each vector is a primary of its nearest, replicas come by distance."""
    base = data(3000, 24, 4, dtype)
    params = {"code_bits": 2, "max_replicas": 6, "posting_size": 40, "centroids": 0.05}
    index = make(tmp_path / "i", base, metric, **params)
    row = check(index, base, metric, replicas=6)
    x = plain(base, metric)
    centroids = index.centroids.astype(float)
    own = np.square(x[:, None] - centroids).sum(axis=2)
    assert np.sqrt(own.min(axis=0).max()) < 2e-3 * np.abs(x).max(), "a centroid is no vector"
    lifted, lifted_centroids = x, centroids
    if metric == "ip":
        sqnorm = np.square(x).sum(axis=1)
        lifted = np.column_stack([x, np.sqrt(sqnorm.max() - sqnorm)])
        lifted_centroids = lifted[own.argmin(axis=0)]
    sqdist = np.square(lifted[:, None] - lifted_centroids).sum(axis=2)
    slack = 2e-3 * np.square(lifted).sum(axis=1).max()
    for posting in index.postings:
        members = row[posting.rows]
        distance = sqdist[members, posting.centroid]
        assert (distance[: posting.primaries] <= sqdist[members[: posting.primaries]].min(axis=1) + slack).all()
        assert (np.diff(distance[posting.primaries :]) >= -slack).all(), "replicas by distance"
    assert index.about["entries"] > 1.5 * len(base)
    represent = own.argmin(axis=0)
    primary_of = np.empty(len(base), int)
    for posting in index.postings:
        primary_of[row[posting.rows[: posting.primaries]]] = posting.centroid
    np.testing.assert_array_equal(primary_of[represent], np.arange(len(centroids)), "representatives are in postings")
    assert spann.verify(tmp_path / "i") == []


def test_user_ids(tmp_path):
    base = data(500, 20, 5, "float32")
    for ids in (np.arange(500)[::-1] * 7, 2**40 + np.random.default_rng(0).permutation(500)):
        for replicas in (1, 5):
            index = make(tmp_path / f"{ids.max()}-{replicas}", base, ids=ids, code_bits=4, max_replicas=replicas)
            assert index.about["id_bytes"] == (8 if ids.max() > 2**32 else 4)
            check(index, base, "l2", ids, replicas)
            np.testing.assert_array_equal(index.read("vectors/ids"), ids)
            assert spann.verify(tmp_path / f"{ids.max()}-{replicas}") == []


@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_copies_share_a_centroid_and_none_is_lost(tmp_path, metric, dtype, replicas):
    base = data(1200, 16, 6, dtype)
    base[100:800] = base[100]
    base[900:950] = base[900]
    index = make(tmp_path / "i", base, metric, code_bits=3, posting_size=20, max_replicas=replicas)
    row = check(index, base, metric, replicas=replicas)
    assert len(index.postings) > len(index.centroids), "a chain"
    copies = {p.centroid for p in index.postings if np.isin(row[p.rows[: p.primaries]], np.arange(100, 800)).any()}
    assert len(copies) == 1 or replicas == 1, "leaves of even sizes may share copies out"
    assert spann.verify(tmp_path / "i") == []


def test_nothing_but_copies(tmp_path):
    for value in (0, 7):
        base = np.full((300, 30), value, np.float32)
        index = make(tmp_path / str(value), base, code_bits=1, posting_size=20)
        check(index, base, "l2")
        assert len(index.centroids) == 1
        assert (index.centroids == value).all()
        assert spann.verify(tmp_path / str(value)) == []


def test_means_that_round_to_one_are_merged(tmp_path):
    """Values 0 and 1 around 100: most means of 10 round to few different vectors."""
    base = (100 + np.random.default_rng(0).integers(0, 2, (2000, 3))).astype(np.uint8)
    index = make(tmp_path / "i", base, code_bits=8, posting_size=10)
    check(index, base, "l2")
    assert len(index.centroids) <= 8
    assert spann.verify(tmp_path / "i") == []


@pytest.mark.parametrize(
    ("base", "metric", "dtype"),
    [
        (data(2000, 20, 7, "float32"), "l2", "float16"),
        (data(2000, 20, 7, "float32"), "cosine", "float16"),
        (data(2000, 20, 7, "float32"), "ip", "float16"),
        (data(2000, 20, 7, "float32") + np.float32(1000), "l2", "float32"),
        (data(2000, 20, 7, "float32") * np.float32(1e-7), "l2", "float32"),
        (data(2000, 20, 7, "float32") * np.float32(HALF_RANGE), "l2", "float32"),
        (data(2000, 20, 7, "float16"), "l2", "float16"),
        (data(2000, 20, 7, "uint8"), "l2", "uint8"),
        (data(2000, 20, 7, "int8"), "l2", "int8"),
        (data(2000, 20, 7, "uint8"), "cosine", "float16"),
        (data(2000, 20, 7, "int8"), "ip", "float16"),
    ],
)
def test_the_type_of_means(tmp_path, base, metric, dtype):
    """Half precision where it moves them by next to nothing."""
    index = make(tmp_path / "i", base, metric, code_bits=2, posting_size=20)
    assert index.centroids.dtype == dtype
    row = check(index, base, metric)
    if dtype in ("float16", "float32"):
        x = plain(base, metric)
        cells = {}
        for p in index.postings:
            cells.setdefault(p.centroid, []).append(x[row[p.rows]])
        means = np.array([np.concatenate(parts).mean(axis=0) for parts in cells.values()])
        centroids = index.centroids[list(cells)]
        moved = np.sqrt(np.square(centroids - means).sum() / np.square(means - means.mean(axis=0)).sum())
        assert moved <= HALF_ERROR
        assert moved > 0


def test_near_vectors_share_pages(tmp_path):
    base, queries = clustered(20_000, 32, 200, 8, np.uint8)
    index = make(tmp_path / "i", base, code_bits=2, posting_size=500)
    x, q = index.exact.astype(float), queries.astype(float)
    near = np.argpartition(np.square(x).sum(axis=1) - 2 * q @ x.T, 30, axis=1)[:, :30]
    shuffled = np.arange(len(x))
    rng = np.random.default_rng(0)
    for first, n in zip(index.first_row, index.primaries, strict=True):
        shuffled[first : first + n] = first + rng.permutation(n)
    pages, others = (np.mean([len(np.unique(at // (PAGE // 32))) for at in rows]) for rows in (near, shuffled[near]))
    assert pages < 0.8 * others


BUFFERS = [
    {"arrange_bytes": 1 << 14},
    {"code_bytes": 1 << 16},
    {"gap_bytes": 1},
    {"gap_bytes": 1 << 30},
    {"place_rows": 100},
    {"bucket_bytes": 1 << 15},
]


@pytest.mark.parametrize("replicas", [1, 5])
@pytest.mark.parametrize("metric", METRICS)
def test_the_number_of_threads_never_shows(tmp_path, content, metric, replicas):
    base = data(3000, 20, 9, "float32")
    sizes, params = Sizes(region_bytes=1 << 16, arrange_bytes=1 << 15, code_bytes=1 << 17), {"max_replicas": replicas}
    for threads in (1, 2, 5):
        make(tmp_path / f"{threads}", base, metric, threads=threads, sizes=sizes, code_bits=2, **params)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "5")
    check(Coded(IndexReader.open(tmp_path / "1")), base, metric, replicas=replicas)


@pytest.mark.parametrize("sizes", BUFFERS, ids=str)
def test_sizes_of_buffers_never_show(tmp_path, content, sizes):
    base = data(2000, 20, 10, "float32")
    params = {"code_bits": 2, "max_replicas": 4, "posting_size": 15}
    make(tmp_path / "a", base, **params)
    make(tmp_path / "b", base, sizes=Sizes(**sizes), **params)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_stages_are_told_in_order(tmp_path):
    seen = []
    build_index(
        open_source(data(800, 20, 11, "float32")),
        tmp_path / "i",
        Metric.L2,
        spann.BuildParams(code_bits=2),
        created_by="test",
        progress=lambda stage, done, total: seen.append((stage, done, total)),
        threads=1,
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    first = ["scan", "partition", "cluster", "refine", "graph", "assign", "layout"]
    assert stages == [*first, "arrange", "write", "publish"]
    assert {stage for stage, done, total in seen if done == total} == set(stages)


@pytest.mark.parametrize(("rows", "dim", "shard"), [(100, 24, 480), (1000, 1536, 10 * 1536), (50, 5000, 15_000)])
def test_pages_are_counted_through_shards(rows, dim, shard):
    layout = ArrayLayout.plan(rows, np.uint8, (dim,), shard_bytes=shard, chunk_bytes=dim)
    assert layout.shards > 3
    values = np.random.default_rng(0).integers(0, 256, (rows, dim)).astype(np.uint8)
    found = PageChecksums(layout)
    for part in np.split(values, [1, 1, 7, 30]):
        found.update(part)
    raw, full = values.tobytes(), layout.shard_bytes
    expected = [
        crc32c(raw[page : min(page + PAGE, start + full)])
        for start in range(0, len(raw), full)
        for page in range(start, min(start + full, len(raw)), PAGE)
    ]
    np.testing.assert_array_equal(found.values, expected)
    assert exact_pages(layout) == len(expected)
    bounds = arrange._page_starts(layout, 0, rows)
    rows_of = [r for r in range(1, rows) if r % layout.shard_rows == 0 or _first_on_page(r % layout.shard_rows, dim)]
    np.testing.assert_array_equal(bounds, rows_of)
    np.testing.assert_array_equal(arrange._page_starts(layout, 10, 40), [r for r in rows_of if 10 < r < 40])


def _first_on_page(row, size):
    return row * size // PAGE != (row * size - 1) // PAGE or (row - 1) * size // PAGE != row * size // PAGE


def test_invalid_parameters_of_codes_are_refused(tmp_path):
    base = data(50, 20, 12, "float32")
    for bits in (5, 6, 7):
        with pytest.raises(spann.InputError, match=f"code_bits is {bits}; it must be one of 0, 1, 2, 3, 4, 8"):
            spann.BuildParams(code_bits=bits)
    with pytest.raises(spann.InputError, match="lower posting_size"):
        make(tmp_path / "i", np.zeros((2, 32_000), np.uint8), code_bits=8, posting_size=32_000)
    assert not list(tmp_path.iterdir())
    assert make(tmp_path / "i", base, code_bits=8).about["code_bits"] == 8
