"""What a search does: decided from the wish of the caller (`SearchParams`) and the kind of the index's postings."""

from __future__ import annotations

from dataclasses import dataclass

from spann.config import MAX_BEAM, SMALLEST_BEAM, SearchParams, usual_rerank
from spann.format.kinds import PostingKind


@dataclass(frozen=True)
class SearchDecision:
    """How one query is searched. Each field is that of `SearchParams`, and none is open."""

    k: int
    max_postings: int
    epsilon2: float
    navigate: int
    rerank: int
    error_bound: float

    @classmethod
    def of(cls, wish: SearchParams, kind: PostingKind, k: int) -> SearchDecision:
        """Decides what `wish` leaves open, for `k` neighbours in an index with postings of this `kind`."""
        postings = wish.max_postings or kind.default_postings
        return cls(
            k=k,
            max_postings=postings,
            epsilon2=wish.epsilon2,
            navigate=min(MAX_BEAM, wish.navigate or max(SMALLEST_BEAM, kind.beam * postings)),
            rerank=wish.rerank or usual_rerank(k),
            error_bound=wish.error_bound,
        )
