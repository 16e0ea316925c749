"""What one query did, stage by stage, and why it stopped where it did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spann.measuring.promise import Calibration
from spann.search.decision import SearchDecision


@dataclass(frozen=True)
class Explanation:
    """What one query did with its setting. Times are in microseconds, sizes in bytes.

    - ``centroids_scored`` while navigating; ``postings_scored``, ``postings_read`` from disk, the others being pinned;
      ``stopped``: what ended the list of postings.
    - ``codes_scored``; ``vectors_scored`` exactly; ``reads``, ``pages_read`` (4 KiB), those of them of the exact store,
      and ``bytes_read``.
    - ``navigate_us``, ``score_us``, ``rerank_us`` of computing, ``read_us`` with reads under way, ``total_us``.
    - ``logged``: vectors of the log that were compared with the query, one by one; not in ``vectors_scored``.
    - ``predicted``: recall, postings and vectors scored that the calibration saw with such a setting, or None.
    - ``doubts``: why the recall that was asked for may not be had.
    """

    k: int
    found: int
    max_postings: int
    epsilon2: float | None
    error_bound: float
    rerank: int
    centroids_scored: int
    postings_scored: int
    postings_read: int
    stopped: str
    codes_scored: int
    vectors_scored: int
    reads: int
    pages_read: int
    exact_pages_read: int
    bytes_read: int
    navigate_us: float
    read_us: float
    score_us: float
    rerank_us: float
    total_us: float
    predicted: dict[str, float] | None
    doubts: tuple[str, ...]
    logged: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        reach = "" if self.epsilon2 is None else f", epsilon2 {self.epsilon2:.3g}"
        lines = [
            f"setting    max_postings {self.max_postings}{reach}, error_bound {self.error_bound:.3g}, "
            f"rerank {self.rerank}, k {self.k}",
            f"navigate   {self.centroids_scored} centroids scored, {self.navigate_us:.0f} us",
            f"postings   {self.postings_scored} scored, {self.postings_read} of them read from disk; stopped: "
            f"{self.stopped}",
            f"score      {self.codes_scored} codes, {self.score_us:.0f} us",
            f"re-rank    {self.vectors_scored} vectors exactly, {self.exact_pages_read} pages of the exact store, "
            f"{self.rerank_us:.0f} us",
            f"disk       {self.reads} reads, {self.pages_read} pages, {self.bytes_read / 1024:.0f} KiB, "
            f"{self.read_us:.0f} us with reads under way",
            f"in all     {self.total_us:.0f} us, {self.found} results",
        ]
        if self.logged:
            lines.append(f"log        {self.logged} vectors compared one by one, until `spann flush`")
        if self.predicted is not None:
            lines.append(
                f"predicted  recall {self.predicted['recall']:.3f}; on average {self.predicted['postings']:.0f} "
                f"postings and {self.predicted['vectors']:.0f} vectors exactly"
            )
        lines += [f"doubt      {doubt}" for doubt in self.doubts]
        return "\n".join(lines)


def explain(
    stats: np.void,
    found: int,
    decided: SearchDecision,
    postings: int,
    calibration: Calibration | None,
    doubts: Sequence[str] = (),
    *,
    logged: int = 0,
) -> Explanation:
    """Explains a query that cost `stats` (a record of `QUERY_STATS`) and found `found` vectors.

    It was searched as `decided`, in an index of `postings` postings with `logged` vectors in its log. `doubts` say why
    its recall may be lower than asked for."""
    most, k, reach = decided.max_postings, decided.k, 1 + decided.epsilon2
    scored = int(stats["postings_scored"])
    if stats["restarts"]:
        stopped = f"it began again, {stats['restarts']} times, for it had found fewer than {k} vectors"
    elif scored >= min(most, postings):
        stopped = "max_postings reached" if most < postings else "every posting was scored"
    elif math.isinf(decided.epsilon2):
        stopped = "every posting that navigation found was scored"
    else:
        stopped = f"vectors of the others are expected over {reach:.3g} times as far as those of the 16th"
    predicted = None
    if calibration is not None:
        point = calibration.near(decided)
        predicted = {"recall": point.recall, "postings": point.postings, "vectors": point.distances}
    return Explanation(
        k=k,
        found=found,
        max_postings=most,
        epsilon2=None if math.isinf(decided.epsilon2) else decided.epsilon2,
        error_bound=decided.error_bound,
        rerank=decided.rerank,
        centroids_scored=int(stats["centroid_distances"]),
        postings_scored=scored,
        postings_read=int(stats["postings_read"]),
        stopped=stopped,
        codes_scored=int(stats["estimates"]),
        vectors_scored=int(stats["distances"]) - logged,
        reads=int(stats["reads"]),
        pages_read=int(stats["pages_read"]),
        exact_pages_read=int(stats["exact_pages_read"]),
        bytes_read=int(stats["bytes_read"]),
        navigate_us=float(stats["navigate_ns"]) / 1e3,
        read_us=float(stats["read_ns"]) / 1e3,
        score_us=float(stats["score_ns"]) / 1e3,
        rerank_us=float(stats["rerank_ns"]) / 1e3,
        total_us=float(stats["total_ns"]) / 1e3,
        predicted=predicted,
        doubts=tuple(doubts),
        logged=logged,
    )
