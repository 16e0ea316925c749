"""Filters in SQL, Python and dictionaries: what they say, and how bad ones are refused."""

import datetime
from dataclasses import dataclass

import numpy as np
import pytest

from spann.errors import InputError
from spann.filters import among_ids, col, evaluate, from_dict, resolve
from spann.filters.canonical import Constant
from spann.filters.parse import parse
from spann.format.columns import Column
from tests.columns import MemoryColumns

DAY = datetime.date(2024, 1, 2)
AT = datetime.datetime(2024, 1, 2, 10, tzinfo=datetime.UTC)
HELD = MemoryColumns(
    {"price": "float32", "n": "int32", "u": "uint8", "ok": "bool", "lang": "string", "day": "date", "at": "timestamp",
     "tags": "tags", "my col": "int8"},
    {
        "price": [0.1, 5.0, None, 20.0],
        "n": [1, 2, 3, 4],
        "u": [0, 1, 254, 255],
        "ok": [True, False, None, True],
        "lang": ["en", "de", None, "en_GB"],
        "day": [DAY, DAY + datetime.timedelta(1), None, DAY],
        "at": [AT, AT + datetime.timedelta(hours=1), AT, AT],
        "tags": [["a", "b"], ["b"], [], None],
        "my col": [1, 1, 2, 2],
    },
    ids=[40, 30, 20, 10],
)  # fmt: skip
SCHEMA = HELD.schema | {"title": Column("title", "string", "payload")}


def places(expression, bind=None):
    return evaluate(resolve(expression, SCHEMA, bind), HELD).list.tolist()


def error(text, schema=None, bind=None):
    with pytest.raises(InputError) as found:
        resolve(parse(text), SCHEMA if schema is None else schema, bind)
    return str(found.value)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("price = 0.1", [0]),
        ("price <= 5 AND NOT ok", [1]),
        ("10 > price", [0, 1]),
        ("n BETWEEN 2 AND 3 OR n == 4", [1, 2, 3]),
        ("n > 3.5", [3]),
        ("n < 1e30", [0, 1, 2, 3]),
        ("u < 0", []),
        ("u <> 256", [0, 1, 2, 3]),
        ("NOT ok", [1]),
        ("ok = FALSE", [1]),
        ("lang IN ('de', 'fr')", [1]),
        ("lang <> 'de'", [0, 3]),
        ("lang IS NULL", [2]),
        ("lang IS NOT NULL AND lang NOT LIKE '%\\_%'", [0, 1]),
        ("lang ILIKE 'EN%'", [0, 3]),
        ("starts_with(lang, 'en_')", [3]),
        ("contains(lang, '_')", [3]),
        ("lang >= 'en'", [0, 3]),
        ("day = DATE '2024-01-02'", [0, 3]),
        ("day > '2024-01-02'", [1]),
        ("at >= TIMESTAMP '2024-01-02 12:00:00+01:00'", [1]),
        ("at > DATE '2024-01-02'", [0, 1, 2, 3]),
        ("list_contains(tags, 'a')", [0]),
        ("list_has_any(tags, ['a', 'b'])", [0, 1]),
        ("array_has_all(tags, ('a', 'b'))", [0]),
        ("NOT list_contains(tags, 'a')", [1, 2]),
        ("list_has_all(tags, [])", [0, 1, 2]),
        ('"my col" = 2', [2, 3]),
        ("`my col` NOT IN (1)", [2, 3]),
        ("price < 10 AND (lang = 'en' OR lang = 'de')", [0, 1]),
        ("TRUE", [0, 1, 2, 3]),
        ("n = 1 OR n <> 1", [0, 1, 2, 3]),
        ("ok OR NOT ok", [0, 1, 3]),
        ("NOT (price > 1e39)", [0, 1, 3]),
    ],
)
def test_sql_finds_rows(sql, wanted):
    assert places(parse(sql)) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"lang": "en"}, [0]),
        ({"lang": {"$ne": "en"}}, [1, 2, 3]),
        ({"lang": {"$nin": ["en", "de"]}}, [2, 3]),
        ({"lang": {"$in": ["en", "de"]}, "price": {"$lt": 1}}, [0]),
        ({"$or": [{"n": {"$gte": 4}}, {"ok": False}]}, [1, 3]),
        ({"$and": [{"n": {"$gt": 1, "$lte": 3}}]}, [1, 2]),
        ({"$not": {"n": 1}}, [1, 2, 3]),
        ({"n": {"$not": {"$lt": 3}}}, [2, 3]),
        ({"$nor": [{"n": 1}, {"n": 2}]}, [2, 3]),
        ({"lang": {"$exists": False}}, [2]),
        ({"tags": {"$in": ["a"]}}, [0]),
        ({"tags": "b"}, [0, 1]),
        ({"tags": {"$not_contains": "b"}}, [2, 3]),
        ({"tags": {"$all": ["a", "b"]}}, [0]),
        ({}, [0, 1, 2, 3]),
        ({"filters": [{"key": "lang", "value": "en"}, {"key": "n", "value": 2}], "condition": "or"}, [0, 1]),
        ({"filters": [{"key": "lang", "value": "en", "operator": "!="}]}, [1, 2, 3]),
        ({"filters": [{"key": "lang", "value": "GB", "operator": "text_match"}]}, [3]),
        ({"filters": [{"key": "tags", "value": ["a", "b"], "operator": "all"}], "condition": "not"}, [1, 2]),
    ],
)
def test_dictionaries_find_rows(given, wanted):
    assert places(from_dict(given)) == wanted


