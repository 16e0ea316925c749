"""SQL conditions, as `where=` takes them, become expressions. Only this module imports lark."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, cast

from lark import Lark, Token, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError
from lark.visitors import Transformer_NonRecursive

from spann.errors import InputError
from spann.filters.expression import (
    All,
    Any_,
    Expression,
    Not,
    Parameter,
    Position,
    Test,
    Truth,
    containing,
    refused,
    starting,
)

LONGEST = 64 << 10
"""Bytes of a text, at most."""

REMEMBERED = 1024
"""Characters of a text up to which what it says is remembered."""

GRAMMAR = r"""
?start: either
?either: every (_OR every)*
?every: opposite (_AND opposite)*
?opposite: _NOT opposite -> negate
    | test
?test: "(" either ")"
    | value -> truth
    | value OPERATOR value -> compare
    | value _BETWEEN value _AND value -> between
    | value _NOT _BETWEEN value _AND value -> not_between
    | value _IN choices -> among
    | value _NOT _IN choices -> not_among
    | value _LIKE value -> like
    | value _ILIKE value -> ilike
    | value _NOT _LIKE value -> not_like
    | value _NOT _ILIKE value -> not_ilike
    | value _IS _NULL -> null
    | value _IS _NOT _NULL -> not_null
    | NAME "(" value "," value ")" -> call
    | NAME "(" value "," list ")" -> call
?choices: list
    | PARAMETER -> parameter
?list: "(" [value ("," value)*] ")" -> items
    | "[" [value ("," value)*] "]" -> items
?value: NAME -> column
    | QUOTED -> quoted
    | TEXT -> string
    | NUMBER -> number
    | DATE -> moment
    | TIMESTAMP -> moment
    | TRUE -> true
    | FALSE -> false
    | NULL -> nothing
    | PARAMETER -> parameter

