"""Output to a terminal or a pipe: escaped text of files, and outputs that are closed, full or unread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spann.cli.search import LONGEST_LINE
from spann.progress import escaped
from tests.cli.conftest import Run

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\n\tindex: ok\x9b\u202e\u2028\x7f"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ± ε 漢字", "plain, ± ε 漢字"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x9b\x7f\u202e\u2066\u200b\u2028", r"\x9b\x7f\u202e\u2066\u200b\u2028"),
        ("\udcff", r"\udcff"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def shown(run: Run, *args: object) -> str:
    result = run(*args)
    text = result.stdout + result.stderr
    for line in text.splitlines():
        assert line.isprintable(), line
    return text


def test_names_of_files_are_escaped(run: Run, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    base = folder / "base.npy"
    np.save(base, np.load(data / "base.npy")[:300])
    index = folder / "i"
    for args in (
        ("build", base, index, "--calibration-queries", 0),
        ("info", index),
        ("verify", index),
        ("search", index, base, "-k", 1, "-o", folder / "o.npz"),
        ("convert", base, folder / "x.fbin"),
        ("truth", base, base, "-k", 1, "-o", folder / "t.ibin"),
        ("append", index, base),
        ("info", folder / "none"),
        ("info", folder / "none", "--debug"),
        ("search", index, folder / "none.npy", "-o", "x\x1b.npz"),
        (HOSTILE,),
        ("build", base, index, "--metric", HOSTILE),
        ("plan", base, "--memory-limit", HOSTILE),
    ):
        assert r"\x1b" in shown(run, *args) or args[0] in ("search", "verify", "info", "plan"), args
    (index / HOSTILE.replace("/", "")).write_text("")
    assert r"\x1b]0;title\x07" in shown(run, "verify", index)


def test_warnings_are_lines_like_errors(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(*_: object, **__: object) -> None:
        warnings.warn(f"beware {HOSTILE}", UserWarning, stacklevel=1)

    monkeypatch.setattr("spann.verify", lambda *_: warned() or [])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("verify", data / "index.spann", "-q")
    assert result.stderr == r"spann: warning: beware \x1b]0;title\x07\x1b[2J index: ok\x9b\u202e \x7f" + "\n"


SPANN = [sys.executable, "-m", "spann.cli"]


def started(command: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Runs `command` in a shell, where "$@" are the program and its arguments."""
    words = ["sh", "-c", command, "sh", *SPANN, *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("redirected", "code", "message"),
    [
        ('"$@" >&-', 2, "standard output is closed; send it to /dev/null to see nothing"),
        ('"$@" >/dev/full', 1, "standard output cannot be written: No space left on device"),
        ('"$@" 2>&-', 0, ""),
        ('"$@" 2>/dev/full', 0, ""),
        ('"$@" <&-', 0, ""),
        ('{ "$@"; echo $? >&2; } | true', 0, "141"),
    ],
)
def test_unwritable_outputs_are_refused(data: Path, redirected: str, code: int, message: str) -> None:
    result = started(redirected, "search", data / "index.spann", data / "queries.npy", "-o", "-", "-k", 900)
    assert result.returncode == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if "queries in" not in line]
    assert errors == ([f"spann: error: {message}"] if message and message != "141" else [message][: bool(message)])


@pytest.mark.parametrize(
    ("redirected", "code", "message"),
    [
        ('"$@" <&-', 2, "standard input is closed; QUERIES - needs it"),
        ('"$@" </dev/zero', 2, f"a line of standard input is over {LONGEST_LINE} bytes long, which is the limit"),
        ('head -c 5000000 /dev/zero | "$@"', 2, f"a line of standard input is over {LONGEST_LINE} bytes"),
    ],
)
def test_unreadable_inputs_are_refused(data: Path, redirected: str, code: int, message: str) -> None:
    result = started(redirected, "search", data / "index.spann", "-", "-o", "-")
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith(f"spann: error: {message}")


GOOD = json.dumps([0.5] * 16).encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"no",
        b"[" * 100_000,
        b"[" + b"9" * 400 + b", 1" * 15 + b"]",
        b"[" + b"9" * 5000 + b", 1" * 15 + b"]",
        b"[1e39" + b", 1" * 15 + b"]",
        b"[NaN" + b", 1" * 15 + b"]",
        b"[-Infinity" + b", 1" * 15 + b"]",
        b"[1e-60" + b", 0" * 15 + b"]",
        b"[1e25" + b", 0" * 15 + b"]",
        b'["1"' + b", 1" * 15 + b"]",
        b"[true" + b", 1" * 15 + b"]",
        b"[[1]" + b", 1" * 15 + b"]",
        b"[1, 2]",
        b"null",
        b'{"vector": {"a": 1}}',
        b'{"vectors": []}',
        b"\xff\xfe\x00",
        b"\x1b[31m",
        b"[]",
    ],
)
def test_lines_before_a_bad_one_are_answered(data: Path, run: Run, bad: bytes) -> None:
    from click.testing import CliRunner

    from spann.cli import cli

    command = ["search", str(data / "index.spann"), "-", "-o", "-", "-k", "1"]
    result = CliRunner().invoke(cli, command, input=b"\n".join([GOOD, GOOD, bad, GOOD]))
    assert result.exit_code == 2, result.output
    assert [json.loads(line)["query"] for line in result.stdout.splitlines()] == [0, 1]
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(
        ("spann: error: query 2 on standard input", "spann: error: row 2 of standard input")
    )


@pytest.mark.parametrize("target", ["0", "1", "2", "-1", "nan", "inf", "0.9,1", "x", ""])
def test_impossible_targets_are_refused(data: Path, refused: Callable[..., str], target: str) -> None:
    assert target.split(",")[-1] in refused(2, "tune", data / "index.spann", data / "queries.npy", "--target", target)
    if "," not in target:
        command = ("search", data / "index.spann", data / "queries.npy", "--json", "--target-recall", target)
        assert target in refused(2, *command)


def test_letters_that_the_encoding_lacks_are_escaped(data: Path) -> None:
    command = [*SPANN, "info", str(data / "index.spann")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode == 0, result.stderr
    assert r"\xb1" in result.stdout
