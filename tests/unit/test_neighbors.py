"""The class that replaces scikit-learn's KNeighborsTransformer."""

from __future__ import annotations

import numpy as np
import pytest

from spann.config import BuildParams
from spann.errors import ExistsError, InputError
from spann.testing import clustered, exact_neighbours

pytest.importorskip("sklearn")
from spann.neighbors import KNeighborsTransformer

BASE, QUERIES = clustered(800, 16, 30, 1)
FEW = BuildParams(calibration_queries=0)


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


def test_invalid_parameters_are_refused():
    made = KNeighborsTransformer(n_neighbors=3)
    assert made.set_params(n_neighbors=5).get_params()["n_neighbors"] == 5
    with pytest.raises(ValueError, match="Invalid parameter 'k'"):
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


def test_the_checks_of_scikit_learn():
    """All of them, but the array API, which they skip themselves where it is not switched on."""
    pytest.importorskip("sklearn")
    from sklearn.exceptions import SkipTestWarning
    from sklearn.utils.estimator_checks import check_estimator

    with pytest.warns(SkipTestWarning, match="check_array_api_input"):
        results = check_estimator(KNeighborsTransformer(threads=1, build_params=FEW), on_fail=None)
    assert len(results) > 40
    assert [(one["check_name"], one["exception"]) for one in results if one["status"] == "failed"] == []
    assert {one["check_name"] for one in results if one["status"] == "skipped"} == {"check_array_api_input"}


def test_transform_needs_fit_and_the_same_features():
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        KNeighborsTransformer().transform(BASE)
    made = KNeighborsTransformer(n_neighbors=2).fit(BASE.tolist())
    assert made.transform(QUERIES.tolist()).shape == (30, 800)
    with pytest.raises(ValueError, match="X has 15 features, but KNeighborsTransformer is expecting 16"):
        made.transform(QUERIES[:, :15])
    assert made.get_feature_names_out()[0] == "kneighborstransformer0"
    assert repr(made) == "KNeighborsTransformer(n_neighbors=2)"


def test_a_fit_closes_the_index_of_the_one_before(tmp_path):
    for path in (None, str(tmp_path / "i")):
        made = KNeighborsTransformer(n_neighbors=3, path=path).fit(BASE[:200])
        before, place = made.index_, made.index_.path
        made.fit(BASE[:300])
        with pytest.raises(InputError, match="the index is closed"):
            before.search(BASE[:1])
        assert place.exists() == (path is not None)
        assert made.transform(BASE[:2]).shape == (2, 300)


def test_an_index_of_another_object_is_not_overwritten(tmp_path):
    path = str(tmp_path / "i")
    KNeighborsTransformer(path=path).fit(BASE[:200])
    with pytest.raises(ExistsError, match="exists"):
        KNeighborsTransformer(path=path).fit(BASE[:300])
    assert KNeighborsTransformer(path=path, overwrite=True).fit(BASE[:300]).n_samples_fit_ == 300


@pytest.mark.parametrize("value", [0, True, 2.5, "5", float("nan")])
def test_neighbours_are_a_whole_number(value):
    with pytest.raises(InputError, match="n_neighbors is"):
        KNeighborsTransformer(n_neighbors=value).fit(BASE)
    assert KNeighborsTransformer(n_neighbors=np.int64(2)).fit_transform(BASE).nnz == 3 * len(BASE)
