"""Any condition, against rows in plain Python with three-valued logic: the same rows match."""

import datetime
import fnmatch
import operator
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spann.filters import col, evaluate, resolve
from spann.filters.parse import parse
from tests.columns import MemoryColumns

KINDS = {
    "i": "int32", "u": "uint8", "f": "float32", "g": "float64", "b": "bool", "s": "string", "d": "date",
    "m": "timestamp", "t": "tags",
}  # fmt: skip
WORDS = ["", "a", "b", "ab", "Ab", "a%b", "é", "aXb\n", "zz"]
DAY = datetime.date(2024, 1, 1)
FLOATS = [0.0, -0.0, 0.1, 1.5, -2.0, 3.0, 1e30, float("inf"), 2.0**53]
ROW = {
    "i": st.integers(-3, 3) | st.sampled_from([2**31 - 1, -(2**31)]),
    "u": st.integers(0, 4) | st.just(255),
    "f": st.sampled_from([float(np.float32(x)) for x in FLOATS]),
    "g": st.sampled_from(FLOATS),
    "b": st.booleans(),
    "s": st.sampled_from(WORDS),
    "d": st.integers(-2, 2).map(lambda n: DAY + datetime.timedelta(days=n)),
    "m": st.integers(-2, 2).map(lambda n: datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) + n * HOUR),
    "t": st.lists(st.sampled_from(WORDS), max_size=3, unique=True),
}
HOUR = datetime.timedelta(hours=1)
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "<>": operator.ne,
}
NUMBER = st.sampled_from([0, 1, 2, 3, -1, 255, 256, -2.5, 1.5, 0.1, 1e30, 1e300, 10**40, 2**53 + 1, 2**31])


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def literal(value):
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        return f"TIMESTAMP '{value.isoformat()}'"
    if isinstance(value, datetime.date):
        return f"DATE '{value}'"
    return quoted(value) if isinstance(value, str) else repr(value)


def constant(name):
    return NUMBER if name in "iufg" else ROW[name]


def rounded(name, value):
    if name != "f" or not isinstance(value, float) or abs(value) > 3e38:
        return value
    return float(np.float32(value))


def known(test):
    """A test of a value that is unknown where there is none."""
    return lambda name: lambda row: None if row[name] is None else test(row[name])


def like(pattern, fold):
    translated = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    expression = re.compile(translated, re.DOTALL | (re.IGNORECASE if fold else 0))
    return lambda value: expression.fullmatch(value) is not None


@st.composite
def leaf(draw):
    """SQL, an expression of spann.col, and the rows it is true for."""
    name = draw(st.sampled_from(sorted(KINDS)))
    form = draw(st.sampled_from(["compare", "in", "between", "null", "own"]))
    if form == "null":
        return f"{name} IS NULL", col(name).is_null(), lambda row: row[name] is None
    if name == "t":
        words = draw(st.lists(st.sampled_from([*WORDS, "none"]), max_size=3))
        sql = ", ".join(map(quoted, words))
        if form in ("compare", "in"):
            test = known(lambda value: any(word in value for word in words))(name)
            return f"list_has_any(t, [{sql}])", col("t").has_any(words), test
        test = known(lambda value: all(word in value for word in words))(name)
        return f"list_has_all(t, ({sql}))", col("t").has_all(words), test
    if name == "b" and form == "own":
        return "b", col("b").is_true(), known(bool)("b")
    if name == "s" and form == "own":
        pattern = draw(st.text("ab%_AX", max_size=5))
        fold = draw(st.booleans())
        made = col("s").ilike(pattern) if fold else col("s").like(pattern)
        return f"s {'I' if fold else ''}LIKE {quoted(pattern)}", made, known(like(pattern, fold))("s")
    if form == "in" or name == "b":
        values = draw(st.lists(constant(name), max_size=12))
        equal = [rounded(name, value) for value in values]
        test = known(lambda value: any(value == other for other in equal))(name)
        return f"{name} IN ({', '.join(map(literal, values))})", col(name).is_in(values), test
    value, high = draw(constant(name)), draw(constant(name))
    low, top = rounded(name, value), rounded(name, high)
    if form == "between":
        test = known(lambda x: low <= x <= top)(name)
        return f"{name} BETWEEN {literal(value)} AND {literal(high)}", col(name).between(value, high), test
    sign = draw(st.sampled_from(sorted(COMPARE)))
    made = COMPARE[sign](col(name), value)
    return f"{name} {sign} {literal(value)}", made, known(lambda x: COMPARE[sign](x, low))(name)


