"""Constants of a filter in the types of columns: exactly, or an error that names both types."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np

from spann.filters.canonical import Stored
from spann.filters.expression import Position, refused
from spann.format.columns import BOOL, DATE, NUMBERS, STRING, TIMESTAMP, Column

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)

Interval = tuple[Stored | None, Stored | None]
"""Values from the first to the second, both included; None is no bound."""

NAMES = {str: "text", bool: "a boolean", int: "a whole number", float: "a number", type(None): "NULL"}


def kind_of(value: object) -> str:
    """What sort of constant `value` is, in words."""
    return NAMES.get(type(value), f"a {type(value).__name__}")


def mismatch(column: Column, value: object, at: Position | None, remedy: str = "") -> Exception:
    """The error for a constant of another type than the column."""
    more = f"; {remedy}" if remedy else ""
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if value is None:
        more = "; test for missing values with IS NULL, is_null() or $exists"
    return refused(f"column {column.name!r} is {column.kind}, and {shown} is {kind_of(value)}{more}", at)


def interval(column: Column, operator: str, value: Any, at: Position | None) -> Interval | None:
    """The values of a column of numbers, dates or timestamps for which `operator` and `value` hold; None: none."""
    if column.kind == DATE:
        return _whole(operator, _days(column, value, at), -(2**31), 2**31 - 1)
    if column.kind == TIMESTAMP:
        return _whole(operator, _microseconds(column, value, at), -(2**63), 2**63 - 1)
    assert column.kind in NUMBERS
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise mismatch(column, value, at, "write a number without quotes" if isinstance(value, str) else "")
    if isinstance(value, float) and not math.isfinite(value):
        raise refused(f"column {column.name!r} is compared with {value}, and numbers of filters are finite", at)
    if column.dtype.kind == "f":
        return _real(operator, value, column.dtype)
    limits = np.iinfo(column.kind)
    return _whole(operator, value, int(limits.min), int(limits.max))


def text(column: Column, value: object, at: Position | None) -> str:
    """A string to compare with strings or tags."""
    if not isinstance(value, str):
        raise mismatch(column, value, at, "write text in 'single' quotes" if value is not None else "")
    value = str(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refused(f"the text for column {column.name!r} holds half of a surrogate pair", at) from None
    return value


def truth(column: Column, value: object, at: Position | None) -> int:
    """A boolean."""
    if not isinstance(value, bool):
        raise mismatch(column, value, at, "write TRUE or FALSE" if value is not None else "")
    return int(value)


def single(column: Column, value: object, at: Position | None) -> Stored | None:
    """The stored value that equals `value`; None if there can be none."""
    if column.kind == STRING:
        return text(column, value, at)
    if column.kind == BOOL:
        return truth(column, value, at)
    found = interval(column, "=", value, at)
    return None if found is None else found[0]


def _whole(operator: str, value: float, least: int, most: int) -> Interval | None:
    low, high = least, most
    if operator == "=" and value != math.floor(value):
        return None
    if operator in ("<", "<=", "="):
        high = math.ceil(value) - 1 if operator == "<" else math.floor(value)
    if operator in (">", ">=", "="):
        low = math.floor(value) + 1 if operator == ">" else math.ceil(value)
    if low > most or high < least or low > high:
        return None
    if operator == "=":
        return low, high
    return None if low <= least else low, None if high >= most else high


def _real(operator: str, value: float, dtype: np.dtype[Any]) -> Interval | None:
    """A decimal is rounded to the type of the column, as its values were. A whole number is compared exactly."""
    below, above = _neighbors(value, dtype)
    if operator == "=":
        return (below, above) if below == above else None
    if operator in ("<", "<="):
        return None, below if operator == "<=" else _next(above, -math.inf, dtype)
    return (above if operator == ">=" else _next(below, math.inf, dtype)), None


def _neighbors(value: float, dtype: np.dtype[Any]) -> tuple[float, float]:
    """The largest number of the type that is at most `value`, and the smallest that is at least it."""
    kind: Any = dtype.type
    try:
        with np.errstate(over="ignore"):
            near = float(kind(value)) + 0.0
    except OverflowError:  # a whole number beyond all of float64
        near = math.copysign(math.inf, value)
    if math.isfinite(near) and (isinstance(value, float) or int(near) == value):
        return near, near
    if near > value:
        return _next(near, -math.inf, dtype), near
    return near, _next(near, math.inf, dtype)


def _next(value: float, towards: float, dtype: np.dtype[Any]) -> float:
    kind: Any = dtype.type
    with np.errstate(over="ignore", under="ignore"):
        return float(np.nextafter(kind(value), kind(towards)))


def _days(column: Column, value: Any, at: Position | None) -> int:
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
        value = value.date() if value is not None and value.time() == datetime.time() else value
    if isinstance(value, str):
        try:
            value = datetime.date.fromisoformat(value.strip())
        except ValueError:
            raise mismatch(column, str(value), at, "write DATE 'YYYY-MM-DD'") from None
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise mismatch(column, value, at, "write DATE 'YYYY-MM-DD'")
    return value.toordinal() - EPOCH.toordinal()


def _microseconds(column: Column, value: Any, at: Position | None) -> int:
    if isinstance(value, np.datetime64):
        exact = value.astype("datetime64[us]")
        if exact != value:
            raise refused(f"{value} for column {column.name!r} is finer than a microsecond", at)
        return int(exact.astype(np.int64))
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            raise mismatch(column, str(value), at, "write TIMESTAMP 'YYYY-MM-DD HH:MM:SS'") from None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    if not isinstance(value, datetime.datetime):
        raise mismatch(column, value, at, "write TIMESTAMP 'YYYY-MM-DD HH:MM:SS'")
    try:
        aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return (aware - EPOCH) // MICROSECOND
    except (OverflowError, ValueError):
        raise refused(f"{value} for column {column.name!r} is outside of the years 1 to 9999", at) from None
