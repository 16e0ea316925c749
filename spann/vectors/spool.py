"""Vectors that come once, in order, kept in a temporary file so that any of them can be read again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spann.errors import InputError, SpannError, StorageError
from spann.system import reason
from spann.types import Array
from spann.vectors.files import FileSource, RowFile
from spann.vectors.id_list import IdList
from spann.vectors.names import AT_ONCE, NameList, as_binary, type_of_names
from spann.vectors.sources import VectorSource, check_dim, usable_rows

Block = tuple[Array, Any]
"""Vectors (n, dim) and their ids: integers (n,), an Arrow array of names, or None."""


class SpooledSource(FileSource):
    """Rows in a file without a name, which goes when it is closed, or the process ends."""

    def __init__(
        self, file: RowFile, count: int, dim: int, dtype: np.dtype[Any], ids: IdList | NameList | None, names: BinaryIO
    ) -> None:
        super().__init__(file, count, dim, dtype, offset=0, prefix=0)
        self._ids, self._names = ids, names
        self.columns = () if ids is None else ("id",)
        self.named = isinstance(ids, NameList)

    def own_ids(self, column: str | None = None) -> IdList | NameList | None:
        if self._ids is None or column not in (None, "id"):
            return super().own_ids(column)
        return self._ids.first(self.count)

    def close(self) -> None:
        super().close()
        self._names.close()

    def __del__(self) -> None:
        if hasattr(self, "_names"):
            self._names.close()


class _IdSpool:
    """Ids as they come: integers in memory, names in a file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._origin = file, f"column 'id' of {name}"
        self._integers: list[Array] = []
        self._kind: str | None = None
        self._writer: Any = None
        self.count = 0

    def add(self, ids: Any) -> None:
        kind = None if isinstance(ids, np.ndarray) else type_of_names(ids.type)
        if self.count and kind != self._kind:
            raise InputError(f"row {self.count} of {self._origin} is of another type than those before")
        self._kind = kind
        if kind is None:
            self._integers.append(ids)
        else:
            self._keep(as_binary(ids, self.count, self._origin))
        self.count += len(ids)

    def _keep(self, chunk: Any) -> None:
        import pyarrow as pa

        schema = pa.schema([("id", pa.large_binary())])
        if self._writer is None:
            self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, "w"), schema)
        self._writer.write_batch(pa.record_batch([chunk], schema=schema))

    def finish(self) -> IdList | NameList | None:
        if self._integers:
            return IdList(np.concatenate(self._integers), self._origin)
        if self._writer is None or self._kind is None:
            return None
        self._writer.close()
        self._file.flush()
        return NameList(self._kind, self.count, self._chunks, self._origin)

    def _chunks(self) -> Iterator[Any]:
        import pyarrow as pa

        again = os.open(f"/proc/self/fd/{self._file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)  # with a place of its own
        with os.fdopen(again, "rb") as stream, pa.ipc.open_stream(stream) as found:
            for batch in found:
                for at in range(0, len(batch), AT_ONCE):
                    yield batch.column(0).slice(at, AT_ONCE)


def spooled(blocks: Iterable[Block], *, max_rows: int | None, name: str, scratch: Path | None) -> VectorSource:
    """All vectors of `blocks`, kept in a file in the directory `scratch`, by default that of temporary files.

    Raises `InputError` where a block has another dimension or type than the first, or there is none; `StorageError`
    where the disk cannot hold them.
    """
    directory = Path(tempfile.gettempdir()) if scratch is None else scratch
    try:
        with ExitStack() as undo:
            vectors, names = (undo.enter_context(_unnamed(directory)) for _ in range(2))
            source = _fill(vectors, names, blocks, max_rows, name)
            undo.pop_all()
            return source
    except OSError as error:
        if isinstance(error, SpannError):
            raise
        raise StorageError(f"{directory}: vectors of {name} cannot be kept there: {reason(error)}") from error


def _unnamed(directory: Path) -> BinaryIO:
    fd, place = tempfile.mkstemp(prefix=".spann-", dir=directory)
    os.unlink(place)
    return os.fdopen(fd, "w+b")


def _fill(file: BinaryIO, names: BinaryIO, blocks: Iterable[Block], max_rows: int | None, name: str) -> VectorSource:
    count, first, ids = 0, None, _IdSpool(names, name)
    for vectors, own in blocks:
        if first is None:
            check_dim(vectors.shape[1], name)
            first = vectors[:0]
        if vectors.shape[1] != first.shape[1] or vectors.dtype != first.dtype:
            raise InputError(
                f"row {count} of {name} has {vectors.shape[1]} {vectors.dtype} where row 0 has {first.shape[1]} "
                f"{first.dtype}: all vectors are of one kind"
            )
        if (own is None and ids.count) or (own is not None and ids.count < count):
            raise InputError(f"row {count} of {name}: some vectors have ids, and some have none")
        if own is not None:
            ids.add(own)
        file.write(np.ascontiguousarray(vectors).data)
        count += len(vectors)
        if max_rows is not None and count >= max_rows:
            break
    rows = usable_rows(name, announced=count, present=count, max_rows=max_rows)
    assert first is not None
    file.flush()
    kept = RowFile.opened(os.dup(file.fileno()), name)
    file.close()
    return SpooledSource(kept, rows, first.shape[1], first.dtype, ids.finish(), names)
