"""Measuring an index: exact truth, recall against it, and what each setting of the search costs."""

from spann.tune.calibrate import calibrate
from spann.tune.evaluate import evaluate
from spann.tune.explain import Explanation, explain
from spann.tune.promise import Calibration
from spann.tune.ranges import LEAST, range_effort
from spann.tune.recall import recall_at_k
from spann.tune.truth import exact_search

__all__ = [
    "LEAST",
    "Calibration",
    "Explanation",
    "calibrate",
    "evaluate",
    "exact_search",
    "explain",
    "range_effort",
    "recall_at_k",
]
