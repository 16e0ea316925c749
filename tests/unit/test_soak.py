"""A short soak: scripts/soak for hours is the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak"


def test_a_long_lived_process_does_not_grow():
    command = [sys.executable, str(SCRIPT), "--minutes", "0.05", "--seed", "3", "--patience", "10"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout
