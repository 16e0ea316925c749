"""How many processors this process may use: those that its affinity allows, within the time that its control groups
grant."""

from __future__ import annotations

import math
import os

from spann.control_groups import Group, control_groups


def processor_count() -> int:
    """Processors, at least 1. A container with a quota of 1.5 processors gets 2."""
    quotas = [quota for group in control_groups("cpu") if (quota := _quota(group)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, quotas)]))


def _quota(group: Group) -> float | None:
    """The quota of a group, in processors. None without a limit."""
    if group.unified:
        quota, _, period = group.text("cpu.max").partition(" ")  # "max" means no limit
    else:
        quota, period = group.text("cpu.cfs_quota_us"), group.text("cpu.cfs_period_us")  # -1 means no limit
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None
