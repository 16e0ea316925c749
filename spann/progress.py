"""Progress of long work for people: bars on a terminal and in a notebook, a line for each stage in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from spann.errors import InputError
from spann.types import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

INTERVAL = 0.1
"""Seconds between two drawings. Faster drawing only flickers."""

UNITS = {
    **dict.fromkeys(("scan", "partition", "cluster", "refine", "assign", "arrange", "truth", "convert"), "vectors"),
    "graph": "centroids",
    "write": "pages",
    "attributes": "columns",
    "search": "queries",
}
"""The unit of each stage whose rate people can judge."""


class ProgressBars:
    """Shows progress: call it as `spann.types.Progress`, inside `with`, which ends the display.

    `stages` is the expected number of stages, and `seconds` their expected time, if known. Then each stage shows its
    number, and the time left for all. Without a terminal it prints a line when a stage ends.
    """

    def __init__(
        self, stream: TextIO | None = None, *, stages: Sequence[str] = (), seconds: float | None = None
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._stages, self._seconds = len(stages), seconds
        self._begun = self._start = time.monotonic()
        self._stage, self._number, self._drawn = "", 0, 0.0
        self._display = self._open(stream)
        self._task: TaskID | None = None

    def _open(self, stream: TextIO | None) -> Display | None:
        if not self._stream.isatty() and not (stream is None and _notebook()):
            return None
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = Console(file=None if stream is None and _notebook() else self._stream)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[told]}", markup=False),
        )
        display = Progress(*columns, console=console, auto_refresh=False)
        display.start()
        return display

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._drawn = stage, 0.0
            self._number += 1
            if self._display is not None:
                self._task = self._display.add_task(self._title(stage), total=max(1, total), told="")
        finished = done >= total
        if self._display is not None and (finished or now - self._drawn >= INTERVAL):
            self._drawn = now
            self._draw(done, total, now)
        if finished:
            if self._display is None:
                print(f"spann: {self._title(stage)}: {now - self._start:.1f} s", file=self._stream, flush=True)
            # The next stage begins where this one ends, so work before its first report counts as its own.
            self._stage, self._start = "", now

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()

    def _title(self, stage: str) -> str:
        name = escaped(stage)
        return f"[{self._number}/{max(self._number, self._stages)}] {name}" if self._stages else name

    def _draw(self, done: int, total: int, now: float) -> None:
        if self._display is None or self._task is None:
            return
        seconds, share = now - self._start, min(1.0, done / total) if total else 1.0
        told = []
        if done and seconds > 0 and self._stage in UNITS:
            told.append(f"{_short(done / seconds)} {UNITS[self._stage]}/s")
        if share == 1:
            told.append(f"{clock(seconds)}")
        elif share:
            left = seconds / share - seconds
            told.append(f"{clock(left)} left")
            if self._seconds is not None:
                told.append(f"about {clock(max(left, self._seconds - (now - self._begun)))} left of all")
        self._display.update(self._task, completed=done if total else 1, told=", ".join(told))
        self._display.refresh()


@contextmanager
def reporting(
    progress: Progress | bool | None, *, stages: Sequence[str] = (), seconds: float | None = None
) -> Iterator[Progress | None]:
    """Turns the `progress` argument of a call into a function or None: True means bars, False and None mean nothing."""
    if progress is True:
        with ProgressBars(stages=stages, seconds=seconds) as bars:
            yield bars
    elif progress is None or progress is False:
        yield None
    elif callable(progress):
        yield progress
    else:
        raise InputError(f"progress is {progress!r}; it must be True, False, or a function of stage, done and total")


def escaped(text: str) -> str:
    """`text` as one line of printing characters; others appear by number, as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def clock(seconds: float) -> str:
    """Seconds as text: 1:05 for 65 seconds, 1:00:00 for an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float) -> str:
    """Bytes with a unit of 1000: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _short(value: float) -> str:
    """A number in three digits: 12.3k for 12345."""
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"


def _notebook() -> bool:
    """Whether this runs in a Jupyter notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
