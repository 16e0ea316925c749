"""The ids of vectors: given by the caller, or row numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array
from spann.vectors import VectorSource


@dataclass(frozen=True)
class Ids:
    """``user`` (count,) int64, or None where ids are row numbers; on disk an id takes ``width`` bytes."""

    user: NDArray[np.int64] | None
    width: int

    @classmethod
    def check(cls, ids: Array | None, source: VectorSource) -> Ids:
        """The ids of the vectors of `source`; `InputError` for any that cannot be, naming the row."""
        if ids is None:
            return cls(None, 4 if source.count <= 2**32 else 8)
        if ids.shape != (source.count,) or ids.dtype.kind not in "iu":
            raise InputError(f"ids are {ids.shape} {ids.dtype}; {source.name} needs ({source.count},) integers")
        for limit, wrong in (("at least 0", ids < 0), ("below 2**63", ids > np.iinfo(np.int64).max)):
            if wrong.any():
                row = int(np.argmax(wrong))
                raise InputError(f"id {ids[row]} of row {row} of {source.name} is not {limit}")
        ordered = np.sort(ids)
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(same):
            raise InputError(f"id {ordered[same[0]]} is given to more than one row of {source.name}; ids must differ")
        return cls(ids.astype(np.int64), 4 if int(ordered[-1]) < 2**32 else 8)

    def of(self, rows: NDArray[np.int64]) -> Array:
        """Ids of `rows` (n,) as they are stored."""
        return (rows if self.user is None else self.user[rows]).astype(f"<u{self.width}")
