"""Progress on a terminal and in a log."""

from __future__ import annotations

import io
import re

from spann.cli.progress import ProgressReport, clock, progress_report
from spann.cli.text import size, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_per_stage() -> None:
    log = io.StringIO()
    with ProgressReport(log) as report:
        for done in range(101):
            report("cluster", done, 100)
        report("write", 5, 10)
        report("write", 10, 10)
    first, second = log.getvalue().splitlines()
    assert first == "spann: cluster: 0.0 s"
    assert second == "spann: write: 0.0 s"


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with ProgressReport(terminal) as report:
        report("cluster", 0, 100)
        report("cluster", 50, 100)
        report("cluster", 100, 100)
        report("write", 1, 3)
    text = terminal.getvalue()
    assert text.startswith("\rcluster      [" + "-" * 30 + "]   0%")
    assert re.search(r"\[#{30}\] 100%  [0-9.]+[kMG]?/s  0:00 in all\x1b\[K\n", text)
    # What is interrupted leaves a whole line behind.
    assert text.endswith("\n")


def test_the_bar_is_drawn_seldom() -> None:
    terminal = Terminal()
    with ProgressReport(terminal) as report:
        for done in range(100_000):
            report("cluster", done, 100_000)
    assert terminal.getvalue().count("\r") < 50


def test_an_empty_stage_is_finished() -> None:
    log = io.StringIO()
    ProgressReport(log)("write", 0, 0)
    assert log.getvalue() == "spann: write: 0.0 s\n"


def test_quiet_reports_nothing() -> None:
    with progress_report(quiet=True) as progress:
        assert progress is None


def test_texts() -> None:
    assert (clock(0), clock(65), clock(3600)) == ("0:00", "1:05", "1:00:00")
    assert (size(999), size(1500), size(2.5e6), size(3e9), size(4e12)) == (
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3.0 GB",
        "4.0 TB",
    )
    assert table(["a", "bcd"], [["10", "2"]]) == [" a  bcd", "10    2"]
