"""Builds and changes of indexes with sizes of a test's choice: small collections then have many blocks and marks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import spann
from spann.building.ids import Ids
from spann.building.job import Job
from spann.building.pipeline import build_index
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.space import Space
from spann.changing.append import append_index
from spann.changing.recalibrate import recalibrate
from spann.format.postings import Record
from spann.types import Metric, Progress
from spann.vectors import VectorSource, as_ids, open_source

PROGRAM = f"spann {spann.__version__}"

MARKS = Sizes(mark_seconds=0.0, mark_share=math.inf)
"""Marks at every chance."""

MANY = Sizes(
    mark_seconds=0.0,
    mark_share=math.inf,
    region_bytes=1 << 15,
    neighborhood_rows=512,
    arrange_bytes=1 << 14,
    page_bytes=1 << 14,
    code_bytes=1 << 17,
    truth_rows=1000,
)
"""Marks at every chance, many regions and batches."""


def build(
    vectors: Any,
    path: Path | str,
    *,
    metric: str = "l2",
    params: spann.BuildParams | None = None,
    ids: Any = None,
    sizes: Sizes = DEFAULT_SIZES,
    **more: Any,
) -> None:
    """`spann.build` with `sizes`."""
    build_index(
        open_source(vectors),
        path,
        Metric.parse(metric),
        params or spann.BuildParams(),
        created_by=PROGRAM,
        ids=as_ids(ids),
        sizes=sizes,
        **more,
    )


def append(path: Path | str, vectors: Any, *, ids: Any = None, sizes: Sizes = DEFAULT_SIZES, **more: Any) -> None:
    """`spann.append` with `sizes`."""
    append_index(open_source(vectors), path, created_by=PROGRAM, ids=as_ids(ids), sizes=sizes, **more)


def tune(
    path: Path | str, queries: Any = None, *, count: int | None = None, sizes: Sizes = DEFAULT_SIZES, **more: Any
) -> None:
    """`spann.calibrate` with `sizes`."""
    asked = None if queries is None else open_source(queries)
    recalibrate(path, asked, base=None, count=count, created_by=PROGRAM, threads=2, sizes=sizes, **more)


def job(
    source: VectorSource,
    space: Space,
    *,
    threads: int = 1,
    sizes: Sizes = DEFAULT_SIZES,
    report: Progress = lambda *_: None,
    **params: Any,
) -> Job:
    """A job for tests of one stage: postings of exact vectors, and `params` for `BuildParams`."""
    wish = spann.BuildParams(**{"code_bits": 0} | params)
    decision = wish.decide(source.element, source.dim, space.metric, source.count)
    record = Record.exact(4, source.stored_bytes)
    return Job(source, space, decision, Ids(None, 4), record, threads, report, sizes)
