"""Work on a thread of its own, beside the stages that do not need its result yet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from spann.types import Progress

T = TypeVar("T")

Step = Callable[[int, int], None]
"""Is told (done, total) of some work."""


class Background(Generic[T]):
    """``make(step)`` on a thread of its own, or `at_once` where it is called.

    `make` calls ``step(done, total)`` now and then. `finished` gets the result as soon as it is there, then `report` is
    told: both on the thread that made this object. A context manager: leaving it with an error stops `make` at its next
    step, and waits for that.
    """

    def __init__(
        self, make: Callable[[Step], T], *, finished: Callable[[T], None], report: Step, at_once: bool = False
    ) -> None:
        self._finished, self._report = finished, report
        self._settled, self._stop, self._seen = False, False, (0, 1)
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[T] = Future()
        if at_once:
            self._future.set_result(make(report))
            finished(self._future.result())
            self._settled = True
        else:
            self._future = self._pool.submit(make, self._step)

    def _step(self, done: int, total: int) -> None:
        if self._stop:
            raise CancelledError
        self._seen = done, total

    def watched(self, report: Progress) -> Progress:
        """`report`, which from now on also looks whether the result is there."""

        def look(stage: str, done: int, total: int) -> None:
            if self._future.done():
                self.result()
            report(stage, done, total)

        return look

    def result(self) -> T:
        """The result. Waits for it, and raises what `make` did."""
        result = self._future.result()
        if not self._settled:
            self._settled = True
            self._finished(result)
            self._report(*self._seen)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop = error is not None
        self._pool.shutdown()
