"""The class that stands for scikit-learn's KNeighborsTransformer."""

from __future__ import annotations

import numpy as np
import pytest

from spann.errors import InputError
from spann.neighbors import KNeighborsTransformer
from spann.testing import clustered, exact_neighbours

pytest.importorskip("scipy")
BASE, QUERIES = clustered(800, 16, 30, 1)


@pytest.mark.parametrize("metric", ["l2", "euclidean", "cosine"])
def test_the_graph_is_that_of_the_neighbours(metric):
    made = KNeighborsTransformer(n_neighbors=6, metric=metric).fit(BASE)
    graph = made.transform(QUERIES)
    assert graph.shape == (30, 800)
    ids, distances = exact_neighbours(BASE, QUERIES, 7, "cosine" if metric == "cosine" else "l2")
    np.testing.assert_array_equal(graph.indices.reshape(30, 7), ids)
    np.testing.assert_allclose(graph.data.reshape(30, 7), distances, rtol=1e-4, atol=1e-6)


def test_connectivity_of_the_same_samples():
    graph = KNeighborsTransformer(mode="connectivity", n_neighbors=4).fit_transform(BASE.astype(np.float64))
    assert graph.shape == (800, 800)
    assert set(graph.data.tolist()) == {1.0}
    assert (np.diff(graph.indptr) == 4).all()
    assert (graph.diagonal() == 1).all()


def test_parameters():
    made = KNeighborsTransformer(n_neighbors=3)
    assert made.set_params(n_neighbors=5).get_params()["n_neighbors"] == 5
    with pytest.raises(InputError, match="has no parameter 'k'"):
        made.set_params(k=3)
    for wrong in ({"mode": "graph"}, {"metric": "ip"}):
        with pytest.raises(InputError, match=r"it must be (one of|l2)"):
            KNeighborsTransformer(**wrong).fit(BASE)
    assert list(made.fit(BASE).get_feature_names_out()[:2]) == ["kneighborstransformer0", "kneighborstransformer1"]


def test_in_a_pipeline(tmp_path):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.manifold import Isomap
    from sklearn.pipeline import make_pipeline

    assert sklearn.base.clone(KNeighborsTransformer(n_neighbors=7)).n_neighbors == 7
    chain = make_pipeline(
        KNeighborsTransformer(n_neighbors=10, path=str(tmp_path / "i")), Isomap(n_neighbors=10, metric="precomputed")
    )
    assert chain.fit_transform(BASE[:300]).shape == (300, 2)
    assert (tmp_path / "i" / "zarr.json").exists()
