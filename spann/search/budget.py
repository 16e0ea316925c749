"""The memory budget of an open index: what it says, and what is pinned under it.

Centroids, their graph, shapes, the posting directory and the checksums of the exact store are always in memory. The
rest of the budget goes to codes, posting by posting from the first on. No query reads a pinned posting, or its
replicas, from disk.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann._kernels.postings import HEADER_BYTES
from spann.config import parse_size
from spann.errors import InputError
from spann.system import available_memory

AUTO_SHARE = 0.5
"""Share of the memory available at opening that "auto" may take."""


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that an open index may keep in memory; None: as much as is always needed ("none") or useful ("auto").
    An automatic one with a limit is "auto" within that, and what is always needed where that is more."""

    limit: int | None
    automatic: bool = False

    @classmethod
    def parse(cls, value: int | str | MemoryBudget) -> MemoryBudget:
        """From bytes, from "44MB" or "1.5GiB" (any of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB), "auto" or "none"."""
        if isinstance(value, MemoryBudget):
            return value
        if isinstance(value, str) and value.strip().lower() in ("auto", "none"):
            return cls(None, value.strip().lower() == "auto")
        return cls(parse_size(value, "memory_budget", "auto", "none"))

    def left(self, needed: int) -> int:
        """Bytes that are left beside the `needed` ones, at least 0."""
        if self.automatic:
            return max(0, min(int(AUTO_SHARE * available_memory()), self.limit or sys.maxsize) - needed)
        return 0 if self.limit is None else max(0, self.limit - needed)

    def pinned_postings(self, needed: int, sizes: NDArray[np.int64], name: str) -> int:
        """Postings, from the first on, that fit beside the `needed` bytes; `sizes` (postings + 1,) are those of
        `pinned_bytes`. Raises `InputError` if not even `needed` fits, naming the index."""
        if self.automatic:
            left = min(int(AUTO_SHARE * available_memory()), self.limit or sys.maxsize) - needed
        elif self.limit is None:
            left = 0
        else:
            left = self.limit - needed
            if left < 0:
                raise InputError(
                    f"memory_budget is {self.limit} bytes; centroids, graph, directory and appended vectors of {name} "
                    f"need {needed}"
                )
        return int(np.searchsorted(sizes, left, side="right")) - 1 if left > 0 else 0


def pinned_bytes(
    entries: NDArray[np.uint64], replicas: NDArray[np.uint64], entry_bytes: int, row_bytes: int
) -> NDArray[np.int64]:
    """What the first 0, 1, ... postings take when pinned, (postings + 1,).

    So many `entries` are in them, `replicas` among them. An entry takes `entry_bytes`, and a replica `row_bytes`
    more."""
    headers = np.arange(len(entries), dtype=np.int64) * HEADER_BYTES
    return entries.astype(np.int64) * entry_bytes + replicas.astype(np.int64) * row_bytes + headers
