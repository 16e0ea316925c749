"""Search results on disk: `.npz`, `.ibin`, `.jsonl` and `.parquet`, complete under their name or not there at all.

============  =======================================================================================================
``.npz``      arrays ``ids`` int64 (nq, k) and ``distances`` float32 (nq, k)
``.ibin``     uint32 nq, uint32 k, then nq * k int32 ids, then nq * k float32 distances
``.jsonl``    a line per query: ``{"query": 0, "ids": [...], "distances": [...]}``, places without a result left out
``.parquet``  a row per query: query int64, ids list of int64, distances list of float32, the same left out
``.csv``      a line for each neighbour: query, rank, id, distance
============  =======================================================================================================

Ids may be names (texts, UUIDs, bytes), but not in ``.npz`` and ``.ibin``. A query with fewer than k results has id -1
in the places left over.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import secrets
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spann.errors import InputError, MissingError, SpannError, StorageError
from spann.types import Array, there
from spann.vectors.files import is_directory, look_up
from spann.vectors.formats import BIN_HEADER

Ids = NDArray[np.int64]
Distances = NDArray[np.float32]
Writer = Callable[[BinaryIO, str, Ids, Distances], None]


def check_results_path(path: str | os.PathLike[str]) -> None:
    """Refuse, before any work is done, a path that `write_results` could not write.

    Raises `InputError` for an unknown extension or a directory in the way, `MissingError` if the directory that is to
    hold the file does not exist.
    """
    check_path(Path(path), WRITERS)


def write_results(path: str | os.PathLike[str], ids: Ids, distances: Distances) -> None:
    """Write the results of nq queries in the format that the extension of `path` names, replacing what was there.

    Parameters
    ----------
    ids : int64 (nq, k)
        Neighbours of each query, nearest first; -1 where there are fewer than k.
    distances : float32 (nq, k)
        In the unit of the metric, as the search returned them.

    Raises
    ------
    InputError
        As `check_results_path`; arrays of other shapes or types; an id beyond int32 in ``.ibin``; a distance that is
        not finite in ``.jsonl``.
    StorageError
        The operating system refuses the write. Nothing is left under `path` that was not there before.
    """
    write_table(Path(path), WRITERS, ids, distances)


def check_path(path: Path, known: Iterable[str]) -> None:
    """Refuse a `path` whose extension is not in `known`, whose directory is missing, or that is a directory."""
    if path.suffix.lower() not in known:
        raise InputError(f"{path}: extension {path.suffix!r} is unknown; it must be one of {' '.join(known)}")
    if look_up(path.parent, str(path.parent)) is None:
        raise MissingError(f"{path}: its directory {path.parent} does not exist")
    if not is_directory(path.parent, str(path.parent)):
        raise InputError(f"{path}: {path.parent} is a file, not a directory to write to")
    if look_up(path, str(path)) is not None and is_directory(path, str(path)):
        raise InputError(f"{path} is a directory: a file is to be written there")


def write_table(path: Path, writers: dict[str, Writer], ids: Ids, distances: Distances) -> None:
    """Write `ids` and `distances` to `path` with the one of `writers` that its extension selects."""
    check_path(path, writers)
    _check_table(str(path), ids, distances)
    suffix = path.suffix.lower()
    write_whole(path, lambda file: writers[suffix](file, str(path), ids, distances))


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """What `write` puts into a file, at `path` once it is complete and durable, and until then what was there before.

    Raises `StorageError` where the operating system refuses, and whatever `write` raises."""
    try:
        # Held open: whoever may write there could put a link in the place of the directory meanwhile.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _write_draft(directory, path.name, write)
        finally:
            os.close(directory)
    except SpannError:
        raise
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def _write_draft(directory: int, name: str, write: Callable[[BinaryIO], None]) -> None:
    """Writes a draft beside the final name, for a rename does not cross file systems, and gives it that name."""
    prefix = f".spann-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}-"
    _remove_drafts(directory, prefix)
    draft, made = _new_draft(directory, prefix)
    with open(made, "wb") as file:
        try:
            write(file)
            file.flush()
            os.fsync(made)
            os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=directory)
            raise
    os.fsync(directory)


def _new_draft(directory: int, prefix: str) -> tuple[str, int]:
    """Name and descriptor of a new file, locked for as long as it is open: so `_remove_drafts` passes over it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        draft = f"{prefix}{secrets.token_hex(4)}.tmp"
        made = os.open(draft, flags, 0o666, dir_fd=directory)
        fcntl.flock(made, fcntl.LOCK_SH)
        if os.fstat(made).st_nlink:  # else another process took it for a leftover before it was locked
            return draft, made
        os.close(made)


