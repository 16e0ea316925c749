"""An index without vectors, to add some to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spann.building.pipeline import build_index
from spann.config import BuildParams
from spann.elements import STORED_TYPES
from spann.errors import InputError
from spann.format.updates import DELETED, Updates
from spann.store import files
from spann.store.log import create_log
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter
from spann.types import MAX_DIM, Metric
from spann.updating.rebuild import adopt, place_beside, placeholder
from spann.vectors import IdList


def create_index(
    path: Path, dim: int, metric: Metric, element: str, params: BuildParams, *, numbered: bool, created_by: str
) -> None:
    """Makes an index at `path` that has no vectors yet; `numbered` if it is to number them itself.

    Its one row is dead. Raises `ExistsError` if something is there, and `InputError` for what no index can be."""
    if element not in STORED_TYPES:
        raise InputError(f"dtype is {element!r}; it must be one of {', '.join((*STORED_TYPES[:-1], 'bool'))}")
    if (element == "bit") != (metric is Metric.HAMMING):
        raise InputError(f"dtype is {element} under {metric.value}: bool vectors and the metric hamming go together")
    if not 1 <= dim <= MAX_DIM or (element == "bit" and dim % 8):
        raise InputError(f"dim is {dim}; it must be from 1 to {MAX_DIM}, and of bits a multiple of 8")
    with IndexWriter(path, created_by=created_by) as writer:
        place = place_beside(writer.path)
        if files.exists(place):
            IndexReader.open(place.path).close()  # raises for what no killed process left there
            files.remove_tree(place)
        source = placeholder(element, dim)
        build_index(source, place.path, metric, params, created_by=created_by, ids=IdList(np.zeros(1, np.int64)))
        new = IndexReader.open(place.path)
        lineage = str(new.attributes["checksum"])
        updates = Updates(0, 0 if numbered else None, lineage, 1, ())
        create_log(writer.path, lineage, updates.log)
        about = adopt(writer, new, updates, live=False)
        about["sources"] = [""]
        writer.publish(about, features=sorted({*new.attributes["features"], DELETED}))
        new.close()
        files.remove_tree(place)
