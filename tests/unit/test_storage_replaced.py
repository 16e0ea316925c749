"""An index is replaced while it is read: no false alarm, and no mixture of both."""

from __future__ import annotations

import os

import numpy as np
import pytest

import spann
from spann.errors import CorruptionError, MissingError, StorageError
from spann.store import reader
from spann.store.reader import IndexReader, on_current
from spann.store.writer import IndexWriter


def write(path, value, overwrite=True):
    with IndexWriter(path, created_by="test", overwrite=overwrite) as writer:
        writer.write_array("group/values", np.full(100, value))
        writer.publish({"value": value})


def test_a_reader_stays_with_the_index_that_it_opened(tmp_path):
    write(tmp_path / "i", 1)
    opened = IndexReader.open(tmp_path / "i")
    assert opened.is_current()
    write(tmp_path / "i", 2)
    assert not opened.is_current()
    with pytest.raises(MissingError, match="missing from the index"):  # never what the new one has there
        opened.read("group/values")
    assert IndexReader.open(tmp_path / "i").read("group/values")[0] == 2


def test_an_open_that_fails_during_a_replacement_is_repeated(tmp_path):
    write(tmp_path / "i", 1)
    seen = []

    def work(index):
        seen.append(index.attributes["value"])
        if len(seen) < 3:
            write(tmp_path / "i", len(seen) + 1)
        return int(index.read("group/values")[0])

    assert on_current(tmp_path / "i", work) == 3
    assert seen == [1, 2, 3]


def test_damage_is_not_looked_at_twice(tmp_path):
    write(tmp_path / "i", 1)
    seen = []

    def work(index):
        seen.append(index)
        raise CorruptionError("damaged")

    with pytest.raises(CorruptionError):
        on_current(tmp_path / "i", work)
    assert len(seen) == 1


def test_an_index_replaced_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "REPLACED", 3)
    write(tmp_path / "i", 1)

    def work(index):
        write(tmp_path / "i", 2)
        return index.read("group/values")

    with pytest.raises(StorageError, match="was replaced 3 times"):
        on_current(tmp_path / "i", work)


def test_verifying_and_opening_continue_with_the_new_index(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    params = spann.BuildParams(calibration_queries=0)
    spann.build(vectors, tmp_path / "i", params=params).close()
    left = [0]
    checksums = IndexReader.checksums

    def slow(self, name):
        if left[0]:
            left[0] -= 1
            spann.build(vectors, tmp_path / "i", params=params, overwrite=True).close()
        return checksums(self, name)

    monkeypatch.setattr(IndexReader, "checksums", slow)
    left[0] = 1
    assert spann.verify(tmp_path / "i") == []
    left[0] = 1
    before = len(os.listdir("/proc/self/fd"))
    with spann.open(tmp_path / "i") as index:
        assert len(index) == 300
    assert len(os.listdir("/proc/self/fd")) == before
