"""Makes the files of a comparison from one array of embeddings.

    python -m benchmarks.compare.prepare EMBEDDINGS.npy OUT

The last 2,000 rows become queries, the others the base. All become float32 of unit length, so that the order by
Euclidean distance is the order by cosine. Writes base.fbin, query.fbin and truth.ibin: the exact 100 nearest with
squared distances.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.compare.data import Array

_QUERIES = 2000
_K = 100
_BLOCK = 100


def unit(rows: Array) -> Array:
    """float32 rows of length 1, rounded once."""
    wide = rows.astype(np.float64)
    out: Array = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return out


def truth(base: Array, queries: Array, k: int) -> tuple[Array, Array]:
    """Ids and squared distances of the exact nearest. float32 products choose them, float64 differences order them."""
    ids, distances = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        # A few more than k, because rounding of the products may misplace those near the end.
        near = np.argpartition(-(block @ base.T), k + 20, axis=1)[:, : k + 20]
        for row, candidates in enumerate(near):
            exact = np.square(base[candidates].astype(np.float64) - block[row].astype(np.float64)).sum(1)
            order = np.lexsort((candidates, exact))[:k]
            ids[start + row], distances[start + row] = candidates[order], exact[order]
    return ids, distances


def write_bin(file: Path, rows: Array) -> None:
    with open(file, "wb") as out:
        np.array(rows.shape, np.uint32).tofile(out)
        rows.tofile(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    rows = unit(np.load(args.embeddings, mmap_mode="r"))
    base, queries = rows[:-_QUERIES], rows[-_QUERIES:]
    args.output.mkdir(parents=True, exist_ok=True)
    write_bin(args.output / "base.fbin", base)
    write_bin(args.output / "query.fbin", queries)
    ids, distances = truth(base, queries, _K)
    with open(args.output / "truth.ibin", "wb") as out:
        np.array(ids.shape, np.uint32).tofile(out)
        ids.tofile(out)
        distances.tofile(out)
    print(f"{args.output}: {len(base)} vectors, {len(queries)} queries, {base.shape[1]} dimensions")


if __name__ == "__main__":
    main()
