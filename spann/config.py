"""Parameters: frozen dataclasses with ranges and units, and TOML presets. docs/PARAMETERS.md gives the reasons."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from spann.elements import memory_dtype, stored_bytes
from spann.errors import InputError, SpannError
from spann.processors import processor_count
from spann.system import read_small, reason
from spann.types import Metric


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

    @classmethod
    def preset(cls, name: str) -> Self:
        """The parameters of the preset `name`: one of `PRESETS`, as `--preset` of the commands.

        >>> import spann
        >>> spann.BuildParams.preset("balanced-8k").max_replicas
        1
        """
        known = {f.name for f in fields(cls)}
        table = load_toml(preset_file(name))[_TABLES[cls.__name__]]
        return cls(**{key: value for key, value in table.items() if key in known})

    def with_(self, **changes: Any) -> Self:
        """A copy with `changes`; `InputError` for an unknown name."""
        known = {f.name for f in fields(self)}
        for name in changes:
            if name not in known:
                raise InputError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(sorted(known))}")
        return replace(self, **changes)


CODE_BITS = (0, 1, 2, 3, 4, 8)
"""Bits per dimension that codes can have; 0 is none."""

DEFAULT_CENTROIDS = 0.14
"""Share of the vectors that are centroids, where neither `centroids` nor `posting_size` is given and vectors lie in the
postings."""

DEFAULT_POSTING_SIZE = 31
"""Posting size there: twice as many records of 128 bytes fill two pages to the last."""

DEFAULT_REPLICAS = 8
"""Postings of a vector there, the value of SPANN. Codes are for memory, which replicas would fill: there it is 1."""

LARGEST_POSTING = 32_767

CODED_POSTING_SIZE = 125
"""Posting size of codes, at least."""

CENTROID_SHARE = 1 / 24
"""The largest ratio of centroid bytes to code bytes. Postings grow until it holds."""

SMALLEST_CODED = 64
"""Bytes of a vector from which on codes are the default: below, code, factors and id save too little of it."""


def default_code_bits(element: str, dim: int) -> int:
    """Bits of a code where none are asked for: enough that a few pages of exact vectors settle the order, which longer
    codes need fewer of, for their error falls with the root of the dimension."""
    if stored_bytes(element, dim) < SMALLEST_CODED:
        return 0
    return 4 if dim < 64 else 2 if dim < 512 else 1


def default_posting_size(element: str, metric: Metric, bits: int) -> int:
    """Entries of a posting of codes. Centroids are of the data's type for integers under l2, else mostly float16."""
    width = 1 if metric is Metric.L2 and memory_dtype(element).kind in "iu" else 2
    return max(CODED_POSTING_SIZE, min(round(8 * width / (bits * CENTROID_SHARE)), LARGEST_POSTING))


DEFAULT_DIRECTIONS = 8
"""Directions kept of the shape of a posting of codes: a fifteenth of the memory of an open index, for a third of the
postings less. With replicas, which are for little memory, none."""

MAX_DIRECTIONS = 32

DEFAULT_CALIBRATION = 2000
"""Queries of a calibration, all for k 1 and 10: the standard error of a recall of 0.95 is then 0.002 to 0.003."""

FEWEST_CALIBRATION = 200
CALIBRATED_COUNT = 1_000_000
"""Vectors up to which so many queries are used: beyond it fewer by the root, for every one is compared with all."""


