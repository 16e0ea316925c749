"""Indexes with updates whose every checksum holds and whose rows, bits or ids contradict each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spann
from spann.format.manifest import RESERVED
from spann.format.updates import IDS, LIVE, ROWS
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "i"
    base = np.random.default_rng(3).normal(size=(203, 8)).astype(np.float32)
    params = spann.BuildParams(code_bits=2, posting_size=20, calibration_queries=0)
    with spann.build(base, path, params=params) as index:
        index.upsert([3, 500], base[:2])
        index.delete([7])
        index.flush()
    return path


def bit_more(arrays: Arrays, about: Arrays) -> None:
    """A dead row comes back: its id has two rows, or none at all."""
    dead = np.flatnonzero(np.unpackbits(arrays[LIVE], bitorder="little", count=about["count"]) == 0)[0]
    arrays[LIVE][dead // 8] |= 1 << dead % 8
    about["updates"]["live"] += 1


def bit_less(arrays: Arrays, about: Arrays) -> None:
    arrays[LIVE][0] &= 0xFE


def bits_behind(arrays: Arrays, about: Arrays) -> None:
    assert about["count"] % 8
    arrays[LIVE][-1] |= 0x80


def row_beyond(arrays: Arrays, about: Arrays) -> None:
    arrays[ROWS][5] = about["count"]


def rows_swapped(arrays: Arrays, about: Arrays) -> None:
    arrays[ROWS][[10, 11]] = arrays[ROWS][[11, 10]]


def ids_unsorted(arrays: Arrays, about: Arrays) -> None:
    arrays[IDS][[10, 11]] = arrays[IDS][[11, 10]]


def row_twice(arrays: Arrays, about: Arrays) -> None:
    arrays[ROWS][10] = arrays[ROWS][11]


def runs_beyond(arrays: Arrays, about: Arrays) -> None:
    about["updates"]["runs"][-1] += 1


def ids_of_users(arrays: Arrays, about: Arrays) -> None:
    about["ids"] = "row"


def no_lineage(arrays: Arrays, about: Arrays) -> None:
    about["updates"]["lineage"] = "mine"


def too_many_live(arrays: Arrays, about: Arrays) -> None:
    about["updates"]["live"] = about["count"] + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bit_more, "has no entry in by_id|two live rows have the id|names a live row twice"),
        (bit_less, "rows of vectors/live are live; the manifest says"),
        (bits_behind, "bits after those of its"),
        (row_beyond, "by_id gives id"),
        (rows_swapped, "which by_id gives id"),
        (ids_unsorted, "and ids ascend"),
        (row_twice, "names a live row twice|has no entry in by_id"),
        (runs_beyond, "expected uint"),
        (ids_of_users, "ids must be user"),
        (no_lineage, "eight hexadecimal digits"),
        (too_many_live, "live is"),
    ],
)
def test_contradictions_are_found(
    sound: Path, tmp_path: Path, change: Callable[[Arrays, Arrays], None], message: str
) -> None:
    reader = IndexReader.open(sound)
    arrays = {name: reader.read(name).copy() for name in reader.arrays()}
    about = {name: value for name, value in reader.attributes.items() if name not in RESERVED}
    about["updates"] = {**about["updates"], "runs": list(about["updates"]["runs"])}
    change(arrays, about)
    with IndexWriter(tmp_path / "i", created_by="test") as writer:
        for name, values in arrays.items():
            writer.write_array(name, values)
        writer.publish(about, features=reader.attributes["features"])
    problems = [problem.detail for problem in spann.verify(tmp_path / "i")]
    assert len(problems) == 1
    assert any(part in problems[0] for part in message.split("|")), problems


def test_the_sound_index_is_sound(sound: Path) -> None:
    assert spann.verify(sound) == []