OPERATOR: "==" | "=" | "!=" | "<>" | "<=" | ">=" | "<" | ">"
_AND.3: /and\b/i
_OR.3: /or\b/i
_NOT.3: /not\b/i
_BETWEEN.3: /between\b/i
_IN.3: /in\b/i
_LIKE.3: /like\b/i
_ILIKE.3: /ilike\b/i
_IS.3: /is\b/i
_NULL.3: /null\b/i
NULL.2: /null\b/i
TRUE.3: /true\b/i
FALSE.3: /false\b/i
DATE.4: /date\s*'[^']*'/i
TIMESTAMP.4: /timestamp\s*'[^']*'/i
NAME: /[^\W\d]\w*/
QUOTED: /"(?:[^"]|"")+"|`(?:[^`]|``)+`/
TEXT: /'(?:[^']|'')*'/
NUMBER: /[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?/i
PARAMETER: /\$[^\W\d]\w*/
%ignore /\s+/
"""

NAMES = {
    "_AND": "AND", "_OR": "OR", "_NOT": "NOT", "_BETWEEN": "BETWEEN", "_IN": "IN", "_LIKE": "LIKE", "_ILIKE": "ILIKE",
    "_IS": "IS", "_NULL": "NULL", "LPAR": "(", "RPAR": ")", "LSQB": "[", "RSQB": "]", "COMMA": ",", "$END": "the end",
    "OPERATOR": "a comparison", "NAME": "a column", "QUOTED": "a column", "TEXT": "a value", "NUMBER": "a value",
    "DATE": "a value", "TIMESTAMP": "a value", "TRUE": "a value", "FALSE": "a value", "NULL": "a value",
    "PARAMETER": "a value",
}  # fmt: skip
"""What an error says for each terminal of the grammar."""

ANY = ("list_contains", "array_has", "array_contains", "list_has", "has")
FUNCTIONS = {
    **dict.fromkeys(ANY, "has any"),
    **dict.fromkeys(("list_has_any", "array_has_any"), "has any"),
    **dict.fromkeys(("list_has_all", "array_has_all"), "has all"),
    "starts_with": "like",
    "contains": "like",
}
"""Functions, and the operator of the test that each makes."""

FLIPPED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


class _Column(str):
    """A name of a column, to tell it from text."""


class _Value:
    """A column, constant, parameter or list, and where it stands."""

    __slots__ = ("at", "value")

    def __init__(self, value: Any, at: Position) -> None:
        self.value, self.at = value, at


class Moment(str):
    """The text of a DATE or TIMESTAMP literal."""


@v_args(inline=True)
class _Build(Transformer_NonRecursive[Token, Any]):
    """Makes an expression of a tree. It does not call itself, so a deep tree is no deep stack."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def _at(self, token: Token) -> Position:
        return Position(token.line or 1, token.column or 1, self.text)

    def column(self, token: Token) -> _Value:
        return _Value(_Column(token), self._at(token))

    def quoted(self, token: Token) -> _Value:
        mark = token[0]
        return _Value(_Column(token[1:-1].replace(2 * mark, mark)), self._at(token))

    def string(self, token: Token) -> _Value:
        return _Value(token[1:-1].replace("''", "'"), self._at(token))

    def number(self, token: Token) -> _Value:
        whole = token.lstrip("+-").isdecimal()
        try:
            return _Value(int(token) if whole else float(token), self._at(token))
        except ValueError:
            raise refused(f"the number has {len(token)} digits, which is too many", self._at(token)) from None

    def moment(self, token: Token) -> _Value:
        return _Value(Moment(token[token.index("'") + 1 : -1]), self._at(token))

    def true(self, token: Token) -> _Value:
        return _Value(True, self._at(token))

    def false(self, token: Token) -> _Value:
        return _Value(False, self._at(token))

    def nothing(self, token: Token) -> _Value:
        raise refused("NULL is no value to compare with; write IS NULL or IS NOT NULL", self._at(token))

    def parameter(self, token: Token) -> _Value:
        at = self._at(token)
        return _Value(Parameter(str(token[1:]), at), at)

    def items(self, *values: _Value | None) -> _Value:
        given = [value for value in values if value is not None]
        for value in given:
            if isinstance(value.value, _Column):
                raise refused(f"column {str(value.value)!r} in a list of values; text is in 'single' quotes", value.at)
        at = given[0].at if given else Position(1, 1, self.text)
        return _Value(tuple(value.value for value in given), at)

    def truth(self, value: _Value) -> Expression:
        if isinstance(value.value, bool):
            return Truth(value.value)
        column = self._column(value, "is no condition")
        return Test(column, "true", None, value.at, value.at)

    def compare(self, left: _Value, operator: Token, right: _Value) -> Expression:
        sign = {"==": "=", "!=": "<>"}.get(str(operator), str(operator))
        negated, sign = sign == "<>", "=" if sign == "<>" else sign
        if isinstance(right.value, _Column) and not isinstance(left.value, _Column):
            left, right, sign = right, left, FLIPPED[sign]
        made = self._test(left, sign, right)
        return Not.of(made) if negated else made

    def between(self, value: _Value, low: _Value, high: _Value) -> Expression:
        return All.of([self._test(value, ">=", low), self._test(value, "<=", high)])

    def among(self, value: _Value, values: _Value) -> Expression:
        return self._test(value, "in", values)

    def like(self, value: _Value, pattern: _Value) -> Expression:
        return self._test(value, "like", pattern)

    def ilike(self, value: _Value, pattern: _Value) -> Expression:
        return self._test(value, "ilike", pattern)

    def null(self, value: _Value) -> Expression:
        return Test(self._column(value, "is tested for NULL"), "null", None, value.at, value.at)

    def not_between(self, *parts: _Value) -> Expression:
        return Not.of(self.between(*parts))

    def not_among(self, *parts: _Value) -> Expression:
        return Not.of(self.among(*parts))

    def not_like(self, *parts: _Value) -> Expression:
        return Not.of(self.like(*parts))

    def not_ilike(self, *parts: _Value) -> Expression:
        return Not.of(self.ilike(*parts))

    def not_null(self, value: _Value) -> Expression:
        return Not.of(self.null(value))

    def call(self, name: Token, value: _Value, argument: _Value) -> Expression:
        function = name.lower()
        if function not in FUNCTIONS:
            raise refused(f"unknown function {str(name)!r}; there are {', '.join(sorted(FUNCTIONS))}", self._at(name))
        if FUNCTIONS[function] == "like":
            if not isinstance(argument.value, str) or isinstance(argument.value, _Column | Moment):
                raise refused(f"{function} needs text in 'single' quotes", argument.at)
            pattern = starting(argument.value) if function == "starts_with" else containing(argument.value)
            return self._test(value, "like", _Value(pattern, argument.at))
        if function in ANY:
            argument = _Value((argument.value,), argument.at) if not isinstance(argument.value, tuple) else argument
        return self._test(value, FUNCTIONS[function], argument)

    def negate(self, part: Expression) -> Expression:
        return Not.of(part)

    def every(self, *parts: Expression) -> Expression:
        return All.of(parts)

    def either(self, *parts: Expression) -> Expression:
        return Any_.of(parts)

    def _column(self, value: _Value, role: str) -> str:
        if not isinstance(value.value, _Column):
            raise refused(f"{value.value!r} {role}; a column is needed here", value.at)
        return str(value.value)

    def _test(self, left: _Value, operator: str, right: _Value) -> Expression:
        column = self._column(left, "is compared with a value")
        if isinstance(right.value, _Column):
            raise refused(
                f"columns {column!r} and {str(right.value)!r} are compared; a filter compares columns with values, and "
                "text is in 'single' quotes",
                right.at,
            )
        return Test(column, operator, right.value, left.at, right.at)


@cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False)


