"""Progress on a terminal, in a log and from Python."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

import spann
from spann.cli.progress import progress_report
from spann.cli.text import table
from spann.progress import ProgressBars, clock, reporting, size
from spann.types import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_per_stage() -> None:
    log = io.StringIO()
    with ProgressBars(log) as report:
        for done in range(101):
            report("cluster", done, 100)
        report("write", 5, 10)
        report("write", 10, 10)
    assert log.getvalue() == "spann: cluster: 0.0 s\nspann: write: 0.0 s\n"


def test_stages_are_numbered_if_their_count_is_known() -> None:
    log = io.StringIO()
    with ProgressBars(log, stages=("scan", "graph", "assign")) as report:
        for stage in ("scan", "assign", "graph"):
            report(stage, 1, 1)
    assert [line.split()[1:3] for line in log.getvalue().splitlines()] == [
        ["[1/3]", "scan:"], ["[2/3]", "assign:"], ["[3/3]", "graph:"]
    ]  # fmt: skip


def shown(terminal: Terminal) -> str:
    """What a terminal was sent, without the codes that colour it and move about."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    terminal = Terminal()
    with ProgressBars(terminal, stages=("graph", "write"), seconds=100) as report:
        now[0] = 10.0
        report("graph", 2500, 10_000)
        assert re.search(r"\[1/2\] graph .* 25% 250 centroids/s, 0:30 left, about 1:30 left of all", shown(terminal))
        now[0] = 20.0
        report("graph", 10_000, 10_000)
        assert re.search(r"graph .*100% 500 centroids/s, 0:20", shown(terminal))
        report("odd\x1b", 1, 3)
    assert re.search(r"\[2/2\] odd\\x1b .* 33%", shown(terminal))
    # What is interrupted leaves a whole line behind.
    assert terminal.getvalue().rstrip("\x1b[?25h").endswith("\n")


def test_the_bar_is_drawn_at_intervals() -> None:
    terminal = Terminal()
    with ProgressBars(terminal) as report:
        for done in range(100_000):
            report("cluster", done, 100_000)
    assert shown(terminal).count("cluster") < 60


def test_an_empty_stage_is_finished() -> None:
    log = io.StringIO()
    ProgressBars(log)("write", 0, 0)
    assert log.getvalue() == "spann: write: 0.0 s\n"
    terminal = Terminal()
    with ProgressBars(terminal) as report:
        report("write", 0, 0)
    assert "100%" in shown(terminal)


def test_from_python(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    base = np.random.default_rng(0).random((500, 16), dtype=np.float32)
    path = f"{tmp_path}/i"
    spann.build(base, path, progress=True).close()
    lines = capsys.readouterr().err.splitlines()
    stages = spann.plan(base).stages
    assert [line.split()[1] for line in lines] == [f"[{i}/{len(stages)}]" for i in range(1, len(stages) + 1)]
    assert {line.split()[2].rstrip(":") for line in lines} == set(stages)
    spann.append(path, base[:10] + 1, progress=True).close()
    assert spann.verify(path, progress=True) == []
    assert "spann: verify: " in capsys.readouterr().err
    spann.build(base, path, overwrite=True, params=spann.BuildParams(seed=1), progress=False).close()
    assert capsys.readouterr().err == ""
    with pytest.raises(spann.InputError, match="progress is 5; it must be True, False, or a function"):
        spann.verify(path, progress=5)  # type: ignore[arg-type]


def test_a_given_function_is_called_unchanged() -> None:
    def told(stage: str, done: int, total: int) -> None: ...

    with reporting(told) as progress:
        found: Progress | None = progress
        assert found is told


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
