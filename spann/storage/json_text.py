"""The one way that JSON is written in an index, so that the same content is always the same bytes."""

from __future__ import annotations

import json
from typing import Any

from spann.errors import CorruptionError, InputError


def to_json(document: object) -> bytes:
    """ASCII, keys sorted, two spaces of indent, one newline at the end. NaN and infinity are no JSON: `InputError`."""
    try:
        return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
    except (TypeError, ValueError) as error:
        raise InputError(f"attributes cannot be stored as JSON: {error}") from None


def parse_json(data: bytes, where: str) -> Any:
    """The document in `data`; `CorruptionError` naming `where` if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{where}: not JSON: {error}") from None
