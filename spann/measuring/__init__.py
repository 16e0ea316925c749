"""Measuring an index: exact truth, recall against it, and what each setting of the search costs."""

from spann.measuring.calibration import calibrate
from spann.measuring.evaluate import evaluate
from spann.measuring.exact import exact_search
from spann.measuring.explain import Explanation, explain
from spann.measuring.promise import Calibration
from spann.measuring.ranges import LEAST, range_effort
from spann.measuring.recall import recall_at_k

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
