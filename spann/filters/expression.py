"""Expressions: what a filter says, before its constants have the types of the columns.

`spann.col("price") < 10` makes one, as `parse` does from SQL and `from_dict` from a dictionary. Expressions never
change. `&`, `|` and `~` combine them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError

DEEPEST = 64
"""Levels of an expression, at most."""

MOST_VALUES = 1_000_000
"""Constants in a list, at most."""


@dataclass(frozen=True)
class Position:
    """Where in a text something stands: line and column from 1, and the text."""

    line: int
    column: int
    text: str = field(repr=False)

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"

    @property
    def shown(self) -> str:
        """The line of the text, cut to the surroundings, and a caret under the position."""
        lines = self.text.split("\n")
        line = lines[self.line - 1] if self.line <= len(lines) else ""
        start = max(0, self.column - 1 - _AROUND)
        return f"{line[start : start + 2 * _AROUND]}\n{' ' * (self.column - 1 - start)}^"


_AROUND = 40


def refused(problem: str, at: Position | None = None) -> InputError:
    """The error for a filter with a `problem`, which is `at` a position of its text."""
    return InputError(f"filter: {problem}" if at is None else f"filter, {at}: {problem}\n{at.shown}")


class Expression:
    """A condition on the columns of a vector; it is true, false, or unknown where a value is missing."""

    depth: int = 1

    def __and__(self, other: Expression) -> Expression:
        return All.of([self, _expression(other)])

    def __or__(self, other: Expression) -> Expression:
        return Any_.of([self, _expression(other)])

    def __invert__(self) -> Expression:
        return Not.of(self)

    def __bool__(self) -> bool:
        raise refused("combine conditions with & | ~ instead of and, or, not, and with parentheses around each")


def _expression(value: object) -> Expression:
    if not isinstance(value, Expression):
        raise refused(f"{value!r} is a {type(value).__name__}, not a condition")
    return value


def _level(parts: Iterable[Expression]) -> int:
    level = 1 + max((part.depth for part in parts), default=0)
    if level > DEEPEST:
        raise refused(f"conditions are nested more than {DEEPEST} levels deep; `IN` or `ids=` may say the same")
    return level


@dataclass(frozen=True)
class Truth(Expression):
    """TRUE or FALSE."""

    value: bool


@dataclass(frozen=True)
class Parameter:
    """A value that is given with each search, by `bind=`."""

    name: str
    at: Position | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Test(Expression):
    """A test of one column. `operator` is one of `OPERATORS`; `value` is a constant, a tuple of them, or a
    `Parameter`."""

    column: str
    operator: str
    value: Any = None
    at: Position | None = field(default=None, compare=False)
    value_at: Position | None = field(default=None, compare=False)


OPERATORS = ("=", "<", "<=", ">", ">=", "in", "like", "ilike", "null", "true", "has any", "has all")
"""Operators of a `Test`. "like" and "ilike" know `%` and `_`, and a backslash before these and itself."""


@dataclass(frozen=True)
class Ids(Expression):
    """The vectors with these ids: distinct int64 in ascending order, as bytes."""

    content: bytes

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.frombuffer(self.content, np.int64)


@dataclass(frozen=True)
class Not(Expression):
    """The opposite; unknown stays unknown."""

    part: Expression
    depth: int = field(default=1, compare=False)

    @classmethod
    def of(cls, part: Expression) -> Expression:
        return cls(part, _level([part]))


@dataclass(frozen=True)
class All(Expression):
    """AND of its parts."""

    parts: tuple[Expression, ...]
    depth: int = field(default=1, compare=False)

    @classmethod
    def of(cls, parts: Iterable[Expression]) -> Expression:
        flat = tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, All) else (part,)))
        return cls(flat, _level(flat))


@dataclass(frozen=True)
class Any_(Expression):
    """OR of its parts."""

    parts: tuple[Expression, ...]
    depth: int = field(default=1, compare=False)

    @classmethod
    def of(cls, parts: Iterable[Expression]) -> Expression:
        flat = tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, Any_) else (part,)))
        return cls(flat, _level(flat))


class Col:
    """A column, by name; its operators make conditions. `col` makes it."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise refused(f"{name!r} is no name of a column")
        self.name = name

    def __eq__(self, value: object) -> Expression:  # type: ignore[override]
        return Test(self.name, "=", single(value))

    def __ne__(self, value: object) -> Expression:  # type: ignore[override]
        return Not.of(self == value)

    def __lt__(self, value: object) -> Expression:
        return Test(self.name, "<", single(value))

    def __le__(self, value: object) -> Expression:
        return Test(self.name, "<=", single(value))

    def __gt__(self, value: object) -> Expression:
        return Test(self.name, ">", single(value))

    def __ge__(self, value: object) -> Expression:
        return Test(self.name, ">=", single(value))

    __hash__ = None  # type: ignore[assignment]

    def __invert__(self) -> Expression:
        return Not.of(self.is_true())

    def __bool__(self) -> bool:
        raise refused(f"column {self.name!r} has no truth of its own here; write col({self.name!r}).is_true()")

    def between(self, low: object, high: object) -> Expression:
        """From `low` to `high`, both included."""
        return (self >= low) & (self <= high)

    def is_in(self, values: Iterable[object]) -> Expression:
        """Any of the values."""
        return Test(self.name, "in", listed(values))

    def is_null(self) -> Expression:
        """No value."""
        return Test(self.name, "null")

    def is_true(self) -> Expression:
        """A boolean that is true."""
        return Test(self.name, "true")

    def like(self, pattern: str) -> Expression:
        """A string of this pattern: `%` is any text, `_` one character, a backslash makes the next one plain."""
        return Test(self.name, "like", pattern)

    def ilike(self, pattern: str) -> Expression:
        """The same in upper or lower case."""
        return Test(self.name, "ilike", pattern)

    def starts_with(self, text: str) -> Expression:
        """A string that begins with `text`."""
        return Test(self.name, "like", starting(text))

    def contains(self, text: str) -> Expression:
        """A string with `text` in it."""
        return Test(self.name, "like", containing(text))

    def has(self, tag: str) -> Expression:
        """Tags with this one among them."""
        return Test(self.name, "has any", (tag,))

    def has_any(self, tags: Iterable[str]) -> Expression:
        """Tags with any of these among them."""
        return Test(self.name, "has any", listed(tags))

    def has_all(self, tags: Iterable[str]) -> Expression:
        """Tags with all of these among them."""
        return Test(self.name, "has all", listed(tags))


