"""Predicts disk, temporary disk, memory and time of a build from counts alone, before anything is read or written.

Sizes follow from the format. The other constants are fitted to measurements. `docs/SCALING.md` has these, and the
errors of predictions.
"""

from __future__ import annotations

import mmap
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from spann.building.edges import EDGE
from spann.building.sizes import DEFAULT_SIZES
from spann.building.stages import refine
from spann.building.stages.partition import FLAT, region_rows
from spann.config import BuildDecision, BuildParams
from spann.errors import InputError
from spann.format.columns import STRING, TAGS, TEXT, Column
from spann.format.names import CHUNK_BYTES as NAMES_CHUNK
from spann.format.postings import Record
from spann.format.shapes import shape_record
from spann.progress import size
from spann.store import files
from spann.store.names import names_bytes
from spann.store.places import Where
from spann.system import available_memory
from spann.types import Metric
from spann.vectors import VectorSource, for_metric

if TYPE_CHECKING:
    from spann.vectors.attributes import GivenColumn

STAGES = (
    *("scan", "partition", "cluster", "refine", "graph", "assign", "layout", "arrange", "write"),
    *("attributes", "truth", "calibrate", "publish"),
)
"""The stages of `build_index`, in the order of progress. With several threads "graph" runs beside those after it.
"refine" is there only if centroids are means, "arrange" only with an exact store, "attributes" only with columns."""

LIMIT_SHARE = 0.5
"""Share of the available memory that is the default limit of a build."""

BASE_BYTES = 140 << 20
"""The interpreter, its libraries, and the stages' work that one thread does for all."""

WORKER_BYTES = 60 << 20
"""Memory of each thread, with finished blocks that wait to be written. Most in the stages cluster and truth."""

GROUP_COPIES = 14
"""Bytes that a thread takes for each coordinate of the centroids that a group is compared with, for its closure."""

QUERY_COPIES = 36
"""Bytes for each coordinate of a query of the calibration, while its neighbours are found."""

SEARCHER_BYTES = 30 << 20
"""Memory of each thread that searches for the calibration."""

CENTROID_BYTES = 500
"""Memory of each centroid besides its vectors: graph during its build, directory, ends of leaves and groups."""

CENTROID_COPIES = 9
MEAN_COPIES = 14
"""Bytes for each coordinate of a centroid: as stored, and two copies as float32 for the graph. A mean also has its
sums."""

VECTOR_BYTES = 64
"""Memory of each vector whose cell is laid anew: its row, centroid, position and id, with their order."""

CLOSURE_SHARE = 0.84
"""Share of `max_replicas` that a vector really has: 6.6 of 8 on SIFT with 3 % centroids, 6.8 with 14 %. Data of lower
intrinsic dimension have fewer, but only the build itself can tell."""

GRAPH_BYTES = 82
"""Bytes of each centroid in the stored graph: 73 with 8,000 centroids of SIFT, 86 with 30,000."""

DIRECTORY_BYTES = 22
"""Bytes of each posting in memory."""

WORD_BYTES = 32
TEXT_BYTES = 100
"""Likely bytes of the tags, or the text, of one row. Nothing is read to know better."""

PAGE_LOSS = 1.02
"""Pages of postings over what their bytes fill."""

GFLOPS = 90.0
"""Speed of matrix products of one thread, on the machine that measured the seconds below (Zen 3, AVX2, float32)."""

SECONDS_PER_GFLOP = 1 / GFLOPS

PASS_SECONDS = 16e-9
"""Seconds of one thread for each byte of a vector: all passes over it, with their copies and files."""

COORDINATE_SECONDS = 86e-9
"""Seconds of one thread for each coordinate: clustering within regions, arranging and coding."""

REFINE_SECONDS = 80e-9
"""The same for refining cells, besides the products."""

CLOSURE_SECONDS = 100e-6
"""Seconds of one thread for each vector of 128 dimensions, if it joins several postings."""

