"""How many processors this process may use: those that its affinity allows, within the time that its control groups
grant."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


def processor_count() -> int:
    """Processors, at least 1. A container with a quota of 1.5 processors gets 2."""
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """The quota of each control group of this process, in processors. Groups without a limit yield nothing."""
    try:
        lines = GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = [MOUNTED]
        elif "cpu" in controllers.split(","):
            roots = [MOUNTED / "cpu", MOUNTED / controllers]
        else:
            continue
        for root in roots:
            here = root / path.lstrip("/")
            for group in (here, *here.parents):
                if not group.is_relative_to(root):
                    break
                quota = _unified(group) if controllers == "" else _divided(group)
                if quota is not None:
                    yield quota


def _unified(group: Path) -> float | None:
    """The quota of a group of version 2. `cpu.max` holds the time and the period; "max" means no limit."""
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _divided(group: Path) -> float | None:
    """The quota of a group of version 1. Time and period have a file each; -1 means no limit."""
    quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
