"""Updates that are cut off at any system call: what was acknowledged is there, and perhaps what was under way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.errors import SpannError, StorageError
from spann.store import files
from spann.testing import FaultyDisk, PowerCut, PowerCutDisk
from spann.updating import maintenance

STEP = int(os.environ.get("SPANN_CUT_STEP", "733"))
"""Distance between the calls that are cut. With 1 the tests take hours."""

DIM = 8
PARAMS = spann.BuildParams(code_bits=2, posting_size=8, calibration_queries=0)
EVERYTHING = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)

Model = dict[int, list[float]]
Steps = list[Callable[[spann.Index, Model], None]]


def vectors_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def put(seed: int, *ids: int) -> Callable[[spann.Index, Model], None]:
    def step(index: spann.Index, model: Model) -> None:
        vectors = vectors_of(seed, len(ids))
        model.update(zip(ids, vectors.tolist(), strict=True))
        index.upsert(list(ids), vectors)

    return step


def gone(*ids: int) -> Callable[[spann.Index, Model], None]:
    def step(index: spann.Index, model: Model) -> None:
        for i in ids:
            model.pop(i, None)
        index.delete(list(ids))

    return step


def flush(index: spann.Index, model: Model) -> None:
    index.flush()


def rebuild(index: spann.Index, model: Model) -> None:
    index.optimize(rebuild=True)


def purge(index: spann.Index, model: Model) -> None:
    index.optimize(purge=True)


HISTORIES: dict[str, Steps] = {
    "writes": [put(1, 3, 70), gone(4), put(2, 70), gone(70, 5)],
    "flush": [gone(1, 2), flush, put(4, 80, 81), flush, put(5, 80, 7), flush, gone(81)],
    "rebuild": [put(6, 9, 90), rebuild, gone(9), purge],
    "all gone": [gone(*range(40)), flush, put(7, 1), flush],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("built") / "i"
    spann.build(vectors_of(0, 40), path, params=PARAMS).close()
    return path


def made(built: Path, place: Path) -> Model:
    place.mkdir()
    shutil.copytree(built, place / "i")
    return dict(enumerate(vectors_of(0, 40).tolist()))


def state(path: Path) -> Model:
    """All that a search finds, and `get` returns."""
    with spann.open(path, memory_budget="none") as index:
        n = len(index)
        if n == 0:
            assert (index.search(np.zeros(DIM, np.float32), 3).ids == -1).all()
            return {}
        found = np.concatenate([ids for ids, _ in index.iterate(np.zeros(DIM, np.float32), 20, params=EVERYTHING)])
        assert len(found) == n
        return dict(zip(found.tolist(), index.get(found).tolist(), strict=True))


def played(path: Path, steps: Steps, acknowledged: list[Model]) -> None:
    """Takes the steps; `acknowledged` gets the model before and after each."""
    model = acknowledged[-1]
    with spann.open(path, memory_budget="none") as index:
        for step in steps:
            model = dict(model)
            acknowledged.append(model)
            step(index, model)
            acknowledged[:] = [model]


@pytest.mark.parametrize("name", HISTORIES)
def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path, monkeypatch, built, name):
    cut, done = len(name), False
    while not done:
        place = tmp_path / str(cut)
        acknowledged = [made(built, place)]
        disk = PowerCutDisk(cut, seed=cut)
        with monkeypatch.context() as patch:
            patch.setattr(files, "system", disk)
            try:
                played(place / "i", HISTORIES[name], acknowledged)
                done = True
            except PowerCut:
                pass
        disk.restart()
        found = state(place / "i")
        assert found in acknowledged
        assert spann.verify(place / "i") == []
        after = [found]
        played(place / "i", [put(9, 0, 99), flush], after)
        assert state(place / "i") == after[-1]
        assert spann.verify(place / "i") == []
        assert {p.name for p in place.iterdir()} == {"i", "i.log"}
        cut += STEP
    assert cut > STEP


@pytest.mark.parametrize("call", ["write", "open", "mkdir", "link", "rename", "pwrite"])
def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch, built, call):
    for after in range(0, 200, 61):
        place = tmp_path / f"{after}"
        acknowledged = [made(built, place)]
        with monkeypatch.context() as patch:
            disk = FaultyDisk(call, after)
            patch.setattr(files, "system", disk)
            with contextlib.suppress(SpannError):
                played(place / "i", HISTORIES["flush"], acknowledged)
        assert state(place / "i") in acknowledged
        assert spann.verify(place / "i") == []
        if not disk.failed:
            break


def test_a_full_log_refuses_writes_with_the_reason_until_there_is_room(tmp_path, monkeypatch, built):
    monkeypatch.setattr(maintenance, "LEAST_OPERATIONS", 4)
    monkeypatch.setattr(maintenance, "MOST_OPERATIONS", 4)
    made(built, tmp_path / "p")
    path = tmp_path / "p" / "i"
    with spann.open(path) as index:
        index.upsert([1], vectors_of(1, 1))
        with monkeypatch.context() as patch:
            patch.setattr(files, "system", FaultyDisk("link", 0, errno.ENOSPC))
            for i in range(20):
                if i + 1 >= 16:
                    with pytest.raises(StorageError, match=r"log is full and cannot be flushed.*No space left"):
                        index.upsert([i + 100], vectors_of(i, 1))
                else:
                    index.upsert([i + 100], vectors_of(i, 1))
            assert index.search(vectors_of(3, 1), 1).ids.tolist() == [[103]]
        index.upsert([999], vectors_of(77, 1))
        assert index.search(vectors_of(77, 1), 1).ids.tolist() == [[999]]
        assert index.version.generation > 1
    assert spann.verify(path) == []
