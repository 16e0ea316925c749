"""From what a caller filters by to what the native search masks by.

A filter leaves vectors out as a deletion does: a bit for each stored row, and how many entries of each posting may
count (`Alive`). If few match, only their postings are looked at. Which way is taken depends on the filter and the index
alone, so results depend on neither memory nor threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.filters import Expression, Places, among_ids, evaluate, from_dict, resolve
from spann.filters.cache import Cache
from spann.filters.canonical import Filter
from spann.filters.resolve import WITHOUT, single_parameters
from spann.format.columns import Column
from spann.format.live import unpack_live
from spann.search.alive import Alive, AliveIds, AliveRows
from spann.search.columns import IndexColumns
from spann.search.opened import OpenArrays
from spann.store.reader import IndexReader

CACHE_BYTES = 32 << 20
"""Matches of filters that are kept."""

FEW = 2000
FEW_POSTINGS = 16
"""Matches up to which all postings that have one are looked at: so many, or those of so many postings."""


@dataclass(frozen=True)
class Asked:
    """What a search filters by: `where` or `filter`, `ids`, and the values that `bind` gives to parameters."""

    where: Any = None
    filter: Any = None
    ids: Any = None
    bind: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Matches:
    """The vectors that a filter leaves: `count` of them, and the mask of a search; None if there are none. Those of an
    index without a filter are not `filtered`."""

    count: int
    alive: Alive | None
    filtered: bool = True

    @property
    def mask(self) -> Alive:
        """What a search under a filter takes."""
        return NONE if self.alive is None else self.alive

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return 0 if self.alive is None else self.alive.nbytes


NOTHING = Asked()
"""No filter."""

NONE = AliveIds(np.empty(0, np.int64), np.empty(0, np.uint16), 0)
"""What a filter without matches leaves."""


class Filters:
    """Filters of one open index. Any thread may use it."""

    def __init__(self, reader: IndexReader, arrays: OpenArrays) -> None:
        self._arrays, self._columns, self._name = arrays, arrays.columns, str(reader.path)
        self._cache: Cache[Matches] = Cache(CACHE_BYTES)
        self._ids: NDArray[np.int64] | None = None

    def expression(self, asked: Asked) -> Expression | None:
        """What a search filters by; None if by nothing. Raises `InputError` for what is none, or for values to bind
        without a filter."""
        where, given, ids = asked.where, asked.filter, asked.ids
        if asked.bind and where is None and given is None:
            raise InputError("bind gives values to the parameters of a filter, and there is none")
        if where is not None and given is not None:
            raise InputError("where and filter were both given; they are two forms of the same")
        found = None
        if isinstance(where, str):
            from spann.filters.parse import parse  # lark, which only text takes

            found = parse(where)
        elif where is not None or given is not None:
            form = where if where is not None else given
            found = form if isinstance(form, Expression) else from_dict(form)
        if ids is None:
            return found
        return among_ids(ids) if found is None else found & among_ids(ids)

    def groups(self, asked: Asked, queries: int, count: int) -> Iterator[tuple[NDArray[np.int64], Matches]]:
        """Queries with the same filter, and its matches; all `count` vectors if there is none. An array of `bind` has a
        value for each query."""
        expression, bind = self.expression(asked), dict(asked.bind or {})
        if expression is None:
            yield np.arange(queries), Matches(count, None, filtered=False)
            return
        columns = self.columns
        single = single_parameters(expression) if bind else set()
        names = [name for name, value in bind.items() if name in single and isinstance(value, np.ndarray | list)]
        for name in names:
            if len(bind[name]) != queries:
                raise InputError(f"bind gives {name!r} {len(bind[name])} values; there are {queries} queries")
        if names and queries == 0:
            yield np.arange(0), Matches(0, None)
            return
        if not names:
            yield np.arange(queries), self.matches(resolve(expression, columns.schema, bind))
            return
        rows: dict[str, tuple[Filter, list[int]]] = {}
        for query in range(queries):
            wanted = resolve(expression, columns.schema, bind | {name: bind[name][query] for name in names})
            rows.setdefault(wanted.key, (wanted, []))[1].append(query)
        for wanted, members in rows.values():
            yield np.array(members, np.int64), self.matches(wanted)

    @property
    def schema(self) -> Mapping[str, Column]:
        """The columns, by name."""
        return {} if self._columns is None else self._columns.schema

    @property
    def columns(self) -> IndexColumns:
        """The columns of the index. Raises `InputError` if it has none."""
        if self._columns is None:
            raise InputError(f"{self._name}: {WITHOUT}")
        return self._columns

    def matches(self, wanted: Filter) -> Matches:
        """The vectors that a filter leaves, made or remembered."""
        return self._cache.get(wanted.key, lambda: self._bound(evaluate(wanted, self.columns)))

    def _bound(self, places: Places) -> Matches:
        arrays, before = self._arrays, self._arrays.alive
        if arrays.kind.is_reranked:
            bits = places.bits
            if isinstance(before, AliveRows):
                bits = bits & before.bits
            rows = AliveRows.of(bits, arrays.cells)
            few = rows.count <= max(FEW, FEW_POSTINGS * places.rows // max(1, len(arrays.cells.posting)))
            alive: Alive = rows.under_filter(arrays.owners(np.flatnonzero(rows.length)) if few else None)
        else:
            if self._ids is None:
                self._ids = self.columns.ids()
            mask = unpack_live(places.bits, places.rows)
            if isinstance(before, AliveIds):
                mask = mask & ~np.isin(self._ids, before.ids)
            count = int(np.count_nonzero(mask))
            kept = 2 * count < len(mask)
            ids = self._ids[mask if kept else ~mask]
            alive = AliveIds(ids, arrays.cells.length, count, kept=kept).under_filter(None)
        return Matches(alive.count, alive if alive.count else None)
