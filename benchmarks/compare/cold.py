"""Groups of processes (cgroups, version 1) that bound a peer's memory and count its reads, where the system has them.

Without them a comparison runs as well, and says so: then the page cache is bounded by nothing but the machine, which
favours whoever reads through it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Groups:
    """Directories of the groups made for one child, and where the tree of those that count begins."""

    memory: str | None = None
    counter: str | None = None
    counter_root: str | None = None


@contextlib.contextmanager
def groups(on: Path) -> Iterator[Groups]:
    """Groups below this process's own, so that limits on it hold for the child too; removed at the end.

    `on` lies on the device whose reads are counted.
    """
    memory, counter = _make("memory"), _make("blkio")
    if counter is not None:
        # The kernel counts only where there is a limit: one that no device reaches.
        device = os.stat(on).st_dev
        try:
            limit = f"{os.major(device)}:{os.minor(device)} 1000000000"
            (counter / "blkio.throttle.read_iops_device").write_text(limit)
        except OSError:
            _remove(counter)
            counter = None
    try:
        root = _root("blkio")
        yield Groups(*(None if p is None else str(p) for p in (memory, counter, root)))
    finally:
        for group in (memory, counter):
            if group is not None:
                _remove(group)


def limits() -> dict[str, bool]:
    """What this system offers, for the report."""
    memory, counter = _make("memory"), _make("blkio")
    for group in (memory, counter):
        if group is not None:
            _remove(group)
    return {
        "memory limit": memory is not None,
        "count of reads": counter is not None,
        "drop caches": os.access("/proc/sys/vm/drop_caches", os.W_OK),
    }


def _make(controller: str) -> Path | None:
    root = _root(controller)
    if root is None:
        return None
    own = next(
        (p for _, names, p in _memberships() if controller in names.split(",")),
        "/",
    )
    group = root / own.lstrip("/") / f"compare-{os.getpid()}"
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        return None
    return group


def _memberships() -> list[list[str]]:
    return [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]


def _root(controller: str) -> Path | None:
    """Where the controller is mounted; None without version 1."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and controller in options.split(","):
            return Path(place)
    return None


def _remove(group: Path) -> None:
    for _ in range(50):
        try:
            group.rmdir()
            return
        except OSError:  # the child's last thread is still on its way out
            time.sleep(0.1)
