"""Parameters: frozen dataclasses with ranges and units, and TOML presets. docs/PARAMETERS.md gives the reasons."""

from __future__ import annotations

import math
import os
import tomllib
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from spann.errors import InputError, MissingError


def _param(default: Any, unit: str, low: float, high: float, symbol: str = "") -> Any:
    """A field with its unit, its closed range and the symbol the literature uses for it."""
    return field(default=default, metadata={"unit": unit, "low": low, "high": high, "symbol": symbol})


@dataclass(frozen=True)
class _Params:
    """Checks every field against its range when made."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None and f.default is None:
                continue
            low, high, whole = f.metadata["low"], f.metadata["high"], isinstance(f.metadata["low"], int)
            number = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
            if not number or (whole and value != int(value)):
                kind = "a whole number" if whole else "a number"
                raise InputError(f"{f.name} is {value!r}; it must be {kind} from {low} to {high}")
            object.__setattr__(self, f.name, int(value) if whole else float(value))

    def with_(self, **changes: Any) -> Self:
        """A copy with `changes`; `InputError` for an unknown name."""
        known = {f.name for f in fields(self)}
        for name in changes:
            if name not in known:
                raise InputError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(sorted(known))}")
        return replace(self, **changes)


DEFAULT_CENTROIDS = 0.14
"""Share of the vectors that are centroids, where neither `centroids` nor `posting_size` is given."""

DEFAULT_POSTING_SIZE = 31
"""Posting size where none is given: twice as many records of 128 bytes fill two pages to the last."""


@dataclass(frozen=True)
class BuildParams(_Params):
    """How an index is made. The index records them; they and the data decide every byte of it."""

    posting_size: int | None = _param(None, "entries", 1, 32_767)
    """Entries a posting should have; none has over twice as many. Without `centroids` it sets their number, too."""
    centroids: float | None = _param(None, "share of the vectors", 1e-6, 0.5)
    """Centroids as a share of the vectors."""
    max_replicas: int = _param(8, "postings", 1, 64)
    """Postings that one vector may be in (closure)."""
    epsilon1: float = _param(0.36, "ratio", 0.0, 1e6, "ε1")
    """Closure reaches centroids up to (1 + epsilon1) times as far as the nearest."""
    rng_factor: float = _param(1.0, "ratio of squared distances", 0.1, 10.0)
    """RNG rule: a centroid is passed over if rng_factor * sqdist(it, an accepted one) <= sqdist(it, the vector)."""
    closure_candidates: int = _param(128, "centroids", 1, 4096)
    """Nearest centroids that closure looks at for one vector."""
    code_bits: int = _param(0, "bits per dimension", 0, 8)
    """0: exact vectors inline in the postings."""
    seed: int = _param(0, "", 0, 2**63 - 1)
    """Start of all randomness."""

    @property
    def posting_bound(self) -> int:
        """Largest number of entries of a posting."""
        return 2 * (self.posting_size or DEFAULT_POSTING_SIZE)

    def centroid_count(self, count: int) -> int:
        """Centroids for `count` vectors, at least 1."""
        if self.centroids is not None:
            wanted = self.centroids * count
        elif self.posting_size is not None:
            wanted = count / self.posting_size
        else:
            wanted = DEFAULT_CENTROIDS * count
        return max(1, min(count, round(wanted)))


MAX_BEAM = 2**20
MAX_THREADS = 1024


@dataclass(frozen=True)
class SearchParams(_Params):
    """How much one query may read."""

    max_postings: int = _param(64, "postings", 1, 2**31)
    """Postings read at most."""
    epsilon2: float = _param(math.inf, "ratio", 0.0, math.inf, "ε2")
    """Only postings whose centroid is at most (1 + epsilon2) times as far as the nearest are read."""
    navigate: int | None = _param(None, "centroids", 1, MAX_BEAM, "ef")
    """Candidates kept while navigating the centroid graph; never fewer than `max_postings`."""

    @property
    def beam(self) -> int:
        """The navigation's candidate list: `navigate`, or three times as many as there are postings to read."""
        return self.navigate or min(max(64, 3 * self.max_postings), MAX_BEAM)


def thread_count(threads: int | None) -> int:
    """`threads`, or the processors this process may use; `InputError` outside 1 to `MAX_THREADS`."""
    if threads is None:
        return len(os.sched_getaffinity(0))
    if isinstance(threads, bool) or not isinstance(threads, Integral) or not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads is {threads!r}; it must be a whole number from 1 to {MAX_THREADS}")
    return int(threads)


def load_toml(path: str | Path) -> dict[str, dict[str, Any]]:
    """The tables `[build]` and `[search]` of a preset file, checked by name; `InputError` names what is unknown."""
    file = Path(path)
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{file}: no such configuration file") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}") from None
    known = {
        "build": {f.name for f in fields(BuildParams)} | {"metric"},
        "search": {f.name for f in fields(SearchParams)},
    }
    for table, content in document.items():
        if table not in known:
            raise InputError(f"{file}: table [{table}] is unknown; there are [build] and [search]")
        if not isinstance(content, dict):
            raise InputError(f"{file}: {table} must be a table")
        for name in content:
            if name not in known[table]:
                raise InputError(
                    f"{file}: [{table}] has no parameter {name!r}; it has {', '.join(sorted(known[table]))}"
                )
    return {table: dict(document.get(table, {})) for table in known}
