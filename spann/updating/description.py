"""What an open index is, in numbers: for `Index.info` and `spann info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spann.types import Array
from spann.updating.snapshot import Snapshot

BINS = 16
"""Bins of the histogram of posting lengths."""


def describe(now: Snapshot, memory: Mapping[str, int]) -> dict[str, Any]:
    """Counts, sizes, parameters and the distribution of posting lengths, ready for JSON.

    `memory` has the bytes that updates keep in memory besides those of the engine."""
    reader, arrays, about = now.reader, now.engine.arrays, now.reader.attributes
    length = arrays.length.astype(np.int64)
    bins = np.linspace(0, about["posting_bound"] + 1, BINS + 1).astype(int)
    replicas = length - arrays.primaries
    opened = now.engine.open_memory_bytes + sum(memory.values())
    least = opened - arrays.memory.get("codes", 0)
    return {
        "format_version": about["format_version"],
        "created_by": about["created_by"],
        "generation": about["generation"],
        "count": now.count,
        "dim": now.engine.dim,
        "dtype": now.engine.element,
        "metric": now.engine.metric.value,
        "ids": about.get("name_type", about["ids"]),
        "centroids": about["centroids"],
        "postings": about["postings"],
        "appended_postings": arrays.appended,
        "entries": about["entries"],
        "code_bits": arrays.kind.code_bits,
        "replicas_mean": about["entries"] / max(1, now.count - arrays.kind.outside(about["centroids"])),
        "posting_length": {
            "mean": float(length.mean()),
            "std": float(length.std()),
            "min": int(length.min()),
            "max": int(length.max()),
            "bound": about["posting_bound"],
            "histogram": _histogram(length, bins),
        },
        "posting_replicas": {"mean": float(replicas.mean()), "histogram": _histogram(replicas, bins)},
        "disk_bytes": reader.disk_bytes(),
        "disk": {name: reader.layout(name).stored_bytes for name in reader.arrays()},
        "open_memory_bytes": opened,
        "open_memory_bytes_per_vector": opened / max(1, now.count),
        "open_memory": {**arrays.memory, **memory},
        "open_memory_least": least,
        "open_memory_most": least + arrays.codes_bytes,
        "pinned_postings": arrays.pinned_postings,
        "parameters": about["parameters"],
        "calibration": about.get("calibration"),
        "recall_doubts": [] if now.calibration is None else now.calibration.all_doubts(),
    }


def _histogram(values: Array, bins: Array) -> dict[str, list[int]]:
    counts, edges = np.histogram(values, bins=bins)
    return {"counts": counts.tolist(), "edges": edges.tolist()}
