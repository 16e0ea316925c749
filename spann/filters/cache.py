"""The matches of filters that were used last, within a bound of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Whatever knows how many bytes it takes."""

    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class Cache(Generic[Value]):
    """Values by key, of at most `limit` bytes in all; those used longest ago go first. Any thread may use it.

    Two threads may make the same value at once; one of both is kept."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0
        self._kept: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """The value of `key`, made if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        size = value.nbytes + 2 * len(key)
        with self._lock:
            if size <= self._limit and key not in self._kept:
                self._kept[key] = value
                self._taken += size
                while self._taken > self._limit:
                    gone, last = self._kept.popitem(last=False)
                    self._taken -= last.nbytes + 2 * len(gone)
        return value
