"""Inputs of users: vectors, ids, exact neighbours, presets and queries on standard input, in every format.

The beginning of a seed's name says what it is given as: vectors, ids, truth, preset, lines. Some files are cut while
they are open.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from spann.cli.search import stream_batches
from spann.config import BuildParams, SearchParams, load_toml
from spann.errors import NarrowingWarning, SpannError
from spann.measuring.exact import exact_search
from spann.types import Metric
from spann.vectors import (
    NameList,
    check_finite,
    check_lengths,
    convert,
    open_queries,
    open_source,
    read_ids,
    read_truth,
)
from spann.vectors.names import check_types
from tests.fuzzing import mutate as changes

ROWS, DIM = 12, 8

CUT = "-cut"
"""Ends the names of files that are cut while they are open."""

QUICK = {".fbin", ".f16bin", ".bf16bin", ".u8bin", ".i8bin", ".fvecs", ".bvecs", ".npy", ".npz", ".toml", ".jsonl"}
QUICK |= {".ibin", ".ivecs", ".csv", ".feather", ".arrows"}

LARGEST = 1 << 20
"""Values read at once: a damaged header may say truly that there are many."""


def seeds(directory: Path) -> None:
    """Small files of every format, and folders of those that are folders."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (ROWS, DIM)).astype(np.float32)
    source = open_source(x)
    for suffix in (".fbin", ".f16bin", ".bf16bin", ".u8bin", ".i8bin", ".fvecs", ".bvecs", ".npy", ".parquet"):
        convert(source, directory / f"vectors{suffix}", ids=np.arange(ROWS) if suffix == ".parquet" else None)
    convert(source, directory / "vectors-half.npy", "bfloat16")
    np.save(directory / "vectors-bool.npy", x > 50)
    np.save(directory / "vectors-double.npy", x.astype(np.float64))
    for name, dtype in (("ids", "<i8"), ("ids-short", "<u4")):
        np.save(directory / f"{name}.npy", np.arange(ROWS).astype(dtype))
    ids, distances = np.arange(ROWS * 3).reshape(ROWS, 3), x[:, :3]
    both = (ids.astype("<i4").tobytes(), distances.tobytes())
    for name, parts in (("truth", both[:1]), ("truth-both", both)):
        (directory / f"{name}.ibin").write_bytes(struct.pack("<II", *ids.shape) + b"".join(parts))
    rows = [struct.pack("<i", 3) + row.tobytes() for row in ids.astype("<i4")]
    (directory / "truth.ivecs").write_bytes(b"".join(rows))
    np.savez(directory / "truth.npz", ids=ids, distances=distances)
    np.savez_compressed(directory / "truth-packed.npz", ids=ids, distances=distances)
    (directory / "preset.toml").write_text(
        '[build]\nmetric = "l2"\nposting_size = 30\nepsilon1 = 0.25\n[search]\nepsilon2 = inf\nrerank = 1_000\n'
    )
    lines = [json.dumps(row) for row in x.tolist()]
    (directory / "lines.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "lines-named.jsonl").write_text("\n".join(f'{{"id": 7, "vector": {line}}}' for line in lines))
    for seed in (_hdf5, _parquet, _tables, _zarr):
        seed(directory, x)


def execute(path: Path) -> str:
    """Gives the program the file. Returns the outcome."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NarrowingWarning)
            _GIVEN[path.name.split(".")[0].split("-")[0]](path)
    except SpannError:
        return "refused"
    return "read"


def mutate(seed: Path, work: Path, rng: random.Random) -> Path:
    """Damages a file, or one of those in a folder, or takes it away.

    Formats that other libraries read take a hundred times as long, and are taken a tenth of the time.
    """
    if seed.suffix not in QUICK and rng.random() < 0.9:
        seed = rng.choice([path for path in sorted(seed.parent.iterdir()) if path.suffix in QUICK])
    if not seed.is_dir():
        file = changes.of_file(seed, work, rng)
        return file.rename(file.with_stem(file.stem + CUT)) if rng.random() < 0.1 else file
    out = work / seed.name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(seed, out)
    file = rng.choice(sorted(p for p in out.rglob("*") if p.is_file()))
    if rng.random() < 0.05:
        file.unlink()
    else:
        file.write_bytes(changes.of_bytes(file.read_bytes(), rng))
    return out


def _vectors(path: Path) -> None:
    opened = (open_queries if path.stat().st_size % 2 else open_source)(path)
    with opened as source:
        _cut(path)
        rows = min(source.count, max(1, LARGEST // source.dim))
        ends = np.array([source.count - 1, 0, source.count // 2], np.int64)
        some = source.take(ends)
        block = source.read(0, rows)
        for first, part in source.blocks(max(1, rows // 2)):
            assert part.shape[1] == source.dim
            if first > rows:
                break
        names = source.own_ids()
        if isinstance(names, NameList):
            for chunk in names.chunks():
                check_types(chunk, names.kind)
        if block.dtype == np.float32:
            check_finite(block, 0, source.name)
            check_lengths(block, 0, source.name, directions=False)
            if zlib.crc32(block.data) % 16 == 0:
                exact_search(open_source(block), some, 2, "l2", threads=1)


def _ids(path: Path) -> None:
    found = read_ids(path)
    if isinstance(found, NameList):
        found.checksum()
    else:
        assert found.values.ndim == 1


def _truth(path: Path) -> None:
    truth = read_truth(path)
    assert truth.ids.ndim == 2
    assert truth.ids.dtype == np.int64


def _preset(path: Path) -> None:
    found = load_toml(path)
    found["build"].pop("metric", None)
    BuildParams().with_(**found["build"])
    SearchParams().with_(**found["search"])


def _lines(path: Path) -> None:
    with open(path, "rb") as stream:
        for block in stream_batches(stream, _INDEX):
            assert block.shape[1:] == (DIM,)
            assert np.isfinite(block).all()


_INDEX: Any = SimpleNamespace(dim=DIM, dtype=np.dtype(np.float32), element="float32", path="an index", metric=Metric.L2)
"""What queries on standard input are checked against."""


def _both(path: Path) -> None:
    """A folder of a data set: vectors, ids, queries and neighbours."""
    for use in (_vectors, _ids, _truth):
        use(path)


_GIVEN: dict[str, Callable[[Path], None]] = {
    "vectors": _vectors,
    "ids": _ids,
    "truth": _truth,
    "preset": _preset,
    "lines": _lines,
    "folder": _both,
}


def _cut(path: Path) -> None:
    """As if another program wrote the file anew, where its name asks for that."""
    if path.stem.endswith(CUT):
        os.truncate(path, path.stat().st_size // 2)


def _hdf5(directory: Path, x: Any) -> None:
    import h5py

    with h5py.File(directory / "vectors.hdf5", "w") as file:
        file["train"] = x
    with h5py.File(directory / "vectors-packed.hdf5", "w") as file:
        file.create_dataset("group/train", data=x, chunks=(5, 8), compression="gzip")
    with h5py.File(directory / "ids.hdf5", "w") as file:
        file["ids"] = np.arange(len(x))


def _parquet(directory: Path, x: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"id": np.arange(len(x)), "emb": pa.array(x.astype(np.float64).tolist())})
    pq.write_table(table, directory / "ids.parquet", compression="none")
    lists = pa.table({"vector": pa.array(list(x))})
    pq.write_table(lists, directory / "vectors-list.parquet", row_group_size=5, use_dictionary=False)
    near = pa.table({"id": np.arange(4), "neighbors_id": pa.array([[1, 2], [3], [4, 5], [6, 7]])})
    pq.write_table(near, directory / "truth.parquet")
    folder = directory / "folder"
    folder.mkdir()
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(table[:4], folder / "test.parquet")
    pq.write_table(near, folder / "neighbors.parquet")


def _tables(directory: Path, x: Any) -> None:
    """Tables besides Parquet, with ids that are integers or texts, and a folder of parts."""
    import pyarrow as pa
    import pyarrow.feather as feather
    import pyarrow.ipc as ipc
    import pyarrow.orc as orc
    import pyarrow.parquet as pq

    texts = [f"text {row}" for row in range(len(x))]
    for name, ids in (("", np.arange(len(x))), ("-texts", texts)):
        table = pa.table({"id": ids, "vector": pa.array(list(x))})
        orc.write_table(table, directory / f"vectors{name}.orc")
        with ipc.new_stream(directory / f"vectors{name}.arrows", table.schema) as file:
            file.write_table(table, max_chunksize=5)
        feather.write_feather(table, directory / f"vectors{name}.feather", "uncompressed", chunksize=5)
        rows = [json.dumps(row) for row in table.to_pylist()]
        (directory / f"vectors{name}.jsonl").write_text("\n".join(rows))
        lines = [f'{one},"{row}"\n' for one, row in zip(ids, x.tolist(), strict=True)]
        (directory / f"vectors{name}.csv").write_text("id,vector\n" + "".join(lines))
        pq.write_table(table, directory / f"vectors{name}-ids.parquet", use_dictionary=bool(name))
    feather.write_feather(pa.table({"v": pa.array(list(x)), "id": texts}), directory / "vectors-packed.feather", "lz4")
    pq.write_table(pa.table({"id": texts}), directory / "ids-texts.parquet")
    (directory / "vectors-wide.csv").write_text("id,a,b\n1,0.5,2\n7,1e3,-4\n")
    parts = directory / "vectors-parts"
    parts.mkdir()
    for number in range(2):
        pq.write_table(table[6 * number : 6 * number + 6], parts / f"part-{number}.parquet")


def _zarr(directory: Path, x: Any) -> None:
    import zarr

    for name, more in (("2", {"zarr_format": 2}), ("3", {}), ("shards", {"shards": (6, 8)})):
        place = directory / f"vectors-{name}.zarr"
        zarr.create_array(place, shape=x.shape, dtype=x.dtype, chunks=(3, 8), **more)[:] = x