GRAPH_SECONDS = 90e-6
"""Seconds of the graph's only thread for each centroid of 128 dimensions."""


TRUTH_SECONDS = 30e-9
"""Seconds of one thread for each coordinate, besides the products: the exact neighbours of the calibration's
queries."""

CALIBRATION_SECONDS = 42.0
CALIBRATION_FULL = 50_000
"""Seconds of one thread for the searches of the calibration. Collections smaller than this number need less."""


@dataclass(frozen=True)
class Plan:
    """The prediction for a build; sizes in bytes.

    - `disk_bytes`: the index. `temporary_bytes`: temporary files, at most.
    - `memory_bytes`: resident memory with `threads` threads, at most.
    - `open_memory_bytes`: an open index with all codes in memory; `open_memory_least`: with none.
    - `pins`: whether all codes fit within the limit beside the build. Then the calibration keeps them in memory.
    - `stages`: the stages of the build, in the order of progress.
    """

    count: int
    dim: int
    dtype: str
    metric: str
    code_bits: int
    centroids: int
    threads: int
    memory_limit: int
    disk_bytes: int
    temporary_bytes: int
    memory_bytes: int
    seconds: float
    open_memory_bytes: int
    open_memory_least: int
    pins: bool
    stages: tuple[str, ...]


def limit_bytes(given: int | None) -> int:
    """The limit in bytes: as given, or `LIMIT_SHARE` of what is available."""
    return given if given is not None else int(LIMIT_SHARE * available_memory())


