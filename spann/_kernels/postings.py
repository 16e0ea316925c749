"""Packing posting lists into pages: the checked door to ext/c/postings.c."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _postings
from spann.errors import InputError
from spann.types import Array


def pack(
    ids: Array, vectors: Array, lengths: NDArray[np.uint16], starts: NDArray[np.uint64], out: NDArray[np.uint8]
) -> NDArray[np.uint32]:
    """Writes posting lists into `out` (bytes) and returns each list's crc32c (postings,).

    `ids` (entries,) uint32 or uint64 and `vectors` (entries, dim) hold all lists one after another; list p takes
    ``lengths[p]`` entries and starts at byte ``starts[p]`` of `out`. Raises `InputError` if a list would not fit.
    """
    entries = int(lengths.sum())
    record = ids.itemsize + vectors.itemsize * vectors.shape[1]
    if len(ids) != entries or len(vectors) != entries or len(starts) != len(lengths):
        raise InputError(
            f"{entries} entries in {len(lengths)} postings do not match {len(ids)} ids, {len(vectors)} rows"
        )
    ends = starts + lengths.astype(np.uint64) * np.uint64(record)
    if len(lengths) and int(ends.max()) > out.size:
        raise InputError(f"a posting ends at byte {int(ends.max())} of a buffer of {out.size}")
    crcs = np.zeros(len(lengths), np.uint32)
    if entries:
        _postings.pack(_as_bytes(ids[:, None]), _as_bytes(vectors), lengths, starts, out, crcs)
    return crcs


def _as_bytes(rows: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows).view(np.uint8)
