"""How a search divides the memory it may take: threads, queries under way on each, and queries of a block."""

from __future__ import annotations

from dataclasses import dataclass

from spann.errors import InputError
from spann.types import QUERY_STATS

BATCH_BYTES = 192 << 20
"""Memory of a posting-major batch: the more queries it holds, the more of them a read serves."""

SEARCH_SHARE = 0.5
"""Share of the available memory that a search takes, if no budget is given in bytes."""

LITTLE_BYTES = 8 << 20
"""What a search takes without a look at the memory available."""

BATCH_THREAD_BYTES = 4 << 20
"""Buffers of a thread that works on a posting-major batch."""

SMALLEST_BLOCK = 4096
"""Queries of a posting-major batch, at least: smaller ones are answered one by one, and sooner."""


STATS_BYTES = QUERY_STATS.itemsize


def result_bytes(queries: int, k: int) -> int:
    return queries * (12 * k + STATS_BYTES)


@dataclass(frozen=True)
class Needs:
    """Bytes that a search takes: ``results`` in all, ``query`` for each query under way, ``thread`` for each thread;
    ``batch`` for what a posting-major batch keeps, whatever its queries are."""

    results: int
    query: int
    thread: int
    batch: int

    def room(self, available: int) -> int:
        """Bytes that the search may take beside its results; `InputError` where these, or one query, do not fit."""
        if self.results + self.query > available:
            raise InputError(
                f"the results of this search take {self.results:,} bytes, one query under way {self.query:,}, and "
                f"{available:,} bytes of memory are available: search for fewer queries at a time, or with a smaller k"
            )
        return int(SEARCH_SHARE * (available - self.results))

    def query_major(self, room: int, threads: int, in_flight: int) -> tuple[int, int]:
        """(threads, queries in flight on each), no more than those given."""
        threads = min(threads, max(1, room // (self.thread + self.query)))
        return threads, min(in_flight, max(1, (room // threads - self.thread) // self.query))

    def block(self, room: int, threads: int) -> tuple[int, int]:
        """(threads, queries of a posting-major block)."""
        threads = min(threads, max(1, room // 2 // BATCH_THREAD_BYTES))
        room = min(BATCH_BYTES, room - threads * BATCH_THREAD_BYTES) - self.batch
        return threads, max(0, room // self.query)