def parse(text: str) -> Expression:
    """The expression that `text` says, in SQL: `= == != <> < <= > >= BETWEEN IN IS NULL LIKE ILIKE AND OR NOT`, `DATE`
    and `TIMESTAMP`, functions of lists and text, and `$name` for what `bind=` gives.

    Raises `InputError` that names line, column and what was expected.
    """
    if not isinstance(text, str):
        raise refused(f"{text!r} is a {type(text).__name__}; `where` is text or an expression of spann.col")
    if len(text.encode(errors="surrogatepass")) > LONGEST:
        raise refused(f"the text has more than {LONGEST} bytes; `bind=` takes values and `ids=` ids apart from it")
    if not text.strip():
        raise refused("the text is empty; without a filter leave `where` out")
    return _parsed(text) if len(text) <= REMEMBERED else _parsed.__wrapped__(text)


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Expression:
    try:
        return cast(Expression, _Build(text).transform(_parser().parse(text)))
    except VisitError as error:
        raise error.orig_exc from None
    except UnexpectedInput as error:
        raise _syntax(error, text) from None


def _syntax(error: UnexpectedInput, text: str) -> InputError:
    """The error for a text that is no condition."""
    if isinstance(error, UnexpectedCharacters):
        found, wanted = repr(text[error.pos_in_stream or 0]), error.allowed
        at = Position(error.line, error.column, text)
        if found in ('"\'"', "'\"'", "'`'"):
            return refused("a quotation begins here and has no end", at)
    else:
        assert isinstance(error, UnexpectedToken)
        token, wanted = error.token, error.accepts or error.expected
        at = _end(text) if token.type == "$END" else Position(token.line, token.column, text)
        found = "the end" if token.type == "$END" else repr(str(token)[:40])
    names = sorted({NAMES.get(name, name) for name in wanted or ()})
    return refused(f"found {found}, expected {', '.join(names)}", at)


def _end(text: str) -> Position:
    lines = text.rstrip().split("\n")
    return Position(len(lines), len(lines[-1]) + 1, text)
