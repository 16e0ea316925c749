"""The control groups of this process: limits that a container or a service sets on its memory and its processors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """One group. ``unified``: its files are those of version 2 of control groups."""

    path: Path
    unified: bool

    def text(self, name: str) -> str:
        """The content of one of its files; empty if it cannot be read."""
        try:
            return (self.path / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""


def control_groups(controller: str) -> Iterator[Group]:
    """The groups of this process for a `controller`, such as "memory", and all groups around them."""
    try:
        lines = GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = [MOUNTED]
        elif controller in controllers.split(","):
            roots = list(dict.fromkeys([MOUNTED / controller, MOUNTED / controllers]))
        else:
            continue
        for root in roots:
            here = root / path.lstrip("/")
            for group in (here, *here.parents):
                if not group.is_relative_to(root):
                    break
                yield Group(group, controllers == "")
