"""One byte of an index is another: a verification finds it, and a search either refuses or answers as it did."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np

import spann
from spann.errors import SpannError
from spann.store.reader import IndexReader
from spann.types import SearchResult
from tests.fuzzing import indexes
from tests.fuzzing.forge import Forgery

EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)


def seeds(directory: Path) -> None:
    indexes.make(directory / "codes", "l2", "float32", 2, replicas=2, chained=True, names=True)
    indexes.make(directory / "classic", "cosine", "float32", 0, chained=True, names=True)


def mutate(seed: Path, work: Path, rng: random.Random) -> Path:
    forgery = _forgery(seed, work)
    forgery.reset()
    sizes = _sizes(seed, work)
    at = rng.randrange(sizes[-1])
    file = int(np.searchsorted(sizes, at, side="right")) - 1
    path = forgery.touch(forgery.files[file])
    data = bytearray(path.read_bytes())
    data[at - sizes[file]] ^= rng.randrange(1, 256)
    path.write_bytes(data)
    return forgery.path


def execute(path: Path) -> str:
    try:
        found = _answer(path)
    except SpannError:
        outcome = "detected"
    else:
        outcome = "harmless"
        expected = _expected(path.parent.parent / "seeds" / path.name)
        same = np.array_equal(found.ids, expected.ids) and np.array_equal(found.distances, expected.distances)
        assert same, "a search of the damaged index gives another answer"
    try:
        problems = len(IndexReader.open(path).verify())
    except SpannError:
        problems = 1
    assert problems or path.parent.name == "seeds", "a verification does not find the damage"
    return outcome


def _answer(path: Path) -> SearchResult:
    with spann.open(path, io="buffered", memory_budget="none") as index:
        return index.search(indexes._queries(index.dim, index.element), 20, EVERYTHING, threads=1)


@cache
def _expected(sound: Path) -> SearchResult:
    return _answer(sound)


@cache
def _forgery(seed: Path, work: Path) -> Forgery:
    return Forgery(seed, work / seed.name)


@cache
def _sizes(seed: Path, work: Path) -> list[int]:
    """Where each file ends, one after another; and before the first."""
    sizes = [(seed / name).stat().st_size for name in _forgery(seed, work).files]
    return [0, *np.cumsum(sizes).tolist()]
