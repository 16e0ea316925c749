"""The series to compare, as data: how each is built, opened and searched, over its range of recall.

All series on disk have about the same budget of memory for each vector, so the comparison shows what a peer makes of
it. The table shows if a peer uses less or needs more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.compare.data import Data

Settings = dict[str, Any]

_RERANKED = "re-ranked from disk by this harness through the page cache, which faiss itself does not do"


@dataclass(frozen=True)
class Series:
    """One line of the plots. Series with the same `build` share an index."""

    name: str
    peer: str
    build: Settings
    open: Settings
    points: list[Settings]
    """Settings of the sweep, from the least to the most recall."""
    cold: bool = True
    """Whether it searches from disk, with an empty page cache and limited memory. Otherwise everything is in memory."""
    note: str = ""


@dataclass(frozen=True)
class Peer:
    """A program to compare: its script in `peers`, its environment (None means this one), and its series for the
    data."""

    script: str
    environment: str | None
    series: Callable[[Data], list[Series]]
    environ: dict[str, str] = field(default_factory=dict)


def budget(data: Data) -> int:
    """Bytes of memory for each vector: those of spann with all codes in memory. That is a third of a SIFT vector; for
    longer vectors, two bits a dimension and a little."""
    return 46 if data.dim <= 128 else 20 + data.dim // 4


def spann(data: Data) -> list[Series]:
    # Settings that a calibration chose for recalls of 0.8 to 0.995.
    settings = [(36, 0.15, 0.014), (52, 0.15, 0.026), (81, 0.16, 0.063), (120, 0.3, 0.086), (154, 0.5, 0.104),
                (187, 0.8, 0.118), (215, 1.1, 0.128), (290, 1.5, 0.145), (524, 1.5, 0.17)]  # fmt: skip
    if data.dim > 128:
        settings = [(13, 0.15, 0.01), (22, 0.15, 0.01), (45, 0.25, 0.012), (68, 0.8, 0.021), (94, 1.5, 0.031),
                    (146, 1.5, 0.047), (188, 1.6, 0.058), (249, 2.0, 0.072), (287, 2.0, 0.094)]  # fmt: skip
    points: list[Settings] = [{"max_postings": p, "error_bound": e, "epsilon2": e2} for p, e, e2 in settings]
    limit = budget(data) * data.count
    # Settings are swept here, as the peers' are, so the build need not measure them.
    codes: Settings = {"code_bits": 2, "calibration_queries": 0}
    # Where postings are read from disk, replicas save more reads than they cost bytes: the preset disk-only.
    replicas: Settings = {**codes, "posting_size": 220, "centroids": 0.03, "max_replicas": 8}
    few: list[Settings] = [{"max_postings": p, "error_bound": e} for p, e in pairs_from_disk(data)]
    return [
        Series("spann", "spann", codes, {"io": "direct", "memory_budget": limit}, points),
        Series("spann, nothing pinned", "spann", replicas, {"io": "direct", "memory_budget": "none"}, few),
        Series("spann warm", "spann", codes, {"io": "buffered"}, points, cold=False, note="all in the page cache"),
    ]


def pairs_from_disk(data: Data) -> list[tuple[int, float]]:
    """(postings, error bound) of searches that read each posting."""
    return [(6, 0.5), (9, 0.5), (12, 0.5), (16, 0.5), (21, 0.5), (28, 0.5), (40, 0.5), (64, 0.8)]


def diskann(data: Data) -> list[Series]:
    points = [{"complexity": c} for c in (10, 15, 20, 30, 40, 60, 100, 200)]
    out = []
    for pq in (32,) if data.dim <= 128 else (48, 96):
        build = {"graph_degree": 64, "complexity": 100, "pq_bytes": pq, "build_memory_gib": 8}
        # A cached node is its vector and its list of neighbours.
        nodes = max(0, budget(data) - pq) * data.count // (data.row_bytes + 4 * (64 + 1))
        for cached in (0, nodes):
            name = f"DiskANN PQ{pq}" + (f" + {cached} nodes cached" if cached else "")
            # By the account of its documents. The table shows the memory that finding those nodes takes besides.
            note = f"cache sized to {budget(data)} bytes per vector together with the codes" if cached else ""
            out.append(Series(name, "diskann", build, {"beam_width": 4, "cached_nodes": cached}, points, note=note))
    return out


def faiss(data: Data) -> list[Series]:
    small = data.count < 500_000
    lists = 1024 if small else 8192
    pairs = [(16, 20), (32, 20), (32, 40), (64, 30), (64, 60), (128, 40), (128, 80), (256, 60), (256, 120), (512, 120)]
    codes = ["PQ32", "RaBitQ", "RaBitQ2"] if data.dim <= 128 else ["PQ48", "PQ96", "RaBitQ", "RaBitQ2"]
    out = []
    for code in codes:
        factory = f"IVF{lists}_HNSW32,{code}"
        build = {"factory": factory, "training_per_list": 40, "iterations": 10}
        # One bit a dimension leaves more to the exact vectors.
        more = 2 if code == "RaBitQ" else 1
        points = [{"nprobe": nprobe, "rerank": rerank * more} for nprobe, rerank in pairs]
        # By default faiss compares RaBitQ codes with float queries, 50 times as slow as with 4 bits, for no recall.
        opened = {"query_bits": 4} if code.startswith("RaBitQ") else {}
        out.append(Series(f"faiss {factory}", "faiss", build, opened, points, note=_RERANKED))
    return out


def lance(data: Data) -> list[Series]:
    small = data.count < 500_000
    lists = 256 if small else 1024
    # Few points, because a query takes some 100 ms with 16 MiB of page cache.
    pairs = [(8, 4), (16, 6), (32, 8), (64, 12)]
    points = [{"nprobes": nprobes, "refine": refine} for nprobes, refine in pairs]
    pq = 32 if data.dim <= 128 else 96
    out = []
    for name, kind, options in (
        (f"PQ{pq}", "IVF_PQ", {"num_partitions": lists, "num_sub_vectors": pq}),
        ("RQ", "IVF_RQ", {"num_partitions": lists, "num_bits": 1}),
    ):
        # Room for all codes, by the generous account of the cache. With less it evicts codes while memory is left, and
        # reads them again for every query. The memory is measured.
        opened = {"cache_bytes_per_vector": 2048, "clients": True}
        out.append(Series(f"LanceDB IVF {name}", "lance", {"type": kind, "options": options}, opened, points))
    return out


def hnsw(data: Data) -> list[Series]:
    build = {"m": 16, "ef_construction": 200}
    points = [{"ef": ef} for ef in (10, 15, 20, 30, 45, 70, 100, 150, 200)]
    return [Series("hnswlib (in memory)", "hnsw", build, {}, points, cold=False, note="vectors in memory")]


PEERS = {
    "spann": Peer("spann_index.py", None, spann),
    "diskann": Peer("diskann.py", "diskann", diskann),
    "faiss": Peer("faiss_ivf.py", "common", faiss),
    "lance": Peer("lancedb_lance.py", "common", lance, {"LANCE_LOG": "error"}),
    "hnsw": Peer("hnsw.py", "common", hnsw),
}