def negated(part):
    sql, made, test = part
    return f"NOT ({sql})", ~made, lambda row: None if test(row) is None else not test(row)


def joined(parts, conjunction):
    sql = (" AND " if conjunction else " OR ").join(f"({part[0]})" for part in parts)
    made = parts[0][1]
    for part in parts[1:]:
        made = made & part[1] if conjunction else made | part[1]

    def test(row):
        found = [part[2](row) for part in parts]
        decisive = not conjunction
        return decisive if decisive in found else None if None in found else conjunction

    return sql, made, test


def conditions():
    return st.recursive(
        leaf(),
        lambda inner: st.one_of(
            inner.map(negated),
            st.tuples(st.lists(inner, min_size=1, max_size=3), st.booleans()).map(lambda x: joined(*x)),
        ),
        max_leaves=6,
    )


def columns(rows):
    return MemoryColumns(KINDS, {name: [row[name] for row in rows] for name in KINDS})


ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, values in ROW.items()}), min_size=1, max_size=40
)


@settings(max_examples=60, deadline=None)
@given(conditions(), ROWS)
def test_sql_and_expressions_match_the_rows_that_plain_python_finds(condition, rows):
    sql, made, test = condition
    held = columns(rows)
    wanted = [place for place, row in enumerate(rows) if test(row) is True]
    said, built = resolve(parse(sql), held.schema), resolve(made, held.schema)
    assert said == built
    assert said.key == built.key
    found = evaluate(said, held)
    assert found.list.tolist() == wanted, sql
    assert found.count == len(wanted)


@settings(max_examples=25, deadline=None)
@given(conditions(), conditions(), ROWS)
def test_equal_conditions_have_one_key(a, b, rows):
    schema = columns(rows).schema

    def key(*parts):
        return resolve(parse(" ".join(parts)), schema).key

    one, other = f"({a[0]})", f"({b[0]})"
    assert key(one, "AND", other) == key(other, "AND", one)
    assert key(one, "OR", other) == key(other, "OR", one)
    assert key("NOT NOT", one) == key(one)
    assert key(one, "AND TRUE") == key(one)
    assert key("NOT (", one, "AND", other, ")") == key("NOT", one, "OR NOT", other)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=200), st.lists(st.booleans(), min_size=200, max_size=200))
def test_places_combine_as_sets(a, b):
    held = MemoryColumns({"a": "bool", "b": "bool"}, {"a": a, "b": b[: len(a)]})
    one, other = (evaluate(resolve(parse(name), held.schema), held) for name in "ab")
    left, right = np.array(a), np.array(b[: len(a)])
    assert (one & other).list.tolist() == np.flatnonzero(left & right).tolist()
    assert (one | other).list.tolist() == np.flatnonzero(left | right).tolist()
    assert (~one).list.tolist() == np.flatnonzero(~left).tolist()


@settings(max_examples=40, deadline=None)
@given(st.text("ab?*", max_size=6), st.text("ab", max_size=8))
def test_patterns_match_as_those_of_file_names_do(pattern, text):
    held = MemoryColumns({"s": "string"}, {"s": [text]})
    sql = pattern.replace("?", "_").replace("*", "%")
    found = evaluate(resolve(parse(f"s LIKE {quoted(sql)}"), held.schema), held)
    assert bool(found.count) == fnmatch.fnmatchcase(text, pattern)
