"""Files whose rows are read in order: ORC, CSV, JSON lines, and streams of Arrow; imported only when one is wanted.

A CSV has a line of names. Its vectors are in a column of texts as "[0.5, 1]", or in all columns but that of the ids. A
line of JSON is an object with the vector under one of the names of vectors, or an array of numbers alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.ipc as ipc
import pyarrow.orc as orc

from spann.errors import InputError
from spann.types import Array
from spann.vectors.checks import narrowed
from spann.vectors.columns import ID, VECTORS, as_rows, element_of, find_vectors, first_width, is_number, width_of
from spann.vectors.containers import foreign
from spann.vectors.id_list import check_id_type
from spann.vectors.names import type_of_names
from spann.vectors.places import Place
from spann.vectors.spool import Block

READ_BYTES = 4 << 20
"""Bytes of a CSV parsed at a time, and the most bytes of a line."""

LONGEST_LINE = 4 << 20
"""Bytes of a line of JSON: five times what a vector of the largest dimension takes."""

LINES = 4096
"""Lines of JSON that make a block."""


def read_blocks(places: Sequence[Place], column: str, ids: str | None) -> Iterator[Block]:
    """The vectors of all files in order, with their ids where there is a column `ids`, by default "id"."""
    for place in places:
        yield from _READERS[place.kind](place, column, ids)


def arrow_blocks(batches: Iterable[pa.RecordBatch], column: str, ids: str | None, name: str) -> Iterator[Block]:
    """The vectors of record batches with their ids."""
    first, dim = 0, None
    with foreign(f"{name} cannot be read"):
        coming = iter(batches)
    while True:
        with foreign(f"{name} cannot be read from row {first} on"):
            batch = next(coming, None)
            if batch is None:
                return
            batch.validate(full=True)  # what comes out of a file may point anywhere
            wanted = find_vectors(batch.schema, column, name)
            chunk = batch.column(batch.schema.get_field_index(wanted))
            dtype = element_of(chunk.type, wanted, name)
            if dim is None and len(batch):
                dim = width_of(chunk.type) or first_width(chunk, first, name)
            block = as_rows(chunk, dim or 0, dtype, first, name) if len(batch) else None
            named = _ids(batch, ids, first, name)
        if block is not None:
            yield block, named
        first += len(batch)


def _ids(batch: pa.RecordBatch, wanted: str | None, first: int, name: str) -> Array | pa.Array | None:
    column = wanted or ID
    at = batch.schema.get_field_index(column)
    if at < 0:
        if wanted:
            raise InputError(f"{name} has no column {wanted!r}; it has {', '.join(batch.schema.names)}")
        return None
    values = batch.column(at)
    if type_of_names(values.type) is not None:
        return values
    check_id_type(values.type, f"column {column!r} of {name}")
    if values.null_count:
        row = first + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"row {row} of column {column!r} of {name} is null: every vector needs an id")
    return np.asarray(values)


def _orc(place: Place, column: str, ids: str | None) -> Iterator[Block]:
    with place.open() as stream:
        with foreign(f"{place.name} is not an ORC file that can be read"):
            file = orc.ORCFile(stream)
            schema, stripes, names = file.schema, file.nstripes, file.schema.names
        wanted = find_vectors(schema, column, place.name)
        named = [one for one in (ids or ID,) if one in names]
        batches = (file.read_stripe(number, [wanted, *named]) for number in range(stripes))
        yield from arrow_blocks(batches, wanted, ids, place.name)


def _arrows(place: Place, column: str, ids: str | None) -> Iterator[Block]:
    with place.open() as stream:
        with foreign(f"{place.name} is not a stream of Arrow that can be read"):
            reader = ipc.open_stream(stream)
        yield from arrow_blocks(reader, column, ids, place.name)


def _csv(place: Place, column: str, ids: str | None) -> Iterator[Block]:
    name = place.name
    with place.open(packed=True) as stream:
        with foreign(f"{name} is not a CSV file that can be read"):
            tab = ".tsv" in name.lower()
            head = csv.open_csv(
                stream,
                read_options=csv.ReadOptions(block_size=READ_BYTES, use_threads=False),
                parse_options=csv.ParseOptions(delimiter="\t" if tab else ","),
                convert_options=csv.ConvertOptions(strings_can_be_null=True),
            )
            schema, names = head.schema, head.schema.names
        wanted = column or next((one for one in VECTORS if one in names), "")
        if wanted and wanted not in names:
            raise InputError(f"{name} has no column {wanted!r}; it has {', '.join(names)}")
        numbers = [one for one in names if one != (ids or ID)]
        if not wanted:
            _check_header(schema, numbers, name)
        first = 0
        while True:
            with foreign(f"{name} cannot be read from row {first} on"):
                batch = next(head, None)
                if batch is None:
                    return
                if wanted and len(batch):
                    rows = _parsed(batch.column(batch.schema.get_field_index(wanted)).to_pylist(), first, name)
                else:
                    rows = _numbers(batch, numbers, first, name)
                block, named = narrowed(rows, first, name, spread=False), _ids(batch, ids, first, name)
            if len(batch):
                yield block, named
            first += len(batch)


def _check_header(schema: pa.Schema, numbers: list[str], name: str) -> None:
    kinds = {one: schema.field(one).type for one in numbers}
    texts = [one for one, kind in kinds.items() if not is_number(kind) and not pa.types.is_null(kind)]
    if texts:
        raise InputError(
            f"column {texts[0]!r} of {name} holds {schema.field(texts[0]).type}: where no column is named, all but "
            f"{ID!r} are the numbers of the vectors; name the column of texts as '[0.5, 1]' as FILE#COLUMN"
        )
    if len(numbers) > 1 and all(_float(one) is not None for one in schema.names):
        count = [str(place) for place in range(len(schema.names))]
        if list(schema.names) != count:
            raise InputError(f"{name} begins with numbers: its first line must name the columns, as 0,1,2 or id,a,b")


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(batch: pa.RecordBatch, columns: list[str], first: int, name: str) -> Array:
    out = np.empty((len(batch), len(columns)))
    for place, column in enumerate(columns):
        values = batch.column(batch.schema.get_field_index(column))
        if values.null_count:
            row = first + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise InputError(f"row {row} of column {column!r} of {name} is empty: fill it, or leave the row out")
        out[:, place] = values.to_numpy(zero_copy_only=False)
    return out


def _parsed(texts: list[Any], first: int, name: str) -> Array:
    """Vectors written as JSON arrays."""
    rows = []
    for row, text in enumerate(texts, first):
        try:
            found = json.loads(text) if isinstance(text, str) else text
        except (ValueError, RecursionError):
            found = None
        rows.append(_vector(found, row, name))
    return stacked(rows, first, name)


def _vector(found: object, row: int, name: str) -> Array:
    """A JSON array of numbers."""
    if not isinstance(found, list) or not found or not set(map(type, found)) <= {int, float}:
        what = "a null" if isinstance(found, list) and None in found else "no array of numbers, as [0.5, 1]"
        raise InputError(f"row {row} of {name} has {what}: fill it, or leave the row out")
    try:
        return np.array(found, np.float64)
    except OverflowError as error:
        raise InputError(f"row {row} of {name} has a number beyond float32: scale the vectors") from error


def stacked(rows: Sequence[Array], first: int, name: str) -> Array:
    """Vectors of one length as a block."""
    for row, one in enumerate(rows):
        if one.shape != rows[0].shape:
            raise InputError(
                f"row {first + row} of {name} has {one.size} numbers where row {first} has {rows[0].size}: all vectors "
                "are of one length"
            )
    return np.stack(rows)


def _jsonl(place: Place, column: str, ids: str | None) -> Iterator[Block]:
    with place.open(packed=True) as stream:
        first = 0
        for lines in _lines(stream, place.name):
            vectors, named = [], []
            for row, line in enumerate(lines, first):
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"row {row} of {place.name} is no JSON: {error}") from error
                values = found
                if isinstance(found, dict):
                    keys = (column,) if column else (*VECTORS, "values")
                    values = next((found[key] for key in keys if key in found), None)
                    if (one := found.get(ids or ID)) is not None:
                        named.append(one)
                vectors.append(_vector(values, row, place.name))
            rows = stacked(vectors, first, place.name)
            yield narrowed(rows, first, place.name, spread=False), _json_ids(named, len(lines), first, place.name)
            first += len(lines)


def _json_ids(named: list[Any], count: int, first: int, name: str) -> Array | pa.Array | None:
    if not named:
        return None
    if len(named) < count:
        raise InputError(f"rows from {first} on of {name} have ids, but not all: every vector needs one")
    if all(type(one) is str for one in named):
        with foreign(f"rows from {first} on of {name} have ids that are no texts"):
            return pa.array(named, pa.large_string())
    if not all(type(one) is int for one in named):
        raise InputError(f"rows from {first} on of {name} have ids that are neither all integers nor all texts")
    try:
        return np.array(named, np.int64)
    except OverflowError as error:
        raise InputError(f"rows from {first} on of {name} have ids beyond 64 bits") from error


def _lines(stream: Any, name: str) -> Iterator[list[bytes]]:
    rest, held = b"", []
    while True:
        with foreign(f"{name} cannot be read"):
            chunk = stream.read(1 << 20)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        held += [line for line in lines if line.strip()]
        if len(rest) > LONGEST_LINE:
            raise InputError(f"a line of {name} is over {LONGEST_LINE} bytes long, which is the limit")
        if len(held) >= LINES:
            yield held
            held = []
    held += [rest] if rest.strip() else []
    if held:
        yield held


_READERS = {"orc": _orc, "arrows": _arrows, "csv": _csv, "jsonl": _jsonl}
