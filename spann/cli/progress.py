"""Progress of long work on standard error: a bar with the time left on a terminal, a line for each stage in a log, or
JSON lines for a program."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from spann.cli.text import escaped
from spann.types import Progress

_WIDTH = 30
_INTERVAL = 0.1
"""Seconds between two drawings of the bar: more often only flickers."""


class ProgressReport:
    """Called as `spann.types.Progress`; as a context manager it leaves the terminal on a fresh line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._stream.isatty()
        self._stage = ""
        self._start = time.monotonic()
        self._drawn = 0.0
        self._open_line = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        stage = escaped(stage)
        if stage != self._stage:
            self._stage, self._drawn = stage, 0.0
        finished = done >= total
        if self._bar and (finished or now - self._drawn >= _INTERVAL):
            self._drawn = now
            self._draw(stage, done, total, now - self._start)
        if finished:
            if self._bar:
                self._end_line()
            else:
                print(f"spann: {stage}: {now - self._start:.1f} s", file=self._stream, flush=True)
            # The next stage begins where this one ends: what it does before its first report belongs to it.
            self._stage, self._start = "", now

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_line()

    def _draw(self, stage: str, done: int, total: int, seconds: float) -> None:
        share = min(1.0, done / total) if total else 1.0
        filled = round(_WIDTH * share)
        left = f"{clock(seconds)} in all" if share == 1 else f"{clock(seconds / share - seconds)} left" if share else ""
        rate = f"{_short(done / seconds)}/s  " if seconds > 0 and done else ""
        line = f"{stage:<12} [{'#' * filled}{'-' * (_WIDTH - filled)}] {share:4.0%}  {rate}{left}"
        # "Erase to the end of the line" rather than padding: the line before may have been of any length.
        print(f"\r{line}\x1b[K", end="", file=self._stream, flush=True)
        self._open_line = True

    def _end_line(self) -> None:
        if self._open_line:
            print(file=self._stream, flush=True)
            self._open_line = False


class JsonReport:
    """Called as `spann.types.Progress`: one JSON object a line, at most ten a second and the end of each stage."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._stage = ""
        self._start = time.monotonic()
        self._written = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._written = stage, 0.0
        if done < total and now - self._written < _INTERVAL:
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
    """Stands in for a report where none is wanted."""

    def __enter__(self) -> Progress | None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


def progress_report(quiet: bool, form: str = "text") -> ProgressReport | JsonReport | Silent:
    """A context manager whose value is what the library's functions take as `progress`; `form` is "text" or "json"."""
    if quiet or sys.stderr is None:
        return Silent()
    return JsonReport() if form == "json" else ProgressReport()


def _short(value: float) -> str:
    """12.3k for 12345."""
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"


def clock(seconds: float) -> str:
    """1:05 for 65 seconds, 1:00:00 for an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
