"""Ground truth: the exact neighbours of each query, computed once and compared with often.

Distances here are squared Euclidean for the metric l2 (the convention of big-ann-benchmarks, whose files these can
be), 1 - cos for cosine, the inner product for ip, bits for hamming. This module carries the numbers and computes none.
"""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spann.errors import InputError, MissingError
from spann.system import SMALL, check_room, open_regular
from spann.types import MAX_K, Array
from spann.vectors import data_set
from spann.vectors.containers import foreign, needs_h5py
from spann.vectors.files import RowFile, is_directory, look_up
from spann.vectors.formats import BIN_HEADER, open_vecs
from spann.vectors.npy import read_npy_header
from spann.vectors.places import Place, split_part
from spann.vectors.sinks import Distances, Ids, Writer, write_ibin, write_npz, write_table

_WRITERS: dict[str, Writer] = {".ibin": write_ibin, ".npz": write_npz}
_READABLE = (".ibin", ".ivecs", ".npz", ".parquet", ".hdf5", ".h5")


MAX_RATIO = 100
"""The largest ratio of an array's bytes to its packed bytes. Ids and distances do not shrink so much; data made to fill
the memory does."""


@dataclass(frozen=True, eq=False)
class Truth:
    """`ids` int64 (nq, k), nearest first, -1 where there are fewer than k; `distances` float32 (nq, k) if known."""

    ids: Ids
    distances: Distances | None


def write_truth(path: str | os.PathLike[str], ids: Ids, distances: Distances) -> None:
    """Write ground truth, int64 (nq, k) ids and float32 (nq, k) distances, to an ``.ibin`` or ``.npz`` file.

    The file takes its name only when it is complete. Raises `InputError` for another extension, other shapes or
    types, or an id beyond int32 in ``.ibin``; `MissingError` for a missing directory; `StorageError` for a failed
    write.
    """
    write_table(Path(path), _WRITERS, ids, distances)


def read_truth(path: str | os.PathLike[str]) -> Truth:
    """Read ground truth: ``.ibin`` with or without distances, ``.ivecs`` (ids only), ``.npz`` as `write_truth` makes,
    ``.parquet`` with a list column ``neighbors_id``, ``.hdf5`` of ann-benchmarks (its ``neighbors``, or FILE#DATASET),
    or the folder of a data set that has such a file (`spann.vectors.data_set`), in the order of its queries.

    Raises `MissingError` if there is no such file, `InputError` if it is of another format, has a size that its header
    contradicts, no queries, or an id below -1; `StorageError` for a failed read.

    >>> import numpy as np
    >>> from spann.vectors import read_truth, write_truth
    >>> write_truth("truth.ibin", np.array([[7, 8], [5, 6]]), np.float32([[0.01, 0.81], [0, 1]]))
    >>> read_truth("truth.ibin").ids.tolist()
    [[7, 8], [5, 6]]
    """
    path = Path(path)
    file_name, part = split_part(str(path))
    suffix = Path(file_name).suffix.lower()
    if data_set.is_data_set(path):
        truth = _of_data_set(path)
        _check_ids(truth.ids, str(path))
        return truth
    if suffix not in _READABLE:
        known = f"{' '.join(_READABLE)} or a folder of VectorDBBench"
        raise InputError(f"{path}: extension {suffix!r} is unknown; ground truth is one of {known}")
    if is_directory(Path(file_name), str(path)):
        raise InputError(f"{path} is a directory: ground truth is a file")
    if part and suffix not in (".hdf5", ".h5"):
        raise InputError(f"{path}: {suffix} files have one ground truth, so no {part!r}")
    if suffix in (".hdf5", ".h5"):
        truth = _read_hdf5(Path(file_name), part)
    elif suffix == ".parquet":
        truth = Truth(_read_parquet(path)[0], None)
    elif suffix == ".npz":
        truth = _read_npz(path)
    else:
        file = RowFile(path, str(path))
        try:
            truth = _read_ibin(file) if suffix == ".ibin" else _read_ivecs(file)
        finally:
            file.close()
    _check_ids(truth.ids, str(path))
    return truth


def _read_ibin(file: RowFile) -> Truth:
    head = file.head(BIN_HEADER.size)
    if len(head) < BIN_HEADER.size:
        raise InputError(f"{file.name} is {len(head)} bytes, shorter than its {BIN_HEADER.size}-byte header")
    queries, k = BIN_HEADER.unpack(head)
    _check_queries(queries, file.name)
    _check_k(k, file.name)
    size, ids_only, both = file.size, BIN_HEADER.size + 4 * queries * k, BIN_HEADER.size + 8 * queries * k
    if size not in (ids_only, both):
        raise InputError(
            f"{file.name} is {size} bytes where its header ({queries} queries, k {k}) calls for {ids_only} (ids only) "
            f"or {both} (ids and distances)"
        )
    check_room(2 * size, f"truth of {queries} queries and k {k} in {file.name}")
    body = np.empty(size - BIN_HEADER.size, np.uint8)
    if file.fill(body, BIN_HEADER.size) < len(body):
        raise InputError(f"{file.name} became shorter than {size} bytes while it was read")
    table = body.view("<i4").reshape(-1, queries, k)
    return Truth(table[0].astype(np.int64), table[1].view("<f4") if len(table) == 2 else None)


