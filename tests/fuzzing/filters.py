"""Filters as users give them: SQL, and dictionaries as JSON. Each has an answer or an error, within a second."""

from __future__ import annotations

import datetime
import json
import random
import time
from pathlib import Path

from spann.errors import SpannError
from spann.filters import evaluate, from_dict, resolve
from spann.filters.parse import parse
from tests.columns import MemoryColumns

SECONDS = 1.0
"""Processor time that a text may take."""

KINDS = {"price": "float32", "n": "int64", "u": "uint8", "ok": "bool", "lang": "string", "day": "date",
         "at": "timestamp", "tags": "tags", "my col": "int8"}  # fmt: skip

TEXTS = (
    "price < 10 AND lang = 'en' AND list_has_any(tags, ['a', 'b'])",
    'NOT (n BETWEEN -5 AND 1e30 OR u <> 3.5) OR "my col" IS NOT NULL',
    "lang LIKE 'a%_\\%b' AND ok OR day >= DATE '2024-02-29' AND at < TIMESTAMP '2024-01-01 10:00:00+02:00'",
    "n IN (1, 2, 3) AND n NOT IN (9223372036854775808) AND starts_with(lang, 'e') AND TRUE",
    "list_has_all(tags, ('a')) = FALSE",
    "(((price = $p)))",
)
DICTIONARIES = (
    {"$and": [{"lang": {"$in": ["en", "de"]}}, {"price": {"$lt": 10}}, {"$not": {"n": 3}}]},
    {"tags": {"$contains": "a"}, "ok": True, "day": {"$gte": "2024-01-01"}},
    {"filters": [{"key": "lang", "value": "en", "operator": "!="}], "condition": "or"},
)
PIECES = (
    " AND ", " OR ", " NOT ", "(", ")", "[", "]", ",", "'", '"', "`", " IN ", " LIKE ", " IS NULL", " BETWEEN ", "= ",
    "<", ">=", "NULL", "TRUE", "price", "lang", "tags", "ok", "day", "u", "1e999", "-1", "0.1", "9" * 30, "'%a%b%'",
    "'\\", "DATE '", "$x", "list_has_all(", "--", "\x00", "\ud800", "é", "((((((((", "NOT NOT NOT NOT ", "e", ".", "\n",
)  # fmt: skip


def _columns() -> MemoryColumns:
    day = datetime.date(2024, 1, 1)
    at = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    row = {"price": [1.5, None], "n": [3, -(2**63)], "u": [255, 0], "ok": [True, None], "lang": ["en", "a_%b"],
           "day": [day, None], "at": [at, at], "tags": [["a", "b"], []], "my col": [None, 1]}  # fmt: skip
    return MemoryColumns(KINDS, {name: values * 4 for name, values in row.items()})


COLUMNS = _columns()


def seeds(directory: Path) -> None:
    """A file for each text and dictionary."""
    for number, text in enumerate(TEXTS):
        (directory / f"text-{number}.sql").write_text(text)
    for number, given in enumerate(DICTIONARIES):
        (directory / f"dictionary-{number}.json").write_text(json.dumps(given))


def execute(path: Path) -> str:
    """Gives the program the filter; what came of it."""
    content = path.read_bytes().decode("utf-8", "surrogatepass" if path.suffix == ".sql" else "replace")
    if path.suffix == ".json":
        try:
            given = json.loads(content)
        except (ValueError, RecursionError):
            return "no JSON"
    began = time.process_time()
    try:
        made = parse(content) if path.suffix == ".sql" else from_dict(given)
        evaluate(resolve(made, COLUMNS.schema, {"p": 1.5} if "$p" in content else None), COLUMNS)
    except SpannError:
        outcome = "refused"
    else:
        outcome = "read"
    spent = time.process_time() - began
    assert spent < SECONDS, f"{spent:.1f} s for {content[:200]!r}"
    return outcome


def mutate(seed: Path, work: Path, rng: random.Random) -> Path:
    """Joins sound texts, splices pieces of the language into one, or repeats parts of it."""
    text = seed.read_text()
    if rng.random() < 0.4:
        text = _joined(text, rng, seed.suffix == ".sql")
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        at, size = rng.randrange(len(text) + 1), rng.choice((0, 0, 1, 5, 20))
        piece = rng.choice(PIECES) if rng.random() < 0.8 else text[rng.randrange(len(text) + 1) :][:30]
        text = text[:at] + piece * rng.choice((1, 1, 1, 1, 2, 60)) + text[at + size :]
    if rng.random() < 0.002:
        text = text * (70_000 // max(1, len(text)))
    path = work / seed.name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def _joined(text: str, rng: random.Random, sql: bool) -> str:
    """A sound text nested in others, with another number in it."""
    for _ in range(rng.randrange(1, 5)):
        if sql:
            text = f"{rng.choice(('', 'NOT '))}({text}) {rng.choice(('AND', 'OR'))} ({rng.choice(TEXTS)})"
        else:
            text = json.dumps({rng.choice(("$and", "$or", "$nor")): [json.loads(text), rng.choice(DICTIONARIES)]})
    return text.replace("3", rng.choice(("0", "-7", "255", "1e400", "12345678901234567890123")))
