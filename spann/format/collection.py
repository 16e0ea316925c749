"""The collection that a manifest describes, and the arrays that follow from it. docs/FORMAT.md is normative.

Everything is checked once, when an index is opened and before any array is read. Code that holds a `Collection` can
rely on its numbers, and on the types and shapes of arrays.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spann.config import MAX_DIRECTIONS
from spann.elements import STORED_TYPES, stored_dtype, stored_width
from spann.errors import FormatError
from spann.format.columns import ATTRIBUTES, Column, ColumnArray, column_arrays, parse_columns
from spann.format.entries import Entries
from spann.format.exact import exact_pages
from spann.format.json_text import shown
from spann.format.kinds import CodedPostings, ExactPostings, PostingKind
from spann.format.layout import ArrayLayout
from spann.format.live import live_bytes
from spann.format.names import BYTES, ENDS, NAMES
from spann.format.names import TYPES as NAME_TYPES
from spann.format.postings import PAGE, Record
from spann.format.shapes import SHAPES, shape_record
from spann.format.updates import DELETED, IDS, LIVE, ROWS, Updates
from spann.types import ELEMENT_TYPES, MAX_DIM, Metric

LARGEST_COUNT = 1 << 48
"""The most vectors that a collection may have."""

MOST_POSTINGS = 2**32 - 1
MOST_CENTROIDS = 2**32 - 2
LONGEST_POSTING = 65_534
"""The most entries that a posting may have."""

MOST_LEVELS = 64
"""The most levels that a navigation graph may have."""

LARGEST_NORM = 1.001e18
"""The greatest length of a vector: sums of two squared lengths stay finite in float32, with a little room for
rounding."""

CODE_BITS = (1, 2, 3, 4, 8)


@dataclass(frozen=True)
class ArraySpec:
    """Name, type and shape that an array must have. `rows` is None if the manifest does not give their number."""

    name: str
    dtype: Any
    row_shape: tuple[int, ...] = ()
    rows: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Collection:
    """The entries of `attributes.spann` that describe the collection. An entry that this index lacks is 0."""

    metric: Metric
    element: str
    dim: int
    count: int
    id_bytes: int
    user_ids: bool
    code_bits: int
    row_bytes: int
    directions: int
    max_norm: float
    centroids: int
    postings: int
    entries: int
    posting_bound: int
    levels: int
    entry: int
    is_appended: bool
    updates: Updates | None
    name_type: str | None
    columns: tuple[Column, ...]

    @classmethod
    def parse(cls, attributes: Mapping[str, Any], where: str) -> Collection:
        """Checks every entry, by itself and against the others. Raises `FormatError`, which names `where`, the entry
        and its limits."""
        entry = Entries(attributes, where)
        features = attributes["features"]
        metric = Metric(entry.one_of("metric", [metric.value for metric in Metric]))
        element = entry.one_of("dtype", STORED_TYPES)
        coded, shaped = "codes" in features, SHAPES in features
        count = entry.number("count", 1, LARGEST_COUNT)
        centroids = entry.number("centroids", 1, MOST_CENTROIDS)
        postings = entry.number("postings", centroids, MOST_POSTINGS)
        bound = entry.number("posting_bound", 1, LONGEST_POSTING)
        primaries = count if coded else count - centroids
        graph = Entries(entry.object("graph"), f"{where}: graph")
        found = cls(
            metric=metric,
            element=element,
            dim=entry.number("dim", 1, MAX_DIM),
            count=count,
            id_bytes=entry.one_of("id_bytes", (4, 8)),
            user_ids=entry.one_of("ids", ("row", "user")) == "user",
            code_bits=entry.one_of("code_bits", CODE_BITS) if coded else entry.absent("code_bits", "codes"),
            row_bytes=entry.one_of("row_bytes", (4, 8)) if coded else entry.absent("row_bytes", "codes"),
            directions=(
                entry.number("directions", 1, MAX_DIRECTIONS) if shaped else entry.absent("directions", SHAPES)
            ),
            max_norm=entry.real("max_norm", 0.0, LARGEST_NORM if metric is Metric.IP else 0.0),
            centroids=centroids,
            postings=postings,
            entries=entry.number("entries", max(0, primaries), postings * bound),
            posting_bound=bound,
            levels=graph.number("levels", 1, MOST_LEVELS),
            entry=graph.number("entry", 0, centroids - 1),
            is_appended="appended" in features,
            name_type=entry.one_of("name_type", NAME_TYPES) if NAMES in features else None,
            updates=Updates.parse(entry.object("updates"), count, f"{where}: updates") if DELETED in features else None,
            columns=parse_columns(entry.list_of("columns", object), where) if ATTRIBUTES in features else (),
        )
        if ATTRIBUTES not in features:
            entry.absent("columns", ATTRIBUTES)
        if found.updates is None:
            entry.absent("updates", DELETED)
        if found.name_type is None:
            entry.absent("name_type", NAMES)
        entry.object("parameters")
        if "sources" in attributes:
            entry.list_of("sources", str)
        if "calibration" in attributes:
            _check_calibration(entry.object("calibration"), f"{where}: calibration")
        found._check_relations(features, where)
        return found

    def _check_relations(self, features: list[str], where: str) -> None:
        def must(holds: bool, what: str) -> None:
            if not holds:
                raise FormatError(f"{where}: {what}")

        binary, codes = self.metric is Metric.HAMMING, self.code_bits
        must(
            binary == (self.element == "bit") and not (binary and (self.dim % 8 or codes)),
            f"{self.element} vectors of dimension {self.dim} with codes of {codes} bits cannot be under "
            f"{self.metric.value}",
        )
        for element in set(STORED_TYPES) - set(ELEMENT_TYPES):
            must(
                (element in features) == (self.element == element),
                f"dtype and feature {element} need each other",
            )
        must(SHAPES not in features or bool(codes), "it has shapes, but no codes")
        must(self.updates is None or self.user_ids, f"with the feature {DELETED}, ids must be user")
        must(
            self.name_type is None or self.updates is not None or not self.user_ids,
            f"with the feature {NAMES}, ids must be row",
        )
        must(bool(codes) or self.centroids <= self.count, f"{self.centroids} centroids represent {self.count} vectors")
        must(
            self.user_ids or self.id_bytes == 8 or self.count <= 1 << 32, f"{self.count} rows do not fit ids of 4 bytes"
        )
        must(self.row_bytes != 4 or self.count <= 1 << 32, f"{self.count} row numbers do not fit 4 bytes")

    @property
    def live(self) -> int:
        """Vectors of the collection: rows that are live."""
        return self.count if self.updates is None else self.updates.live

    @property
    def held(self) -> Updates | None:
        """How `by_id` holds the ids of rows: as updates left it, or as the build of an index with columns did."""
        if self.updates is None and self.columns:
            return Updates(self.count, None, "00000000", 1, (self.count,))
        return self.updates

    @property
    def binary(self) -> bool:
        return self.element == "bit"

    @property
    def width(self) -> int:
        """Numbers of `stored_dtype` that a vector has on disk."""
        return stored_width(self.element, self.dim)

    @property
    def padded_dim(self) -> int:
        return -(-self.dim // 32) * 32

    @cached_property
    def kind(self) -> PostingKind:
        """What the postings hold."""
        if self.code_bits:
            return CodedPostings(self.id_bytes, self.element, self.dim, self.code_bits, self.row_bytes)
        return ExactPostings(self.id_bytes, self.element, self.dim)

    @property
    def record(self) -> Record:
        """The bytes of a posting."""
        return self.kind.record

    @property
    def shape_record(self) -> np.dtype[Any]:
        """The bytes of a posting's shape. Only for an index that has shapes."""
        return shape_record(self.dim, self.code_bits, self.directions)

    def arrays(self, layouts: Mapping[str, ArrayLayout]) -> list[ArraySpec]:
        """Every array that the index must have. The size of some follows from the `layouts` of others."""
        centroids = layouts.get("centroids/vectors")
        kinds = [stored_dtype(element) for element in self.kind.centroid_elements(self.metric)]
        kind = centroids.dtype if centroids is not None and centroids.dtype in kinds else kinds[0]
        directory = "postings/directory"
        found = [
            ArraySpec("centroids/vectors", kind, (self.width,), self.centroids),
            ArraySpec("postings/pages", "uint8", (PAGE,)),
            ArraySpec(f"{directory}/page", "uint32", (), self.postings),
            ArraySpec(f"{directory}/offset", "uint16", (), self.postings),
            ArraySpec(f"{directory}/length", "uint16", (), self.postings),
            ArraySpec(f"{directory}/primaries", "uint16", (), self.postings),
            ArraySpec(f"{directory}/crc32c", "uint32", (), self.postings),
            ArraySpec(f"{directory}/chain", "uint32", (), self.centroids + 1, optional=True),
        ]
        for level in range(self.levels):
            name = f"centroids/graph/level{level}"
            size = self.centroids if level == 0 else _rows(layouts, f"{name}/nodes")
            if level:
                found.append(ArraySpec(f"{name}/nodes", "uint32"))
            found.append(ArraySpec(f"{name}/offsets", "uint64", (), None if size is None else size + 1))
            found.append(ArraySpec(f"{name}/neighbors", "uint32"))
        if self.is_appended:
            found.append(ArraySpec(f"{directory}/appended", "uint32"))
        if self.held is not None:
            rows = layouts.get(ROWS)
            wide = rows is not None and rows.dtype.itemsize == 8
            found += [
                ArraySpec(IDS, f"uint{8 * self.id_bytes}", (), self.held.entries),
                ArraySpec(ROWS, "uint64" if wide or self.count > 1 << 32 else "uint32", (), self.held.entries),
            ]
        if self.name_type is not None:
            numbered = self.count if self.updates is None else None
            found += [ArraySpec(ENDS, "uint64", (), numbered), ArraySpec(BYTES, "uint8")]
        if self.updates is not None:
            found.append(ArraySpec(LIVE, "uint8", (), live_bytes(self.count)))
        elif self.user_ids:
            found.append(ArraySpec("vectors/ids", "int64", (), self.count))
        found += [ArraySpec(array.name, array.dtype, (), array.rows) for array in self._column_arrays()]
        if not self.code_bits:
            return [*found, ArraySpec("centroids/ids", f"uint{8 * self.id_bytes}", (), self.centroids)]
        exact = layouts.get("vectors/exact")
        if self.metric is Metric.IP:
            found.append(ArraySpec("centroids/lift", "float32", (), self.centroids, optional=True))
        if self.directions:
            found.append(ArraySpec("postings/shapes", "uint8", (self.shape_record.itemsize,), self.postings))
        return [
            *found,
            ArraySpec("vectors/exact", stored_dtype(self.element), (self.dim,), self.count),
            ArraySpec("vectors/exact_crc32c", "uint32", (), None if exact is None else exact_pages(exact)),
            ArraySpec("quantizer/origin", "float32", (), self.dim),
            ArraySpec("quantizer/signs", "uint8", (self.padded_dim // 8,), 4),
        ]

    def _column_arrays(self) -> list[ColumnArray]:
        return [one for i, column in enumerate(self.columns) for one in column_arrays(column, i, self.count)]

    @property
    def column_names(self) -> list[str]:
        """Names of the arrays of all columns."""
        return [array.name for array in self._column_arrays()]

    def check_arrays(self, layouts: Mapping[str, ArrayLayout], where: str, *, but: Container[str] = ()) -> None:
        """Raises `FormatError` unless `layouts` are exactly the arrays of the index, with the right types and shapes.
        Arrays named in `but` may be missing."""
        expected = {spec.name: spec for spec in self.arrays(layouts)}
        for name, spec in expected.items():
            layout = layouts.get(name)
            if layout is None:
                if not spec.optional and name not in but:
                    raise FormatError(f"{where}: the index has no array {name!r}")
                continue
            rows = layout.rows if spec.rows is None else spec.rows
            kind = np.dtype(spec.dtype)
            if (layout.rows, layout.row_shape, layout.dtype) != (rows, spec.row_shape, kind):
                raise FormatError(
                    f"{where}: array {name!r} is {layout.dtype.name} {layout.shape}; expected {kind.name} "
                    f"{(rows, *spec.row_shape)}"
                )
        for name in sorted(layouts.keys() - expected.keys()):
            raise FormatError(f"{where}: array {name!r} does not belong to this index")
        self._check_counts(layouts, where)

    def _check_counts(self, layouts: Mapping[str, ArrayLayout], where: str) -> None:
        appended = layouts["postings/directory/appended"].rows if self.is_appended else 0
        own = self.postings - appended
        if self.is_appended and appended < 1:
            raise FormatError(f"{where}: the index has the feature appended, but no appended posting")
        if own < self.centroids or (own > self.centroids and "postings/directory/chain" not in layouts):
            raise FormatError(
                f"{where}: {self.centroids} centroids cannot own {self.postings} postings, {appended} of them appended"
            )
        if layouts["postings/pages"].rows > 1 << 32:
            raise FormatError(f"{where}: {layouts['postings/pages'].rows} pages; 2^32 is the most")


def _check_calibration(values: Mapping[str, Any], where: str) -> None:
    """Checks that each k has a table of numbers. `spann.measuring.calibration` knows what they mean."""
    entry = Entries(values, where)
    entry.one_of("origin", ("base", "given"))
    entry.number("queries", 1, LARGEST_COUNT)
    entry.real("unlike", 0.0, 1.0)
    if "strangers" in values:
        entry.number("strangers", 1, LARGEST_COUNT)
    if not isinstance(values.get("stale", ""), str):
        raise FormatError(f"{where}: stale is {shown(values['stale'])}; it must be text")
    columns = entry.list_of("columns", str)
    if len(set(columns)) != len(columns):
        raise FormatError(f"{where}: two columns have the same name")
    curves = Entries(entry.object("curves"), f"{where}: curves")
    for k in values["curves"]:
        if not k.isascii() or not k.isdigit() or len(k) > 20 or k != str(int(k)) or k == "0":
            raise FormatError(f"{where}: {shown(k)} is not a number of neighbours")
        rows = curves.list_of(k, list)
        sound = all(len(row) == len(columns) and all(x is None or type(x) in (int, float) for x in row) for row in rows)
        if not rows or not sound:
            raise FormatError(f"{where}: the rows for k {k} must be numbers or null, one for each of the columns")


def _rows(layouts: Mapping[str, ArrayLayout], name: str) -> int | None:
    return layouts[name].rows if name in layouts else None
