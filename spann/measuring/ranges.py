"""How far a search for all within a radius looks: as far as so many neighbours take, by the calibration."""

from __future__ import annotations

import math
from functools import lru_cache

from spann.config import SearchParams
from spann.measuring.promise import Calibration
from spann.search import Effort

RANGE_BOUND = 0.75
"""`error_bound` of a range, at least, and at least that for `LEAST` neighbours: settings for k neighbours read the
first wave of candidates whatever their bounds, a range only those whose bound is within."""

AHEAD, LEAST = 1.2, 10
"""Effort of a range: for so many times the vectors that were seen in it, and at least for so many. With these and
`RANGE_BOUND` the average precision of ranges of 1 to 1000 vectors is 0.950 to 0.988 on SIFT, sentence embeddings and
clusters, at 0.84 to 1.11 times the cost of a search for as many neighbours (benchmarks/targets.py). With a bound of 1
it is up to 0.01 more, at up to 1.19 times; with least 1, ranges of a vector or two lose 0.02 on SIFT
(docs/decisions/0012)."""


@lru_cache(maxsize=64)
def range_effort(
    known: Calibration, target: float, most: int, least: SearchParams
) -> tuple[SearchParams, tuple[Effort, ...]]:
    """The setting of ranges of up to `most` vectors, for recall `target`, made of that for `LEAST` neighbours, `least`;
    and what they may score by how many vectors they have: what `AHEAD` times as many neighbours take, or the most that
    was seen to be of use, in steps of the root of two."""
    efforts: list[Effort] = []
    postings = 1
    for half in range(2 * math.ceil(math.log2(most + 1)) + 1):
        count = 2 ** (half / 2)
        k = max(LEAST, round(AHEAD * count))
        one = known.choose(target, k, best=not known.reaches(target, k))
        postings = max(postings, one.max_postings or 1)
        efforts.append(Effort(count, postings, one.epsilon2))
    return least.with_(error_bound=max(RANGE_BOUND, least.error_bound)), tuple(efforts)
