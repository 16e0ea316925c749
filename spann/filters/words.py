"""The dictionary of a column of strings or tags, and patterns of LIKE."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Matches = Callable[[str], bool]


class Words(Sequence[bytes]):
    """Different words in UTF-8, ascending by their bytes: word i ends at byte `ends[i]` of `content`."""

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.uint64]) -> None:
        self._content, self._ends = content, ends

    @classmethod
    def of(cls, words: Iterable[str]) -> Words:
        """From different words in any order."""
        encoded = sorted(word.encode() for word in words)
        ends = np.cumsum([len(word) for word in encoded], dtype=np.uint64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]
        if number >= len(self._ends):
            raise IndexError(number)
        start = int(self._ends[number - 1]) if number else 0
        return self._content[start : int(self._ends[number])].tobytes()

    @property
    def nbytes(self) -> int:
        return self._content.nbytes + self._ends.nbytes

    def text(self, number: int) -> str:
        """Word `number`."""
        return self[number].decode()

    def find(self, word: str) -> int:
        """The number of a word, or -1."""
        wanted = word.encode()
        at = bisect_left(self, wanted)
        return at if at < len(self) and self[at] == wanted else -1

    def between(self, low: str | None, high: str | None, low_open: bool, high_open: bool) -> NDArray[np.int64]:
        """Numbers of the words from `low` to `high`; an open bound is left out itself."""
        first = 0 if low is None else (bisect_right if low_open else bisect_left)(self, low.encode())
        last = len(self) if high is None else (bisect_left if high_open else bisect_right)(self, high.encode())
        return np.arange(first, max(first, last))

    def matching(self, matches: Matches) -> NDArray[np.int64]:
        """Numbers of the words that match."""
        return np.array([i for i in range(len(self)) if matches(self[i].decode())], np.int64)


def pattern(text: str, fold: bool) -> Matches:
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