def test_filters_of_llamaindex_are_taken_as_objects():
    @dataclass
    class Filter:
        key: str
        value: object
        operator: str = "=="

    @dataclass
    class Filters:
        filters: list
        condition: str = "and"

    inner = Filters([Filter("n", 1), Filter("n", 4)], "or")
    assert places(from_dict(Filters([Filter("price", 10, "<"), inner]))) == [0]


def test_expressions_of_columns_find_rows():
    assert places((col("price") < 10) & ~col("tags").has("a")) == [1]
    assert places(~col("ok") | col("day").is_null()) == [1, 2]
    assert places(col("at") == np.datetime64("2024-01-02T10:00")) == [0, 2, 3]
    assert places(col("n").is_in(np.arange(2, 4))) == [1, 2]
    for wrong in (lambda: bool(col("a") < 1), lambda: col("a") < col("b"), lambda: (col("a") < 1) & True):
        with pytest.raises(InputError):
            wrong()


def test_ids_find_rows():
    assert places(among_ids([10, 40, 99, 10])) == [0, 3]
    assert places(~among_ids([10, 40])) == [1, 2]
    assert places(among_ids([10, 40]) & (col("n") < 3)) == [0]
    assert places(among_ids([])) == []
    for wrong in ([1.5], [[1]], ["a"], np.array([2**63], np.uint64)):
        with pytest.raises(InputError):
            among_ids(wrong)


def test_parameters_take_values_with_each_search():
    made = parse("n = $n AND lang IN $langs")
    assert places(made, {"n": 1, "langs": ["en"]}) == [0]
    assert places(made, {"n": np.int64(2), "langs": np.array(["de"])}) == [1]
    assert "bind={'n'" in error("n = $n")
    assert "no $m" in error("n = $n", bind={"n": 1, "m": 2})


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("prise < 3", ["line 1, column 1", "'prise'", "'price'"]),
        ("title = 'a'", ["payload", "attributes="]),
        ("n = 1 AND\n  lang = 3", ["line 2, column 10", "lang", "string", "a whole number", "\n" + 9 * " " + "^"]),
        ("price = 'x'", ["float32", "text", "without quotes"]),
        ("tags = 'a'", ["tags", "list_contains"]),
        ("ok < TRUE", ["bool", "no order"]),
        ("ok = 1", ["TRUE or FALSE"]),
        ("n", ["int32", "no condition"]),
        ("lang LIKE 3", ["string"]),
        ("n LIKE 'a'", ["LIKE is for strings"]),
        ("day = '2024-13-01'", ["DATE"]),
        ("day = TIMESTAMP '2024-01-01 10:00:00'", ["DATE"]),
        ("list_contains(lang, 'a')", ["only columns of tags"]),
        ("n = lang", ["columns 'n' and 'lang'"]),
        ("n = NULL", ["IS NULL"]),
        ("n IN (1, 2", ["column 11", "the end", ")"]),
        ("n = 'abc", ["no end"]),
        ("n ~ 3", ["column 3", "'~'"]),
        ("", ["empty"]),
        ("soundex(lang, 'a')", ["unknown function", "list_contains"]),
        ("NOT " * 70 + "ok", ["64"]),
        ("n = 1 OR " * 10_000 + "n = 1", ["65536 bytes", "bind"]),
    ],
)  # fmt: skip
def test_bad_sql_is_refused_with_position_and_remedy(sql, words):
    found = error(sql)
    assert all(word in found for word in words), found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": {"$regex": "a"}}, ["$regex", "$eq"]),
        ({"$xor": []}, ["$xor"]),
        ({"$and": []}, ["$and"]),
        ({"n": {"$in": 3}}, ["list"]),
        ({"n": {}}, ["empty"]),
        ({"lang": 3}, ["string", "a whole number"]),
        ([1], ["dictionary"]),
        ({3: 4}, ["no name"]),
        ({"n": float("nan")}, ["finite"]),
        ({"n": None}, ["$exists"]),
        ({"filters": [{"key": "n", "value": 1, "operator": "like"}]}, ["like", "text_match"]),
    ],
)
def test_bad_dictionaries_are_refused(given, words):
    with pytest.raises(InputError) as found:
        resolve(from_dict(given), SCHEMA)
    assert all(word in str(found.value) for word in words), found.value


def test_an_index_without_columns_says_how_to_add_some():
    assert "attributes=" in error("n = 1", {})


def test_equal_filters_are_equal():
    one = resolve(parse("n IN (2, 1) AND price < 3 AND price >= 1"), SCHEMA)
    assert one == resolve(parse("price >= 1 AND (n = 2 OR n = 1) AND price < 3 AND TRUE"), SCHEMA)
    assert resolve(parse("n = 1 AND FALSE"), SCHEMA) == Constant(False)
    assert resolve(parse("u >= 0"), SCHEMA) == Constant(True)


def test_long_lists_find_rows():
    assert places(parse(f"n IN ({', '.join(map(str, range(2, 9000)))})")) == [1, 2, 3]
    assert places(col("n").is_in(range(2, 30_000))) == [1, 2, 3]


def test_a_hostile_pattern_has_an_answer():
    held = MemoryColumns({"s": "string"}, {"s": ["a" * 20_000 + "b"]})  # a search that goes back would take for ever
    found = evaluate(resolve(parse(f"s LIKE '{'%a' * 50}%c'"), held.schema), held)
    assert found.count == 0


def test_many_rows_are_looked_at_in_blocks():
    n = 150_001
    held = MemoryColumns({"n": "int32"}, {"n": list(range(n))})
    assert evaluate(resolve(parse("n >= 70000 AND n < 70010"), held.schema), held).list.tolist() == list(
        range(70000, 70010)
    )
    half = evaluate(resolve(parse("n < 75000"), held.schema), held)
    assert (half.count, half.nbytes) == (75000, -(-n // 8))
    assert (~half).count == n - 75000
