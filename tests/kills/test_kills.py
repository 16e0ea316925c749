"""A few rounds of scripts/kills for each command, in a process of its own: this one has threads, and they fork."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills.rounds import COMMANDS

SCRIPT = Path(__file__).parents[2] / "scripts" / "kills"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_killed_and_given_again_end_the_same(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, SCRIPT, name, "--rounds", "2", "--seed", "3"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "FAULT" not in ended.stdout
