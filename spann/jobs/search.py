"""Answers any number of queries, part by part and block by block, in bounded memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.config import SearchParams
from spann.errors import InputError
from spann.jobs.ahead import ahead
from spann.jobs.output import NO_LABELS, Description, Labels, OutputFolder, Shape, Shard
from spann.jobs.parts import Block, Part
from spann.types import QUERY_STATS, Array, Progress, SearchResult

POSTING_MAJOR = 4096
"""From so many vectors of a collection on, they are searched posting by posting. In the collection's order near vectors
lie together, so many of them need the same postings."""

Answer = Callable[[Block], tuple[NDArray[np.int64], Array]]
"""Ids and distances, (n, k) each, of the neighbours of a block's vectors."""


Search = Callable[..., SearchResult]
"""The search of an index (`Index.search`)."""


def search_batches(search: Search, batches: Iterable[Array], k: int, **options: Any) -> Iterator[SearchResult]:
    """See `Index.search_batches`."""
    for batch in ahead(batches):
        rows = np.asarray(batch)
        if rows.ndim == 2 and len(rows) == 0:
            yield SearchResult(np.empty((0, k), np.int64), np.empty((0, k), np.float32), np.empty(0, QUERY_STATS))
        else:
            yield search(rows, k, **options)


def answer_queries(search: Search, k: int, **how: Any) -> Answer:
    """Makes a function that finds the `k` nearest vectors of the index."""

    def answer(block: Block) -> tuple[NDArray[np.int64], Array]:
        found = search(block.vectors, k, **{**_order(block), **how})
        return found.ids, found.distances

    return answer


def answer_own(search: Search, k: int, **how: Any) -> Answer:
    """Makes a function that finds the `k` nearest others for vectors of the index itself. Blocks have ids as keys."""

    def answer(block: Block) -> tuple[NDArray[np.int64], Array]:
        found = search(block.vectors, k + 1, **{**_order(block), **how})
        own = found.ids == np.asarray(block.keys)[:, None]
        # If a vector has many copies, it may be missing among those found. Then the last is dropped.
        at = np.where(own.any(axis=1), own.argmax(axis=1), k)
        keep = np.arange(k + 1) != at[:, None]
        return found.ids[keep].reshape(-1, k), found.distances[keep].reshape(-1, k)

    return answer


def _order(block: Block) -> dict[str, str]:
    """The order in which a search works through a block. Blocks of the collection's own vectors have keys."""
    return {"order": "posting"} if block.keys is not None and len(block.vectors) >= POSTING_MAJOR else {}


def describe(kind: str, about: Mapping[str, Any], parts: Sequence[Part], **settings: Any) -> Description:
    """The description of a job for its output folder; `about` are the attributes of the index."""
    inputs = [[Path(part.name).name, part.rows, part.fingerprint()] for part in parts]
    return {
        "job": kind,
        "index": about["checksum"],
        "inputs": inputs,
        **{name: _plain(value) for name, value in settings.items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, SearchParams | Shape):
        return {name: _plain(field) for name, field in dataclasses.asdict(value).items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def answer_parts(
    parts: Sequence[Part],
    folder: OutputFolder,
    k: int,
    answer: Answer,
    *,
    stage: str,
    shape: Shape,
    shard: Shard,
    block_rows: int,
    labels: Labels = NO_LABELS,
    progress: Progress | None = None,
) -> int:
    """Answers the parts of this `shard` that the `folder` lacks. Returns the number of queries answered. A query is
    named by its key or, without keys, by its number, counted through all parts."""
    from spann.jobs.tables import TableWriter, group_rows, neighbours_schema, neighbours_table

    mine = folder.missing(shard)
    first = np.concatenate([[0], np.cumsum([part.rows for part in parts], dtype=np.int64)])
    total, done = sum(parts[number].rows for number in mine), 0
    for number in mine:
        part, at = parts[number], 0
        schema = neighbours_schema(shape, part.schema(), labels)
        with folder.writing(number) as path, TableWriter(path, schema, group_rows(k), shape.own) as out:
            for block in ahead(part.blocks(block_rows)):
                try:
                    ids, distances = answer(block)
                except InputError as error:
                    raise InputError(f"{part.name}, rows from {at} on: {error}") from error
                keys = np.arange(len(ids)) + first[number] + at if block.keys is None else block.keys
                out.add(neighbours_table(shape, keys, block.columns, ids, distances, labels))
                at += len(ids)
                done += len(ids)
                if progress:
                    progress(stage, done, total)
    return total
