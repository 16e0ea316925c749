"""The dictionary of a column of strings or tags (docs/FORMAT.md, Attributes)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from spann.format.columns import bad_ends


class Words(Sequence[bytes]):
    """Different words in UTF-8, ascending by their bytes: word i ends at byte `ends[i]` of `content`."""

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.uint64]) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, words: Iterable[str]) -> Words:
        """From different words in any order."""
        encoded = sorted(word.encode() for word in words)
        ends = np.cumsum([len(word) for word in encoded], dtype=np.uint64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]
        if number >= len(self.ends):
            raise IndexError(number)
        start = int(self.ends[number - 1]) if number else 0
        return self.content[start : int(self.ends[number])].tobytes()

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.content.nbytes + self.ends.nbytes

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

    def matching(self, matches: Callable[[str], bool]) -> NDArray[np.int64]:
        """Numbers of the words that match."""
        return np.array([i for i in range(len(self)) if matches(self.text(i))], np.int64)

    def fault(self) -> str:
        """What breaks docs/FORMAT.md, in words; empty if nothing does."""
        problem = bad_ends(self.ends, 0, len(self.content))
        if problem or int(self.ends[-1] if len(self.ends) else 0) != len(self.content):
            return problem or "the last word does not end where its bytes do"
        try:
            self.content.tobytes().decode()
            before = None
            for word in self:
                word.decode()
                if before is not None and word <= before:
                    return "words do not ascend"
                before = word
        except UnicodeDecodeError:
            return "a word is not UTF-8"
        return ""
