"""Searching an index: navigate, prune, fetch, score, collect, all in one native pass (ext/c/search.c)."""

from spann.search.budget import MemoryBudget
from spann.search.engine import IO_MODES, Effort, Engine
from spann.search.extent import RANGE_CANDIDATES, Within, iterate, search_range, search_within
from spann.search.verify import verify_index
from spann.search.workers import Stop

STAGES = ("navigate", "prune", "fetch", "score", "collect")
"""What one query goes through."""

__all__ = [
    "IO_MODES",
    "RANGE_CANDIDATES",
    "STAGES",
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
