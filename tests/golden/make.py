"""Makes the golden indexes in this directory, and the answers they must give for ever after.

    python tests/golden/make.py

They are frozen: every later version must read these bytes and give these answers. One is made anew only when
`FORMAT_VERSION` grows, and then beside the old one (`index-v2.tar.gz`), which must stay readable. They are packed,
because 90 KB of each are Zarr metadata that take 6 KB so.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import spann
from spann._kernels.checksum import crc32c
from spann.format.manifest import FORMAT_VERSION

HERE = Path(__file__).parent
COUNT, DIM, K = 90, 6, 8


@dataclass(frozen=True)
class Golden:
    """One index: its files are `index-v1{name}.tar.gz` and `answers-v1{name}.json`."""

    name: str
    params: spann.BuildParams

    @property
    def packed(self) -> Path:
        return HERE / f"index-v1{self.name}.tar.gz"

    @property
    def answers(self) -> Path:
        return HERE / f"answers-v1{self.name}.json"


INDEXES = (
    Golden("", spann.BuildParams(posting_size=4, max_replicas=3, seed=7, code_bits=0)),
    Golden("-codes", spann.BuildParams(posting_size=6, max_replicas=3, seed=7, code_bits=3)),
)


def vectors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors with copies among them, their ids and queries, from plain arithmetic that no library changes."""
    values = (np.arange(COUNT * DIM, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32) >> np.uint64(26)) * 4
    base = values.astype(np.uint8).reshape(COUNT, DIM)
    base[40:60] = base[40]
    ids = np.arange(COUNT)[::-1] * 1_000_003 + 2**33
    return base, ids, base[5::17] + np.uint8(1)


def answers(index: spann.Index, queries: np.ndarray) -> dict[str, object]:
    """Answers of the index, opened with memory_budget="none": with all vectors read, and with a few postings."""
    everything = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)
    every = index.search(queries, K, everything, threads=1)
    few = index.search(queries, 1, everything.with_(max_postings=2), threads=1)
    return {
        "ids": every.ids.tolist(),
        "distances": [[round(float(d), 4) for d in row] for row in every.distances],
        "nearest_of_two_postings": few.ids.ravel().tolist(),
        "postings_read": few.stats["postings_read"].tolist(),
    }


def pack(path: Path) -> bytes:
    """The files of a directory as a .tar.gz that depends on nothing but their names and bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed, 0) as zipped, tarfile.open(mode="w", fileobj=zipped) as tar:
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            data = file.read_bytes()
            member = tarfile.TarInfo(str(file.relative_to(path)))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def unpack(golden: Golden, path: Path) -> None:
    """The golden index as a directory at `path`."""
    with tarfile.open(golden.packed) as tar:
        tar.extractall(path, filter="data")


def checksums(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): f"{crc32c(p.read_bytes()):08x}" for p in sorted(path.rglob("*")) if p.is_file()}


def main() -> None:
    missing = [golden for golden in INDEXES if not golden.packed.exists()]
    if FORMAT_VERSION != 1 or not missing:
        sys.exit("all golden indexes are there and frozen; a new format version gets some of its own")
    base, ids, queries = vectors()
    for golden in missing:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "index"
            spann.build(base, path, ids=ids, params=golden.params, threads=1).close()
            with spann.open(path, memory_budget="none") as index:
                names = ("count", "dim", "dtype", "metric", "centroids", "postings")
                info = {name: index.info()[name] for name in names}
                found = answers(index, queries)
            document = {"info": info, "queries": queries.tolist(), "k": K, **found, "crc32c_of_files": checksums(path)}
            golden.packed.write_bytes(pack(path))
        golden.answers.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