def _read_ivecs(file: RowFile) -> Truth:
    source = open_vecs(file, np.dtype("<i4"), None, _check_k)
    return Truth(source.read(0, source.count).astype(np.int64), None)


def _read_npz(path: Path) -> Truth:
    with (
        os.fdopen(open_regular(path, str(path)), "rb") as file,
        foreign(f"{path} is not a readable .npz file"),
        zipfile.ZipFile(file) as archive,
    ):
        arrays = {name: _read_member(archive, name, path) for name in ("ids", "distances") if _has(archive, name)}
    if "ids" not in arrays:
        raise InputError(f"{path} has no array named ids: ground truth needs one")
    ids, distances = arrays["ids"], arrays.get("distances")
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"{path}: ids are {ids.ndim}-D {ids.dtype}: they must be integers (nq, k)")
    if distances is not None and (distances.shape != ids.shape or distances.dtype != np.float32):
        raise InputError(
            f"{path}: distances are {distances.dtype} {distances.shape}: they must be float32 {ids.shape} like the ids"
        )
    _check_queries(len(ids), str(path))
    _check_k(ids.shape[1], str(path))
    return Truth(
        ids.astype(np.int64, order="C"), None if distances is None else distances.astype(np.float32, order="C")
    )


def _read_hdf5(path: Path, part: str) -> Truth:
    with needs_h5py(str(path)):
        from spann.vectors.hdf5_source import read_hdf5_truth

        ids, distances = read_hdf5_truth(path, part, str(path))
    _check_queries(len(ids), str(path))
    _check_k(ids.shape[1], str(path))
    if ids.dtype == np.uint64 and int(ids.max()) >= 1 << 63:
        raise InputError(f"{path} has an id of {ids.max()}: ids are below 2**63")
    return Truth(ids.astype(np.int64), distances)


def _read_parquet(path: Path) -> tuple[Ids, Ids | None]:
    """Neighbours, and the ids of the queries that they are of, if they are told."""
    if look_up(path, str(path)) is None:
        raise MissingError(f"{path} does not exist")
    from spann.vectors.table_ids import read_neighbors

    neighbors, queries = read_neighbors(Place(str(path), "parquet"), data_set.NEAREST, data_set.ID)
    _check_queries(len(neighbors), str(path))
    _check_k(neighbors.shape[1], str(path))
    return neighbors, queries


def _of_data_set(path: Path) -> Truth:
    file = path / data_set.NEIGHBORS
    neighbors, named = _read_parquet(file)
    asked = None if named is None else data_set.read_query_ids(path)
    if named is None or asked is None or np.array_equal(named, asked):
        return Truth(neighbors, None)
    order, wanted = np.argsort(named, kind="stable"), np.argsort(asked, kind="stable")
    if not np.array_equal(named[order], asked[wanted]):
        raise InputError(f"{file} has the neighbours of other queries than those in {data_set.QUERIES}, by their ids")
    rows = np.empty(len(order), np.int64)
    rows[wanted] = order
    return Truth(neighbors[rows], None)


def _has(archive: zipfile.ZipFile, name: str) -> bool:
    return f"{name}.npy" in archive.namelist()


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> Array:
    """One array of an .npz file. `np.load` would allocate whatever shape the header claims."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{name} in {path} is compressed by method {info.compress_type}; NumPy uses 0 or 8")
    if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
        sizes = f"from {info.compress_size} bytes to {info.file_size}"
        raise InputError(f"{name} in {path} unpacks {sizes}: over {MAX_RATIO} times as many")
    with archive.open(info) as member:
        shape, dtype, fortran = read_npy_header(member, f"{name} in {path}")
        size, there = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
        if dtype.hasobject or size != there:
            raise InputError(f"{name} in {path} has {there} bytes of values where {dtype} {shape} is {size}")
        check_room(3 * size, f"{name} in {path}")
        values = member.read(size)
        if len(values) < size:
            raise InputError(f"{name} in {path} ends within its values")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")


def _check_queries(queries: int, name: str) -> None:
    if queries < 1:
        raise InputError(f"{name} holds 0 queries: at least 1 is needed")


def _check_k(k: int, name: str) -> None:
    if not 1 <= k <= MAX_K:
        raise InputError(f"k {k} of {name} is outside 1 to {MAX_K}")


def _check_ids(ids: Ids, name: str) -> None:
    queries, places = np.nonzero(ids < -1)
    if len(queries):
        query, place = queries[0], places[0]
        raise InputError(f"query {query} place {place} of {name} is id {ids[query, place]}: ids are at least -1")
