"""Searching an index: navigate, prune, read, score, re-rank, collect, all in one native pass (ext/c/search)."""

from spann.search.budget import MemoryBudget
from spann.search.engine import IO_MODES, Effort, Engine
from spann.search.extent import RANGE_CANDIDATES, Within, iterate, search_range, search_within
from spann.search.verify import verify_index
from spann.search.workers import Stop

__all__ = [
    "IO_MODES",
    "RANGE_CANDIDATES",
    "Effort",
    "Engine",
    "MemoryBudget",
    "Stop",
    "Within",
    "iterate",
    "search_range",
    "search_within",
    "verify_index",
]
