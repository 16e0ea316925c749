"""When a collection is flushed and optimised without being asked, and by whom."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from spann.errors import ExistsError, InputError, SpannError, StorageError

MODES = ("inline", "background", "manual")

LEAST_OPERATIONS = 4096
MOST_OPERATIONS = 65_536
SHARE = 0.01
"""A log is flushed when it has so many operations: this share of the vectors, within these limits. Each search compares
its query with all vectors of the log."""

LOG_BYTES = 64 << 20
"""Bytes of vectors at which it is flushed as well: every process that has the index open keeps them in memory."""

HARD = 4
"""How many times as many operations or bytes a log may have, at most. Then writes wait for a flush, or are refused."""

RETRY = 1.25
"""How many times as full a log is when maintenance that failed is tried again."""

log = logging.getLogger(__name__)


def soft_limit(vectors: int) -> int:
    """Operations at which the log of an index of so many vectors is flushed."""
    return int(min(max(LEAST_OPERATIONS, SHARE * vectors), MOST_OPERATIONS))


class Maintenance:
    """Calls `work`, which flushes and optimises, when the log calls for it. That is in the writer ("inline"), on a
    thread ("background"), or only when the log is full ("manual").

    `work` is a method. Its object is held weakly, so an index that is dropped frees its memory at once."""

    def __init__(self, mode: str, path: Any, work: Callable[[], None]) -> None:
        if mode not in MODES:
            raise InputError(f"maintenance is {mode!r}; it must be one of {', '.join(MODES)}")
        self.mode, self._path = mode, path
        self.failure: SpannError | None = None
        self._least = 1.0
        self._wanted = threading.Event()
        wake = self._wanted.set  # the thread ends with the object
        self._work = weakref.WeakMethod(work, lambda _: wake())
        self._thread: threading.Thread | None = None
        self._closed = False

    def before_write(self, fullness: float) -> None:
        """Makes room in a log that is full. Raises `StorageError`, with the reason, if that is not possible."""
        if fullness < HARD:
            return
        try:
            self._do()
        except SpannError as error:
            raise StorageError(
                f"{self._path}: the log is full and cannot be flushed, so nothing more is written: {error}"
            ) from error

    def after_write(self, fullness: float) -> None:
        """Does, or orders, what a log calls for that is so full: 1 at the soft limit. A failure is kept, and told once
        the log is full."""
        if fullness < self._least or self.mode == "manual":
            return
        if self.mode == "background":
            self._start()
            self._wanted.set()
        else:
            self._try()
        self._least = 1.0 if self.failure is None else RETRY * fullness

    def _do(self) -> None:
        work = self._work()
        if work is not None:
            work()

    def _try(self) -> None:
        try:
            self._do()
            self.failure = None
        except ExistsError as error:  # another process is at it
            self.failure = error
        except SpannError as error:
            self.failure = error
            log.warning("%s: maintenance failed, and is tried again: %s", self._path, error)

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="spann-maintenance", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closed or self._work() is None:
                return
            self._try()

    def close(self) -> None:
        """Ends the thread, after what it is doing."""
        self._closed = True
        self._wanted.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
