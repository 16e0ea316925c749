"""Cells of nearest centroids: their vectors, their centroids, and their benefit for a search."""

from __future__ import annotations

import numpy as np
import pytest

import spann
from spann.building import pipeline
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.stages import neighborhood, refine
from spann.store.reader import IndexReader
from spann.testing import clustered, exact_neighbours
from tests import builds


def cells_of(path, count):
    """The number of each vector's posting, by its id, and of each posting's centroid."""
    reader = IndexReader.open(path)
    about = reader.attributes
    length = reader.read("postings/directory/length").astype(int)
    first = reader.read("postings/directory/page").astype(int) * 4096 + reader.read("postings/directory/offset")
    pages = reader.read("postings/pages").reshape(-1)
    owner = np.arange(len(length))
    if "postings/directory/chain" in reader.arrays():
        chain = reader.read("postings/directory/chain").astype(int)
        owner = np.repeat(np.arange(len(chain) - 1), np.diff(chain))
    cell = np.full(count, -1)
    for posting, (at, n) in enumerate(zip(first.tolist(), length.tolist(), strict=True)):
        ids = pages[at + 20 : at + 20 + n * about["id_bytes"]].view(f"<u{about['id_bytes']}")
        cell[ids] = owner[posting]
    assert (cell >= 0).all()
    return cell


def working(x, metric):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x


def build(path, base, metric="l2", sizes=DEFAULT_SIZES, threads=None, **params):
    params = spann.BuildParams(**{"code_bits": 2, "posting_size": 50, "calibration_queries": 0} | params)
    builds.build(base, path, metric=metric, params=params, sizes=sizes, threads=threads)
    return IndexReader.open(path).read("centroids/vectors")


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_vectors_are_in_the_cell_of_the_nearest_centroid(tmp_path, metric):
    """All cells are compared here, so after many passes hardly a vector is nearer to another centroid than its own."""
    base, _ = clustered(4000, 24, 30, 5, np.float32)
    share = {}
    for passes in (1, 2, 12):
        sizes = Sizes(refine_candidates=(1024,) * passes)
        centroids = build(tmp_path / f"{passes}", base, metric, sizes).astype(np.float64)
        x, cell = working(base, metric), cells_of(tmp_path / f"{passes}", len(base))
        sqdist = np.square(x[:, None] - centroids).sum(axis=2)
        share[passes] = np.mean(np.argmin(sqdist, axis=1) == cell)
        assert spann.verify(tmp_path / f"{passes}") == []
    assert share[1] > 0.8
    assert share[1] < share[2] < share[12]
    assert share[12] > 0.97


def test_cells_are_tighter_than_leaves_and_found_sooner(tmp_path):
    """With one candidate, a vector goes where the mean of its group is: to its leaf."""
    base, queries = clustered(20_000, 32, 200, 3, np.float32)
    truth = exact_neighbours(base, queries, 10)[0]
    spread, recall = [], []
    for candidates in ((1, 1), (16, 16), DEFAULT_SIZES.refine_candidates):
        path = tmp_path / f"{candidates[0]}"
        centroids = build(path, base, sizes=Sizes(refine_candidates=candidates))
        spread.append(np.square(base - centroids[cells_of(path, len(base))].astype(np.float32)).sum(axis=1).mean())
        with spann.open(path) as index:
            found = index.search(queries, 10, spann.SearchParams(max_postings=8, epsilon2=10.0)).ids
        recall.append(np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]) / 10)
    assert spread[2] < spread[1] < 0.98 * spread[0]
    assert recall[2] > recall[0] + 0.02


def test_centroids_that_become_equal_are_one(tmp_path):
    """Integers round: many leaves, few places to be."""
    base = np.random.default_rng(0).integers(0, 3, (3000, 2)).astype(np.uint8)
    centroids = build(tmp_path / "i", base, code_bits=8, posting_size=10)
    assert len(np.unique(centroids, axis=0)) == len(centroids) <= 9
    assert len(np.unique(cells_of(tmp_path / "i", len(base)))) <= len(centroids)
    assert spann.verify(tmp_path / "i") == []


def test_a_centroid_without_vectors_keeps_an_empty_posting(tmp_path, monkeypatch):
    """It stays where it was, with an empty posting, and searches that meet it find the same as without."""
    nearest, before = refine._nearest, []

    def rob(job, clusters, *rest):
        before.append(clusters.centroids.vectors[3])
        for found in nearest(job, clusters, *rest):
            found["centroid"][found["centroid"] == 3] = 2
            yield found

    base, queries = clustered(3000, 16, 50, 4, np.float32)
    monkeypatch.setattr(refine, "_nearest", rob)
    build(tmp_path / "i", base, sizes=Sizes(refine_candidates=(1024,)))
    built = IndexReader.open(tmp_path / "i")
    np.testing.assert_array_equal(built.read("centroids/vectors")[3], before[0])
    assert (built.read("postings/directory/length") == 0).sum() == 1
    assert spann.verify(tmp_path / "i") == []
    with spann.open(tmp_path / "i") as index:
        found = index.search(queries, 10, spann.SearchParams(max_postings=1000, epsilon2=100.0, error_bound=8.0)).ids
    np.testing.assert_array_equal(found, exact_neighbours(base, queries, 10)[0])


def test_cells_do_not_depend_on_threads_and_blocks(tmp_path, content):
    """Threads do not show in the bytes; and a group's candidates come from a gathering that is large enough."""
    base, _ = clustered(8000, 16, 1, 6, np.uint8)
    build(tmp_path / "a", base)
    build(tmp_path / "b", base, threads=3)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    build(tmp_path / "c", base, sizes=Sizes(neighborhood_rows=256))
    assert content(tmp_path / "a") == content(tmp_path / "c"), "all centroids are candidates here"


def test_means_leave_out_queries_of_the_calibration(tmp_path, monkeypatch):
    base, _ = clustered(3000, 16, 1, 7, np.float32)
    refined, means = pipeline.refine, []

    def every_other(job, work, clusters, held):
        assert len(held) == 500
        found, cells = refined(job, work, clusters, np.arange(0, len(base), 2))
        x, cell = job.space.map(clusters.vectors.read(0, len(base)))[1::2], cells.read(0, len(base))[1::2]
        for number in np.unique(cell):
            means.append((x[cell == number].mean(axis=0), found.centroids.working(slice(number, number + 1))[0]))
        return found, cells

    monkeypatch.setattr(pipeline, "refine", every_other)
    build(tmp_path / "i", base, calibration_queries=500)
    expected, centroids = (np.array(part) for part in zip(*means, strict=True))
    assert len(expected) > 50
    np.testing.assert_allclose(centroids, expected, atol=2e-3 * np.abs(base).max())


@pytest.mark.parametrize("replicas", [1, 3])
def test_copies_are_compared_piece_by_piece(tmp_path, monkeypatch, replicas):
    """They are one group, which would be compared with its candidates in one product, whatever memory that takes."""
    base, _ = clustered(1000, 16, 1, 8, np.float32)
    base = np.concatenate([base, np.repeat(base[:1], 20_000, axis=0)])
    groups, sizes = neighborhood.Neighborhoods.groups, []

    def counted(self, block):
        for group in groups(self, block):
            sizes.append(len(group.x))
            yield group

    monkeypatch.setattr(neighborhood.Neighborhoods, "groups", counted)
    build(tmp_path / "i", base, max_replicas=replicas)
    assert max(sizes) == neighborhood.PIECE_ROWS
    assert spann.verify(tmp_path / "i") == []
