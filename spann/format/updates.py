"""What the manifest of an index says of its updates, and the check of the arrays that find rows by id (docs/FORMAT.md,
Updates)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError, FormatError
from spann.format.entries import Entries
from spann.format.json_text import shown
from spann.types import Array

DELETED = "deleted"
"""Name of the feature: rows may be dead, and a log lies beside the index. Persistent."""

LIVE, IDS, ROWS = "vectors/live", "vectors/by_id/id", "vectors/by_id/row"
"""Names of the arrays that come with it."""

LARGEST_NUMBER = 1 << 62
"""The largest number of a file of the log, and of entries of `by_id`."""


@dataclass(frozen=True)
class Updates:
    """The entry `updates`. `live` is the number of live rows. `next_id` is the next id of an index that numbers its
    vectors itself, else None. `lineage` is that of its log, `log` the number of the first log file whose operations it
    does not contain. `runs` are the ends of the runs of `by_id`."""

    live: int
    next_id: int | None
    lineage: str
    log: int
    runs: tuple[int, ...]

    @classmethod
    def parse(cls, values: Mapping[str, Any], count: int, where: str) -> Updates:
        """Raises `FormatError` that names `where`, the entry and what it must be."""
        entry = Entries(values, where)
        lineage = values.get("lineage")
        if not isinstance(lineage, str) or not re.fullmatch("[0-9a-f]{8}", lineage):
            raise FormatError(f"{where}: lineage is {shown(lineage)}; it must be eight hexadecimal digits")
        runs = entry.list_of("runs", int)
        ends = [0, *runs]
        if any(type(end) is not int for end in runs) or any(b <= a for a, b in zip(ends, runs, strict=False)):
            raise FormatError(f"{where}: runs is {shown(runs)}; it must be a list of whole numbers, ascending from 1")
        if ends[-1] > LARGEST_NUMBER:
            raise FormatError(f"{where}: runs end at {shown(ends[-1])}, more than {LARGEST_NUMBER}")
        return cls(
            live=entry.number("live", 0, count),
            next_id=entry.number("next_id", 0, 1 << 63) if "next_id" in values else None,
            lineage=lineage,
            log=entry.number("log", 1, LARGEST_NUMBER),
            runs=tuple(runs),
        )

    def to_json(self) -> dict[str, Any]:
        """The entry as it stands in the manifest."""
        found: dict[str, Any] = {"live": self.live, "lineage": self.lineage, "log": self.log, "runs": list(self.runs)}
        return found if self.next_id is None else {**found, "next_id": self.next_id}

    @property
    def entries(self) -> int:
        """Entries of `by_id`."""
        return self.runs[-1] if self.runs else 0


def check_by_id(updates: Updates, ids: Array, rows: Array, live: NDArray[np.bool_], where: str) -> NDArray[np.int64]:
    """The id of each stored row, (rows,), -1 for dead rows.

    Raises `CorruptionError` unless ids ascend within each run, rows exist, each live row has one entry, and no two live
    rows have the same id."""
    start = 0
    for end in updates.runs:
        part = ids[start:end]
        for at in np.flatnonzero(part[1:] <= part[:-1])[:1]:
            raise CorruptionError(f"{where}: by_id holds id {part[at + 1]} after id {part[at]}, and ids ascend")
        start = end
    for at in np.flatnonzero(rows >= len(live))[:1]:
        raise CorruptionError(f"{where}: by_id gives id {ids[at]} the row {rows[at]}; there are {len(live)}")
    for at in np.flatnonzero(ids >= 1 << 63)[:1]:
        raise CorruptionError(f"{where}: by_id holds id {ids[at]}, and ids are below 2^63")
    counts = live[rows]
    found = np.full(len(live), -1, np.int64)
    found[rows[counts]] = ids[counts]
    if int(np.count_nonzero(counts)) != int(np.count_nonzero(found >= 0)):
        raise CorruptionError(f"{where}: by_id names a live row twice")
    for row in np.flatnonzero(live & (found < 0))[:1]:
        raise CorruptionError(f"{where}: live row {row} has no entry in by_id")
    known = np.sort(found[live])
    for at in np.flatnonzero(known[1:] == known[:-1])[:1]:
        raise CorruptionError(f"{where}: two live rows have the id {known[at]}")
    return found
