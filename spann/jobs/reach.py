"""How many centroids a search for pairs looks at, for a share of the pairs that it is to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from spann.errors import InputError
from spann.jobs.forest import components
from spann.jobs.own import OwnVectors
from spann.jobs.pairs import AT_ONCE, Pairs
from spann.types import Array

LADDER = (8, 32, AT_ONCE, 512, 2048)
"""Centroids in a row without a near vector, after which those beyond are passed over. After these come all of them."""

SAMPLE_ROWS = 1000
"""Vectors that are compared with all others."""

PARTNERS = 16
"""Near vectors of each of them that count."""

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Reach:
    """What was chosen: `at_once` centroids; of `pairs` in the sample, the share `found` with them."""

    at_once: int
    pairs: int
    found: float


def choose_reach(pairs: Pairs, target: float, seed: int = 0) -> Reach:
    """The fewest centroids with which `pairs` finds the share `target` of all pairs within its radius, as far as a
    sample of vectors tells that are compared with the whole collection. Without a pair in the sample, the default."""
    if not 0 < target < 1:
        raise InputError(f"target is {target!r}; it must be between 0 and 1")
    collection, rng = pairs.collection, np.random.default_rng(seed)
    rows = np.sort(rng.choice(collection.count, min(SAMPLE_ROWS, collection.count), replace=False))
    true = _true_pairs(pairs, rows, rng)
    if not len(true):
        return Reach(AT_ONCE, 0, 1.0)
    postings = np.unique(_postings_of(collection, true.reshape(-1)))
    for at_once in (*(step for step in LADDER if step < pairs.centroids), pairs.centroids):
        with threadpool_limits(1):
            edges = pairs.looking(at_once).between(postings)
        label = components(edges, collection.count)
        found = float((label[true[:, 0]] == label[true[:, 1]]).mean())
        if found >= target:
            break
    return Reach(at_once, len(true), found)


def _true_pairs(pairs: Pairs, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Pairs (n, 2) of `rows` and any others of the collection within the radius, at most `PARTNERS` of each row."""
    collection = pairs.collection
    raw = collection.take(rows)
    mine, held = pairs.working(raw), list[NDArray[np.int64]]()
    for start in range(0, collection.count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, collection.count)
        vectors = collection.read(start, stop)[1]
        i, j = np.nonzero(pairs.maybe_near(mine, pairs.working(vectors)))
        few = np.arange(len(i)) - np.searchsorted(i, i) < 4 * PARTNERS  # where most are near, as among copies
        i, j = i[few], j[few]
        near = pairs.within(raw, i, vectors, j) & (rows[i] != start + j)
        held.append(np.stack([rows[i[near]], start + j[near]], axis=1))
    every = np.concatenate(held)
    every = every[rng.permutation(len(every))]
    every = every[np.argsort(every[:, 0], kind="stable")]
    first = np.searchsorted(every[:, 0], every[:, 0])
    return np.asarray(every[np.arange(len(every)) - first < PARTNERS])


def _postings_of(collection: OwnVectors, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The posting whose cell has each row."""
    found: Array = np.searchsorted(collection.first, rows, side="right") - 1
    led = rows < collection.led
    found[led] = collection.leading[rows[led]]
    return found