@dataclass(frozen=True)
class BuildParams(_Params):
    """How an index should be made. What is None is left open: `decide` fills it in for one collection.

    The index records the parameters with these decisions. They and the data determine every byte of it.
    """

    posting_size: int | None = _param(None, "entries", 1, LARGEST_POSTING)
    """Entries a posting should have; none has over twice as many. Without `centroids` it sets their number, too."""
    centroids: float | None = _param(None, "share of the vectors", 1e-6, 0.5)
    """Centroids as a share of the vectors."""
    max_replicas: int | None = _param(None, "postings", 1, 64)
    """Postings that one vector may be in (closure)."""
    epsilon1: float = _param(0.36, "ratio", 0.0, 1e6, "ε1")
    """Closure reaches centroids up to (1 + epsilon1) times as far as the nearest."""
    rng_factor: float = _param(1.0, "ratio of squared distances", 0.1, 10.0)
    """RNG rule: a centroid is passed over if rng_factor * sqdist(it, an accepted one) <= sqdist(it, the vector)."""
    closure_candidates: int = _param(128, "centroids", 1, 4096)
    """Nearest centroids that closure looks at for one vector."""
    code_bits: int | None = _param(None, "bits per dimension", 0, 8)
    """Codes of so many bits in the postings and exact vectors apart; 0: exact vectors inline in the postings."""
    directions: int | None = _param(None, "directions", 0, MAX_DIRECTIONS)
    """Directions in which the vectors of a posting of codes are spread most, kept in memory to tell whether it reaches
    towards a query; 0: none."""
    calibration_queries: int | None = _param(None, "queries", 0, 100_000)
    """Vectors of the collection with which settings for recalls are measured at the end of the build; 0: none."""
    seed: int = _param(0, "", 0, 2**63 - 1)
    """Start of all randomness."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.code_bits not in (None, *CODE_BITS):
            raise InputError(f"code_bits is {self.code_bits}; it must be one of {', '.join(map(str, CODE_BITS))}")

    def decide(self, element: str, dim: int, metric: Metric, count: int) -> BuildDecision:
        """What these parameters mean for `count` vectors of `dim` such elements under `metric`.

        Raises `InputError` if they contradict each other or the metric."""
        bits = self.code_bits
        if bits is None:
            bits = 0 if metric is Metric.HAMMING else default_code_bits(element, dim)
        if bits and metric is Metric.HAMMING:
            raise InputError(f"code_bits is {bits}; under hamming it must be 0: a binary vector is its own code")
        size, share = self.posting_size, self.centroids
        if bits == 0:
            if size is None and share is None:
                share = DEFAULT_CENTROIDS
            size = size or DEFAULT_POSTING_SIZE
        elif size is None:
            wanted = default_posting_size(element, metric, bits) if share is None else round(1 / share)
            size = min(wanted, LARGEST_POSTING)
        replicas = self.max_replicas or (1 if bits else DEFAULT_REPLICAS)
        directions = self.directions
        if directions is None:
            directions = DEFAULT_DIRECTIONS if bits and replicas == 1 else 0
        if directions and not bits:
            raise InputError(f"directions is {directions}; without codes it must be 0: they are kept as codes")
        queries = self.calibration_queries
        if queries is None:
            few = math.sqrt(max(1.0, count / CALIBRATED_COUNT))
            queries = max(FEWEST_CALIBRATION, round(DEFAULT_CALIBRATION / few))
        centroids = count / size if share is None else share * count
        return BuildDecision(
            posting_size=size,
            centroids=max(1, min(count, round(centroids))),
            max_replicas=replicas,
            epsilon1=self.epsilon1,
            rng_factor=self.rng_factor,
            closure_candidates=self.closure_candidates,
            code_bits=bits,
            directions=directions,
            calibration_queries=queries,
            seed=self.seed,
            recorded=self.with_(
                code_bits=bits, posting_size=size, centroids=share, max_replicas=replicas, directions=directions
            ),
        )


@dataclass(frozen=True)
class BuildDecision:
    """The parameters of a build of one collection, all decided. Fields mean what those of `BuildParams` do, but
    `centroids` is the number of centroids.

    `recorded` are the parameters that the index keeps. What depends on the number of vectors is still open in them.
    """

    posting_size: int
    centroids: int
    max_replicas: int
    epsilon1: float
    rng_factor: float
    closure_candidates: int
    code_bits: int
    directions: int
    calibration_queries: int
    seed: int
    recorded: BuildParams

    @property
    def means(self) -> bool:
        """Whether centroids are the means of their cells: codes without replicas. Others are vectors."""
        return self.code_bits > 0 and self.max_replicas == 1

    @property
    def posting_bound(self) -> int:
        """The largest number of entries of a posting."""
        return 2 * self.posting_size

    def as_json(self) -> dict[str, Any]:
        """`recorded` as a JSON object: the attribute `parameters` of an index."""
        return asdict(self.recorded)


MAX_BEAM = 2**20
MAX_THREADS = 1024


DEFAULT_POSTINGS = 64
"""Postings scored where they hold exact vectors and are read from disk."""

CODED_POSTINGS = 128
"""The same where they hold codes: these cost a tenth to score and nothing to read once pinned."""

RERANK_SHARE = 10
"""Candidates that may be re-ranked for each result asked for; on 1M SIFT the error bound ends it at 2 to 4."""

SMALLEST_RERANK = 100
SMALLEST_BEAM = 64


def usual_rerank(k: int) -> int:
    """Candidates that may be re-ranked for `k` results, where nothing else is said."""
    return max(SMALLEST_RERANK, RERANK_SHARE * k)


@dataclass(frozen=True)
class SearchParams(_Params):
    """How much one query may read. What is None is decided from the index and k (spann/search/decision.py)."""

    max_postings: int | None = _param(None, "postings", 1, 2**31)
    """Postings scored at most."""
    epsilon2: float = _param(math.inf, "ratio", 0.0, math.inf, "ε2")
    """Only postings whose vectors are expected at most (1 + epsilon2) times as far as those of the 16th are scored.
    Where there are no shapes, that is how far their centroid is."""
    navigate: int | None = _param(None, "centroids", 1, MAX_BEAM, "ef")
    """Candidates kept while navigating the centroid graph; never fewer than `max_postings`."""
    rerank: int | None = _param(None, "candidates", 1, 2**31)
    """Candidates found by their codes that may be re-ranked exactly; never fewer than k."""
    error_bound: float = _param(1.0, "standard errors", 0.0, 1e6, "ε0")
    """A candidate is re-ranked only while its estimate less so many standard errors is below the k-th result."""


PRESETS = ("default", "balanced-8k", "disk-only", "small-memory")
"""Presets that come with the package, TOML files in `spann/presets`."""

_TABLES = {"BuildParams": "build", "SearchParams": "search"}


def preset_file(name: str) -> Path:
    """The file of one of `PRESETS`; `InputError` for another name."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)}")
    return Path(__file__).with_name("presets") / f"{name}.toml"


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(value: Any, name: str, *words: str) -> int:
    """Bytes, from a number of them or text such as "44MB" or "1.5GiB" (any of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB).

    Raises `InputError` that names the parameter `name`, and `words` that its caller understands besides."""
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0:
        return int(value)
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", value.strip().lower())
        if found and found[2] in _UNITS and float(found[1]) > 0:
            return int(float(found[1]) * _UNITS[found[2]])
    also = f", {' or '.join(words)}" if words else ""
    raise InputError(f"{name} is {value!r}; it must be bytes, a size such as 44MB or 1.5GiB{also}")


def whole(value: Any, name: str, low: int, high: int | None = None) -> int:
    """`value`, of Python or numpy, as a whole number from `low` to `high`; else an `InputError` with its name."""
    fits = type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))
    if not fits or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name} is {value!r}; it must be a whole number {limits}")
    return int(value)


def finite(value: Any, name: str) -> float:
    """`value`, of Python or numpy, as a finite number; else an `InputError` with its name."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def thread_count(threads: int | None) -> int:
    """`threads`, or the processors this process may use, within the quota of a container; `InputError` outside 1 to
    `MAX_THREADS`."""
    if threads is None:
        return processor_count()
    return whole(threads, "threads", 1, MAX_THREADS)


LARGEST_TOML = 1 << 20
"""Bytes of a preset file."""


def load_toml(path: str | Path) -> dict[str, dict[str, Any]]:
    """The tables `[build]` and `[search]` of a preset file, checked by name; `InputError` names what is unknown."""
    file = Path(path)
    try:
        document = tomllib.loads(read_small(file, f"configuration file {file}", LARGEST_TOML).decode())
    except SpannError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not a TOML file: {reason(error)}") from None
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