def resident_bytes() -> int:
    """Resident bytes of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def plan_build(
    source: VectorSource,
    metric: Metric,
    params: BuildParams,
    *,
    threads: int,
    limit: int,
    id_bytes: int | None = None,
    names_size: int = 0,
    columns: Sequence[GivenColumn] = (),
) -> Plan:
    """Predicts the build of `source` with `columns`, with as many of `threads` as `limit` bytes of memory allow.

    `names_size` are the bytes of the names of the vectors. Raises `InputError` if the limit is too small for
    one thread, and says what would help.
    """
    source = for_metric(source, metric)
    decision, sizes = params.decide(source.element, source.dim, metric, source.count), DEFAULT_SIZES
    count, dim, bits = source.count, source.dim, decision.code_bits
    width = id_bytes or (4 if count <= 2**32 else 8)
    centroids = decision.centroids
    row_width = 4 if count <= 2**32 else 8
    record = Record.coded(width, row_width, dim, bits) if bits else Record.exact(width, source.stored_bytes)
    inside = count if bits else count - centroids
    entries = int(inside * (1 if decision.max_replicas == 1 else max(1.0, CLOSURE_SHARE * decision.max_replicas)))

    centroid_width = source.stored_bytes if not bits or (metric is Metric.L2 and source.dtype.kind in "iu") else 2 * dim
    shape = shape_record(dim, bits, decision.directions).itemsize if decision.directions else 0
    kept = centroids * (centroid_width + GRAPH_BYTES + DIRECTORY_BYTES + shape) + (0 if bits else centroids * width)
    postings = int(
        PAGE_LOSS * (record.header * centroids + record.primary * inside + record.replica * (entries - inside))
    )
    exact = count * source.stored_bytes if bits else 0
    checksums = exact // 1024
    codes = record.primary * inside + record.replica * (entries - inside) if bits else 0
    names = names_bytes(count, names_size) if names_size else 0
    kept += 4 * (names // NAMES_CHUNK + 2) if names else 0
    column_bytes = count * (width + row_width + sum(map(_column_bytes, columns))) if columns else 0
    open_memory = kept + checksums + codes
    memory = BASE_BYTES + centroids * ((MEAN_COPIES if decision.means else CENTROID_COPIES) * dim + CENTROID_BYTES)
    memory += count * row_width if bits and entries > inside else 0
    memory += count * 8 if width == 8 and id_bytes else 0
    sorting = 3 * min(sizes.bucket_bytes, entries * EDGE.itemsize)  # by one thread, while no other has work
    queries = decision.calibration_queries
    closure = GROUP_COPIES * dim * min(centroids, sizes.closure_candidates) if decision.max_replicas > 1 else 0

    def peak(threads: int) -> int:
        assigning = threads * (WORKER_BYTES + closure)
        return memory + max(sorting, assigning, threads * WORKER_BYTES + queries * QUERY_COPIES * dim)

    fitting = max((n for n in range(1, threads + 1) if peak(n) <= limit), default=0)
    if fitting == 0:
        of_centroids = memory - BASE_BYTES
        remedy = "raise the limit, or lower centroids (a larger posting_size does too)"
        if peak(1) - of_centroids > limit:
            remedy = f"the program itself takes {size(peak(1) - of_centroids)} of that, so raise the limit"
        raise InputError(
            f"memory_limit is {limit} bytes ({size(limit)}); building {count} vectors of {source.name} with "
            f"{centroids} centroids needs about {size(peak(1))}: {remedy}"
        )
    searching = memory + fitting * SEARCHER_BYTES + open_memory
    pins = bits > 0 and queries > 0 and peak(fitting) + open_memory <= limit
    copies = count * (source.stored_bytes + 8)
    cells = (
        len(sizes.refine_candidates) * (refine.FOUND.itemsize * count + 4 * centroids * dim) if decision.means else 0
    )
    temporary = max(
        2 * copies + 2 * count,  # in the order of the source and in regions; with two cuts, in coarse and fine regions
        copies + cells + entries * EDGE.itemsize + entries * 8 + (count * 8 if bits else 0),
    )
    return Plan(
        count=count,
        dim=dim,
        dtype=source.element,
        metric=metric.value,
        code_bits=bits,
        centroids=centroids,
        threads=fitting,
        memory_limit=limit,
        disk_bytes=postings + exact + checksums + kept + names + column_bytes,
        temporary_bytes=temporary,
        memory_bytes=max(peak(fitting), searching if pins else 0),
        seconds=_seconds(source, decision, fitting),
        open_memory_bytes=open_memory,
        open_memory_least=kept + checksums,
        pins=pins,
        stages=_stages(decision, bool(columns)),
    )


def _column_bytes(column: GivenColumn) -> int:
    """About what a value of a column takes."""
    if column.kind in (TAGS, TEXT):
        return TEXT_BYTES if column.kind == TEXT else WORD_BYTES
    return 4 if column.kind == STRING else Column(column.name, column.kind).dtype.itemsize


def _stages(decision: BuildDecision, columns: bool) -> tuple[str, ...]:
    """The stages of a build."""
    there = {"refine": decision.means, "arrange": decision.code_bits > 0}
    there |= dict.fromkeys(("truth", "calibrate"), decision.calibration_queries > 0) | {"attributes": columns}
    return tuple(stage for stage in STAGES if there.get(stage, True))


def threads_to_append(
    source: VectorSource,
    about: dict[str, Any],
    path: Path,
    *,
    decision: BuildDecision,
    threads: int,
    limit: int,
    copied: int,
) -> int:
    """As many of `threads` as `limit` bytes of memory allow for appending `source` to the index at `path`.

    `about` has the attributes of the index, made with `decision`; `copied` of its bytes are written again. Raises
    `InputError` if not even one thread fits, or the free disk is too small."""
    centroids, postings, count = int(about["centroids"]), int(about["postings"]), source.count
    record, replicas = Record.of(about), decision.max_replicas
    edges = count * replicas
    memory = BASE_BYTES + centroids * (8 * source.dim + 64) + (postings + edges) * 2 * DIRECTORY_BYTES
    memory += 24 * (int(about["count"]) + count) if about["ids"] == "user" else 0
    memory += count * record.row_bytes if replicas > 1 else 0
    sorting = 3 * min(DEFAULT_SIZES.bucket_bytes, edges * EDGE.itemsize)
    fitting = min(threads, (limit - memory) // WORKER_BYTES)
    if fitting < 1 or memory + sorting > limit:
        raise InputError(
            f"memory_limit is {limit} bytes; appending {count} vectors of {source.name} to {path} needs about "
            f"{memory + max(sorting, WORKER_BYTES)}: raise the limit, or append less at a time"
        )
    exact = source.stored_bytes if decision.code_bits else 0
    new = count * exact + edges * (record.replica + record.header)
    needed = new + copied + 3 * count * (source.stored_bytes + 8) + edges * EDGE.itemsize
    free = files.free_bytes(path.parent)
    if needed > free:
        raise InputError(f"{path}: appending {source.name} needs about {needed} bytes of disk; {free} are free")
    return int(fitting)


def threads_to_relay(path: Path, centroids: int, dim: int, vectors: int, *, threads: int, limit: int) -> int:
    """As many of `threads` as `limit` bytes of memory allow for laying `vectors` anew in the index at `path`.

    Raises `InputError` if not even one thread fits."""
    memory = BASE_BYTES + centroids * (MEAN_COPIES * dim + CENTROID_BYTES) + vectors * VECTOR_BYTES
    fitting = min(threads, (limit - memory) // WORKER_BYTES)
    if fitting < 1:
        raise InputError(
            f"memory_limit is {limit} bytes; laying {vectors} vectors anew in {path} needs about "
            f"{memory + WORKER_BYTES}: raise the limit, or flush fewer vectors at a time"
        )
    return int(fitting)


def check_disk(plan: Plan, path: Path, work: Where) -> None:
    """Raises `InputError` if the build does not fit on the file system of `path`.

    The files of an unfinished build in `work` count as written."""
    free = files.free_bytes(path.parent)
    needed = plan.disk_bytes + plan.temporary_bytes
    there = files.status(work)
    left = there is not None and stat.S_ISDIR(there.st_mode)  # anything else is refused when the build begins
    if needed > free + (sum(size for _, size in files.walk_files(work)) if left else 0):
        raise InputError(
            f"{path}: needs about {needed} bytes of disk ({plan.disk_bytes} for the index, {plan.temporary_bytes} "
            f"while it is built); {free} are free"
        )


def _seconds(source: VectorSource, decision: BuildDecision, threads: int) -> float:
    count, dim, centroids, queries = source.count, source.dim, decision.centroids, decision.calibration_queries
    regions = -(-count // region_rows(dim, DEFAULT_SIZES))
    compared = regions if regions <= FLAT else 2 * np.sqrt(regions)
    work = count * (source.row_bytes * PASS_SECONDS + dim * COORDINATE_SECONDS)
    work += 2e-9 * count * compared * dim * SECONDS_PER_GFLOP
    if decision.means:
        compared = sum(min(centroids, candidates) for candidates in DEFAULT_SIZES.refine_candidates)
        work += count * dim * (REFINE_SECONDS + 2e-9 * compared * SECONDS_PER_GFLOP)
    if decision.max_replicas > 1:
        work += count * CLOSURE_SECONDS * (0.5 + dim / 256)
    if queries:
        work += count * dim * (TRUTH_SECONDS + 2e-9 * queries * SECONDS_PER_GFLOP)
        work += CALIBRATION_SECONDS * min(1.0, count / CALIBRATION_FULL)
    graph = centroids * GRAPH_SECONDS * dim / 128 * max(1.0, np.log2(max(2, centroids)) / 13)
    speed = _speed()
    # The graph takes one thread while others assign and arrange.
    alone = work / threads / speed
    return float(max(alone, (graph / speed if threads > 1 else 0)) if threads > 1 else alone + graph / speed)


def _speed() -> float:
    """How fast this machine multiplies matrices, as a multiple of the measured machine."""
    x = np.ones((512, 512), np.float32)
    best = np.inf
    with threadpool_limits(1, user_api="blas"):
        for _ in range(4):
            start = time.perf_counter()
            x @ x
            best = min(best, time.perf_counter() - start)
    return float(2 * 512**3 / best / 1e9 / GFLOPS)
