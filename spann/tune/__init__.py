"""Measuring an index: exact truth, recall against it, and what each setting of the search costs."""

from spann.tune.evaluate import evaluate
from spann.tune.recall import recall_at_k
from spann.tune.truth import exact_search

__all__ = ["evaluate", "exact_search", "recall_at_k"]
