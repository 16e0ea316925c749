"""Approximate nearest-neighbour search for vector collections too large for memory.

>>> import numpy as np, spann, tempfile
>>> vectors = np.random.default_rng(0).random((1000, 16), dtype=np.float32)
>>> with tempfile.TemporaryDirectory() as directory:
...     with spann.build(vectors, directory + "/my.spann") as index:
...         ids, distances = index.search(vectors[:3], k=1)
>>> ids.ravel().tolist()
[0, 1, 2]
"""

import logging

from spann._version import __version__
from spann.building.plan import Plan
from spann.config import BuildParams, SearchParams
from spann.errors import (
    CorruptionError,
    ExistsError,
    FormatError,
    InputError,
    MissingError,
    NarrowingWarning,
    RecallWarning,
    RepeatWarning,
    SpannError,
    SpannWarning,
    StorageError,
)
from spann.filters import col
from spann.functions import append, build, calibrate, create, plan, snapshot, verify
from spann.index import Index
from spann.index import open_index as open
from spann.jobs import join
from spann.types import Metric, RangeResult, SearchResult
from spann.vectors import open_source

logging.getLogger("spann").addHandler(logging.NullHandler())  # silent until a program asks for the log

__all__ = [
    "BuildParams",
    "CorruptionError",
    "ExistsError",
    "FormatError",
    "Index",
    "InputError",
    "Metric",
    "MissingError",
    "NarrowingWarning",
    "Plan",
    "RangeResult",
    "RecallWarning",
    "RepeatWarning",
    "SearchParams",
    "SearchResult",
    "SpannError",
    "SpannWarning",
    "StorageError",
    "__version__",
    "append",
    "build",
    "calibrate",
    "col",
    "create",
    "join",
    "open",
    "open_source",
    "plan",
    "snapshot",
    "verify",
]
