"""Arrays of an open index with other numbers in them: what the contract lets through is searched.

The contract is spann/search/contract.py. As tests/fuzzing/indexes.py, but nothing is written: what stays on disk is the
sound index's, and arrays are changed in memory, so that a machine tries many times as many.
"""

from __future__ import annotations

import copy
import random
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import spann
from spann.errors import SpannError
from spann.format.collection import Collection
from spann.format.graph import Graph, Level
from spann.search import Engine, MemoryBudget
from spann.search.contract import Resident
from spann.search.opened import attach
from spann.store.reader import IndexReader
from tests.fuzzing import indexes
from tests.fuzzing.mutate import NUMBERS

seeds = indexes.seeds

_ABOUT = ("count", "centroids", "postings", "entries", "posting_bound", "max_norm", "graph", "id_bytes", "row_bytes")


class _Index:
    """A sound index that is open, and what it holds."""

    def __init__(self, path: Path) -> None:
        self.reader = IndexReader.open(path)
        self.engine = Engine(self.reader, io="buffered", memory_budget="none")
        self.resident = Resident.read(self.reader)
        self.arrays = [f.name for f in fields(Resident) if isinstance(getattr(self.resident, f.name), np.ndarray)]


_opened = cache(_Index)
_changed: dict[Path, tuple[_Index, Resident, dict[str, Any], int]] = {}


def mutate(seed: Path, work: Path, rng: random.Random) -> Path:
    index = _opened(seed)
    resident, attributes = copy.copy(index.resident), dict(index.reader.attributes)
    for _ in range(rng.choice((1, 1, 1, 2))):
        if rng.random() < 0.15:
            name = rng.choice(_ABOUT)
            was = attributes.get(name, 0)
            if name == "graph":
                attributes[name] = {**was, "entry": rng.choice((*NUMBERS, was["entry"] + 1))}
            else:
                attributes[name] = rng.choice((*NUMBERS, 3, 100, was + rng.choice((-1, 1))))
        elif rng.random() < 0.25:
            resident.graph = _other_graph(resident.graph, rng)
        else:
            name = rng.choice(index.arrays)
            setattr(resident, name, _other(getattr(resident, name), rng))
    _changed[work] = index, resident, attributes, rng.randrange(1 << 16)
    return work


def execute(path: Path) -> str:
    """`path` is what `mutate` returned, or a sound index."""
    index, resident, attributes, how = _changed.pop(path, None) or _sound(path)
    try:
        resident.collection = Collection.parse(attributes, "manifest")
        resident.graph = Graph(resident.collection.entry, resident.graph.levels)
        resident.check()
        files = index.engine._files
        sound, sound_count = index.engine.arrays, index.engine.count
        index.engine.arrays = attach(resident, index.reader, files, MemoryBudget.parse("64MB" if how & 1 else "none"))
        index.engine.count = resident.collection.count
    except SpannError:
        return "refused"
    try:
        index.engine._own_threads()  # searchers are of the arrays that were open
        queries = indexes._queries(index.engine.dim, index.engine.element)
        setting = spann.SearchParams(max_postings=1 + how // 16 % 64, rerank=20)
        index.engine.search(queries[: 1 + (how >> 1 & 1)], 1 + how // 8 % 20, setting, threads=1)
        if how & 12 == 0:
            index.engine.search(queries, 30, spann.SearchParams(max_postings=2**31), threads=1, order="posting")
        return "answered"
    except SpannError:
        return "refused while searching"
    finally:
        index.engine._own_threads()
        index.engine.arrays, index.engine.count = sound, sound_count


def _sound(path: Path) -> tuple[_Index, Resident, dict[str, Any], int]:
    index = _opened(path)
    return index, index.resident, index.reader.attributes, 0


def _other_graph(graph: Graph, rng: random.Random) -> Graph:
    levels = list(graph.levels)
    at = rng.randrange(len(levels))
    level = levels[at]
    name = rng.choice([n for n in ("nodes", "offsets", "neighbors") if getattr(level, n) is not None])
    parts: dict[str, Any] = {n: getattr(level, n) for n in ("nodes", "offsets", "neighbors")}
    parts[name] = _other(parts[name], rng)
    levels[at] = Level(**parts)
    return Graph(graph.entry, levels)


def _other(values: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    if rng.random() < 0.05:
        return values[: rng.randrange(len(values) + 1)]
    return indexes._changed(values, rng)
