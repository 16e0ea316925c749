"""Makes the golden index in this directory, and the answers it must give for ever after.

    python tests/golden/make.py

It is frozen: every later version must read these bytes and give these answers. It is made anew only when
`FORMAT_VERSION` grows, and then beside this one (`index-v2.tar.gz`), for the old one must stay readable. It is packed,
because 90 KB of it are Zarr metadata that take 6 KB so.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

import spann
from spann._kernels.checksum import crc32c
from spann.storage import FORMAT_VERSION

HERE = Path(__file__).parent
PACKED = HERE / "index-v1.tar.gz"
ANSWERS = HERE / "answers-v1.json"
PARAMS = spann.BuildParams(posting_size=4, max_replicas=3, seed=7)
COUNT, DIM, K = 90, 6, 8


def vectors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors with copies among them, their ids and queries, from plain arithmetic that no library changes."""
    values = (np.arange(COUNT * DIM, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32) >> np.uint64(26)) * 4
    base = values.astype(np.uint8).reshape(COUNT, DIM)
    base[40:60] = base[40]
    ids = np.arange(COUNT)[::-1] * 1_000_003 + 2**33
    return base, ids, base[5::17] + np.uint8(1)


def answers(index: spann.Index, queries: np.ndarray) -> dict[str, object]:
    """What the index says, as plain numbers: all vectors read, and only a few postings."""
    every = index.search(queries, K, spann.SearchParams(max_postings=2**31), threads=1)
    few = index.search(queries, 1, spann.SearchParams(max_postings=2), threads=1)
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


def unpack(path: Path) -> None:
    """The golden index as a directory at `path`."""
    with tarfile.open(PACKED) as tar:
        tar.extractall(path, filter="data")


def checksums(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): f"{crc32c(p.read_bytes()):08x}" for p in sorted(path.rglob("*")) if p.is_file()}


def main() -> None:
    if FORMAT_VERSION != 1 or PACKED.exists():
        sys.exit(f"{PACKED} is there already and is frozen; a new format version gets a golden index of its own")
    base, ids, queries = vectors()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "index"
        with spann.build(base, path, ids=ids, params=PARAMS, threads=1) as index:
            info = {name: index.info()[name] for name in ("count", "dim", "dtype", "metric", "centroids", "postings")}
            found = answers(index, queries)
        document = {"info": info, "queries": queries.tolist(), "k": K, **found, "crc32c_of_files": checksums(path)}
        PACKED.write_bytes(pack(path))
    ANSWERS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
