"""Canonical filters and columns become places: the stored rows that match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from spann.filters.canonical import (
    Among,
    Constant,
    Either,
    Every,
    Filter,
    HasAll,
    Leaf,
    Like,
    Missing,
    OfIds,
    Within,
)
from spann.filters.patterns import pattern
from spann.format.columns import TAGS, Column
from spann.format.words import Words
from spann.types import Array

BLOCK = 1 << 16
"""Rows looked at together; a multiple of 8."""

SPARSE = 32
"""Fewer matches than one in so many rows are kept as a list, more as bits: that is where both take the same memory."""

FEW_VALUES = 8
"""Numbers up to so many are compared one by one."""

Mask = NDArray[np.bool_]


class Columns(Protocol):
    """What evaluation reads: columns of `rows` places."""

    @property
    def rows(self) -> int: ...

    def column(self, name: str) -> Column:
        """What the column is."""

    def values(self, name: str, start: int, stop: int) -> Array:
        """Numbers, or numbers of words, of places `start` to `stop`; anything where there is no value."""

    def tags(self, name: str, start: int, stop: int) -> tuple[Array, NDArray[np.int64]]:
        """Numbers of words, and how many each place has (stop - start,)."""

    def valid(self, name: str, start: int, stop: int) -> Mask | None:
        """Where there is a value; None: everywhere."""

    def words(self, name: str) -> Words:
        """The dictionary of a column of strings or tags."""

    def places_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of those of these ids that there are, in any order."""


@dataclass(frozen=True)
class Places:
    """Places that match: `count` of `rows`, as ascending numbers if they are few, else as bits (place p is bit p % 8
    of byte p // 8)."""

    rows: int
    count: int
    content: NDArray[np.int64] | NDArray[np.uint8]

    @classmethod
    def of_bits(cls, bits: NDArray[np.uint8], rows: int) -> Places:
        """From bits, in the form that takes less memory."""
        count = int(np.bitwise_count(bits).sum())
        if count * SPARSE >= rows:
            return cls(rows, count, bits)
        return cls(rows, count, np.flatnonzero(np.unpackbits(bits, count=rows, bitorder="little")))

    @classmethod
    def of_list(cls, places: NDArray[np.int64], rows: int) -> Places:
        """From distinct places in ascending order."""
        if len(places) * SPARSE < rows:
            return cls(rows, len(places), places)
        return cls(rows, len(places), _bits(places, rows))

    @property
    def bits(self) -> NDArray[np.uint8]:
        """The places as bits, (ceil(rows / 8),)."""
        if self.is_list:
            return _bits(self.content, self.rows)
        return cast("NDArray[np.uint8]", self.content)

    @property
    def list(self) -> NDArray[np.int64]:
        """The places as ascending numbers, (count,)."""
        if self.is_list:
            return cast("NDArray[np.int64]", self.content)
        return np.flatnonzero(_mask(self.bits, self.rows))

    @property
    def is_list(self) -> bool:
        return self.content.dtype == np.int64

    @property
    def nbytes(self) -> int:
        return self.content.nbytes

    def __and__(self, other: Places) -> Places:
        if self.is_list and other.is_list:
            return Places.of_list(np.intersect1d(self.list, other.list, assume_unique=True), self.rows)
        return Places.of_bits(self.bits & other.bits, self.rows)

    def __or__(self, other: Places) -> Places:
        return Places.of_bits(self.bits | other.bits, self.rows)

    def __invert__(self) -> Places:
        return Places.of_bits(np.packbits(~_mask(self.bits, self.rows), bitorder="little"), self.rows)


def _mask(bits: NDArray[np.uint8], rows: int) -> Mask:
    return np.unpackbits(bits, count=rows, bitorder="little").view(np.bool_)


