"""A collection as one process has it open: its index, its log, and what both make together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spann._version import __version__
from spann.building.pipeline import finish_publishing
from spann.changing.generation import refuse_columns
from spann.elements import pack, unpack
from spann.errors import ExistsError, InputError, SpannError, StorageError
from spann.format.live import Bits
from spann.format.log import DELETE, LARGEST_BODY, PUT, Frame
from spann.format.updates import LIVE
from spann.jobs.own import OwnVectors
from spann.measuring.promise import Calibration
from spann.search import Engine
from spann.search.alive import Alive
from spann.store.by_id import AllIds, ById, RowsOfIds
from spann.store.log import LOCK_SECONDS, Log, LogRewoundError, log_of
from spann.store.names import names_of
from spann.store.publishing import lock_file
from spann.store.reader import REPLACED, IndexReader, on_current
from spann.types import Array
from spann.updating.begin import begin_updates, check_numbers, ensure_log
from spann.updating.flush import Flushed, flush_index
from spann.updating.fresh import Fresh
from spann.updating.maintenance import LOG_BYTES, Maintenance, soft_limit
from spann.updating.optimize import Optimized, Wanted, optimize_index, worn
from spann.updating.rebuild import Resources
from spann.updating.snapshot import Snapshot, Version

PROGRAM = f"spann {__version__}"

Ids = NDArray[np.int64]

T = TypeVar("T")

_WAIT = 0.01
"""Seconds between two tries to change an index while another process does."""

Decide = Callable[[], list[Frame]]
"""What is to be logged, decided once the log is known to its end."""


class Base:
    """An open generation: how to search it, and how to find and read its rows by id."""

    def __init__(self, reader: IndexReader, engine: Engine) -> None:
        self.reader, self.engine, self.updates = reader, engine, reader.collection.updates
        self.bits: Bits | None = None if self.updates is None else reader.read(LIVE)
        self.names = names_of(reader, check=engine.check)
        found = reader.attributes.get("calibration")
        self.calibration = None if found is None else Calibration.from_json(found)
        self._rows: RowsOfIds | None = None
        self._own: OwnVectors | None = None

    @property
    def live(self) -> int:
        return self.reader.collection.live

    @property
    def alive(self) -> Alive:
        """The rows that are live."""
        arrays = self.engine.arrays
        return arrays.all_alive(self.reader.collection.count) if arrays.alive is None else arrays.alive

    @property
    def own(self) -> OwnVectors:
        """The stored rows, to be read from disk."""
        if self._own is None:
            self._own = OwnVectors(self.reader)
        return self._own

    @property
    def lookup_bytes(self) -> int:
        """Bytes in memory by which rows are found."""
        return 0 if self._rows is None else self._rows.nbytes

    def rows(self, ids: Ids) -> Ids:
        """The live row of each of `ids`; -1 where there is none."""
        check_numbers(self.reader)
        if self._rows is None:
            self._rows = AllIds(self.own.ids()) if self.updates is None else ById(self.reader)
        bits = np.empty(0, np.uint8) if self.bits is None else self.bits
        return self._rows.find(ids, bits)


class Living:
    """The collection at a path, as this process has it open. Searches go by `snapshot`, which other threads replace.

    `options` are those of `Engine`. Writers of all processes wait for each other; what they have acknowledged is
    durable. This process sees its own writes at once, and those of others after `refresh`."""

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        *,
        refresh: float | None = None,
        maintenance: str = "inline",
    ) -> None:
        self.path = path.absolute()  # and the same one after a change of the working directory
        self._options, self._interval = dict(options), refresh
        self._maintenance = Maintenance(maintenance, path, self._maintain)
        self._mutex = threading.RLock()
        self._stale = self._begun = False
        self._base, self._log, self._fresh = self._load()
        self._alive: Alive | None = None
        self.snapshot = self._snapshot()
        self.refreshed = time.monotonic()
        with self._mutex:
            self._catch_up()

    def _load(self) -> tuple[Base, Log | None, Fresh]:
        base = on_current(self.path, lambda reader: Base(reader, Engine(reader, **self._options)))
        about = base.reader.collection
        log = None if about.updates is None else log_of(base.reader)
        return base, log, Fresh.of(about)

    @property
    def base(self) -> Base:
        return self._base

    @property
    def fresh(self) -> Fresh:
        return self._fresh

    def current(self) -> Snapshot:
        """What a search goes by that begins now. Looks for writes of others if the last look was long enough ago."""
        if self._interval is not None and time.monotonic() - self.refreshed >= self._interval:
            self.refresh()
        return self.snapshot

    def refresh(self) -> bool:
        """Brings the snapshot up to date; whether it changed."""
        with self._mutex:
            return self._catch_up()

    def _catch_up(self) -> bool:
        before = self.snapshot.version
        for _ in range(REPLACED):
            try:
                if self._stale or not self._base.reader.is_current():
                    self._replace()
                self._apply([] if self._log is None else self._log.poll())
                self.refreshed = time.monotonic()
                return self.snapshot.version != before
            except LogRewoundError:
                self._stale = True
            except SpannError:
                if self._base.reader.is_current():
                    raise
        raise StorageError(f"{self.path}: was replaced {REPLACED} times while it was read")

    def _replace(self) -> None:
        """Opens what is at the path now."""
        was = self._base.reader.collection
        base, log, fresh = self._load()
        about = base.reader.collection
        if (about.dim, about.element, about.metric) != (was.dim, was.element, was.metric):
            raise InputError(f"{self.path}: the index was replaced by one of other vectors: open it again")
        self._base, self._log, self._fresh = base, log, fresh
        self._alive = None
        self._stale = False
        self.snapshot = self._snapshot()

    def _apply(self, frames: list[Frame]) -> None:
        if not frames:
            return
        self._stale = True  # until all are applied: else they are to be read again
        for frame in frames:
            new = self._fresh.untouched(frame.ids)
            rows = self._base.rows(new) if len(new) else new
            if len(rows) and (rows >= 0).any():
                alive = self._alive or self._base.alive
                self._alive = alive.without(rows[rows >= 0], new[rows >= 0])
            self._fresh.apply(frame)
        self._stale = False
        self.snapshot = self._snapshot()

    def _snapshot(self) -> Snapshot:
        base, fresh = self._base, self._fresh
        return Snapshot(
            reader=base.reader,
            engine=base.engine,
            count=(base.live if self._alive is None else self._alive.count) + fresh.alive,
            version=Version(int(base.reader.attributes["generation"]), fresh.sequence),
            alive=self._alive,
            fresh=fresh.view() if fresh.alive else None,
            calibration=base.calibration,
            names=base.names,
        )

    def places(self, ids: Ids) -> tuple[Ids, Ids]:
        """For each of `ids` the place of its vector among the fresh ones, and its row in the index; -1 where it is not
        there."""
        with self._mutex:
            state = self._fresh.state(ids)
            rows = np.full(len(ids), -1, np.int64)
            rest = np.flatnonzero(state == -2)
            if len(rest):
                rows[rest] = self._base.rows(ids[rest])
            return np.maximum(state, -1), rows

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of `ids` (n,) the collection has."""
        return self._looked_up(lambda: self._has(ids))

    def _has(self, ids: Ids) -> NDArray[np.bool_]:
        fresh, rows = self.places(ids)
        found: NDArray[np.bool_] = (fresh >= 0) | (rows >= 0)
        return found

    def _looked_up(self, look: Callable[[], T]) -> T:
        """What `look` finds; once more in the index that is at the path now, if its files have gone with the old."""
        with self._mutex:
            try:
                return look()
            except SpannError:
                if self._base.reader.is_current():
                    raise
                self._catch_up()
                return look()

    def get(self, ids: Ids) -> Array:
        """The vectors of `ids` (n,), (n, dim). `InputError` for the first that the collection has not."""
        return self._looked_up(lambda: self._get(ids))

    def _get(self, ids: Ids) -> Array:
        fresh, rows = self.places(ids)
        for i in np.flatnonzero((fresh < 0) & (rows < 0))[:1]:
            raise InputError(f"{self.path}: no vector has id {ids[i]}")
        about = self._base.reader.collection
        out = np.empty((len(ids), about.dim), self._base.engine.dtype)
        out[fresh >= 0] = unpack(self._fresh.vectors(fresh[fresh >= 0]), about.element)
        stored = np.flatnonzero(rows >= 0)
        if len(stored):
            known, back = np.unique(rows[stored], return_inverse=True)
            out[stored] = self._base.own.take(known)[back]
        return out

    def put(self, ids: Ids, vectors: Array, *, new: bool = False) -> tuple[int, int]:
        """Gives `ids` (n,) the `vectors` (n, dim), of the element type of the index; how many had none before, and how
        many had. With `new`, raises `InputError` if one has. An id that comes twice gets the last of its vectors."""
        last = _last(ids)
        ids, vectors = ids[last], vectors[last]
        counts = [0, 0]

        def decide() -> list[Frame]:
            known = self.has(ids)
            for i in np.flatnonzero(known)[:1] if new else ():
                raise InputError(f"{self.path}: id {ids[i]} has a vector already; upsert replaces it")
            counts[:] = int((~known).sum()), int(known.sum())
            return self._puts(ids, vectors)

        self.write(decide)
        return counts[0], counts[1]

    def put_numbered(self, vectors: Array) -> Ids:
        """Adds `vectors` (n, dim) under ids that no vector had yet, and returns these."""
        ids = np.empty(0, np.int64)

        def decide() -> list[Frame]:
            nonlocal ids
            first = self.next_id()
            if first > 2**63 - len(vectors):
                raise InputError(f"{self.path}: the ids from {first} on are too few for {len(vectors)} vectors")
            ids = np.arange(first, first + len(vectors))
            return self._puts(ids, vectors)

        self.write(decide)
        return ids

    def next_id(self) -> int:
        """The least id that no vector had yet, of an index that numbers its vectors itself; else `InputError`."""
        updates = self._base.updates
        if updates is None or updates.next_id is None:
            raise InputError(f"{self.path}: vectors need ids: those of the index have ids that were given")
        return max(updates.next_id, self._fresh.largest_id + 1)

    def delete(self, ids: Ids, *, must_exist: bool) -> int:
        """Takes the vectors of `ids` away; how many there were. With `must_exist`, raises `InputError` for the first
        that has none, and deletes nothing."""
        ids, count = np.unique(ids), 0

        def decide() -> list[Frame]:
            nonlocal count
            known = self.has(ids)
            for i in np.flatnonzero(~known)[:1] if must_exist else ():
                raise InputError(f"{self.path}: no vector has id {ids[i]}, so none is deleted")
            count = int(known.sum())
            step = LARGEST_BODY // 8
            there = ids[known]
            return [Frame(DELETE, 0, there[at : at + step]) for at in range(0, len(there), step)]

        self.write(decide)
        return count

    def _puts(self, ids: Ids, vectors: Array) -> list[Frame]:
        stored = np.ascontiguousarray(pack(vectors, self._base.reader.collection.element))
        step = max(1, LARGEST_BODY // (8 + stored.itemsize * stored.shape[1]))
        return [Frame(PUT, 0, ids[at : at + step], stored[at : at + step]) for at in range(0, len(ids), step)]

    def write(self, decide: Decide) -> None:
        """Logs what `decide` returns, which is durable and in the snapshot when this returns."""
        self._maintenance.before_write(self._fullness())
        with self._mutex:
            self.begin()
            for _ in range(REPLACED):
                self._catch_up()
                log = self._log
                assert log is not None
                with log.locked():
                    if not self._base.reader.is_current():
                        continue
                    self._catch_up()
                    if self._log is not log:
                        continue
                    frames = decide()
                    if frames:
                        frames = log.append(frames)
                self._apply(frames)
                return
            raise StorageError(f"{self.path}: was replaced {REPLACED} times while it was written to")

    def begin(self) -> None:
        """Makes the index ready for updates, and its log. Raises `InputError` if it has columns."""
        refuse_columns(self._base.reader)
        if self._base.updates is None:
            self._catch_up()
        if self._log is None or not self._log.exists:
            _patiently(lambda: begin_updates(self.path, created_by=PROGRAM))
            _patiently(lambda: ensure_log(self.path, created_by=PROGRAM))
            self._catch_up()
        if not self._begun:
            self._begun = True
            if lock_file(self.path).exists():
                with suppress(ExistsError):  # held by a process that is at it
                    finish_publishing(self.path, PROGRAM)  # a killed process left it

    def flush(self, resources: Resources) -> Flushed:
        """Publishes a generation that contains the log."""
        done = _patiently(lambda: flush_index(self.path, created_by=PROGRAM, resources=resources))
        self.refresh()
        return done

    def optimize(self, wanted: Wanted, resources: Resources) -> Optimized:
        """Flushes the log, and does what is `wanted`."""
        done = _patiently(lambda: optimize_index(self.path, wanted, created_by=PROGRAM, resources=resources))
        self.refresh()
        return done

    def memory(self) -> dict[str, int]:
        """Bytes in memory besides those of the index: the log, bits of rows, and ids by which rows are found."""
        base, alive = self._base, self._alive
        found = {"ids": base.lookup_bytes}
        if base.bits is not None:
            found["log"] = self._fresh.nbytes + base.bits.nbytes + (0 if alive is None else alive.nbytes)
        return {name: size for name, size in found.items() if size}

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory().values())

    def info(self) -> dict[str, Any] | None:
        """Live and dead rows, and what is in the log; None for an index without updates."""
        with self._mutex:
            base, fresh = self._base, self._fresh
            if base.updates is None:
                return None
            count = base.reader.collection.count
            live = base.live if self._alive is None else self._alive.count
            return {
                "live_rows": live,
                "dead_rows": count - live,
                "logged_operations": fresh.operations,
                "logged_vectors": fresh.alive,
                "log_bytes": 0 if self._log is None else self._log.bytes(),
                "flushed_at": soft_limit(base.live),
                "worn": worn(base.reader),
                "next_id": self.next_id() if base.updates.next_id is not None else None,
                "failure": None if self._maintenance.failure is None else str(self._maintenance.failure),
            }

    def maintain(self) -> None:
        """Does what the writes so far call for."""
        self._maintenance.after_write(self._fullness())

    def _fullness(self) -> float:
        fresh = self._fresh
        return max(fresh.operations / soft_limit(self._base.live), fresh.log_bytes / LOG_BYTES)

    def _maintain(self) -> None:
        optimize_index(self.path, Wanted(), created_by=PROGRAM, resources=Resources())
        self.refresh()

    def close(self) -> None:
        self._maintenance.close()
        self._base.engine.close()
        self._base.reader.close()
        if self._base.names is not None:
            self._base.names.close()


def _patiently(work: Callable[[], T]) -> T:
    """Does the work; tries again, for some time, while another process or thread changes the index."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return work()
        except ExistsError:
            if time.monotonic() >= end:
                raise
            time.sleep(_WAIT)


def _last(ids: Ids) -> NDArray[np.int64]:
    """The places (m,), ascending, at which each of `ids` comes for the last time."""
    _, place = np.unique(ids[::-1], return_index=True)
    return np.sort(len(ids) - 1 - place)
