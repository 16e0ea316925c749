"""Expressions become canonical filters: names become columns, and constants take their types."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from spann.errors import InputError
from spann.filters import constants
from spann.filters.canonical import (
    Among,
    Constant,
    Filter,
    HasAll,
    Like,
    Missing,
    OfIds,
    Stored,
    either,
    every,
    negation,
    within,
)
from spann.filters.expression import (
    All,
    Any_,
    Expression,
    Ids,
    Not,
    Parameter,
    Position,
    Test,
    Truth,
    listed,
    refused,
    single,
)
from spann.format.columns import BOOL, PAYLOAD, STRING, TAGS, Column

Schema = Mapping[str, Column]
"""The columns of an index, by name."""

LISTS = ("in", "has any", "has all")
"""Operators whose value is a list."""

WITHOUT = "the index has no attributes; a build gives it some with attributes= (--attributes)"


def parameters(expression: Expression, *, lists: bool = True) -> dict[str, Parameter]:
    """The parameters of an expression, by name; without `lists`, those that stand for one value."""
    found: dict[str, Parameter] = {}
    todo = [expression]
    while todo:
        part = todo.pop()
        if isinstance(part, All | Any_):
            todo += part.parts
        elif isinstance(part, Not):
            todo.append(part.part)
        elif isinstance(part, Test):
            values = part.value if isinstance(part.value, tuple) else (part.value,)
            if not lists and not isinstance(part.value, tuple) and part.operator in LISTS:
                continue
            found |= {value.name: value for value in values if isinstance(value, Parameter)}
    return found


def single_parameters(expression: Expression) -> set[str]:
    """Names of the parameters that stand for one value, not for a list."""
    return set(parameters(expression, lists=False))


def resolve(expression: Expression, schema: Schema, bind: Mapping[str, Any] | None = None) -> Filter:
    """The canonical filter of an expression. `bind` gives its parameters their values.

    Raises `InputError` that names the column, both types, the position and what would be right.
    """
    bind = bind or {}
    wanted = parameters(expression)
    for name, parameter in wanted.items():
        if name not in bind:
            raise refused(f"${name} has no value; give bind={{{name!r}: ...}}", parameter.at)
    for name in bind:
        if name not in wanted:
            raise refused(f"bind gives {name!r} a value, and the filter has no ${name}")
    return _resolved(expression, schema, bind, negated=False)


def _resolved(part: Expression, schema: Schema, bind: Mapping[str, Any], *, negated: bool) -> Filter:
    if isinstance(part, Not):
        return _resolved(part.part, schema, bind, negated=not negated)
    if isinstance(part, All | Any_):
        parts = [_resolved(inner, schema, bind, negated=negated) for inner in part.parts]
        return every(parts) if isinstance(part, All) != negated else either(parts)
    if isinstance(part, Truth):
        return Constant(part.value != negated)
    if isinstance(part, Ids):
        return OfIds(part.content, negated)
    assert isinstance(part, Test)
    column = find(schema, part.column, part.at)
    value = _bound(part.value, bind)
    at = part.value_at
    test = _test(column, part.operator, value, at, part.at)
    if not column.nulls and isinstance(test, Missing):
        test = Constant(test.negated)
    if not negated:
        return test
    if isinstance(test, Constant) and part.operator != "null" and column.nulls:
        # A test that holds for no value, or for each, is unknown all the same where there is none.
        return Constant(False) if test.value else Missing(column.name, True)
    if isinstance(test, Missing) and part.operator != "null":
        return Constant(False)
    return negation(test)


def _bound(value: Any, bind: Mapping[str, Any]) -> Any:
    if isinstance(value, Parameter):
        return single(bind[value.name])
    if isinstance(value, tuple):
        return tuple(single(bind[item.name]) if isinstance(item, Parameter) else item for item in value)
    return value


def find(schema: Schema, name: str, at: Position | None = None) -> Column:
    """The column `name`, which a filter may use. Raises `InputError` with names that are like it."""
    column = schema.get(name)
    if column is None:
        if not schema:
            raise refused(f"there is no column {name!r}: {WITHOUT}", at)
        near = difflib.get_close_matches(name, schema, 3, 0) or sorted(schema)[:3]
        raise refused(f"there is no column {name!r}; near it are {', '.join(map(repr, near))}", at)
    if column.role == PAYLOAD:
        remedy = "a build makes it an attribute with attributes= (--attributes)"
        raise refused(f"column {name!r} is payload, which filters cannot use; {remedy}", at)
    return column


def _test(column: Column, operator: str, value: Any, at: Position | None, column_at: Position | None) -> Filter:
    if operator == "null":
        return Missing(column.name, False)
    if operator in ("has any", "has all") or (operator == "has or in" and column.kind == TAGS):
        return _has(column, operator, value, at)
    if column.kind == TAGS:
        raise refused(f"column {column.name!r} holds tags; use list_contains, list_has_any or list_has_all", column_at)
    if operator == "true":
        if column.kind != BOOL:
            raise refused(f"column {column.name!r} is {column.kind}, no condition; compare it with a value", column_at)
        return Among(column.name, False, (1,))
    if operator in ("like", "ilike"):
        if column.kind != STRING:
            raise refused(f"column {column.name!r} is {column.kind}, and LIKE is for strings", column_at)
        return Like(column.name, False, constants.text(column, value, at), operator == "ilike")
    if operator in ("in", "has or in"):
        return _among(column, _list(column, value, at), at)
    if operator == "=":
        return _among(column, (value,), at)
    if column.kind == BOOL:
        raise refused(f"column {column.name!r} is bool, which has no order; compare it with TRUE or FALSE", column_at)
    if column.kind == STRING:
        bound = constants.text(column, value, at)
        low, high = (None, bound) if operator[0] == "<" else (bound, None)
        return within(column.name, low, high, operator == ">", operator == "<")
    found = constants.interval(column, operator, value, at)
    return Constant(False) if found is None else within(column.name, *found)


def _list(column: Column, value: Any, at: Position | None) -> tuple[Any, ...]:
    try:
        return listed(value)
    except InputError as error:
        raise mismatch_list(column, value, at) from error


def mismatch_list(column: Column, value: object, at: Position | None) -> Exception:
    """The error for a single value where a list is needed."""
    return refused(f"column {column.name!r} is compared with a list, and {value!r} is {constants.kind_of(value)}", at)


def _among(column: Column, values: tuple[Any, ...], at: Position | None) -> Filter:
    found: set[Stored] = set()
    for value in values:
        stored = constants.single(column, value, at)
        if stored is not None:
            found.add(stored)
    return Among(column.name, False, tuple(sorted(found))) if found else Constant(False)


def _has(column: Column, operator: str, value: Any, at: Position | None) -> Filter:
    if column.kind != TAGS:
        raise refused(f"column {column.name!r} is {column.kind}, and only columns of tags have lists; use = or IN", at)
    values = tuple(sorted({constants.text(column, tag, at) for tag in _list(column, value, at)}))
    if operator == "has all" and len(values) != 1:
        return HasAll(column.name, False, values) if values else within(column.name, None, None)
    return Among(column.name, False, values) if values else Constant(False)
