"""Every kind of failure: its exit code, its one line, and the traceback only on request."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

import spann
from spann.cli import cli
from spann.errors import CorruptionError, ExistsError, FormatError, InputError, MissingError, StorageError

ROOT = Path(__file__).parents[2]

Refused = Callable[..., str]


def process(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spann.cli", *map(str, args)], cwd=ROOT, capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("k 9 is too large"), 2, "k 9 is too large"),
        (MissingError("no index at x"), 2, "no index at x"),
        (ExistsError("x is taken"), 2, "x is taken"),
        (FormatError("not\nan index"), 1, "not an index"),
        (CorruptionError("damaged"), 1, "damaged"),
        (StorageError("disk full"), 1, "disk full"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 1, "/x/y: Permission denied"),
        (MemoryError(), 1, "not enough memory"),
        (MemoryError("Unable to allocate 9 GiB"), 1, "not enough memory: Unable to allocate 9 GiB"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("oops"), 1, "unexpected ZeroDivisionError: oops (--debug shows where; please report it)"),
    ],
)
def test_errors_become_codes(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, error: BaseException, code: int, message: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(spann, "open", fail)
    assert refused(code, "info", "x") == f"spann: error: {message}"


@pytest.mark.parametrize(
    "args", [("--debug", "info", "nowhere"), ("info", "nowhere", "--debug"), ("info", "--debug", "nowhere")]
)
def test_debug_shows_the_traceback(run: Callable[..., click.testing.Result], args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert "MissingError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"spann: error: no index at {Path('nowhere').absolute()}")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("--frobnicate",), "No such option"),
        (("build",), "Missing argument 'BASE...'. (see spann build --help)"),
        (
            ("build", "a", "b", "--metric", "cosin"),
            "metric 'cosin' is unknown; it must be one of l2, cosine, ip, hamming. Did",
        ),
        (("build", "a", "b", "--code-bits", "many"), "'many' is not a valid integer"),
        (("eval", "a", "b", "c", "--max-postings", "8,x"), "'x' is not a valid integer"),
        (("eval", "a", "b", "c", "--threads", "0"), "0 is not in the range x>=1"),
        (("search", "a", "b", "-o", "-", "--json"), "give one of them"),
        (("truth", "a", "b"), "Missing option '-o'"),
    ],
)
def test_wrong_usage_is_2(refused: Refused, args: tuple[str, ...], message: str) -> None:
    assert message in refused(2, *args)


def test_every_option_says_its_default() -> None:
    for command in cli.commands.values():
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden and not option.required:
                assert option.help, option.name
                assert "Default: " in option.help or option.name in ("debug", "output"), (command.name, option.name)


def test_help_and_version() -> None:
    for args in (["--help"], *([name, "-h"] for name in cli.commands)):
        result = click.testing.CliRunner().invoke(cli, args)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: spann ")
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"spann {spann.__version__}\n", "")


def test_a_real_process_fails_in_one_line(tmp_path: Path) -> None:
    done = process("info", tmp_path / "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"spann: error: no index at {tmp_path / 'none'}\n"


def _heed_interrupts() -> None:
    """A test run in the background may itself ignore the signal, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_is_130(tmp_path: Path) -> None:
    # Enough work to be in the middle of it when the signal comes, whatever the machine.
    np.save(tmp_path / "base.npy", np.random.default_rng(0).random((200_000, 32), np.float32))
    command = [sys.executable, "-m", "spann.cli", "truth", "base.npy", "base.npy", "-k", "5", "-o", "t.ibin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_heed_interrupts
    ) as started:
        # The signal would end a program that has not begun to handle it: wait until it has read its arguments.
        while not Path(f"/proc/{started.pid}/fd").exists() or not _has_open(started.pid, tmp_path / "base.npy"):
            assert started.poll() is None
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert errors.strip() == "spann: error: interrupted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.npy"]


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(os.path.realpath(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_a_closed_pipe_is_no_error(data: Path) -> None:
    script = f"{sys.executable} -m spann.cli search {data}/index.spann {data}/queries.npy -k 500 -o - | head -c 10"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '{"query": '
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_shells_complete(tmp_path: Path) -> None:
    def asked(**words: str) -> str:
        command = [sys.executable, "-c", "from spann.cli import main; main()"]
        return subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=False).stdout

    assert "complete -o nosort -F _spann_completion spann" in asked(_SPANN_COMPLETE="bash_source")
    found = asked(_SPANN_COMPLETE="bash_complete", COMP_WORDS="spann se", COMP_CWORD="1")
    assert found.split() == ["plain,search"]


def test_without_a_command_the_help_is_shown(run: Callable[..., click.testing.Result]) -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (2, "")
    assert result.stdout == run("--help").stdout


def test_commands_are_listed_in_the_order_of_work(run: Callable[..., click.testing.Result]) -> None:
    _, _, listed = run("--help").stdout.partition("Commands:\n")
    names = [line.split()[0] for line in listed.splitlines() if not line.startswith("   ")]
    assert names[:5] == ["demo", "plan", "build", "search", "tune"]
    assert set(names) == set(cli.commands)
    assert "..." not in listed, "a line of help was cut"


def test_options_come_from_the_environment(
    run: Callable[..., click.testing.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPANN_PLAN_MAX_ROWS", "many")
    result = run("plan", "x.npy")
    assert (result.exit_code, "'--max-rows'" in result.stderr) == (2, True)
