"""A moment of fuzzing of each target: scripts/fuzz goes on for hours."""

from __future__ import annotations

import pytest

from tests.fuzzing import runner

TARGETS = ("contract", "filters", "flips", "indexes")
"""Those of indexes and of filters; tests/unit/test_vectors_hostile.py has that of inputs."""


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_inputs_are_refused_properly(target):
    told: list[str] = []
    found = runner.run(target, 1, executions=200, tell=told.append)
    assert found.executions == 200
    assert sum(found.outcomes.values()) == 200
    assert len(found.outcomes) > 1, "some inputs must be refused, and some not"
    assert not found.findings, "\n".join(told)
