"""Groups of processes (cgroups, version 1) that bound a peer's memory and count its reads, if the system has them.

Without them a comparison still runs, and says so. Then only the machine bounds the page cache, which favours peers that
read through it.
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
    """Directories of the groups made for one child, and the root of the tree of groups that count reads."""

    memory: str | None = None
    counter: str | None = None
    counter_root: str | None = None


@contextlib.contextmanager
def groups(on: Path) -> Iterator[Groups]:
    """Makes groups below this process's own, so that its limits hold for the child too. Removes them at the end.

    Reads of the device of `on` are counted.
    """
    memory, counter = _make("memory"), _make("blkio")
    if counter is not None:
        # The kernel counts only under a limit, so set a limit that no device reaches.
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
    """The means that this system offers, for the report."""
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
    """The directory of the controller; None without version 1."""
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
        except OSError:  # the last thread of the child has not ended yet
            time.sleep(0.1)
