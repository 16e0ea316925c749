"""How an index writes JSON: the same content is always the same bytes."""

from __future__ import annotations

import json
import math
from typing import Any

from spann.errors import CorruptionError, InputError

_SHOWN = 80


def to_json(document: object) -> bytes:
    """JSON in ASCII: keys sorted, two spaces of indent, one newline at the end. Raises `InputError` for NaN and
    infinity."""
    try:
        return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"attributes cannot be stored as JSON: {error}") from None


def shown(value: object) -> str:
    """A value from a file, for an error text: escaped, and short enough for a line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:_SHOWN]} is beyond what a float holds")
    return value


def parse_json(data: bytes, where: str) -> Any:
    """The document in `data`. Raises `CorruptionError`, which names `where`, if it is not JSON."""
    try:
        return json.loads(data, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{where}: not JSON: {error}") from None
