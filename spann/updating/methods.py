"""What an open index does to its vectors: a base of `spann.Index`, which has the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.config import parse_size
from spann.errors import InputError
from spann.progress import reporting
from spann.types import Array, Progress
from spann.updating.flush import Flushed
from spann.updating.inputs import GivenVectors, as_id_array, check_all, checked_blocks, given_vectors
from spann.updating.living import Living
from spann.updating.optimize import Optimized, Wanted
from spann.updating.rebuild import Resources
from spann.updating.snapshot import Version
from spann.vectors import GivenIds


class UpdateMethods:
    """Methods of an index that add, replace, delete and look up vectors by id.

    Whatever returns is durable: it is there after a power cut. This object sees it at once; others see it once they
    `refresh`. Any number of processes may write to one index; they wait for each other.
    """

    _living: Living
    path: Path

    def add(self, vectors: GivenVectors, ids: GivenIds | None = None) -> NDArray[np.int64]:
        """Adds `vectors` (n, dim) under `ids` (n,), and returns the ids.

        An index that was built without ids numbers its vectors itself: then `ids` may be left out, and the new vectors
        get numbers that no vector had before. Raises `InputError` for an id that has a vector already, and for what a
        build refuses; then nothing is added.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index.add(np.float32([[0.25], [7.25]])).tolist()
        [1000, 1001]
        >>> index.search(np.float32([7.2]), k=2).ids.tolist(), len(index)
        ([[1001, 7]], 1002)
        """
        self._living.begin()
        about, given = self._living.base.reader.collection, None
        with given_vectors(vectors, about, str(self.path)) as source:
            if ids is None:
                self._living.next_id()  # an error before anything is read
            else:
                given = as_id_array(ids)
                self._check_count(given, source.count)
                if len(np.unique(given)) < len(given):
                    raise InputError(f"ids of {source.name} repeat; each names one vector")
                if self._living.has(given).any():
                    at = int(np.argmax(self._living.has(given)))
                    raise InputError(f"{self.path}: id {given[at]} has a vector already; upsert replaces it")
            check_all(source, about)
            found = []
            for start, block in checked_blocks(source, about):
                if given is None:
                    found.append(self._living.put_numbered(block))
                else:
                    part = given[start : start + len(block)]
                    self._living.put(part, block, new=True)
                    found.append(part)
                self._living.maintain()
        return np.concatenate(found)

    def upsert(self, ids: GivenIds, vectors: GivenVectors) -> tuple[int, int]:
        """Gives `ids` (n,) the `vectors` (n, dim), whether they have some or not; returns how many had none, and how
        many were replaced. An id that comes twice gets the last of its vectors. Raises `InputError` as `add` does.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index.upsert([3, 5000], np.float32([[77.25], [88.25]]))
        (1, 1)
        >>> index.search(np.float32([[77.2], [3.0]]), k=1).ids.ravel().tolist()
        [3, 2]
        """
        self._living.begin()
        about, given = self._living.base.reader.collection, as_id_array(ids)
        inserted = replaced = 0
        with given_vectors(vectors, about, str(self.path)) as source:
            self._check_count(given, source.count)
            check_all(source, about)
            for start, block in checked_blocks(source, about):
                new, old = self._living.put(given[start : start + len(block)], block)
                inserted, replaced = inserted + new, replaced + old
                self._living.maintain()
        return inserted, replaced

    def delete(self, ids: GivenIds | int, missing: str = "ignore") -> int:
        """Deletes the vectors of `ids`; returns how many there were. With `missing="raise"`, an id that has no vector
        is an `InputError`, and nothing is deleted.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index.delete([7, 8, 5000]), 7 in index, len(index)
        (2, False, 998)
        >>> index.search(np.float32([7.2]), k=2).ids.tolist()
        [[6, 9]]
        """
        if missing not in ("ignore", "raise"):
            raise InputError(f"missing is {missing!r}; it must be ignore or raise")
        given = as_id_array(ids)
        if not len(given):
            return 0
        self._living.begin()
        found = self._living.delete(given, must_exist=missing == "raise")
        self._living.maintain()
        return found

    def get(self, ids: GivenIds | int) -> Array:
        """The vectors of `ids` (n,), as they were given: (n, dim). Raises `InputError` for an id without a vector.

        What was flushed since this index was opened or refreshed may have to be looked up in the index that is there
        now; then this refreshes.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index.get([7, 500]).tolist()
        [[7.0], [500.0]]
        """
        return self._living.get(as_id_array(ids))

    def __contains__(self, id: Any) -> bool:
        """Whether a vector has this id."""
        if isinstance(id, bool) or not isinstance(id, int | np.integer) or not 0 <= id < 1 << 63:
            return False
        return bool(self._living.has(np.array([id], np.int64))[0])

    def refresh(self) -> bool:
        """Makes visible what others have written since this index was opened or refreshed; whether there was any.
        Searches and iterators under way keep to what they began with.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> writer, reader = spann.build(line, "line.spann"), spann.open("line.spann")
        >>> writer.delete(7)
        1
        >>> len(reader), reader.refresh(), len(reader)
        (1000, True, 999)
        """
        return self._living.refresh()

    @property
    def version(self) -> Version:
        """How far this index is: its generation, and the number of the last write that it sees. Grows with each."""
        return self._living.snapshot.version

    def flush(
        self,
        *,
        threads: int | None = None,
        memory_limit: int | str | None = None,
        progress: Progress | bool | None = None,
    ) -> Flushed:
        """Publishes a generation of the index that contains all writes, and empties the log. Writes are durable without
        it; it makes searches faster, and the directory of the index alone a complete copy.

        `threads`, `memory_limit` and `progress` are those of `build`. Waits while another process changes the index;
        raises `ExistsError` after half a minute, and `InputError` if other work on it is unfinished.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index.delete([7, 8])
        2
        >>> index.flush().operations, index.flush().operations, len(index)
        (2, 0, 998)
        """
        with reporting(progress) as report:
            return self._living.flush(Resources(threads, _bytes(memory_limit), report))

    def optimize(
        self,
        *,
        full: bool = False,
        purge: bool = False,
        rebuild: bool = False,
        threads: int | None = None,
        memory_limit: int | str | None = None,
        progress: Progress | bool | None = None,
    ) -> Optimized:
        """Flushes, and brings the index nearer to what a new build would be, where updates have worn it.

        `full` does so wherever it helps. `purge` removes every deleted and replaced vector from the disk for certain.
        `rebuild` builds the index anew from its own vectors. Searches and writes go on meanwhile, and take as much
        disk again. An interrupted rebuild is resumed by the same call. Other arguments and errors are those of `flush`.

        >>> import numpy as np, spann
        >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
        >>> index = spann.build(line, "line.spann")
        >>> index.delete(range(500))
        500
        >>> done = index.optimize(purge=True)
        >>> done.rebuilt, done.live, done.dead
        (True, 500, 0)
        """
        with reporting(progress) as report:
            wanted = Wanted(full=full, purge=purge, rebuild=rebuild)
            return self._living.optimize(wanted, Resources(threads, _bytes(memory_limit), report))

    def _check_count(self, ids: NDArray[np.int64], count: int) -> None:
        if len(ids) != count:
            raise InputError(f"{len(ids)} ids were given for {count} vectors")


def _bytes(memory_limit: int | str | None) -> int | None:
    return None if memory_limit is None else parse_size(memory_limit, "memory_limit")
