"""Columns in memory, for tests of filters: values as Python has them, None where there is none."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spann.format.columns import BOOL, DATE, STRING, TAGS, TIMESTAMP, Column
from spann.format.words import Words

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class MemoryColumns:
    """What `evaluate` reads, of lists of values; the kind of each column is given."""

    def __init__(self, kinds: Mapping[str, str], values: Mapping[str, Sequence[Any]], ids: Sequence[int] | None = None):
        self.rows = len(next(iter(values.values())))
        self.given = values
        self._ids = list(range(self.rows)) if ids is None else list(ids)
        self.schema: dict[str, Column] = {}
        self._words: dict[str, Words] = {}
        for name, kind in kinds.items():
            words: set[str] = set()
            for value in values[name]:
                if value is not None and kind in (STRING, TAGS):
                    words |= {value} if kind == STRING else set(value)
            self._words[name] = Words.of(words)
            nulls = any(value is None for value in values[name])
            self.schema[name] = Column(name, kind, nulls=nulls, words=len(words))

    def column(self, name):
        return self.schema[name]

    def words(self, name):
        return self._words[name]

    def values(self, name, start, stop):
        column = self.schema[name]
        return np.array([self._stored(column, value) for value in self.given[name][start:stop]], column.dtype)

    def _stored(self, column, value):
        if value is None:
            return 0
        if column.kind == STRING:
            return self._words[column.name].find(value)
        if column.kind == DATE:
            return (value - EPOCH.date()).days
        if column.kind == TIMESTAMP:
            return (value - EPOCH) // datetime.timedelta(microseconds=1)
        return int(value) if column.kind == BOOL else value

    def tags(self, name, start, stop):
        sets = [sorted(set(value or ())) for value in self.given[name][start:stop]]
        codes = [self._words[name].find(word) for words in sets for word in words]
        return np.array(codes, np.uint32), np.array([len(words) for words in sets], np.int64)

    def valid(self, name, start, stop):
        if not self.schema[name].nulls:
            return None
        return np.array([value is not None for value in self.given[name][start:stop]], np.bool_)

    def places_of(self, ids):
        known = {row: place for place, row in enumerate(self._ids)}
        return np.array([known[i] for i in ids.tolist() if i in known], np.int64)
