"""`open_source`, the one door to every kind of source.

=================================  ==================================================================================
``.parquet .pq``                   Parquet: the list column "vector", "embedding" or "emb", the only one, or FILE#COLUMN
``.feather .arrow .ipc``           Feather, the file format of Arrow: the same
``.orc .csv .tsv .jsonl .arrows``  the same, read once and kept in a temporary file (`spann.vectors.streams`)
``.fbin .f16bin .u8bin .i8bin``    uint32 n, uint32 d, then n rows of d float32, float16, uint8 or int8
``.bf16bin``                       the same with bfloat16
``.fvecs .bvecs``                  rows of int32 d, then d float32 or uint8
``.npy``                           NumPy's own, 2-D in C order; elements of two bytes without a name are bfloat16
``.h5 .hdf5``                      HDF5 (h5py): dataset "train" (queries: "test"), or the only 2-D one, or FILE#DATASET
a directory                        the files in it, of one of these kinds, in the order of their names; or one Zarr
                                   array, format 2 or 3; or a data set of VectorDBBench, for the vectors that it
                                   searches (`spann.vectors.data_set`)
=================================  ==================================================================================

All numbers are little endian. Sizes are compared with headers before anything is allocated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from spann.elements import is_bfloat16, stored_dtype
from spann.errors import InputError
from spann.types import Array
from spann.vectors import data_set
from spann.vectors.arrays import as_array, is_array_like
from spann.vectors.containers import needs_h5py
from spann.vectors.files import is_directory, look_up
from spann.vectors.formats import open_rows
from spann.vectors.joined import JoinedSource
from spann.vectors.narrow import usable
from spann.vectors.places import STREAMS, TABLES, Found, Place, find, is_uri, split_part
from spann.vectors.sources import ArraySource, StoredSource, VectorSource


def open_source(
    obj: object,
    *,
    max_rows: int | None = None,
    name: str | None = None,
    column: str = "",
    format: str | None = None,
    filesystem: Any = None,
    scratch: Path | None = None,
) -> VectorSource:
    """Open vectors for reading.

    Parameters
    ----------
    obj : path, list of paths, array, table, or iterable of batches
        - A path to one of the formats above, to a folder of such files, or a pattern of them; a URI, as "s3://..."; or
          a list of paths.
        - A 2-D array of numbers, one vector a row, or what becomes one: memory maps, zarr.Array, h5py.Dataset, tensors
          on the CPU, lists of lists. Binary vectors, for the metric hamming, are uint8 with 8 bits in each
          (`numpy.packbits`), or bool. Elements of two bytes without a name, and those of ml_dtypes, are bfloat16.
        - Whatever gives Arrow: tables, record batch readers, frames of pandas and polars, data sets of Hugging Face.
        - An iterator of any of these, batch by batch. Streams are kept in a temporary file.
    max_rows : int, optional
        Serve only the first `max_rows` rows, at least 1 and no more than there are. Needed to read a file that holds
        fewer rows than its header says.
    name : str, optional
        What error messages call the source; by default the path, or "array".
    column : str, optional
        The column of a table, or the dataset of HDF5, that holds the vectors; the same as FILE#COLUMN.
    format : str, optional
        What files are, as "fbin", where their extension does not tell.
    filesystem : pyarrow.fs.FileSystem or fsspec file system, optional
        Where paths lead; by default the machine's files, or what the URI says.
    scratch : Path, optional
        Directory of temporary files; by default that of the system.

    Vectors of float64, and of integers of 16 bits or more, become float32, which a `NarrowingWarning` says; values that
    float32 cannot hold are refused by row as they are read.

    Raises
    ------
    MissingError
        There is no such file.
    InputError
        The vectors cannot be used: unknown extension, damaged header, size that contradicts it, no rows, a dimension
        outside 1 to 32768, an element type that is not supported.
    StorageError
        The operating system refuses to open or read the file.

    Examples
    --------
    >>> import numpy as np
    >>> from spann.vectors import open_source
    >>> np.save("line.npy", np.arange(1000, dtype=np.float32)[:, None])
    >>> with open_source("line.npy", max_rows=500) as source:
    ...     print(source.count, source.dim, source.dtype, source.read(7, 9).tolist())
    500 1 float32 [[7.0], [8.0]]
    """
    how = _How(max_rows, name, column, format, filesystem, scratch)
    return usable(how.open(obj))


def open_queries(
    obj: object,
    *,
    max_rows: int | None = None,
    name: str | None = None,
    column: str = "",
    format: str | None = None,
    filesystem: Any = None,
    scratch: Path | None = None,
) -> VectorSource:
    """`open_source` of queries: of a folder that is a data set (`spann.vectors.data_set`), and of an HDF5 file of
    ann-benchmarks, those it has. Numbers become float32 without a warning."""
    how = _How(max_rows, name, column, format, filesystem, scratch, queries=True)
    return usable(how.open(obj), quiet=True)


class _How:
    """How a source is opened; the arguments of `open_source`."""

    def __init__(
        self,
        max_rows: int | None,
        name: str | None,
        column: str,
        form: str | None,
        filesystem: Any,
        scratch: Path | None,
        *,
        queries: bool = False,
    ) -> None:
        self.max_rows, self.given_name, self.column = max_rows, name, column
        self.form, self.filesystem, self.scratch, self.queries = form, filesystem, scratch, queries

    def open(self, obj: object) -> VectorSource:
        if isinstance(obj, VectorSource):
            return obj
        if isinstance(obj, str | os.PathLike):
            return self._path(os.fsdecode(obj))
        if isinstance(obj, list | tuple) and obj and all(isinstance(one, str | os.PathLike) for one in obj):
            return self._files(find(obj, form=self.form, filesystem=self.filesystem))
        if self.form is not None or self.filesystem is not None:
            raise InputError(f"{self._named('array')} is a {type(obj).__name__}: format and filesystem are for paths")
        return self._object(obj)

    def _named(self, default: str) -> str:
        return default if self.given_name is None else self.given_name

    def _object(self, obj: Any) -> VectorSource:
        name = self._named("array")
        if _is_zarr(obj):
            from spann.vectors.zarr_source import ZarrSource

            return ZarrSource(obj, max_rows=self.max_rows, name=self.given_name)
        if _is_hdf5(obj):
            from spann.vectors.hdf5_source import Hdf5Source

            return Hdf5Source(obj, max_rows=self.max_rows, name=self._named("dataset"))
        if isinstance(obj, np.ndarray) and not isinstance(obj, np.ma.MaskedArray) and obj.dtype != object:
            return _array_source(obj, self.max_rows, name)
        if gives_arrow(obj):
            from spann.vectors.arrow_source import open_arrow

            name = self._named("table")
            return open_arrow(obj, self.column, max_rows=self.max_rows, name=name, scratch=self.scratch)
        if is_array_like(obj):
            return _array_source(as_array(obj, name), self.max_rows, name)
        if isinstance(obj, Iterator) or (hasattr(obj, "__iter__") and not isinstance(obj, bytes | dict | set)):
            return self._batches(iter(obj))
        raise InputError(
            f"{name} is a {type(obj).__name__}: vectors must be a path, an array, lists, a table, or batches of them"
        )

    def _batches(self, batches: Iterator[Any]) -> VectorSource:
        from spann.vectors.arrow_source import batch_blocks
        from spann.vectors.spool import spooled

        name = self._named("batches")
        blocks = batch_blocks(batches, self.column, name)
        return spooled(blocks, max_rows=self.max_rows, name=name, scratch=self.scratch)

    def _path(self, text: str) -> VectorSource:
        name = self._named(text)
        if self.filesystem is None and not is_uri(text) and self.form is None:
            path, part = split_part(text)
            if look_up(Path(path), name) is not None and is_directory(Path(path), name):
                if not part and data_set.is_data_set(Path(path)):
                    opened = data_set.open_queries if self.queries else data_set.open_base
                    return opened(Path(path), max_rows=self.max_rows, name=name)
                if _is_zarr_path(Path(path)):
                    from spann.vectors.zarr_source import open_zarr

                    return open_zarr(Path(path), max_rows=self.max_rows, name=name)
        return self._files(find(text, form=self.form, filesystem=self.filesystem))

    def _files(self, found: Found) -> VectorSource:
        """Files of one kind, as one source."""
        name, column = self._named(found.name), self.column or found.part
        places = found.places
        if places[0].kind in TABLES:
            from spann.vectors.table_source import TableSource

            return TableSource(places, column, max_rows=self.max_rows, name=name)
        if places[0].kind in STREAMS:
            from spann.vectors.spool import spooled
            from spann.vectors.streams import read_blocks

            blocks = read_blocks(places, column, None)
            return spooled(blocks, max_rows=self.max_rows, name=name, scratch=self.scratch)
        if len(places) == 1 and not found.many:
            return self._rows(places[0], column, name, self.max_rows)
        with ExitStack() as undo:
            parts = [undo.enter_context(self._rows(place, column, place.name, None)) for place in places]
            joined = JoinedSource(parts, max_rows=self.max_rows, name=name)
            undo.pop_all()
        return joined

    def _rows(self, place: Place, part: str, name: str, max_rows: int | None) -> VectorSource:
        if place.filesystem is not None:
            raise InputError(
                f"{name}: {place.suffix or 'such'} files are read from the machine's own disks only: copy it there"
            )
        if place.kind == "hdf5":
            with needs_h5py(name):
                from spann.vectors.hdf5_source import open_hdf5

                return open_hdf5(Path(place.path), part, max_rows=max_rows, name=name, queries=self.queries)
        if part:
            raise InputError(f"{name} has no columns, so no {part!r}: it holds rows and nothing else")
        return open_rows(Path(place.path), place.kind, max_rows=max_rows, name=name)


def _array_source(array: Array, max_rows: int | None, name: str) -> VectorSource:
    if is_bfloat16(array.dtype) and array.ndim == 2:
        stored = stored_dtype("bfloat16")
        inner = ArraySource(array.view(stored), max_rows=max_rows, name=name, element=stored.name)
        return StoredSource(inner, "bfloat16")
    return ArraySource(array, max_rows=max_rows, name=name)


def gives_arrow(obj: object) -> bool:
    """Whether an object gives Arrow, or is of Hugging Face, which has it inside."""
    if any(hasattr(obj, name) for name in ("__arrow_c_stream__", "__arrow_c_array__")):
        return True
    return type(obj).__module__.partition(".")[0] == "datasets"


def _is_zarr(obj: object) -> bool:
    """Whether `obj` is a Zarr node. Asked of the loaded module: importing zarr takes longer than most commands."""
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(obj, zarr.Array | zarr.Group)


def _is_hdf5(obj: object) -> bool:
    h5py = sys.modules.get("h5py")
    return h5py is not None and isinstance(obj, h5py.Dataset)


def _is_zarr_path(path: Path) -> bool:
    return any((path / file).is_file() for file in ("zarr.json", ".zarray", ".zgroup"))
