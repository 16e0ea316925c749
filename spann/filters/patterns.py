"""Patterns of LIKE."""

from __future__ import annotations

import re
from collections.abc import Callable


def pattern(text: str, fold: bool) -> Callable[[str], bool]:
    """The test of a pattern of LIKE: `%` is any text, `_` any one character, a backslash makes the next one plain.

    Parts between `%` are looked for one after another, so its time grows with the length of the text times that of the
    pattern, whatever both hold.
    """
    parts = [re.compile(part, re.DOTALL | (re.IGNORECASE if fold else 0)) for part, _ in _parts(text)]
    lengths = [length for _, length in _parts(text)]
    if len(parts) == 1:
        return lambda word: len(word) == lengths[0] and parts[0].match(word) is not None

    def matches(word: str) -> bool:
        last = len(word) - lengths[-1]
        if last < lengths[0] or not parts[0].match(word) or not parts[-1].match(word, last):
            return False
        at = lengths[0]
        for part in parts[1:-1]:
            found = part.search(word, at, last)
            if found is None:
                return False
            at = found.end()
        return True

    return matches


def _parts(text: str) -> list[tuple[str, int]]:
    """Regular expressions of what lies between `%`, and how many characters each matches."""
    found: list[list[str]] = [[]]
    at = 0
    while at < len(text):
        sign = text[at]
        if sign == "%":
            found.append([])
        elif sign == "_":
            found[-1].append(".")
        else:
            if sign == "\\" and at + 1 < len(text) and text[at + 1] in "%_\\":
                at += 1
                sign = text[at]
            found[-1].append(re.escape(sign))
        at += 1
    return [("".join(part), len(part)) for part in found]
