"""The columns of an open index: what filters read of them, and the values that come back with results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.format.columns import BOOL, DATE, FILTER, STRING, TAGS, TIMESTAMP, Column, bad_ends, bad_values, column_name
from spann.format.live import unpack_live
from spann.format.updates import IDS, ROWS
from spann.format.words import Words
from spann.store.checked import Checked
from spann.store.reader import IndexReader
from spann.types import Array

ROWS_AT_A_TIME = 1 << 18
"""Values that are looked at together by a verification."""

NEAR_ROWS = 4096
"""Rows that are read together where no more lie between two that are wanted."""

TAKEN = ("query", "rank", "id", "distance")
"""Names of the columns that results have in any case."""

FENCE = 4096
"""Entries between two ids that are kept in memory, of an index whose ids are not row numbers."""


class IndexColumns:
    """Columns of the index that `reader` has open. Any thread may call.

    Values are read when they are wanted, and compared with their checksums. Dictionaries stay in memory once they were
    used, and `pin` keeps whole columns there.
    """

    def __init__(self, reader: IndexReader) -> None:
        about = reader.collection
        self.rows = about.count
        self.schema: dict[str, Column] = {column.name: column for column in about.columns}
        self._numbers = {column.name: number for number, column in enumerate(about.columns)}
        self._reader = reader
        self._arrays: dict[str, Checked | _Pinned] = {}
        self._words: dict[str, Words] = {}
        self._fences: Array | None = None

    def pin(self, room: int) -> int:
        """Keeps columns for filters in memory, smallest first, as far as `room` bytes go. Returns what they take."""
        taken = 0
        wanted = [self._parts(name) for name, column in self.schema.items() if column.role == FILTER]
        for parts in sorted(wanted, key=self._bytes):
            size = self._bytes(parts)
            if taken + size > room:
                break
            for part in parts:
                self._arrays[part] = _Pinned(self._reader.read(part))
            taken += size
        return taken

    def _parts(self, name: str) -> list[str]:
        column = self.schema[name]
        parts = ["values", *(["ends"] if column.has_ends else []), *(["valid"] if column.nulls else [])]
        return [column_name(self._numbers[name], part) for part in parts]

    def _bytes(self, parts: Sequence[str]) -> int:
        layouts = [self._reader.layout(part) for part in parts]
        return sum(layout.rows * layout.row_bytes for layout in layouts)

    def _array(self, name: str) -> Checked | _Pinned:
        found = self._arrays.get(name)
        if found is None:
            found = self._arrays[name] = Checked(self._reader, name)
        return found

    def _part(self, name: str, part: str) -> Checked | _Pinned:
        return self._array(column_name(self._numbers[name], part))

    def column(self, name: str) -> Column:
        """What the column is."""
        return self.schema[name]

    def values(self, name: str, start: int, stop: int) -> Array:
        """Numbers, or numbers of words, of stored rows `start` to `stop`."""
        return self._part(name, "values").read(start, stop)

    def tags(self, name: str, start: int, stop: int) -> tuple[Array, NDArray[np.int64]]:
        """Numbers of words, and how many each of the stored rows `start` to `stop` has."""
        ends = self._ends(name, start, stop)
        return self._part(name, "values").read(int(ends[0]), int(ends[-1])), np.diff(ends)

    def _ends(self, name: str, start: int, stop: int) -> NDArray[np.int64]:
        """Where the values of rows `start` to `stop` begin, and where the last ends."""
        ends = self._part(name, "ends").read(max(0, start - 1), stop).astype(np.int64)
        return ends if start else np.concatenate([[0], ends])

    def valid(self, name: str, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Where there is a value, of stored rows `start` to `stop`; None: everywhere."""
        if not self.schema[name].nulls:
            return None
        first = start // 8
        bits = unpack_live(self._part(name, "valid").read(first, -(-stop // 8)), stop - 8 * first)
        return bits[start - 8 * first :]

    def words(self, name: str) -> Words:
        """The dictionary of a column of strings or tags."""
        found = self._words.get(name)
        if found is None:
            number = self._numbers[name]
            content, ends = (self._reader.read(column_name(number, part)) for part in ("words", "word_ends"))
            found = self._words[name] = Words(content, ends)
        return found

    def places_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stored rows of those of these ids that there are, in the order of the ids."""
        places = self.places(ids)
        return places[places >= 0]

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stored row of each of `ids` (n,); -1 where there is none."""
        collection = self._reader.collection
        held = collection.held
        assert held is not None
        found = np.full(len(ids), -1, np.int64)
        inside = np.flatnonzero(ids >= 0)
        at = self._entries(ids[inside])
        there = at >= 0
        if len(at):
            found[inside[there]] = _taken(self._array(ROWS), at[there]).astype(np.int64)
        return found

    def _entries(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The entry of `by_id` that holds each id; -1 where none does."""
        if not self._reader.collection.user_ids:
            return np.where(ids < self.rows, ids, -1)
        keys = self._array(IDS)
        if self._fences is None:
            self._fences = np.concatenate(
                [keys.read(at, min(at + (1 << 20), self.rows))[::FENCE] for at in range(0, self.rows, 1 << 20)]
            ).astype(np.int64)
        block = np.searchsorted(self._fences, ids, side="right") - 1
        found = np.full(len(ids), -1, np.int64)
        for number in np.unique(block[block >= 0]).tolist():
            mine, begin = np.flatnonzero(block == number), number * FENCE
            here = keys.read(begin, min(begin + FENCE, self.rows)).astype(np.int64)
            at = np.minimum(np.searchsorted(here, ids[mine]), len(here) - 1)
            found[mine] = np.where(here[at] == ids[mine], begin + at, -1)
        return found

    def ids(self) -> NDArray[np.int64]:
        """The id of every stored row, (rows,)."""
        found = np.empty(self.rows, np.int64)
        found[self._reader.read(ROWS).astype(np.int64)] = self._reader.read(IDS).astype(np.int64)
        return found

    def select(self, names: Sequence[str], ids: NDArray[np.int64]) -> dict[str, Array]:
        """The values of columns for `ids` of any shape: each an array of that shape, masked where there is none.

        Strings, tags (tuples) and dates are objects or numpy's own types. Raises `InputError` for an unknown name."""
        for name in names:
            if name in TAKEN:
                raise InputError(f"select names the column {name!r}, and results have a column of that name: rename it")
            if name not in self.schema:
                known = ", ".join(map(repr, self.schema)) or "none"
                raise InputError(f"select names the column {name!r}; the index has {known}")
        flat = ids.reshape(-1)
        places = self.places(flat)
        there = np.flatnonzero(places >= 0)
        distinct, inverse = np.unique(places[there], return_inverse=True)
        found: dict[str, Array] = {}
        for name in names:
            values, valid = self._take(name, distinct)
            out = np.zeros(len(flat), values.dtype) if values.dtype != object else np.full(len(flat), None, object)
            mask = np.ones(len(flat), np.bool_)
            out[there], mask[there] = values[inverse], ~valid[inverse]
            found[name] = np.ma.MaskedArray(out.reshape(ids.shape), mask.reshape(ids.shape))
        return found

    def _take(self, name: str, rows: NDArray[np.int64]) -> tuple[Array, NDArray[np.bool_]]:
        """The values of ascending `rows` (n,), and where there are any."""
        column = self.schema[name]
        valid = np.ones(len(rows), np.bool_)
        if column.nulls:
            bits = _taken(self._part(name, "valid"), rows >> 3)
            valid = (bits >> (rows & 7).astype(np.uint8) & 1).astype(np.bool_)
        if not column.has_ends:
            values = _taken(self._part(name, "values"), rows)
            return self._shown(column, values), valid
        out = np.full(len(rows), None, object)
        for place, row in enumerate(rows.tolist()):
            start, stop = self._ends(name, row, row + 1).tolist()
            content = self._part(name, "values").read(start, stop) if stop > start else np.empty(0, column.dtype)
            if column.kind == TAGS:
                out[place] = tuple(self.words(name).text(int(word)) for word in content)
            else:
                out[place] = content.tobytes().decode()
        out[~valid] = None
        return out, valid

    def _shown(self, column: Column, values: Array) -> Array:
        if column.kind == STRING:
            words = self.words(column.name)
            distinct, inverse = np.unique(values, return_inverse=True)
            shown = np.array([words.text(int(word)) if len(words) else "" for word in distinct], object)
            return shown[inverse] if len(distinct) else np.empty(0, object)
        kinds: dict[str, Any] = {BOOL: np.bool_, DATE: "datetime64[D]", TIMESTAMP: "datetime64[us]"}
        return values.astype(kinds[column.kind]) if column.kind in kinds else values


class _Pinned:
    """An array in memory, read like one on disk."""

    def __init__(self, content: Array) -> None:
        self._content = content

    def read(self, start: int, stop: int) -> Array:
        return self._content[start:stop]


def _taken(array: Checked | _Pinned, rows: NDArray[np.int64]) -> Array:
    """The values at `rows` (n,), in any order; near ones in one read."""
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    cuts = np.flatnonzero(np.diff(wanted) > NEAR_ROWS) + 1
    parts = [array.read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in np.split(wanted, cuts) if len(run)] or [
        array.read(0, 0)
    ]
    read = np.concatenate(parts)
    found = np.empty(len(rows), read.dtype)
    found[order] = read
    return found


def check_columns(reader: IndexReader) -> Iterator[str]:
    """Reads all columns: what breaks docs/FORMAT.md, in words."""
    about, columns = reader.collection, IndexColumns(reader)
    for number, column in enumerate(about.columns):
        where = f"column {column.name!r}"
        if column.has_words and (fault := columns.words(column.name).fault()):
            yield f"{where}: {fault}"
            return
        layout = reader.layout(column_name(number, "values"))
        for start in range(0, about.count, ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, about.count)
            if fault := _fault(columns, column, start, stop, layout.rows):
                yield f"{where}, rows {start} to {stop - 1}: {fault}"
                return
        if column.has_ends and int(columns._ends(column.name, about.count - 1, about.count)[-1]) != layout.rows:
            yield f"{where}: the last value does not end where the values do"
        if column.nulls and about.count % 8:
            last = int(reader.read(column_name(number, "valid"))[-1])
            if last >> about.count % 8:
                yield f"{where}: bits after the last row are not 0"


def _fault(columns: IndexColumns, column: Column, start: int, stop: int, total: int) -> str:
    if not column.has_ends:
        return bad_values(column, columns.values(column.name, start, stop))
    ends = columns._ends(column.name, start, stop)
    if fault := bad_ends(ends[1:].astype(np.uint64), int(ends[0]), total):
        return fault
    content = columns.values(column.name, int(ends[0]), int(ends[-1]))
    if column.kind == TAGS:
        inside = np.ones(len(content), np.bool_)
        inside[(ends[:-1] - ends[0])[np.diff(ends) > 0]] = False
        if bool((np.diff(content.astype(np.int64))[inside[1:]] <= 0).any()):
            return "the tags of a row do not ascend"
        return bad_values(column, content)
    try:
        for begin, end in zip((ends[:-1] - ends[0]).tolist(), (ends[1:] - ends[0]).tolist(), strict=True):
            content[begin:end].tobytes().decode()
    except UnicodeDecodeError:
        return "a text is not UTF-8"
    return ""
