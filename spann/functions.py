"""What makes, changes, predicts and checks an index at a path. No algorithm inside."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spann._version import __version__
from spann.building.pipeline import build_index
from spann.building.plan import Plan, limit_bytes, plan_build, resident_bytes
from spann.changing.append import APPEND_STAGES, append_index
from spann.changing.recalibrate import recalibrate
from spann.config import BuildParams, parse_size, thread_count, whole
from spann.elements import element_of
from spann.errors import InputError, RepeatWarning, UnlikeWarning
from spann.index import Index, open_index, reopen
from spann.progress import reporting
from spann.search import (
    MemoryBudget,
    verify_index,
)
from spann.store.arrays import Problem
from spann.store.reader import on_current
from spann.system import given_path
from spann.types import Metric, Progress
from spann.updating.copying import snapshot_index
from spann.updating.create import create_index
from spann.updating.flush import flush_index
from spann.vectors import GivenIds, NameList, VectorSource, ids_for, metric_of, open_queries, open_source

if TYPE_CHECKING:
    from spann.vectors.attributes import GivenColumn

Vectors = Any
"""Vectors: whatever `spann.open_source` takes, or a source that it returned."""

GivenColumns = Any
"""Columns beside the vectors: names, a dictionary of values, or a table (`spann.vectors.attributes`)."""


def _open_built(path: str | Path, memory_limit: int | str | None, memory_budget: int | str | None) -> Index:
    """Opens the index that a build has made, within the rest of its `memory_limit` unless a `memory_budget` is
    given."""
    limit = _limit(memory_limit)
    budget = MemoryBudget.parse("auto" if memory_budget is None else memory_budget)
    if memory_budget is None and limit is not None:
        budget = MemoryBudget(max(1, limit - resident_bytes()), automatic=True)
    return reopen(Path(path), {"memory_budget": budget})


@contextmanager
def _opened(
    vectors: Vectors, open_vectors: Callable[..., VectorSource] = open_source, beside: Path | None = None
) -> Iterator[VectorSource]:
    """Yields the source of `vectors`, and closes it unless it was a source already. Streams are kept in a file beside
    the index, at `beside`."""
    if isinstance(vectors, VectorSource):
        yield vectors
        return
    with open_vectors(vectors, scratch=None if beside is None else beside.absolute().parent) as source:
        yield source


def build(
    vectors: Vectors,
    path: str | Path,
    *,
    metric: Metric | str | None = None,
    ids: GivenIds | bool | None = None,
    attributes: GivenColumns | None = None,
    payload: GivenColumns | None = None,
    params: BuildParams | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | bool | None = None,
    memory_budget: int | str | None = None,
) -> Index:
    """Builds an index of `vectors` (count, dim) at `path` and opens it.

    `vectors` is whatever `spann.open_source` takes: an array, the path of a file or a folder, a list of paths, a table
    or a frame, or an iterator of batches. The metric hamming needs binary vectors: uint8 with 8 bits in each
    (`numpy.packbits`), or bool. `metric` is l2 unless the file names another, as HDF5 of ann-benchmarks does.

    `ids` (count,) name the vectors in results: different integers from 0 on, texts, `uuid.UUID` or bytes. They are an
    array or a list, the name of a column of `vectors`, or the path of a file, ``FILE#COLUMN`` for one column (see
    `spann.vectors.read_ids`). The default is the column "id", if there is one. Otherwise, and with False, an id is the
    row number.

    `attributes` are columns of values beside the vectors: a dictionary of names and arrays, a table, or names of
    columns of `vectors`, if that is a table. They are numbers, booleans, strings, dates, timestamps, or lists of
    strings, and may have missing values. `payload` are such columns too, but long texts need no dictionary there.

    An existing index is replaced only with `overwrite`, and only once the new one is complete. `memory_limit` bounds
    the resident memory of the process, in bytes or as "1GiB"; the default is half of the memory available. The index
    that is returned keeps within it, or within `memory_budget` (see `open`). A build that cannot fit, in memory or on
    the disk, is refused before it starts (see `plan`). `progress` is True for bars on a terminal or in a notebook, or a
    function of stage, done and total. The same call resumes an interrupted build, and ends with the same bytes;
    `restart` begins anew. Raises `InputError`, `ExistsError`, `MissingError`, `StorageError`.

    >>> import numpy as np, spann
    >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
    >>> names = np.arange(1000) * 10 + 5
    >>> with spann.build(line, "line.spann", ids=names, params=spann.BuildParams(seed=1)) as index:
    ...     index.search(np.float32([[7.1]]), k=2).ids.tolist()
    [[75, 85]]
    """
    path = given_path(path)
    MemoryBudget.parse("auto" if memory_budget is None else memory_budget)  # an error now rather than in the end
    with _opened(vectors, beside=path) as source, ExitStack() as shown:
        wanted, made = metric_of(source, metric), _build_params(params)
        columns = _columns(attributes, payload, source)
        told: dict[str, Any] = {}
        if progress is True:
            limit = limit_bytes(_limit(memory_limit))
            planned = plan_build(source, wanted, made, threads=thread_count(threads), limit=limit, columns=columns)
            told = {"stages": planned.stages, "seconds": planned.seconds}
        built = build_index(
            source,
            path,
            wanted,
            made,
            created_by=f"spann {__version__}",
            ids=ids_for(source, ids),
            columns=columns,
            threads=threads,
            memory_limit=_limit(memory_limit),
            overwrite=overwrite,
            restart=restart,
            progress=shown.enter_context(reporting(progress, **told)),
        )
    if not built:
        warnings.warn(f"{path}: the same vectors were built already, in the same way", RepeatWarning, stacklevel=2)
    return _open_built(path, memory_limit, memory_budget)


def create(
    path: str | Path,
    dim: int,
    *,
    metric: Metric | str = "l2",
    dtype: Any = "float32",
    given_ids: bool = False,
    params: BuildParams | None = None,
    refresh: float | None = None,
    maintenance: str = "inline",
) -> Index:
    """Makes an index at `path` for vectors of dimension `dim`, without vectors, and opens it. `Index.add` adds some.

    `dtype` is uint8, int8, float16, float32 or "bfloat16", and bool under hamming. The index numbers its vectors itself
    unless they have `given_ids`. `params` are those of the builds that it has as it grows. Other arguments are those of
    `open`. Raises `InputError`, and `ExistsError` if something is at `path`.

    >>> import numpy as np, spann
    >>> index = spann.create("new.spann", dim=2)
    >>> index.add(np.float32([[0, 1], [2, 3]])).tolist(), len(index)
    ([0, 1], 2)
    >>> index.search(np.float32([2, 2]), k=3).ids.tolist()
    [[1, 0, -1]]
    """
    path = given_path(path)
    create_index(
        path,
        whole(dim, "dim", 1),
        Metric.parse(metric),
        element_of(dtype),
        _build_params(params),
        numbered=not given_ids,
        created_by=f"spann {__version__}",
    )
    return open_index(path, refresh=refresh, maintenance=maintenance)


def snapshot(path: str | Path, target: str | Path) -> None:
    """Makes `target` a copy of the index at `path` as it is now, with everything that was written to it.

    On one file system the copy shares the files of the index, and takes little time and space. No change of one of them
    changes the other. Raises `ExistsError` if something is at `target`, or while another process changes the index.

    >>> import numpy as np, spann
    >>> index = spann.create("new.spann", dim=2)
    >>> ids = index.add(np.float32([[0, 1], [2, 3]]))
    >>> spann.snapshot("new.spann", "copy.spann")
    >>> index.delete(ids), len(index), len(spann.open("copy.spann"))
    (2, 0, 2)
    """
    snapshot_index(given_path(path), given_path(target), created_by=f"spann {__version__}")


def append(
    path: str | Path,
    vectors: Vectors,
    *,
    ids: GivenIds | bool | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
    restart: bool = False,
    again: bool = False,
    progress: Progress | bool | None = None,
    memory_budget: int | str | None = None,
) -> Index:
    """Adds `vectors` (count, dim) to the index at `path`, as a new generation of it, and opens that.

    They must have the index's dtype and dimension. An index with ids needs `ids` (count,), none of them in the index
    yet; otherwise row numbers continue. Readers keep the generation that they opened. An append happens whole or not at
    all; the same call resumes an interrupted one. Vectors that were appended before, with the same ids, are not added a
    second time unless `again`; a `RepeatWarning` says so. Other arguments and errors are those of `build`.

    >>> import numpy as np, spann
    >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
    >>> spann.build(line, "line.spann").close()
    >>> with spann.append("line.spann", line[:500] + 1000) as index:
    ...     len(index), index.search(np.float32([1200.4]), k=2).ids.tolist()
    (1500, [[1200, 1201]])
    """
    path = given_path(path)
    MemoryBudget.parse("auto" if memory_budget is None else memory_budget)  # an error now rather than in the end
    with _opened(vectors, beside=path) as source, reporting(progress, stages=APPEND_STAGES) as report:
        flush_index(path, created_by=f"spann {__version__}", restart=restart)
        appended = append_index(
            source,
            path,
            created_by=f"spann {__version__}",
            ids=ids_for(source, ids),
            threads=threads,
            memory_limit=_limit(memory_limit),
            restart=restart,
            again=again,
            progress=report,
        )
    if not appended:
        warnings.warn(
            f"{path}: these vectors were appended already, and are not added again (again=True, --again)",
            RepeatWarning,
            stacklevel=2,
        )
    grown = _open_built(path, memory_limit, memory_budget)
    stale = (grown.info()["calibration"] or {}).get("stale")
    if stale:
        warnings.warn(f"{path}: {stale}", UnlikeWarning, stacklevel=2)
    return grown


def calibrate(
    path: str | Path,
    queries: Vectors | None = None,
    *,
    base: Vectors | None = None,
    count: int | None = None,
    threads: int | None = None,
    restart: bool = False,
    progress: Progress | bool | None = None,
    memory_budget: int | str = "auto",
) -> Index:
    """Calibrates the index at `path` anew, as a new generation of it, and opens that.

    With `queries` (nq, dim), at most `count` of them (2000 by default), the calibration holds for queries of that kind.
    Without, it holds for queries like the collection's own vectors. An index without codes also needs the vectors of
    the collection as `base`. `memory_budget` is that of the index that is returned, as for `open`. Raises the errors of
    `append`, and `InputError` while a build or an append is unfinished, unless `restart` discards it.

    >>> import numpy as np, spann
    >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
    >>> spann.build(line, "line.spann").close()
    >>> with spann.calibrate("line.spann", line[::3] + np.float32(0.3), base=line) as index:
    ...     index.search(np.float32([[7.1]]), k=2, target_recall=0.95).ids.tolist()
    [[7, 8]]
    """
    path = given_path(path)
    MemoryBudget.parse(memory_budget)
    with (
        nullcontext() if queries is None else _opened(queries, open_queries) as asked,
        nullcontext() if base is None else _opened(base) as collection,
        reporting(progress) as report,
    ):
        recalibrate(
            path,
            asked,
            base=collection,
            count=count,
            created_by=f"spann {__version__}",
            threads=thread_count(threads),
            restart=restart,
            progress=report,
        )
    index = open_index(path, memory_budget=memory_budget)
    if index.calibration is not None and index.calibration.warning:
        warnings.warn(f"{path}: {index.calibration.warning}", UnlikeWarning, stacklevel=2)
    return index


def plan(
    vectors: Vectors,
    *,
    metric: Metric | str | None = None,
    attributes: GivenColumns | None = None,
    payload: GivenColumns | None = None,
    params: BuildParams | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
) -> Plan:
    """Predicts what `build` with the same arguments takes: disk, temporary disk, memory, time, and memory of the open
    index. It reads counts only, no vectors. Raises `InputError` if the memory limit is too small.

    >>> import numpy as np, spann
    >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
    >>> found = spann.plan(line, memory_limit="1GiB")
    >>> found.count, found.centroids, found.memory_bytes < found.memory_limit
    (1000, 140, True)
    """
    with _opened(vectors) as source:
        return plan_build(
            source,
            metric_of(source, metric),
            _build_params(params),
            threads=thread_count(threads),
            limit=limit_bytes(_limit(memory_limit)),
            names_size=_likely_size(source),
            columns=_columns(attributes, payload, source),
        )


def _likely_size(source: VectorSource) -> int:
    """Bytes of the names that come with vectors."""
    names = source.own_ids() if source.named else None
    return names.likely_size() if isinstance(names, NameList) else 0


def _columns(
    attributes: GivenColumns | None, payload: GivenColumns | None, source: VectorSource
) -> tuple[GivenColumn, ...]:
    if attributes is None and payload is None:
        return ()
    from spann.vectors.attributes import given_columns  # which takes pyarrow

    return given_columns(attributes, payload, source)


def _build_params(params: BuildParams | None) -> BuildParams:
    if params is not None and not isinstance(params, BuildParams):
        raise InputError(f"params is a {type(params).__name__}; it must be BuildParams")
    return params or BuildParams()


def _limit(value: int | str | None) -> int | None:
    return None if value is None else parse_size(value, "memory_limit")


def verify(path: str | Path, progress: Progress | bool | None = None) -> list[Problem]:
    """Reads the whole index at `path` and returns every problem; an empty list if there is none.

    Raises `MissingError` if there is no index, and `FormatError` if it cannot be read at all.

    >>> import numpy as np, spann
    >>> line = np.arange(1000, dtype=np.float32)[:, None]  # vector i is [i]
    >>> spann.build(line, "line.spann").close()
    >>> spann.verify("line.spann")
    []
    """
    with reporting(progress) as report:
        tell = None if report is None else lambda done, total: report("verify", done, total)
        return on_current(given_path(path), lambda reader: verify_index(reader, tell), lambda problems: not problems)
