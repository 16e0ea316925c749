"""The ids of vectors: given by the caller, or row numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array
from spann.vectors import IdList, VectorSource


@dataclass(frozen=True)
class Ids:
    """The ids of all rows. ``user`` is (count,) int64, or None if ids are row numbers, from ``first`` on. On disk an id
    takes ``width`` bytes."""

    user: NDArray[np.int64] | None
    width: int
    first: int = 0

    @classmethod
    def check(cls, ids: IdList | None, source: VectorSource) -> Ids:
        """The ids of the vectors of `source`; `InputError` for any that cannot be, naming the row."""
        if ids is None:
            return cls(None, 4 if source.count <= 2**32 else 8)
        user = ids.of(source.count, source.name)
        return cls(user, 4 if int(user.max()) < 2**32 else 8)

    @classmethod
    def more(
        cls, ids: IdList | None, source: VectorSource, known: NDArray[np.int64] | None, count: int, width: int
    ) -> Ids:
        """The ids of the vectors of `source`, added to an index of `count` that has the ids `known`, or None where they
        are row numbers, in `width` bytes. `InputError` for any that cannot be."""
        if known is None:
            if ids is not None:
                raise InputError(
                    f"{source.name} has ids{ids.note}, and the index numbers its vectors by row: leave them out "
                    "with --no-ids (ids=False)"
                )
            found, largest = cls(None, width, count), count + source.count - 1
        else:
            if ids is None:
                raise InputError(f"{source.name} needs ids: the vectors of the index have ids that were given")
            user = ids.of(source.count, source.name)
            taken = np.flatnonzero(np.isin(user, known))
            if len(taken):
                row = taken[0]
                raise InputError(f"id {user[row]} of row {row} of {source.name} is in the index already{ids.note}")
            found, largest = cls(user, width), int(user.max())
        if largest >= 1 << 8 * width:
            raise InputError(f"id {largest} of {source.name} does not fit the {width} bytes of an id in this index")
        return found

    def of(self, rows: NDArray[np.int64]) -> Array:
        """Ids of `rows` (n,) as they are stored."""
        return (rows + self.first if self.user is None else self.user[rows]).astype(f"<u{self.width}")
