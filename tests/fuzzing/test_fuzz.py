"""A moment of fuzzing of each target: scripts/fuzz goes on for hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing import runner

TARGETS = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if "\ndef execute(" in p.read_text())


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_is_fed_to_it_surprises_the_program(target):
    told: list[str] = []
    found = runner.run(target, 1, executions=200, tell=told.append)
    assert found.executions == 200
    assert sum(found.outcomes.values()) == 200
    assert len(found.outcomes) > 1, "some inputs must be refused, and some not"
    assert not found.findings, "\n".join(told)
