"""The canonical form of a filter: equal filters are equal objects, and so share a key and their matches.

Constants have the types in which columns are stored. NOT stands only before a test of one column. So an unknown test,
which lacks a value, counts like a false test: neither matches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Stored = int | float | str


@dataclass(frozen=True)
class Filter:
    """A condition in canonical form."""

    @property
    def key(self) -> str:
        """A text that equal filters share, and no others."""
        return repr(self)


@dataclass(frozen=True)
class Constant(Filter):
    """All vectors, or none."""

    value: bool


@dataclass(frozen=True)
class Leaf(Filter):
    """A test of one column. With `negated`, rows without a value match no more than without."""

    column: str
    negated: bool


@dataclass(frozen=True)
class Among(Leaf):
    """The value is one of `values`, ascending; there is at least one. Of tags: one of them is."""

    values: tuple[Stored, ...]


@dataclass(frozen=True)
class Within(Leaf):
    """The value lies between `low` and `high`; None is no bound. An open bound is left out itself: only of strings."""

    low: Stored | None
    high: Stored | None
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True)
class Like(Leaf):
    """The string has this pattern; `fold`: in upper or lower case."""

    pattern: str
    fold: bool


@dataclass(frozen=True)
class HasAll(Leaf):
    """The tags hold all of `values`, ascending; there are at least two."""

    values: tuple[Stored, ...]


@dataclass(frozen=True)
class Missing(Leaf):
    """There is no value. `negated`: there is one."""


@dataclass(frozen=True)
class OfIds(Filter):
    """The id is one of these, distinct int64 in ascending order, as bytes. `negated`: it is none."""

    content: bytes
    negated: bool = False

    @cached_property
    def key(self) -> str:
        return f"{'not ' if self.negated else ''}ids {hashlib.sha256(self.content).hexdigest()}"

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.frombuffer(self.content, np.int64)


@dataclass(frozen=True)
class Every(Filter):
    """All of at least two parts, sorted by key."""

    parts: tuple[Filter, ...]

    @cached_property
    def key(self) -> str:
        return f"({' and '.join(part.key for part in self.parts)})"


@dataclass(frozen=True)
class Either(Filter):
    """Any of at least two parts, sorted by key."""

    parts: tuple[Filter, ...]

    @cached_property
    def key(self) -> str:
        return f"({' or '.join(part.key for part in self.parts)})"


def negation(test: Filter) -> Filter:
    """The opposite of a test or a constant, where values are not missing."""
    if isinstance(test, Constant):
        return Constant(not test.value)
    assert isinstance(test, Leaf | OfIds)
    return replace(test, negated=not test.negated)


Joined = TypeVar("Joined", Every, Either)


def every(parts: Iterable[Filter]) -> Filter:
    """AND in canonical form."""
    found: dict[object, Filter] = {}
    for part in _flat(parts, Every):
        if isinstance(part, Constant):
            if not part.value:
                return part
            continue
        _merge(found, part, conjunction=True)
    return _joined(found, Every, Constant(True))


def either(parts: Iterable[Filter]) -> Filter:
    """OR in canonical form."""
    found: dict[object, Filter] = {}
    for part in _flat(parts, Either):
        if isinstance(part, Constant):
            if part.value:
                return part
            continue
        _merge(found, part, conjunction=False)
    return _joined(found, Either, Constant(False))


def _joined(found: dict[object, Filter], kind: type[Joined], nothing: Constant) -> Filter:
    parts = sorted(set(found.values()), key=lambda part: part.key)
    decided = [part for part in parts if isinstance(part, Constant)]
    for part in decided:
        if part.value != nothing.value:
            return part
    parts = [part for part in parts if not isinstance(part, Constant)]
    return nothing if not parts else parts[0] if len(parts) == 1 else kind(tuple(parts))


def _flat(parts: Iterable[Filter], kind: type[Every] | type[Either]) -> list[Filter]:
    return [leaf for part in parts for leaf in (part.parts if isinstance(part, kind) else (part,))]


def _merge(found: dict[object, Filter], part: Filter, *, conjunction: bool) -> None:
    """Adds `part`, as one test with an earlier one where both are of one column and one kind."""
    key: object = part
    if isinstance(part, Among) and part.negated == conjunction:  # x = 1 OR x = 2; x <> 1 AND x <> 2
        key = ("among", part.column)
        if isinstance(before := found.get(key), Among):
            part = replace(part, values=tuple(sorted({*before.values, *part.values})))
    elif isinstance(part, Within) and not part.negated and conjunction:
        key = ("within", part.column)
        if isinstance(before := found.get(key), Within):
            part = _both(before, part)
    found[key] = part


def _both(a: Within, b: Within) -> Filter:
    low, low_open = _tighter((a.low, a.low_open), (b.low, b.low_open), upper=False)
    high, high_open = _tighter((a.high, a.high_open), (b.high, b.high_open), upper=True)
    return within(a.column, low, high, low_open, high_open)


def _tighter(
    a: tuple[Stored | None, bool], b: tuple[Stored | None, bool], *, upper: bool
) -> tuple[Stored | None, bool]:
    if a[0] is None or b[0] is None:
        return b if a[0] is None else a
    if a[0] == b[0]:
        return a[0], a[1] or b[1]
    less = a[0] < b[0]  # type: ignore[operator]
    return a if less == upper else b


def within(
    column: str, low: Stored | None, high: Stored | None, low_open: bool = False, high_open: bool = False
) -> Filter:
    """A range in canonical form: `Missing` negated if it has no bound, `Among` if it has one value."""
    if low is None and high is None:
        return Missing(column, True)
    if low is not None and high is not None:
        if low > high or (low == high and (low_open or high_open)):  # type: ignore[operator]
            return Constant(False)
        if low == high:
            return Among(column, False, (low,))
    return Within(column, False, low, high, low_open, high_open)
