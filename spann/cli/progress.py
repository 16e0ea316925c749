"""Progress of a command on standard error: bars or lines for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from spann.progress import INTERVAL, ProgressBars
from spann.types import Progress


class JsonReport:
    """Reports progress as JSON lines: at most ten a second, and one at the end of each stage. Call it as
    `spann.types.Progress`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._stage = ""
        self._start = time.monotonic()
        self._written = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._written = stage, 0.0
        if done < total and now - self._written < INTERVAL:
            return
        self._written = now
        seconds = now - self._start
        line = {
            "stage": stage,
            "done": done,
            "total": total,
            "seconds": round(seconds, 3),
            "rate": round(done / seconds, 3) if seconds > 0 else None,
            "eta_seconds": round(seconds / done * (total - done), 3) if done else None,
        }
        print(json.dumps(line), file=self._stream, flush=True)
        if done >= total:
            self._stage, self._start = "", now

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class Silent:
    """A report that says nothing."""

    def __enter__(self) -> Progress | None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


def progress_report(
    quiet: bool, form: str = "text", *, stages: Sequence[str] = (), seconds: float | None = None
) -> ProgressBars | JsonReport | Silent:
    """A context manager whose value is what the library's functions take as `progress`; `form` is "text" or "json".

    `stages` and `seconds` are those of `ProgressBars`.
    """
    if quiet or sys.stderr is None:
        return Silent()
    return JsonReport() if form == "json" else ProgressBars(sys.stderr, stages=stages, seconds=seconds)