def _remove_drafts(directory: int, prefix: str) -> None:
    """Removes what processes left that were killed while they wrote there: drafts that nobody has locked."""
    for draft in os.listdir(directory):
        if not (draft.startswith(prefix) and draft.endswith(".tmp")):
            continue
        with suppress(OSError):  # another's, or gone by now
            found = os.open(draft, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(draft, dir_fd=directory)
            finally:
                os.close(found)


def _check_table(name: str, ids: Ids, distances: Distances) -> None:
    named = ids.dtype == object and Path(name).suffix.lower() in _NAMED
    if (ids.dtype != np.int64 and not named) or distances.dtype != np.float32:
        raise InputError(f"{name}: ids are {ids.dtype}, distances {distances.dtype}: they must be int64 and float32")
    if ids.ndim != 2 or ids.shape != distances.shape or not ids.size:
        raise InputError(
            f"{name}: ids have shape {ids.shape}, distances {distances.shape}: both must be the same (nq, k), not empty"
        )


def write_npz(file: BinaryIO, name: str, ids: Ids, distances: Distances) -> None:
    np.savez(file, ids=ids, distances=distances)


def write_ibin(file: BinaryIO, name: str, ids: Ids, distances: Distances) -> None:
    limits = np.iinfo(np.int32)
    outside = ids[(ids < limits.min) | (ids > limits.max)]
    if len(outside):
        raise InputError(f"{name}: id {outside[0]} does not fit the int32 of .ibin (to {limits.max}); write .npz")
    file.write(BIN_HEADER.pack(*ids.shape))
    file.write(ids.astype("<i4").tobytes())
    file.write(distances.astype("<f4").tobytes())


def _write_jsonl(file: BinaryIO, name: str, ids: Ids, distances: Distances) -> None:
    for query, (row, near) in enumerate(zip(ids, distances, strict=True)):
        found = there(row)
        near = near[found]
        if not np.isfinite(near).all():
            bad = near[~np.isfinite(near)][0]
            raise InputError(f"{name}: a distance of query {query} is {bad}, which JSON cannot hold; write .npz")
        line = {"query": query, "ids": plain_ids(row[found]), "distances": near.tolist()}
        file.write(json.dumps(line).encode() + b"\n")


def _write_parquet(file: BinaryIO, name: str, ids: Ids, distances: Distances) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    found = there(ids)
    limits = pa.array(np.concatenate([[0], np.cumsum(found.sum(axis=1))]), pa.int32())
    table = pa.table(
        {
            "query": pa.array(np.arange(len(ids))),
            "ids": pa.ListArray.from_arrays(limits, _arrow(ids[found])),
            "distances": pa.ListArray.from_arrays(limits, pa.array(distances[found])),
        }
    )
    parquet.write_table(table, file)


def _write_csv(file: BinaryIO, name: str, ids: Ids, distances: Distances) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    rows = csv.writer(text)
    rows.writerow(("query", "rank", "id", "distance"))
    for query, rank in np.argwhere(there(ids)).tolist():
        rows.writerow((query, rank, *plain_ids(ids[query, rank : rank + 1]), repr(float(distances[query, rank]))))
    text.flush()
    text.detach()


def plain_ids(ids: Array) -> list[Any]:
    """Ids (n,) as JSON holds them: integers or texts."""
    return [_text(one) for one in ids.tolist()]


def _text(one: Any) -> Any:
    if isinstance(one, bytes):
        return one.hex()
    return str(one) if isinstance(one, uuid.UUID) else one


def _arrow(ids: Array) -> Any:
    import pyarrow as pa

    if ids.dtype != object:
        return pa.array(ids)
    if len(ids) and isinstance(ids[0], uuid.UUID):
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in ids], pa.binary(16)))
    return pa.array(ids.tolist(), None if len(ids) else pa.string())


_NAMED = (".jsonl", ".parquet", ".csv")
"""Files that can hold ids which are no integers."""

WRITERS: dict[str, Writer] = {
    ".npz": write_npz,
    ".ibin": write_ibin,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}
