"""How a job divides its memory between the open index and blocks of vectors with their results."""

from __future__ import annotations

from dataclasses import dataclass

from spann.building.plan import limit_bytes, resident_bytes
from spann.config import parse_size
from spann.errors import InputError
from spann.search import MemoryBudget
from spann.types import QUERY_STATS

SLACK_BYTES = 48 << 20
"""Memory for the libraries that read and write Parquet, and for freed memory that the allocator keeps."""

INPUT_BYTES = 144 << 20
"""Memory for decoded pieces of Parquet files (`spann.vectors.table_source`)."""

BATCH_BYTES = 352 << 20
"""Memory for a batch that is searched posting by posting, if there is enough. The batch counts 192 MiB; the rest is the
allocator's cost for its many pieces."""

COUNTED_SHARE = 0.5
"""Share of the room that such a batch may count for itself if there is less."""

LARGEST_BLOCK = 1 << 16
"""Queries that are searched in one call, in several such batches."""

SMALLEST_BLOCK = 1 << 10


@dataclass(frozen=True)
class JobMemory:
    """The memory budget of the index, and the rows of a block."""

    budget: MemoryBudget
    block_rows: int


def share_memory(
    limit: int | str | None, row_bytes: int, k: int, *, parquet: bool = False, other_bytes: int = 0
) -> JobMemory:
    """Divides `limit`, in bytes or as "2GiB", after the memory that the process already takes. The default is half of
    the memory available. A vector takes `row_bytes`; `parquet` says whether vectors come from Parquet; `other_bytes`
    are needed besides. Raises `InputError` if nothing is left for an index."""
    given = limit_bytes(None if limit is None else parse_size(limit, "memory_limit"))
    now = resident_bytes()
    room = given - now - SLACK_BYTES - other_bytes - (INPUT_BYTES if parquet else 0)
    per_query = 3 * row_bytes + 40 * k + QUERY_STATS.itemsize
    rows = min(LARGEST_BLOCK, max(SMALLEST_BLOCK, max(room, 0) // 6 // per_query))
    room -= rows * per_query
    if room <= 0:
        need = given - room + (8 << 20)
        raise InputError(
            f"memory_limit is {given:,} bytes; the program takes {now:,} before it begins, and the job needs at least "
            f"{need:,} and what the open index always keeps"
        )
    if room >= 2 * BATCH_BYTES:
        return JobMemory(MemoryBudget(room - BATCH_BYTES, automatic=True), rows)
    return JobMemory(MemoryBudget(int(COUNTED_SHARE * room)), rows)
