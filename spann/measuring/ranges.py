"""How far a search for all within a radius looks: as far as so many neighbours take, by the calibration."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

from spann.config import SearchParams, usual_rerank
from spann.measuring.promise import MOST_RERANK, Calibration
from spann.search import Effort
from spann.types import MAX_K

RANGE_BOUND = 0.75
"""`error_bound` of a range, at least, and at least that for `LEAST` neighbours: settings for k neighbours read the
first wave of candidates whatever their bounds, a range only those whose bound is within."""

AHEAD, LEAST = 1.2, 10
"""Effort of a range: for so many times the vectors that were seen in it, and at least for so many. With these and
`RANGE_BOUND` the average precision of ranges of 1 to 1000 vectors is 0.950 to 0.988 on SIFT, sentence embeddings and
clusters, at 0.84 to 1.11 times the cost of a search for as many neighbours (benchmarks/targets.py). With a bound of 1
it is up to 0.01 more, at up to 1.19 times; with least 1, ranges of a vector or two lose 0.02 on SIFT
(docs/decisions/0012)."""


FILTER_MARGIN = 2.0
"""Effort of a search under a filter: for so many times the vectors that are nearer than its k-th match."""


FILTER_CANDIDATES = 4
"""Candidates of a search under a filter, as a multiple of the usual number. The search takes more by itself if matches
are far from the query: those of another topic are all about equally far, and codes tell few of them apart."""


def filter_setting(setting: SearchParams, target: float, k: int) -> SearchParams:
    """The setting of a search under a filter, made of that for `k` neighbours without one. If all matches are about as
    far as the k-th, the share of them that is lost is that of estimates that err by more than the bound."""
    rerank = max(setting.rerank or 1, min(MOST_RERANK, FILTER_CANDIDATES * usual_rerank(k)))
    return setting.with_(error_bound=max(setting.error_bound, NormalDist().inv_cdf(target)), rerank=rerank)


@lru_cache(maxsize=64)
def filter_effort(known: Calibration, target: float, count: int) -> tuple[Effort, ...]:
    """What a search under a filter may score, of an index of `count` vectors, by how many are nearer than its k-th
    match; in steps of the root of two. The last effort is everything."""
    efforts: list[Effort] = []
    postings = 1
    for half in range(2 * math.ceil(math.log2(min(count, MAX_K) + 1)) + 1):
        one = known.choose(target, round(2 ** (half / 2)), best=True)
        postings = max(postings, one.max_postings or 1)
        efforts.append(Effort(2 ** (half / 2), postings, one.epsilon2))
    efforts.append(Effort(math.inf, 2**31, math.inf))
    return tuple(efforts)


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
