"""The arrays of an index that search follows blindly, and what must hold: the contract of ext/c/search/search.h.

`Resident.read` reads them, each verified and of the type and shape that the manifest gives (format/collection.py);
`Resident.check` states what their values must be. What it lets through, the native code can be given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.elements import unpack
from spann.errors import CorruptionError
from spann.format.collection import Collection
from spann.format.directory import check_directory
from spann.format.graph import Graph, Level, check_graph
from spann.format.layout import ArrayLayout
from spann.format.live import check_live
from spann.format.names import BYTES, ENDS
from spann.format.updates import IDS, LIVE, ROWS
from spann.store.reader import IndexReader
from spann.types import Array, Metric

LARGEST_SQNORM = 1.002e36
"""Squared length of a vector at most, with a little for rounding (spann/vectors/checks.py has the limit of builds)."""

SMALLEST_SQNORM = 0.99e-30
"""The smallest squared length of vectors whose direction alone counts."""

_BLOCK = 4096


@dataclass
class Resident:
    """What of an index is read into memory when it is opened, codes apart. Arrays that it has not are None."""

    collection: Collection
    where: str
    pages: ArrayLayout
    vectors: Array
    ids: Array | None
    graph: Graph
    page: NDArray[np.uint32]
    offset: NDArray[np.uint16]
    length: NDArray[np.uint16]
    primaries: NDArray[np.uint16]
    crc: NDArray[np.uint32]
    chain: NDArray[np.uint32] | None
    appended: NDArray[np.uint32]
    shapes: NDArray[np.uint8] | None
    exact: ArrayLayout | None
    exact_crc: NDArray[np.uint32] | None
    origin: NDArray[np.float32] | None
    signs: NDArray[np.uint8] | None
    live: NDArray[np.uint8] | None

    @classmethod
    def read(cls, reader: IndexReader) -> Resident:
        """Reads and verifies. Raises `FormatError`, `CorruptionError`, `MissingError`, `StorageError`."""
        collection, there = reader.collection, set(reader.arrays())

        def read(name: str) -> Any:
            return reader.read(name) if name in there else None

        levels = []
        for number in range(collection.levels):
            level = f"centroids/graph/level{number}"
            levels.append(Level(read(f"{level}/nodes"), read(f"{level}/offsets"), read(f"{level}/neighbors")))
        directory = "postings/directory"
        appended = read(f"{directory}/appended")
        return cls(
            collection=collection,
            where=str(reader.path),
            pages=reader.layout("postings/pages"),
            vectors=read("centroids/vectors"),
            ids=read("centroids/ids"),
            graph=Graph(collection.entry, levels),
            page=read(f"{directory}/page"),
            offset=read(f"{directory}/offset"),
            length=read(f"{directory}/length"),
            primaries=read(f"{directory}/primaries"),
            crc=read(f"{directory}/crc32c"),
            chain=read(f"{directory}/chain"),
            appended=np.empty(0, np.uint32) if appended is None else appended,
            shapes=read("postings/shapes"),
            exact=reader.layout("vectors/exact") if collection.kind.is_reranked else None,
            exact_crc=read("vectors/exact_crc32c"),
            origin=read("quantizer/origin"),
            signs=read("quantizer/signs"),
            live=read(LIVE),
        )

    @property
    def centroid_element(self) -> str:
        """The type of the numbers of centroids."""
        return self.vectors.dtype.name if self.collection.kind.is_reranked else self.collection.element

    def check(self) -> None:
        """Raises `FormatError` for an array of another type or shape, and `CorruptionError` unless a search can follow
        every number and compute with every float."""
        collection, where = self.collection, self.where
        lazy = ("vectors/ids", IDS, ROWS, ENDS, BYTES, *collection.column_names)
        collection.check_arrays(self._forms(), where, but=lazy)
        check_graph(self.graph, collection.centroids, where)
        check_directory(
            collection,
            page=self.page,
            offset=self.offset,
            length=self.length,
            primaries=self.primaries,
            chain=self.chain,
            appended=self.appended,
            pages=self.pages,
            where=where,
        )
        directions_count = collection.kind.centroid_metric(collection.metric) is Metric.COSINE
        bad = first_unusable(self.vectors, self.centroid_element, directions=directions_count)
        if bad is not None:
            raise CorruptionError(f"{where}: centroid {bad} is not finite, or not of a length that can be worked with")
        if self.ids is not None:
            self._check_ids(self.ids)
        if self.origin is not None and first_unusable(self.origin[None], "float32") is not None:
            raise CorruptionError(f"{where}: quantizer/origin is not finite, or too long to be worked with")
        if self.shapes is not None:
            self._check_shapes(self.shapes)
        if self.live is not None:
            check_live(self.live, collection.count, collection.live, where)

    def _forms(self) -> dict[str, ArrayLayout]:
        """What the arrays are like, as if each lay in one shard; those that stay on disk as they do."""
        directory = "postings/directory"
        arrays: dict[str, Array | None] = {
            "centroids/vectors": self.vectors,
            "centroids/ids": self.ids,
            f"{directory}/page": self.page,
            f"{directory}/offset": self.offset,
            f"{directory}/length": self.length,
            f"{directory}/primaries": self.primaries,
            f"{directory}/crc32c": self.crc,
            f"{directory}/chain": self.chain,
            f"{directory}/appended": self.appended if self.collection.is_appended else None,
            "postings/shapes": self.shapes,
            "vectors/exact_crc32c": self.exact_crc,
            "quantizer/origin": self.origin,
            "quantizer/signs": self.signs,
            LIVE: self.live,
        }
        for number, level in enumerate(self.graph.levels):
            name = f"centroids/graph/level{number}"
            arrays |= {f"{name}/nodes": level.nodes, f"{name}/offsets": level.offsets}
            arrays[f"{name}/neighbors"] = level.neighbors
        forms = {name: ArrayLayout(len(v), v.shape[1:], v.dtype, 1, 1) for name, v in arrays.items() if v is not None}
        forms["postings/pages"] = self.pages
        if self.exact is not None:
            forms["vectors/exact"] = self.exact
        return forms

    def _check_ids(self, ids: Array) -> None:
        """Checks the ids of centroids: an id that no vector can have would be returned like a missing neighbour."""
        largest = int(ids.max())
        if largest >= 1 << 63 or (not self.collection.user_ids and largest >= self.collection.count):
            raise CorruptionError(
                f"{self.where}: a centroid holds id {largest}; the collection has {self.collection.count} rows"
            )

    def _check_shapes(self, shapes: NDArray[np.uint8]) -> None:
        kind = self.collection.shape_record
        for start in range(0, len(shapes), _BLOCK):
            some = np.ascontiguousarray(shapes[start : start + _BLOCK]).view(kind).reshape(-1)
            finite = np.ones(len(some), bool)
            for name in ("header", "spread", "rest", "offsets"):
                finite &= np.isfinite(some[name].reshape(len(some), -1)).all(axis=1)
            if not finite.all():
                raise CorruptionError(
                    f"{self.where}: the shape of posting {start + int(np.argmin(finite))} is not finite"
                )


def first_unusable(vectors: Array, element: str, *, directions: bool = False) -> int | None:
    """The first of `vectors` (n, width), as they lie on disk, that is not finite or longer than `LARGEST_SQNORM` lets
    it be; with `directions` also the first that is shorter than `SMALLEST_SQNORM`. None where there is none."""
    whole = element in ("uint8", "int8", "bit")
    if whole and not directions:
        return None
    for start in range(0, len(vectors), _BLOCK):
        some = unpack(vectors[start : start + _BLOCK], element).astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.einsum("ij,ij->i", some, some)
            usable = lengths <= LARGEST_SQNORM
        if directions:
            usable &= lengths >= SMALLEST_SQNORM
        if not usable.all():
            return start + int(np.argmin(usable))
    return None