def col(name: str) -> Col:
    """The column `name`, for conditions in Python.

    >>> import spann
    >>> cheap = (spann.col("price") < 10) & ~spann.col("tags").has("used")
    """
    return Col(name)


def among_ids(ids: Any) -> Expression:
    """The condition that the id of a vector is one of `ids` (n,)."""
    found = np.asarray(ids)
    if found.size == 0:
        return Ids(b"")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise refused(f"ids are {found.dtype} of shape {found.shape}; they must be whole numbers, (n,)")
    if found.dtype == np.uint64 and int(found.max()) >= 1 << 63:
        raise refused(f"id {found.max()} is too large; ids are below 2^63")
    return Ids(np.unique(found.astype(np.int64)).tobytes())


def listed(values: Any) -> tuple[object, ...]:
    """A list of constants as a tuple; an array may give it."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise refused(f"{values!r} is a {type(values).__name__} where a list of values is needed")
    found = tuple(single(value) for value in values)
    if len(found) > MOST_VALUES:
        raise refused(f"{len(found)} values in a list; the limit is {MOST_VALUES}: `ids=` takes any number of ids")
    return found


def single(value: object) -> object:
    """A constant as Python has it. Raises `InputError` for a column."""
    if isinstance(value, Col):
        raise refused(f"column {value.name!r} is compared with a column; a filter compares columns with values")
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value


def _plain(text: object) -> str:
    if not isinstance(text, str):
        raise refused(f"{text!r} is a {type(text).__name__} where text is needed")
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def starting(text: object) -> str:
    """The pattern of strings that begin with `text`."""
    return _plain(text) + "%"


def containing(text: object) -> str:
    """The pattern of strings with `text` in them."""
    return f"%{_plain(text)}%"
