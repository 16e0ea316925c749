"""Filters as dictionaries: the forms of Chroma, Pinecone and Mongo, and of LlamaIndex.

`$ne`, `$nin` and their likes match vectors without a value, as they do there. All else is as in SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spann.filters.expression import (
    All,
    Any_,
    Expression,
    Not,
    Test,
    Truth,
    containing,
    listed,
    refused,
)

LEVELS = ("$and", "$or", "$nor")

Make = Callable[[str, Any], Expression]


def _test(operator: str) -> Make:
    return lambda name, value: Test(name, operator, value)


def _one(name: str, value: Any) -> Expression:
    return Test(name, "has or in", (value,))


def _some(name: str, value: Any) -> Expression:
    return Test(name, "has or in", _values(name, value))


def _none(name: str, value: Any) -> Expression:
    return Any_.of([Not.of(Test(name, "has or in", _values(name, value))), Test(name, "null")])


def _exists(name: str, value: Any) -> Expression:
    if not isinstance(value, bool):
        raise refused(f"$exists of {name!r} is {value!r}; it must be true or false")
    return Not.of(Test(name, "null")) if value else Test(name, "null")


def _lacks(name: str, value: Any) -> Expression:
    return _none(name, [value])


OPERATORS: dict[str, Make] = {
    "$eq": _one,
    "$ne": lambda name, value: _none(name, [value]),
    "$lt": _test("<"),
    "$lte": _test("<="),
    "$gt": _test(">"),
    "$gte": _test(">="),
    "$in": _some,
    "$nin": _none,
    "$all": lambda name, value: Test(name, "has all", _values(name, value)),
    "$exists": _exists,
    "$contains": lambda name, value: Test(name, "has any", (value,)),
    "$not_contains": _lacks,
}
"""Operators of Chroma, Pinecone and Mongo."""

LLAMA: dict[str, Make] = {
    "==": _one,
    "!=": lambda name, value: _none(name, [value]),
    "<": _test("<"),
    "<=": _test("<="),
    ">": _test(">"),
    ">=": _test(">="),
    "in": _some,
    "nin": _none,
    "any": lambda name, value: Test(name, "has any", _values(name, value)),
    "all": lambda name, value: Test(name, "has all", _values(name, value)),
    "contains": lambda name, value: Test(name, "has any", (value,)),
    "text_match": lambda name, value: Test(name, "like", containing(value)),
    "text_match_insensitive": lambda name, value: Test(name, "ilike", containing(value)),
    "is_empty": lambda name, value: Test(name, "null"),
}
"""Operators of LlamaIndex's `MetadataFilter`."""


def from_dict(given: Any) -> Expression:
    """The expression of a dictionary, or of LlamaIndex's `MetadataFilters` or their `model_dump()`.

    Raises `InputError` that names what is unknown, and what there is.
    """
    return _made(given, 1)


def _made(given: Any, level: int) -> Expression:
    if level > 64:
        raise refused("the dictionary is nested more than 64 levels deep")
    if isinstance(given, Expression):
        return given
    if hasattr(given, "filters") and hasattr(given, "condition"):
        return _llama(given.filters, given.condition, level)
    if not isinstance(given, Mapping):
        raise refused(f"{given!r} is a {type(given).__name__}; `filter` is a dictionary")
    if isinstance(given.get("filters"), Sequence) and set(given) <= {"filters", "condition"}:
        return _llama(given["filters"], given.get("condition"), level)
    parts = [_entry(name, value, level) for name, value in given.items()]
    return parts[0] if len(parts) == 1 else All.of(parts) if parts else Truth(True)


def _entry(name: object, value: Any, level: int) -> Expression:
    if not isinstance(name, str):
        raise refused(f"{name!r} is no name of a column")
    if name == "$not":
        return Not.of(_made(value, level + 1))
    if name in LEVELS:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise refused(f"{name} is {value!r}; it must be a list of conditions")
        parts = [_made(part, level + 1) for part in value]
        return All.of(parts) if name == "$and" else Any_.of(parts) if name == "$or" else Not.of(Any_.of(parts))
    if name.startswith("$"):
        raise refused(f"unknown operator {name!r}; there are $and, $or, $nor, $not and, for a column, {_known()}")
    if not isinstance(value, Mapping):
        return _one(name, value)
    if not value:
        raise refused(f"the condition on {name!r} is empty; there are {_known()}")
    return All.of([_operation(name, operator, operand, level) for operator, operand in value.items()])


def _operation(name: str, operator: object, operand: Any, level: int) -> Expression:
    if operator == "$not":
        return Not.of(_entry(name, operand, level + 1))
    if operator not in OPERATORS:
        raise refused(f"unknown operator {operator!r} for {name!r}; there are {_known()}")
    return OPERATORS[str(operator)](name, operand)


def _known() -> str:
    return ", ".join(OPERATORS)


def _llama(filters: Any, condition: Any, level: int) -> Expression:
    parts = [_llama_part(part, level) for part in filters]
    word = str(getattr(condition, "value", condition) or "and").lower()
    if word not in ("and", "or", "not"):
        raise refused(f"the condition {word!r} is none of and, or, not")
    if not parts:
        return Truth(True)
    return All.of(parts) if word == "and" else Any_.of(parts) if word == "or" else Not.of(Any_.of(parts))


def _llama_part(part: Any, level: int) -> Expression:
    named = part if isinstance(part, Mapping) else {n: getattr(part, n) for n in ("key", "value", "operator")
                                                    if hasattr(part, n)}  # fmt: skip
    if "key" not in named:
        return _made(part, level + 1)
    operator = str(getattr(named.get("operator"), "value", named.get("operator")) or "==")
    if operator not in LLAMA:
        raise refused(f"unknown operator {operator!r} for {named['key']!r}; there are {', '.join(LLAMA)}")
    return LLAMA[operator](named["key"], named.get("value"))


def _values(name: str, value: Any) -> tuple[object, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise refused(f"{name!r} is compared with a list, and {value!r} is a {type(value).__name__}")
    return listed(value)