def _bits(places: Array, rows: int) -> NDArray[np.uint8]:
    found = np.zeros(-(-rows // 8), np.uint8)
    np.bitwise_or.at(found, places >> 3, np.left_shift(np.uint8(1), (places & 7).astype(np.uint8)))
    return found


Test = Callable[[int, int], Mask]
"""Whether each place from the first to the second number (exclusive) matches."""


def evaluate(wanted: Filter, columns: Columns) -> Places:
    """The places that match. It looks at a block of rows at a time, so memory is bounded by the result."""
    rows = columns.rows
    if isinstance(wanted, OfIds) and not wanted.negated:
        return Places.of_list(np.unique(columns.places_of(wanted.ids)), rows)
    test = _test(wanted, columns)
    bits = np.zeros(-(-rows // 8), np.uint8)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        bits[start // 8 : -(-stop // 8)] = np.packbits(test(start, stop), bitorder="little")
    return Places.of_bits(bits, rows)


def _test(wanted: Filter, columns: Columns) -> Test:
    if isinstance(wanted, Constant):
        value = wanted.value
        return lambda start, stop: np.full(stop - start, value)
    if isinstance(wanted, OfIds):
        return _of_ids(wanted, columns)
    if isinstance(wanted, Every | Either):
        return _joined([_test(part, columns) for part in wanted.parts], isinstance(wanted, Every))
    assert isinstance(wanted, Leaf)
    name, negated = wanted.column, wanted.negated
    if isinstance(wanted, Missing):
        return lambda start, stop: _missing(columns.valid(name, start, stop), stop - start, negated)
    leaf = _leaf(wanted, columns)

    def test(start: int, stop: int) -> Mask:
        found = leaf(start, stop)
        if negated:
            found = ~found
        valid = columns.valid(name, start, stop)
        return found if valid is None else found & valid

    return test


def _joined(tests: list[Test], conjunction: bool) -> Test:
    """AND or OR; a block that is decided is not looked at further."""

    def test(start: int, stop: int) -> Mask:
        found = tests[0](start, stop)
        for other in tests[1:]:
            if conjunction:
                if not found.any():
                    break
                found = found & other(start, stop)
            else:
                if found.all():
                    break
                found = found | other(start, stop)
        return found

    return test


def _missing(valid: Mask | None, rows: int, negated: bool) -> Mask:
    present = np.ones(rows, np.bool_) if valid is None else valid
    return present if negated else ~present


def _of_ids(wanted: OfIds, columns: Columns) -> Test:
    places, negated = np.unique(columns.places_of(wanted.ids)), wanted.negated

    def test(start: int, stop: int) -> Mask:
        found = np.full(stop - start, negated)
        low, high = np.searchsorted(places, [start, stop])
        found[places[low:high] - start] = not negated
        return found

    return test


def _leaf(wanted: Leaf, columns: Columns) -> Test:
    """A test of values, whatever it says of places without one."""
    name, column = wanted.column, columns.column(wanted.column)
    if not column.has_words:
        number = _number(wanted, column.dtype)
        return lambda start, stop: number(columns.values(name, start, stop))
    words = columns.words(name)
    chosen = np.zeros(max(1, len(words)), np.bool_)
    chosen[_word_numbers(wanted, words)] = True
    if column.kind != TAGS:
        return lambda start, stop: chosen[columns.values(name, start, stop)]
    wanted_words = len(wanted.values) if isinstance(wanted, HasAll) else 1

    def test(start: int, stop: int) -> Mask:
        codes, counts = columns.tags(name, start, stop)
        ends = np.cumsum(counts)
        found = np.concatenate([[0], np.cumsum(chosen[codes], dtype=np.int64)])
        enough: Mask = found[ends] - found[ends - counts] >= wanted_words
        return enough

    return test


def _number(wanted: Leaf, dtype: np.dtype[Any]) -> Callable[[Array], Mask]:
    kind: Any = dtype.type
    if isinstance(wanted, Within):
        low = None if wanted.low is None else kind(wanted.low)
        high = None if wanted.high is None else kind(wanted.high)
        return lambda values: _between(values, low, high)
    assert isinstance(wanted, Among)
    each = np.array(wanted.values, dtype)
    if len(each) > FEW_VALUES:
        return lambda values: np.isin(values, each)

    def equal(values: Array) -> Mask:
        found: Mask = values == each[0]
        for value in each[1:]:
            found = found | (values == value)
        return found

    return equal


def _between(values: Array, low: Any, high: Any) -> Mask:
    if low is None or high is None:
        found: Mask = values <= high if low is None else values >= low
        return found
    both: Mask = (values >= low) & (values <= high)
    return both


def _word_numbers(wanted: Leaf, words: Words) -> NDArray[np.int64]:
    if isinstance(wanted, Among | HasAll):
        found = [words.find(str(value)) for value in wanted.values]
        return np.array([number for number in found if number >= 0], np.int64)
    if isinstance(wanted, Like):
        return words.matching(pattern(wanted.pattern, wanted.fold))
    assert isinstance(wanted, Within)
    return words.between(
        None if wanted.low is None else str(wanted.low),
        None if wanted.high is None else str(wanted.high),
        wanted.low_open,
        wanted.high_open,
    )
