"""A list of ids, and the checks of ids from any source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError
from spann.types import Array

ID_TYPES = ("int64", "uint64", "int32", "uint32")
"""Types that ids in files can have, by numpy name."""

NAMES = ("id", "ids")
"""Names under which ids are looked for where there are several columns of integers."""

LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class IdList:
    """Ids (n,), and where they come from as errors say it; None for an array of the caller's."""

    values: Array
    origin: str | None = None

    @property
    def note(self) -> str:
        """What an error about an id ends with."""
        return f" ({self.origin})" if self.origin else ""

    def first(self, count: int | None) -> IdList:
        """The first `count` of them, as of the vectors whose file is read so far; all for None."""
        return self if count is None else IdList(self.values[:count], self.origin)

    def of(self, count: int, name: str) -> NDArray[np.int64]:
        """The ids (count,) of the vectors called `name`; `InputError` for any that cannot be, naming the row."""
        ids = self.values
        if ids.shape != (count,) or ids.dtype.kind not in "iu":
            raise InputError(f"ids are {ids.shape} {ids.dtype}{self.note}; {name} needs ({count},) integers")
        for limit, wrong in (("at least 0", ids < 0), ("below 2**63", ids > LARGEST)):
            if wrong.any():
                row = int(np.argmax(wrong))
                raise InputError(f"id {ids[row]} of row {row} of {name} is not {limit}{self.note}")
        ordered = np.sort(ids)
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(same):
            raise InputError(
                f"id {ordered[same[0]]} is given to more than one row of {name}; ids must differ{self.note}"
            )
        return ids.astype(np.int64)


def check_id_type(dtype: Any, origin: str) -> None:
    """Refuse ids of another type than `ID_TYPES`."""
    if str(dtype) not in ID_TYPES:
        raise InputError(
            f"{origin} holds {dtype}: ids must be {', '.join(ID_TYPES[:-1])} or {ID_TYPES[-1]}, texts, UUIDs or bytes; "
            "--no-ids (ids=False) numbers the vectors instead"
        )


def find_part(wanted: str, known: list[str], file: str, kind: str) -> str:
    """Which of the columns or datasets (`kind`) of integers of `file` holds the ids."""
    if wanted:
        return wanted
    for name in NAMES:
        if name in known:
            return name
    if len(known) != 1:
        found = f"several {kind}s of integers, {', '.join(known)}" if known else f"no {kind} of integers"
        raise InputError(f"{file} has {found}; name that of the ids as FILE#{kind.upper()}")
    return known[0]
