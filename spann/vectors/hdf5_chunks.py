"""Reads the rows of an HDF5 dataset; the chunks are decoded here.

The HDF5 library trusts a filter to give back a whole chunk, and reads behind the end of a shorter one. A damaged file
can do that. So `Rows` takes each chunk as it is stored, decodes it with known filters, and checks its size.
Datasets without chunks have nothing to decode: the library reads them.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from functools import partial

import h5py
import numcodecs
import numpy as np

from spann.errors import InputError
from spann.types import Array

KEPT = 16 << 20
"""Bytes of the largest decoded chunk that is kept for the next read."""

_CHECKSUM = 4


class Rows:
    """The first dimension of a dataset of one or two dimensions.

    Raises `InputError` if a filter is not gzip, shuffle or fletcher32, or if numpy has no type for the stored elements.
    """

    def __init__(self, node: h5py.Dataset, name: str) -> None:
        self._node, self._name = node, name
        if node.chunks is None:
            return
        if not node.id.get_type().equal(h5py.h5t.py_create(node.dtype, logical=True)):
            raise InputError(f"{name} has chunks of an unusual type of number: write it anew as {node.dtype}")
        self._bytes = math.prod(node.chunks) * node.dtype.itemsize
        self._filters = _filters(node, name)
        self._kept: tuple[tuple[int, ...], Array] | None = None

    def read(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop`, of the type of the dataset."""
        node = self._node
        if node.chunks is None:
            return np.asarray(node[start:stop])
        out = np.empty((stop - start, *node.shape[1:]), node.dtype)
        step = node.chunks[0]
        across = [range(0, length, width) for length, width in zip(node.shape[1:], node.chunks[1:], strict=True)]
        for first in range(start // step * step, stop, step):
            low, high = max(start, first), min(stop, first + step)
            for corner in itertools.product(*across):
                chunk = self._chunk((first, *corner))[low - first : high - first]
                if corner:
                    chunk = chunk[:, : node.shape[1] - corner[0]]
                    out[low - start : high - start, corner[0] : corner[0] + chunk.shape[1]] = chunk
                else:
                    out[low - start : high - start] = chunk
        return out

    def _chunk(self, at: tuple[int, ...]) -> Array:
        kept = self._kept
        if kept is not None and kept[0] == at:
            return kept[1]
        skipped, data = self._node.id.read_direct_chunk(at)
        for bit, decode in reversed(list(enumerate(self._filters))):
            if not skipped >> bit & 1:
                data = decode(data)
        if len(data) != self._bytes:
            raise InputError(f"a chunk of {self._name} has {len(data)} of its {self._bytes} bytes: it is damaged")
        chunk = np.frombuffer(data, self._node.dtype).reshape(self._node.chunks)
        if self._bytes <= KEPT:
            self._kept = at, chunk
        return chunk


def _filters(node: h5py.Dataset, name: str) -> list[Callable[[bytes], bytes]]:
    """What undoes each filter of the dataset, in the order in which they were applied."""
    limit = math.prod(node.chunks) * node.dtype.itemsize + _CHECKSUM
    plist = node.id.get_create_plist()
    found: list[Callable[[bytes], bytes]] = []
    for number in range(plist.get_nfilters()):
        code, _, values, label = plist.get_filter(number)
        if code == h5py.h5z.FILTER_DEFLATE:
            found.append(partial(_inflate, limit=limit))
        elif code == h5py.h5z.FILTER_SHUFFLE:
            width = int(values[0]) if values else 0
            if width != node.dtype.itemsize:
                raise InputError(f"{name} shuffles {width} bytes, its elements have {node.dtype.itemsize}")
            found.append(partial(_unshuffle, width=width))
        elif code == h5py.h5z.FILTER_FLETCHER32:
            found.append(_unchecked)
        else:
            text = label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
            raise InputError(
                f"{name} is packed by the filter {text or code!r}; spann reads gzip, shuffle and fletcher32: "
                f"write it anew with compression='gzip'"
            )
    return found


def _inflate(data: bytes, limit: int) -> bytes:
    return zlib.decompressobj().decompress(data, limit)


def _unchecked(data: bytes) -> bytes:
    return bytes(numcodecs.Fletcher32().decode(data))  # raises if the checksum is another


def _unshuffle(data: bytes, width: int) -> bytes:
    if len(data) % width:
        raise InputError(f"a shuffled chunk has {len(data)} bytes, no multiple of {width}")
    return np.frombuffer(data, np.uint8).reshape(width, -1).T.tobytes()
