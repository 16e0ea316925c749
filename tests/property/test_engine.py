"""Any collection, any parameters: nothing is lost, and reading everything is brute force."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spann

EVERYTHING = spann.SearchParams(max_postings=2**31)


@st.composite
def collections(draw):
    """Vectors with clusters, copies and scale of any kind."""
    dtype = draw(st.sampled_from(["uint8", "int8", "float16", "float32"]))
    n, dim = draw(st.integers(1, 600)), draw(st.sampled_from([1, 2, 3, 8, 17, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0, 1, 4, 30]))
    values = rng.normal(0, 12, (max(1, n // 20), dim))[rng.integers(0, max(1, n // 20), n)]
    values = values + rng.normal(0, 1, (n, dim)) * spread
    if dtype == "uint8":
        values = values + 100
    if dtype in ("uint8", "int8"):
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    base = values.astype(dtype)
    copies = draw(st.sampled_from([0.0, 0.3, 1.0]))
    base[rng.random(n) < copies] = base[0]
    base[(base == 0).all(axis=1)] = 1
    return base, rng


def parameters():
    return st.builds(
        spann.BuildParams,
        posting_size=st.sampled_from([None, 1, 2, 7, 40, 3000]),
        centroids=st.sampled_from([None, 1e-6, 0.01, 0.2, 0.5]),
        max_replicas=st.sampled_from([1, 2, 8, 64]),
        epsilon1=st.sampled_from([0.0, 0.2, 1.0, 1e6]),
        rng_factor=st.sampled_from([0.1, 1.0, 10.0]),
        closure_candidates=st.sampled_from([1, 3, 128]),
        seed=st.integers(0, 2**63 - 1),
    )


@given(
    collections(), parameters(), st.sampled_from(["l2", "cosine", "ip", "hamming"]), st.booleans(), st.integers(1, 700)
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_index_builds_verifies_and_finds(check_neighbours, collection, params, metric, named, k):
    base, rng = collection
    if metric == "hamming":  # any bytes are bits
        base = base.view(np.uint8)
    queries = base[rng.integers(0, len(base), 3)]
    ids = rng.choice(2**40, len(base), replace=False) if named else None
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "i"
        with spann.build(base, path, metric=metric, params=params, ids=ids, threads=1) as index:
            found = index.search(queries, k, EVERYTHING, threads=1)
            few = index.search(queries, k, spann.SearchParams(max_postings=1, epsilon2=0.0), threads=1)
        check_neighbours(found, base, queries, k, metric, ids)
        assert spann.verify(path) == []
    held = min(k, len(base))
    for row in few.ids:
        assert len(set(row[:held].tolist())) == held
        assert (row[:held] >= 0).all()
