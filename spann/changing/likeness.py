"""Whether vectors that are appended are like those of the index, for which its calibration was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.centroids import BLOCK, Centroids
from spann.building.space import Space
from spann.elements import stored_dtype, stored_width, unpack
from spann.format.postings import PAGE, Record, posting_bytes, posting_span
from spann.store.reader import IndexReader
from spann.types import Array
from spann.vectors import sample_rows

COMPARED = 256
"""Vectors of either kind that are looked at, at most."""

UNLIKE = 0.4
"""Difference between the distributions of their distances from the nearest centroid from which on they are of another
kind. New vectors of the same kind differ by up to 0.22 where postings are small: centroids are those of the old ones.
All that are 1.5 times as long differ by 0.85 and more (3,000 Gaussian or clustered vectors of 32 dimensions)."""

CHANCE = 1.36
"""Divided by the root of a sample's size: the difference that one sample in 20 has by chance (Kolmogorov, Smirnov)."""

SHARE = 0.01
"""Share of the collection: so many new vectors of another kind make its calibration void."""

SEED = 7_345


def compared(count: int) -> NDArray[np.int64]:
    """The rows of `count` new vectors that are compared with those of the index, ascending."""
    return sample_rows(count, min(COMPARED, count), SEED)


def unlike(reader: IndexReader, centroids: Centroids, space: Space, new: Array) -> float:
    """How much the distances of `new` vectors (n, dim) from the nearest of `centroids` differ from those of the index's
    own vectors: the largest difference between the cumulative distributions, 0 to 1."""
    a, b = (np.sort(_nearest(centroids, space.map(some))) for some in (new, _own(reader)))
    at = np.concatenate([a, b])
    shares = [np.searchsorted(x, at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def still_valid(calibration: dict[str, Any], difference: float, added: int, count: int) -> dict[str, Any]:
    """The calibration of an index of `count` vectors after `added` ones came, with this `difference` from the others.
    If it no longer holds, its entry `stale` says why."""
    least = UNLIKE + CHANCE / np.sqrt(min(added, COMPARED))
    strangers = calibration.get("strangers", 0) + (added if difference > least else 0)
    if not strangers:
        return calibration
    kept = {**calibration, "strangers": strangers}
    if strangers > SHARE * count:
        kept["stale"] = (
            f"{strangers} of {count} vectors were added after the calibration and are unlike those that it was "
            "measured with, so a recall may be missed: `spann tune` measures anew, a new build searches faster"
        )
    return kept


def _nearest(centroids: Centroids, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared distance (n,) of each of `vectors` (n, space.dim) from the centroid nearest to it."""
    x = vectors.astype(np.float64)  # far from the origin the sums cancel
    best = np.full(len(x), np.inf)
    squares = np.einsum("ij,ij->i", x, x)
    for start in range(0, len(centroids), BLOCK):
        c = centroids.working(slice(start, start + BLOCK)).astype(np.float64)
        part = squares[:, None] + np.einsum("ij,ij->i", c, c) - 2 * (x @ c.T)
        np.minimum(best, part.min(axis=1), out=best)
    return best


def _own(reader: IndexReader) -> Array:
    """Some of the vectors of the index, without those that represent centroids."""
    about = reader.attributes
    element, dim = about["dtype"], int(about["dim"])
    if about.get("code_bits", 0):
        store = reader.array("vectors/exact")
        rows = sample_rows(store.rows, min(COMPARED, store.rows), SEED)
        stored = np.concatenate([store.read_rows(row, row + 1) for row in rows.tolist()])
        return unpack(stored, element)
    page, offset, length, primaries = (
        reader.read(f"postings/directory/{name}") for name in ("page", "offset", "length", "primaries")
    )
    ends = np.cumsum(primaries, dtype=np.int64)
    if not len(ends) or not ends[-1]:  # every vector represents a centroid
        return unpack(reader.array("centroids/vectors").read_rows(0, 1), element)
    start, _ = posting_span(page, offset, posting_bytes(about, length, primaries))
    rows = sample_rows(int(ends[-1]), min(COMPARED, int(ends[-1])), SEED)
    posting = np.searchsorted(ends, rows, side="right")
    dtype: np.dtype[Any] = np.dtype(stored_dtype(element)).newbyteorder("<")
    size = stored_width(element, dim) * dtype.itemsize
    entry = rows - (ends[posting] - primaries[posting])
    first = start[posting] + Record.of(about).header + length[posting].astype(np.int64) * about["id_bytes"]
    pages = reader.array("postings/pages")
    found = []
    for at in (first + entry * size).tolist():
        data = pages.read_rows(at // PAGE, (at + size - 1) // PAGE + 1).reshape(-1)[at % PAGE :][:size]
        found.append(data.view(dtype))
    return unpack(np.stack(found), element)
