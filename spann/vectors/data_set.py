"""Data sets of VectorDBBench: a folder of Parquet files that holds vectors, queries and their exact neighbours.

=============================================  ========================================================================
``train.parquet``, or ``shuffle_train``, or    the vectors to search: ``id``, ``emb`` (a list of numbers); in parts, all
parts as ``train-00-of-10.parquet``            of them must be there, and are read in their order
``test.parquet``                               the queries: ``id``, ``emb``
``neighbors.parquet``                          for each query, ``id``, its nearest vectors by id, ``neighbors_id``
=============================================  ========================================================================

Neighbours are told by id, and the rows of ``shuffle_train`` are not in the order of their ids: so the vectors go by
``id`` unless other ids are given. Some of these data sets hold float64, which becomes float32.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from spann.errors import InputError, StorageError
from spann.types import Array
from spann.vectors.files import look_up
from spann.vectors.names import NameList
from spann.vectors.places import Place
from spann.vectors.sources import VectorSource

if TYPE_CHECKING:
    from spann.vectors.id_list import IdList

BASES = ("train", "shuffle_train")
"""Names of the vectors to search; where there are both, the same vectors in another order, the first is taken."""

QUERIES, NEIGHBORS = "test.parquet", "neighbors.parquet"
ID, VECTOR, NEAREST = "id", "emb", "neighbors_id"
"""Names of the columns."""

_PART = re.compile(rf"({'|'.join(BASES)})(?:-(\d+)-of-(\d+))?\.parquet")


def is_data_set(path: Path) -> bool:
    """Whether `path` is a directory that holds such a data set: neighbours, or vectors or queries in a column `emb`.

    Others name their files in the same way, as Hugging Face does, and are folders of parts.
    """
    found = look_up(path, str(path))
    if found is None or not stat.S_ISDIR(found.st_mode):
        return False
    names = _names(path)
    known = [name for name in names if name == QUERIES or _PART.fullmatch(name)]
    return NEIGHBORS in names or (bool(known) and _has_vectors(path / known[0]))


def _has_vectors(file: Path) -> bool:
    from spann.vectors.tables import names_of, open_table

    table = open_table(Place(str(file), "parquet"))
    try:
        return VECTOR in names_of(table.schema, table.name)
    finally:
        table.close()


def base_parts(path: Path, name: str) -> list[Path]:
    """The files of the vectors to search, in order; `InputError` where one is missing or which ones is not clear."""
    found = [match for file in _names(path) if (match := _PART.fullmatch(file))]
    base = next((base for base in BASES if any(match[1] == base for match in found)), None)
    if base is None:
        raise InputError(f"{name} has no vectors to search: neither {' nor '.join(f'{b}.parquet' for b in BASES)}")
    found = [match for match in found if match[1] == base]
    totals = {match[3] for match in found}
    if len(totals) > 1:
        raise InputError(f"{name} has both {found[0][0]} and {_other(found)}: which ones belong together is not clear")
    if totals == {None}:
        return [path / found[0][0]]
    total = int(totals.pop())
    parts = {int(match[2]): path / match[0] for match in found}
    missing = [number for number in range(total) if number not in parts]
    if missing or len(parts) != total:
        lacks = f"{base}-{missing[0]:02d}-of-{total}.parquet" if missing else "one of the right number"
        raise InputError(f"{name} holds {len(parts)} of the {total} parts of {base}: {lacks} is missing")
    return [parts[number] for number in range(total)]


def open_base(path: Path, *, max_rows: int | None, name: str) -> VectorSource:
    """The vectors to search, all parts as one; their `own_ids` are those of the data set."""
    return _open(base_parts(path, name), max_rows=max_rows, name=name)


def open_queries(path: Path, *, max_rows: int | None, name: str) -> VectorSource:
    """The queries."""
    return _open([path / QUERIES], max_rows=max_rows, name=f"{name}/{QUERIES}")


def read_base_ids(path: Path, name: str) -> IdList | NameList:
    """The ids of the vectors to search."""
    from spann.vectors.table_ids import read_table_ids

    return read_table_ids(_places(base_parts(path, name)), ID, name)


def read_query_ids(path: Path) -> Array | None:
    """The ids of the queries, None where the data set does not tell them."""
    file = path / QUERIES
    if not file.exists():
        return None
    from spann.vectors.table_ids import read_table_ids

    found = read_table_ids(_places([file]), ID, str(file))
    if isinstance(found, NameList):
        raise InputError(f"{found.origin} holds {found.kind}: queries and neighbours go by integers")
    return found.values


def _open(paths: list[Path], *, max_rows: int | None, name: str) -> VectorSource:
    from spann.vectors.table_source import TableSource

    return TableSource(_places(paths), VECTOR, max_rows=max_rows, name=name)


def _places(paths: list[Path]) -> list[Place]:
    return [Place(str(path), "parquet") for path in paths]


def _names(path: Path) -> list[str]:
    try:
        return sorted(file.name for file in path.iterdir())
    except OSError as error:
        raise StorageError(f"{path} cannot be listed: {error.strerror}") from error


def _other(found: list[re.Match[str]]) -> str:
    return next(match[0] for match in found if match[3] != found[0][3])
