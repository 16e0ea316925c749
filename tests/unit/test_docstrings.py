"""Every example in a docstring runs, in an empty directory and with nothing but what it imports itself."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import pytest

import spann
from spann import neighbors, types, vectors

LIBRARIES = {
    "spann.jobs.methods.JobMethods.duplicates": ("scipy",),
    "spann.neighbors.KNeighborsTransformer": ("scipy",),
    "spann.types.SearchResult.to_pandas": ("pandas",),
}
"""What examples need that not everyone has."""

OPTIONAL = {"h5py", "pandas", "scipy", "matplotlib"}


def modules():
    """All modules of the package that can be imported here; those that run a program are none to import."""
    for found in pkgutil.walk_packages(spann.__path__, "spann."):
        if found.name.rpartition(".")[2] == "__main__":
            continue
        try:
            yield importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise


def examples():
    """All docstrings with examples, by name."""
    # Without the globals of their modules: an example works for whoever copies it.
    finder = doctest.DocTestFinder()
    found = [test for module in [spann, *modules()] for test in finder.find(module, globs={})]
    return {test.name: test for test in found if test.examples}


EXAMPLES = examples()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_runs(name, tmp_path, monkeypatch):
    for library in LIBRARIES.get(name, ()):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    result = runner.run(EXAMPLES[name], out=told.append)
    assert result.attempted
    assert not result.failed, "".join(told)


def test_an_example_that_is_wrong_fails(tmp_path, monkeypatch):
    """The runner above is not blind."""
    monkeypatch.chdir(tmp_path)
    text = ">>> import spann\n>>> spann.verify('nothing')\n[]\n"
    test = doctest.DocTestParser().get_doctest(text, {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1


def test_public_functions_have_an_example():
    public = {name: getattr(spann, name) for name in spann.__all__}
    functions = [found for found in public.values() if inspect.isfunction(found)]
    methods = [spann.Index.search, spann.Index.search_async, spann.Index.search_range, spann.Index.iterate]
    methods += [spann.Index.explain, spann.Index.params_for, spann.Index.info, spann.Index.search_batches]
    methods += [spann.Index.add, spann.Index.upsert, spann.Index.delete, spann.Index.get, spann.Index.refresh]
    methods += [spann.Index.flush, spann.Index.optimize, spann.Index.matching, spann.Index.values]
    methods += [spann.Index.vectors, spann.Index.knn_graph, spann.Index.duplicates, spann.Index.assign]
    others = [vectors.open_source, vectors.convert, vectors.read_ids, vectors.read_truth]
    others += [neighbors.KNeighborsTransformer, types.SearchResult]
    # append, build, calibrate, col, create, join, open, open_source, plan, snapshot, verify
    assert len(functions) == 11
    for one in [*functions, *methods, *others]:
        assert f"{one.__module__}.{one.__qualname__}" in EXAMPLES, one


def test_examples_name_their_libraries():
    assert set(LIBRARIES) <= set(EXAMPLES)
