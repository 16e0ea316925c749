"""Edges become postings without losing a vector, and postings get places that a reader can rely on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spann.building.edges import EDGE, EdgeSpool, pack_edges
from spann.building.sizes import Sizes
from spann.building.space import Space
from spann.building.stages import layout
from spann.building.stages.layout import TAIL_CUT, cut, lay_out, place
from spann.building.workspace import Workspace
from spann.format.postings import PAGE, Record
from spann.types import Metric
from spann.vectors import open_source
from tests import builds


@st.composite
def sizes(draw):
    """(sizes of postings in bytes, pages per shard): every size fits in a shard."""
    pages_per_shard = draw(st.sampled_from([1, 2, 3, 7, 64, 65_536]))
    largest = min(pages_per_shard, 9) * PAGE
    record = draw(st.sampled_from([1, 17, 132, 516, 1000, 4095, 4096, 4097, 8200]))
    near_page = st.integers(0, largest // PAGE).flatmap(lambda n: st.integers(max(0, n * PAGE - 2), n * PAGE + 2))
    size = st.one_of(
        st.integers(0, largest // record).map(lambda n: n * record),
        near_page.map(lambda n: min(n, largest)),
        st.integers(0, PAGE),
    )
    return np.array(draw(st.lists(size, max_size=60)), np.int64), pages_per_shard


@given(sizes())
@settings(max_examples=150, deadline=None)
def test_places_follow_the_rules_of_pages(case):
    size, pages_per_shard = case
    page, offset, pages = place(size, pages_per_shard)
    start = page.astype(np.int64) * PAGE + offset
    end = start + size
    used = size > 0
    assert (offset < PAGE).all()
    assert (end[used] <= pages * PAGE).all()
    last_page = (end - 1) // PAGE
    touched = last_page - page + 1
    np.testing.assert_array_equal(touched[used], -(-size[used] // PAGE), "more pages than the size needs")
    np.testing.assert_array_equal(page[used] // pages_per_shard, last_page[used] // pages_per_shard, "crosses a shard")
    order = np.argsort(start[used], kind="stable")
    assert (start[used][order][1:] >= end[used][order][:-1]).all(), "two postings overlap"
    assert pages <= 2 * (-(-size // PAGE)).sum()


def test_places_waste_little():
    """On postings as they come from a build, pages are nearly full."""
    size = np.random.default_rng(0).integers(1, 64, 5000) * 132
    page, offset, pages = place(size, 65_536)
    assert size.sum() / (pages * PAGE) > 0.97
    assert len(np.unique(page.astype(np.int64) * PAGE + offset)) == len(size)
    middle = (page.astype(np.int64) * PAGE + offset) / (pages * PAGE) - np.arange(5000) / 5000
    assert np.abs(middle).max() < 2 * layout.WINDOW / 5000, "neighbours in space are neighbours on disk"


def test_a_collection_over_several_windows_and_shards():
    size = np.random.default_rng(1).integers(0, 9 * PAGE, 3000)
    page, offset, pages = place(size, 16)
    start = page.astype(np.int64) * PAGE + offset
    used = size > 0
    assert (page[used] // 16 == ((start + size - 1) // PAGE)[used] // 16).all()
    assert (np.diff(np.sort(start[used])) >= 0).all()
    order = np.argsort(start, kind="stable")
    order = order[used[order]]
    assert (start[order][1:] >= (start + size)[order][:-1]).all()
    assert pages >= page.max()


def test_empty_postings_take_no_place():
    for size in (np.zeros(0, np.int64), np.zeros(7, np.int64)):
        page, offset, pages = place(size, 64)
        assert (len(page), len(offset), pages) == (len(size), len(size), 0)


RECORDS = st.one_of(
    st.sampled_from([40, 132, 400, 3000, 9000]).map(lambda size: Record(0, size, size)),
    st.sampled_from([12, 40, 200, 3000]).map(lambda size: Record(20, size, size + 4)),
)


@st.composite
def edge_lists(draw):
    centroids = draw(st.integers(1, 6))
    rows = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    copies = rng.integers(1, centroids + 1, rows)
    row = np.repeat(np.arange(rows), copies)
    replica = np.concatenate([np.arange(n) for n in copies]) if rows else np.zeros(0, int)
    skew = draw(st.sampled_from([0, 1, 5]))
    primary = rng.permuted(np.tile(np.arange(centroids), (rows, 1)), axis=1).reshape(rows, centroids)
    primary.sort(axis=1) if skew == 5 else None
    centroid = primary[row, replica] if rows else np.zeros(0, int)
    sqdist = rng.integers(0, 5 if skew else 10_000, len(row)).astype(np.float32)
    order = rng.permutation(len(row))
    first = draw(st.sampled_from([0, 1000]))
    made = pack_edges((centroid + first)[order], sqdist[order], row[order], replica.astype(np.uint8)[order])
    return made, first, first + centroids, draw(st.integers(1, 40)), draw(RECORDS)


@given(edge_lists())
@settings(max_examples=150, deadline=None)
def test_a_cut_keeps_every_primary_and_the_nearest_replicas(case):
    made, first, last, bound, record = case
    postings = cut(made, first, last, bound, record)
    assert len(postings.owner) == len(postings.length) == len(postings.primaries)
    np.testing.assert_array_equal(np.unique(postings.owner), np.arange(first, last))
    assert postings.length.sum() == len(postings.rows)
    assert (postings.length <= bound).all()
    assert (postings.primaries <= postings.length).all()
    ends = np.cumsum(postings.length.astype(np.int64))
    chain = np.searchsorted(postings.owner, np.arange(first, last + 1))
    for c in range(last - first):
        own = made[made["centroid"] == c + first]
        expected = own[np.lexsort((own["row"], own["sqdist"], own["replica"] > 0))]["row"]
        primaries = int((own["replica"] == 0).sum())
        of = slice(chain[c], chain[c + 1])
        begin = ends[chain[c] - 1] if chain[c] else 0
        kept = postings.rows[begin : ends[chain[c + 1] - 1]]
        np.testing.assert_array_equal(kept, expected[: len(kept)], "primaries first, then the nearest replicas")
        assert len(kept) >= primaries, "a primary was lost"
        assert postings.primaries[of].sum() == min(primaries, len(kept))
        assert (postings.primaries[of][:-1] == postings.length[of][:-1]).all()
        if len(kept) < len(expected):
            limit = max(primaries, min(bound, len(expected)))
            cut_off = limit - len(kept)
            assert (cut_off - 1) * record.replica <= TAIL_CUT * PAGE, "more than the bound or a short last page was cut"
            assert cut_off == 0 or len(kept) == primaries or _fills_pages(len(kept), primaries, record)
        if len(postings.length[of]) > 1:
            assert len(kept) > bound
            assert np.ptp(postings.length[of].astype(int)) <= 1, "a chain shares evenly"


def _fills_pages(length, primaries, record):
    """Whether the entries need all of their last page, or none of it is left but a tail that was cut off."""
    if record.header == 0:
        return length % (PAGE // record.primary) == 0
    pages = -(-int(record.size(np.array(length), np.array(primaries))) // PAGE)
    return int(record.size(np.array(length + 1), np.array(primaries))) > pages * PAGE


def test_edges_come_back_by_centroid_whatever_the_number_of_buckets(tmp_path):
    rng = np.random.default_rng(2)
    made = np.zeros(5000, EDGE)
    made["centroid"] = rng.integers(0, 300, 5000)
    made["row"] = rng.permutation(2**33 + np.arange(5000))
    made["sqdist"] = rng.random(5000)
    made["replica"] = rng.integers(0, 8, 5000)
    found = []
    for number, size in enumerate((1 << 30, 4096)):
        (tmp_path / str(number)).mkdir()
        with EdgeSpool(tmp_path / str(number), 300, 5000, Sizes(bucket_bytes=size)) as spool:
            for start in range(0, 5000, 700):
                spool.append(made[start : start + 700])
            parts, reached = [], 0
            for i in range(spool.buckets):
                first, last, part = spool.bucket(i)
                assert first == reached
                assert ((part["centroid"] >= first) & (part["centroid"] < last)).all()
                parts.append(part)
                reached = last
            assert reached == 300
            found.append((spool.buckets, np.concatenate(parts)))
    assert found[0][0] == 1
    assert found[1][0] > 10
    for _, everything in found:
        np.testing.assert_array_equal(np.sort(everything, order=["row"]), np.sort(made, order=["row"]))
    directories, kept = [], []
    for number, size in enumerate((1 << 30, 4096)):
        sizes = Sizes(bucket_bytes=size, shard_bytes=64 * PAGE)
        source = open_source(np.zeros((5000, 128), np.uint8))
        job = builds.job(source, Space(Metric.L2, 128, 0.0, np.zeros(128, np.float32)), sizes=sizes, posting_size=20)
        assert job.record == Record(0, 132, 132)
        with (
            Workspace(tmp_path / f"laid-out-{number}", created_by="test", sizes=sizes) as work,
            EdgeSpool(work.temporary, 300, 5000, sizes) as spool,
        ):
            spool.append(made)
            laid = lay_out(job, work, spool)
            directories.append(laid.directory)
            kept.append(laid.kept.read(0, laid.kept.count))
    for name in ("page", "offset", "length", "primaries", "owner"):
        np.testing.assert_array_equal(*(getattr(directory, name) for directory in directories))
    np.testing.assert_array_equal(*kept)
    assert len(kept[0]) == directories[0].length.sum() > 4000


@pytest.mark.parametrize("pages_per_shard", [2, 4])
def test_two_long_postings_that_share_a_page_do_not_outgrow_a_shard(pages_per_shard):
    """Each fits a shard, but both around their common page do not."""
    size = np.array([pages_per_shard * PAGE - 3000, pages_per_shard * PAGE - 3000])
    page, _, pages = place(size, pages_per_shard)
    assert page.tolist() == [0, pages_per_shard]
    assert pages == 2 * pages_per_shard


def test_entries_of_codes_a_thousand_times_as_far_get_postings_of_their_own() -> None:
    sqdist = np.array([1, 2, 3, 4, 5e6, 6e6, 7e13, 1, 2, 9e9], np.float32)
    edges = np.zeros(10, EDGE)
    edges["centroid"] = [3, 3, 3, 3, 3, 3, 3, 4, 4, 4]
    edges["sqdist"], edges["row"] = sqdist, np.arange(10)
    edges["replica"] = [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    coded = cut(edges, 3, 6, 100, Record.coded(4, 4, 32, 2))
    assert coded.owner.tolist() == [3, 3, 3, 4, 5]
    assert coded.length.tolist() == [3, 1, 2, 2, 0]
    assert coded.primaries.tolist() == [3, 1, 2, 2, 0]
    assert coded.rows.tolist() == [0, 1, 3, 6, 4, 5, 7, 8]
    assert cut(edges, 3, 6, 100, Record.exact(4, 32)).owner.tolist() == [3, 4, 5]
