"""Users' Zarr arrays as vectors; imported only when one is opened."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from spann.errors import InputError
from spann.system import read_small
from spann.types import Array
from spann.vectors import paging
from spann.vectors.containers import foreign
from spann.vectors.files import look_up
from spann.vectors.sources import VectorSource, check_dim, given_dtype, usable_rows

_METADATA = ("zarr.json", ".zarray", ".zgroup")
_ATTRIBUTES = (".zattrs", ".zmetadata")

LARGEST_METADATA = 16 << 20
"""Bytes of a file of metadata."""

LARGEST_CHUNK = 1 << 30
"""Bytes of a decoded chunk: a read holds some of them whole."""

_CODECS = {
    *("bytes", "transpose", "sharding_indexed", "blosc", "gzip", "zstd", "crc32c", "zlib", "lz4", "bz2", "lzma"),
    *("shuffle", "delta", "bitround", "fixedscaleoffset", "quantize", "packbits", "astype", "pcodec", "zfpy"),
    *("adler32", "crc32", "fletcher32", "jenkins_lookup3"),
}
"""Those that make numbers of bytes. Others, of objects, run what they find: pickle does."""


def open_zarr(path: Path, *, max_rows: int | None, name: str) -> ZarrSource:
    """The Zarr array in the directory `path`, format 2 or 3."""
    if not any((path / file).is_file() for file in _METADATA):
        raise InputError(f"{name} is a directory but not a Zarr array: it has none of {' '.join(_METADATA)}")
    for file in (*_METADATA, *_ATTRIBUTES):
        if (path / file).exists():
            read_small(path / file, str(path / file), LARGEST_METADATA)
    with foreign(f"{name} has Zarr metadata that cannot be read"):
        node = zarr.open(str(path), mode="r")
    return ZarrSource(node, max_rows=max_rows, name=name)


class ZarrSource(VectorSource):
    """Vectors of a 2-D Zarr array. Besides the result, a read holds the decoded chunks that it needs."""

    def __init__(self, node: Any, *, max_rows: int | None, name: str | None) -> None:
        name = str(node.store_path) if name is None else name
        if not isinstance(node, zarr.Array):
            raise InputError(f"{name} is a Zarr group: give the path of one array within it")
        if node.ndim != 2:
            raise InputError(f"{name} has {node.ndim} dimensions (shape {node.shape}): vectors must be a 2-D array")
        with foreign(f"{name} has Zarr metadata that cannot be used"):
            dtype = given_dtype(node.dtype, name)
            rows, dim = node.shape
            self._outer = node.shards or node.chunks
            codecs = list(_codec_names(node.metadata.to_dict()))
        check_dim(dim, name)
        size = math.prod(self._outer) * dtype.itemsize
        if not 1 <= size <= LARGEST_CHUNK:
            raise InputError(f"a chunk of {name} holds {size} bytes; it must be from 1 to {LARGEST_CHUNK}")
        for codec in codecs:
            if codec.removeprefix("numcodecs.") not in _CODECS:
                raise InputError(f"{name} is stored with codec {codec!r}; known are {', '.join(sorted(_CODECS))}")
        super().__init__(name, usable_rows(name, announced=rows, present=rows, max_rows=max_rows), dim, dtype)
        self._array = node
        self._check_chunks(0, self.count)

    def _check_chunks(self, start: int, stop: int) -> None:
        """Refuse chunks of rows `start` to `stop` that are not there: Zarr takes them for its fill value.

        Those of a program that leaves out chunks of nothing but that are missing as well; nothing tells them apart.
        """
        store = self._array.store_path.store
        local = store.root / self._array.store_path.path if isinstance(store, zarr.storage.LocalStore) else None
        for row in range(start // self._outer[0], -(-stop // self._outer[0])):
            for column in range(-(-self.dim // self._outer[1])):
                key = self._array.metadata.encode_chunk_key((row, column))
                if local is not None:
                    found = look_up(local / key, f"chunk {key} of {self.name}")
                    there = found is not None and stat.S_ISREG(found.st_mode)
                else:
                    with foreign(f"chunk {key} of {self.name} cannot be looked for"):
                        there = sync((self._array.store_path / key).exists())
                if not there:
                    first = row * self._outer[0]
                    rows = f"rows {first} to {min(first + self._outer[0], self.count)}"
                    raise InputError(
                        f"{self.name} has no chunk {key}, of {rows}: "
                        "it is incomplete, or was written without chunks of zeros; write it with "
                        'config={"write_empty_chunks": True}'
                    )

    def _read(self, start: int, stop: int) -> Array:
        found = self._fetch(lambda: self._array[start:stop], (stop - start, self.dim), f"rows {start} to {stop}")
        self._check_chunks(start, stop)
        return found

    def _take(self, rows: NDArray[np.int64]) -> Array:
        if not len(rows):
            return np.empty((0, self.dim), self.dtype)
        found = self._fetch(
            lambda: self._array.get_orthogonal_selection((rows, slice(None))),
            (len(rows), self.dim),
            f"rows {rows.min()} to {rows.max()}",
        )
        for chunk in np.unique(rows // self._outer[0]).tolist():
            self._check_chunks(chunk * self._outer[0], min(self.count, (chunk + 1) * self._outer[0]))
        return found

    def _blocks(self, rows_per_block: int) -> Iterator[tuple[int, Array]]:
        # Blocks smaller than a chunk would decode it once for each block: read a chunk's worth of blocks at a time.
        per_read = -(-self._array.chunks[0] // rows_per_block) * rows_per_block
        for piece in paging.pieces(self.count, per_read):
            read = self._read(piece.start, piece.stop)
            for block in paging.pieces(len(read), rows_per_block):
                yield piece.start + block.start, read[block]

    def _fetch(self, select: Callable[[], Any], shape: tuple[int, int], what: str) -> Array:
        with foreign(f"{what} of {self.name} cannot be decoded"):
            found = np.ascontiguousarray(select())
        if found.shape != shape or found.dtype != self.dtype:
            raise InputError(f"{what} of {self.name} are {found.dtype} {found.shape}; the array should hold {shape}")
        return found


def _codec_names(metadata: Any) -> Iterator[str]:
    """Names of all codecs in the metadata of an array, those within shards too."""
    found = [*(metadata.get(key) or () for key in ("codecs", "index_codecs", "filters"))]
    for codec in [one for some in found for one in some] + [metadata.get("compressor")]:
        if codec is None:
            continue
        yield str(codec.get("name", codec.get("id")))
        yield from _codec_names(codec.get("configuration") or {})
