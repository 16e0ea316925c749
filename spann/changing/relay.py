"""Re-laying cells: one operation that splits, merges, folds and purges postings of codes, and takes in new vectors.

Cells that have become too large, too small, or full of dead and appended entries are *dirty*. Their live vectors are
clustered anew, locally and into as many cells as they fill (`recluster`). Each new cell has one dense posting, behind
all others. A clean cell that gets vectors has them in a posting besides its main one. Rows that were laid anew are dead
in their old place. Searches pass over a posting without a live row, and a new build removes it.

A centroid moves only together with all its live entries, for codes are relative to it. No vector is ever dropped:
copies that cannot be told apart become several postings of one centroid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.building.centroids import HALF_RANGE, Centroids
from spann.building.edges import EdgeSpool, pack_edges
from spann.building.ids import Ids
from spann.building.job import Job
from spann.building.plan import limit_bytes, threads_to_relay
from spann.building.stages.arrange import NAME as EXACT
from spann.building.stages.graph import build_graph, graph_arrays
from spann.building.stages.layout import Laid, lay_out_more
from spann.building.stages.partition import Partition
from spann.changing.cells import TIDY, Bounds, Cells
from spann.changing.extend import extend_postings
from spann.changing.generation import Generation
from spann.changing.likeness import compared, still_valid, unlike
from spann.changing.present import Present
from spann.changing.recluster import Floats, Ints, Members, Recluster, Reclustered, nearest_of
from spann.changing.rows import add_run
from spann.config import thread_count
from spann.elements import unpack
from spann.errors import InputError
from spann.format.live import extended, without
from spann.format.shapes import shape_bytes
from spann.format.updates import DELETED, IDS, LIVE, ROWS, Updates
from spann.store.checked import Checked
from spann.store.reader import IndexReader
from spann.types import Array, Metric, Progress
from spann.vectors import UnreadSource

MOST_TAILS = 8
"""Postings of a clean cell besides its main one, at most. The next vectors are written together with these."""

GAP_ROWS = 64
"""Wanted rows of the exact store with no more than this between them share a read."""

BLOCK_ENTRIES = 1 << 20
"""Entries of `by_id` that are read at a time."""

BLOCK_BYTES = 8 << 20
"""Vectors that are read and written at a time."""

_DIRECTORY = "postings/directory"


@dataclass(frozen=True)
class Change:
    """A change of a collection.

    - ``dead`` (m,): live rows that become dead.
    - ``ids`` (n,): ids that no other live row has, with their ``vectors`` (n, width) as they are stored.
    """

    dead: Ints
    ids: Ints
    vectors: Array


@dataclass(frozen=True)
class Relaid:
    """What a re-lay did: `cells` that were dirty, the `split` ones and those `dissolved` among them, and the `vectors`
    that were written, with `moved` ones of clean cells among them."""

    cells: int
    split: int
    dissolved: int
    vectors: int
    moved: int


def can_be_relaid(reader: IndexReader) -> bool:
    """Whether cells of the index can be laid anew: it has codes, no replicas, and can be updated."""
    return Present(reader, 1).decision.means and reader.collection.updates is not None


class _Entries:
    """The vectors that take part, by entry: a row of the index or, from row `count` on, a vector of the change."""

    def __init__(self, old: Present, cells: Cells, change: Change, cell_of_new: Ints) -> None:
        self._store, self._count, self._element = Checked(old.reader, EXACT), old.count, str(old.about["dtype"])
        self._change, self.cells = change, cells
        self._postings, self._bounds = cells.postings_of()
        self._new = np.argsort(cell_of_new, kind="stable")
        self._new_bounds = np.searchsorted(cell_of_new[self._new], np.arange(cells.count + 1))
        self._main = cells.main

    def of(self, cell: int) -> Ints:
        """All entries of a cell."""
        return self._entries(cell, self._postings[self._bounds[cell] : self._bounds[cell + 1]])

    def tail(self, cell: int) -> Ints:
        """The entries of a clean cell to write: new ones and, if its smaller postings are many, these."""
        postings = self._postings[self._bounds[cell] : self._bounds[cell + 1]]
        smaller = postings[(postings != self._main[cell]) & (self.cells.live[postings] > 0)]
        return self._entries(cell, smaller if len(smaller) >= MOST_TAILS else smaller[:0])

    def _entries(self, cell: int, postings: Ints) -> Ints:
        rows = [self.cells.rows(int(p)) for p in postings if self.cells.live[p]]
        new = self._count + self._new[self._new_bounds[cell] : self._new_bounds[cell + 1]]
        return np.concatenate([*rows, new]).astype(np.int64)

    def ids(self, following: Generation, entries: Ints) -> Ints:
        """Their ids."""
        found = np.empty(len(entries), np.int64)
        new = entries >= self._count
        found[new] = self._change.ids[entries[new] - self._count]
        wanted = np.sort(entries[~new])
        ids, rows = Checked(following.old, IDS), Checked(following.old, ROWS)
        known = np.empty(len(wanted), np.int64)
        for start in range(0, ids.array.rows if len(wanted) else 0, BLOCK_ENTRIES):
            stop = min(start + BLOCK_ENTRIES, ids.array.rows)
            some = rows.read(start, stop).astype(np.int64)
            at = np.minimum(np.searchsorted(wanted, some), len(wanted) - 1)
            there = wanted[at] == some
            known[at[there]] = ids.read(start, stop).astype(np.int64)[there]
        found[~new] = known[np.searchsorted(wanted, entries[~new])]
        return found

    def vectors(self, entries: Ints) -> Array:
        """Their vectors, in the form of `unpack`."""
        array = self._store.array
        out = np.empty((len(entries), *array.row_shape), array.dtype)
        new = entries >= self._count
        out[new] = self._change.vectors[entries[new] - self._count]
        rows, places = np.unique(entries[~new], return_inverse=True)
        stored = np.empty((len(rows), *array.row_shape), array.dtype)
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > GAP_ROWS) + 1) if len(rows) else ():
            first = int(rows[run[0]])
            stored[run] = self._store.read(first, int(rows[run[-1]]) + 1)[rows[run] - first]
        out[~new] = stored[places]
        return unpack(out, self._element)


@dataclass(frozen=True)
class _Layout:
    """The new centroids in their order, and where the old ones are among them.

    - ``place`` (old,): the number of the first centroid that an old one became. For a dissolved one it is that of the
      centroid before it, or of the first of all. ``children`` (old,): how many it became.
    - ``number`` (old + new,): the number that each centroid, old or new, has in this order; -1 if it is no more.
    - ``born``: the numbers of new centroids, ascending.
    """

    centroids: Centroids
    place: Ints
    children: Ints
    number: Ints
    born: Ints


def relay(
    following: Generation,
    updates: Updates,
    change: Change,
    *,
    bounds: Bounds = TIDY,
    threads: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Relaid:
    """Publishes `following`: the old generation with the `change`, and with all cells laid anew that are outside of
    `bounds`. `updates` has the log and the next id of the new generation.

    At least one vector must be left. `threads` and `memory_limit` are those of a build. Raises `InputError` if the
    limit is too small, or if only a new build can do it: without codes, with replicas, or if rows would be too many for
    their numbers."""
    report = progress or (lambda stage, done, total: None)
    reader = following.old
    if not can_be_relaid(reader):
        raise InputError(f"{following.path}: only cells of codes without replicas can be laid anew; rebuild the index")
    old = Present(reader, max(1, reader.collection.live))
    bits = without(reader.read(LIVE), change.dead)
    cells = Cells.of(reader, bits)
    space = old.space(_largest(change, old))
    given, limit = thread_count(threads), limit_bytes(memory_limit)
    fitting = partial(threads_to_relay, following.path, cells.count, space.dim, threads=given, limit=limit)
    job = Job(
        _unread(old, max(1, len(change.ids))), space, old.decision, Ids(None, old.about["id_bytes"]), old.record,
        fitting(len(change.ids)), report, following.sizes,
    )  # fmt: skip
    centroids = old.centroids(space)
    fresh = space.map(unpack(change.vectors, str(old.about["dtype"])))
    cell_of_new = nearest_of(job, centroids, fresh)
    entries = _Entries(old, cells, change, cell_of_new)
    coming = np.bincount(cell_of_new, minlength=cells.count)
    dirty = cells.dirty(old.decision.posting_size, bounds, coming)
    job = replace(job, threads=fitting(len(change.ids) + int(cells.per_cell(cells.live)[dirty].sum())))

    found = _reclustered(job, centroids, dirty, entries)
    layout = _layout(centroids, dirty, found)
    members = _members(found, entries, np.flatnonzero((coming > 0) & ~dirty))
    total = len(members.entry)
    if old.count + total > 1 << 8 * old.about["row_bytes"]:
        raise InputError(
            f"{following.path}: {old.count + total} rows do not fit row numbers of {old.about['row_bytes']} bytes; "
            "rebuild the index"
        )
    changes: dict[str, Any] = {"count": old.count + total, "max_norm": space.max_norm}
    if dirty.any() or space.max_norm > old.about["max_norm"]:
        changes |= _write_centroids(job, following, layout.centroids)
    added, ids = None, np.empty(0, np.int64)
    if total:
        added = _write(job, following, old, layout, members, entries)
        ids = added.ids
    changes |= _write_directory(following, old, cells, layout, added)
    bits = extended(without(bits, members.entry[members.entry < old.count]), old.count, total)
    following.rewrite(LIVE, bits)
    live = updates.live - len(change.dead) + len(change.ids)
    runs = add_run(following, ids, bits)
    changes["updates"] = replace(updates, live=live, runs=runs).to_json()
    if "calibration" in old.about and len(change.ids):
        new = unpack(change.vectors[compared(len(change.ids))], str(old.about["dtype"]))
        difference = unlike(reader, centroids, space, new)
        changes["calibration"] = still_valid(old.about["calibration"], difference, len(change.ids), live)
    features = {*old.about["features"], DELETED} | ({"appended"} if total else set())
    following.publish(changes, features=sorted(features))
    report("publish", 1, 1)
    born = np.bincount(np.searchsorted(np.flatnonzero(dirty), found.parent), minlength=int(dirty.sum()))
    return Relaid(
        cells=int(dirty.sum()),
        split=int((born > 1).sum()),
        dissolved=int((born == 0).sum()),
        vectors=total,
        moved=found.moved,
    )


def _unread(old: Present, count: int) -> UnreadSource:
    """A collection of `count` vectors of the type and dimension of the index."""
    return UnreadSource(str(old.reader.path), count, int(old.about["dim"]), str(old.about["dtype"]))


@dataclass(frozen=True)
class _Added:
    """The postings that were written: ``laid`` out, with what is known of each (``facts``), and the ``ids`` (n,) of
    their rows."""

    laid: Laid
    facts: Array
    ids: Ints


def _largest(change: Change, old: Present) -> float:
    """The largest length of the new vectors, under ip."""
    if old.metric is not Metric.IP or not len(change.ids):
        return 0.0
    x = unpack(change.vectors, str(old.about["dtype"])).astype(np.float32)
    return float(np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64).max()))


def _reclustered(job: Job, centroids: Centroids, dirty: NDArray[np.bool_], entries: _Entries) -> Reclustered:
    if not dirty.any():
        nothing = np.empty(0, np.int64)
        return Reclustered(nothing, np.empty((0, job.space.dim), np.float32), Members(nothing, nothing), 0)
    read = lambda wanted: job.space.map(entries.vectors(wanted))  # noqa: E731
    return Recluster(job, centroids, dirty, entries.of, read).run()


def _members(found: Reclustered, entries: _Entries, touched: Ints) -> Members:
    """All vectors that are to be written: those of dirty cells, moved ones, and the tails of clean cells."""
    cells = entries.cells.count
    target = found.members.target
    parts = [found.members]
    for cell in np.union1d(touched, target[target < cells]).tolist():
        tail = entries.tail(cell)
        parts.append(Members(tail, np.full(len(tail), cell)))
    tails = Members(*(np.concatenate([getattr(p, name) for p in parts[1:]] or [target[:0]]) for name in _MEMBER))
    stay = ~np.isin(tails.entry, found.members.entry)
    return Members(
        np.concatenate([found.members.entry, tails.entry[stay]]), np.concatenate([target, tails.target[stay]])
    )


_MEMBER = ("entry", "target")


def _layout(centroids: Centroids, dirty: NDArray[np.bool_], found: Reclustered) -> _Layout:
    """Puts new centroids in the place of their parents. Equal ones become one: a graph with copies falls apart."""
    old, clean = len(centroids), np.flatnonzero(~dirty)
    new, lift = _stored(centroids, found.means)
    vectors, new = _alike(centroids.vectors, new)
    every = np.concatenate([vectors[clean], new])
    keys = np.ascontiguousarray(every + every.dtype.type(0))
    keys = keys.view(np.dtype((np.void, keys.shape[1] * keys.itemsize))).reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    same = first[inverse]
    kept = np.flatnonzero(same == np.arange(len(every)))
    parent = np.concatenate([clean, found.parent])[kept]
    order = np.argsort(parent, kind="stable")
    rank = np.empty(len(every), np.int64)
    rank[kept[order]] = np.arange(len(order))
    number = np.full(old + len(new), -1)
    number[np.concatenate([clean, old + np.arange(len(new))])] = rank[same]
    ascending = parent[order]
    children = np.bincount(ascending, minlength=old)
    place = np.searchsorted(ascending, np.arange(old)) - (children == 0)
    lifts = None
    if centroids.lift is not None:
        lifts = np.concatenate([centroids.lift[clean], lift])[kept[order]].astype(np.float32)
    made = Centroids(centroids.space, every[kept[order]], None, lifts, given=False)
    born = np.flatnonzero(kept[order] >= len(clean))
    return _Layout(made, np.maximum(place, 0), children, number, born)


def _stored(centroids: Centroids, means: Floats) -> tuple[Array, Floats]:
    """`means` in the type that centroids are stored in, and their last coordinates under ip."""
    space, dtype = centroids.space, centroids.vectors.dtype
    plain, lift = means[:, : space.source_dim], means[:, space.source_dim :].reshape(-1)
    if space.metric is Metric.L2:
        plain = plain + space.origin
    if dtype.kind in "iu":
        return np.rint(plain).astype(dtype), lift
    return plain, lift


def _alike(old: Array, new: Array) -> tuple[Array, Array]:
    """Both in the type of the `old` centroids, or in float32 if float16 does not reach as far as the new ones."""
    if old.dtype == np.float16 and len(new) and float(np.abs(new).max()) > HALF_RANGE:
        return old.astype(np.float32), new
    return old, new.astype(old.dtype)


def _write(
    job: Job, following: Generation, old: Present, layout: _Layout, members: Members, entries: _Entries
) -> _Added:
    """Writes the postings of all `members` behind the old ones."""
    target, centroids, total = layout.number[members.target], layout.centroids, len(members.entry)
    order = np.lexsort((members.entry, target))
    entry, target = members.entry[order], target[order]
    ids = entries.ids(following, entry)
    vectors = following.hold(Partition(following.temporary, "relaid", _unread(old, total)))
    spool = following.hold(EdgeSpool(following.temporary, len(centroids), total, job.sizes))
    step = max(1, BLOCK_BYTES // (4 * job.space.dim))
    for start in range(0, total, step):
        some = slice(start, start + step)
        found = entries.vectors(entry[some])
        vectors.put(start, found, ids[some])
        apart = job.space.map(found) - centroids.working(target[some])
        rows = np.arange(start, start + len(found))
        sqdist = np.einsum("ij,ij->i", apart, apart)
        spool.append(pack_edges(target[some], sqdist, rows, np.zeros(len(rows), np.uint8)))
        job.report("assign", start + len(found), total)
    job = replace(job, source=vectors)
    laid = lay_out_more(job, following, spool, old.pages, old.count)
    made = extend_postings(job, following, old, vectors, centroids, laid)
    assert made.positions is not None
    return _Added(laid, made.facts, vectors.rows(0, total)[made.positions.read(0, total)])


def _write_centroids(job: Job, following: Generation, centroids: Centroids) -> dict[str, Any]:
    """Writes the centroids and their graph; returns the attributes that go with them."""
    following.rewrite("centroids/vectors", centroids.vectors)
    if centroids.lift is not None:
        following.rewrite("centroids/lift", centroids.lift)
    graph = build_graph(job, centroids, job.progress("graph"))
    arrays = graph_arrays(graph)
    for name, values in arrays.items():
        following.rewrite(name, values)
    for name in following.old.arrays():
        if name.startswith("centroids/graph/") and name not in arrays:
            following.drop(name)
    return {"centroids": len(centroids), "graph": {"levels": len(graph.levels), "entry": graph.entry}}


def _write_directory(
    following: Generation, old: Present, cells: Cells, layout: _Layout, added: _Added | None
) -> dict[str, Any]:
    """Writes the directory and the shapes of all postings; returns the attributes that go with them.

    The postings of an old centroid belong to the first that it became. Each further one gets an empty posting of its
    own, for every centroid has one, and its vectors are in appended ones."""
    owner = cells.owner[: cells.own]
    further = np.maximum(layout.children - 1, 0)
    at = np.repeat(np.searchsorted(owner, np.arange(cells.count), side="right"), further)
    number = np.repeat(layout.place, further) + 1 + _within(further)
    own = np.insert(layout.place[owner], at, number)
    appended = layout.place[cells.owner[cells.own :]]
    columns: dict[str, Array | None] = dict.fromkeys(("page", "offset", "length", "primaries", "crc32c"))
    if added is not None:
        directory = added.laid.directory
        appended = np.concatenate([appended, directory.owner])
        columns = {name: getattr(directory, name, None) for name in columns} | {"crc32c": added.facts["crc32c"]}
    for name, more in columns.items():
        values = following.old.read(f"{_DIRECTORY}/{name}")
        values = np.insert(values, at, 0)
        following.rewrite(f"{_DIRECTORY}/{name}", values if more is None else np.concatenate([values, more]))
    if old.decision.directions:
        shapes = np.insert(following.old.read("postings/shapes"), at, 0, axis=0)
        new = shapes[:0] if added is None else shape_bytes(added.facts["shape"])
        if added is not None:  # of a cell that was laid anew, for its first posting as well
            first = np.searchsorted(added.laid.directory.owner, layout.born)
            shapes[np.searchsorted(own, layout.born)] = new[first]
        following.rewrite("postings/shapes", np.concatenate([shapes, new]))
    chain = f"{_DIRECTORY}/chain"
    if len(own) != len(layout.centroids):
        following.rewrite(chain, np.searchsorted(own, np.arange(len(layout.centroids) + 1)).astype(np.uint32))
    elif chain in following.old.arrays():
        following.drop(chain)
    if len(appended):
        following.rewrite(f"{_DIRECTORY}/appended", appended.astype(np.uint32))
    total = 0 if added is None else len(added.ids)
    return {"postings": len(own) + len(appended), "entries": int(old.about["entries"]) + total}


def _within(counts: Ints) -> Ints:
    """0, 1, ... for each of the `counts`, one after another."""
    found: Ints = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return found
