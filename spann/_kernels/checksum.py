"""CRC-32C (Castagnoli): the checked door to ext/c/base/crc32c.c."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann._kernels import _checksum
from spann.errors import InputError


def crc32c(buffer: Any, value: int = 0) -> int:
    """CRC-32C of the bytes of `buffer`, in [0, 2**32).

    `buffer` is anything that exports C-contiguous memory (bytes, memoryview, ndarray of any dtype). `value` is 0, or
    the result for the bytes that came before: ``crc32c(b, crc32c(a)) == crc32c(a + b)``. Raises `InputError` for
    memory that is not contiguous or a `value` outside 32 bits.
    """
    if not 0 <= value < 1 << 32:
        raise InputError(f"checksum value is {value}; it must be in [0, 2**32)")
    return int(_checksum.crc32c(_bytes_of(buffer), value))


def crc32c_blocks(data: NDArray[np.uint8], block_bytes: int) -> NDArray[np.uint32]:
    """CRC-32C of each block of `block_bytes` bytes of `data`, each starting from 0.

    `data` is (n,) uint8, contiguous; the result is (ceil(n / block_bytes),) uint32, its last block may be short.
    Raises `InputError` for any other array or a `block_bytes` below 1.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
        raise InputError(f"checksums need a contiguous (n,) uint8 array, not {data.shape} {data.dtype}")
    if block_bytes < 1:
        raise InputError(f"checksum block is {block_bytes} bytes; it must be at least 1")
    whole, rest = divmod(data.size, block_bytes)
    out = np.empty(whole + (rest > 0), dtype=np.uint32)
    if whole:
        _checksum.crc32c_rows(data[: whole * block_bytes].reshape(whole, block_bytes), out[:whole])
    if rest:
        out[whole] = _checksum.crc32c(data[whole * block_bytes :])
    return out


def _bytes_of(buffer: Any) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(buffer, dtype=np.uint8)
    except (ValueError, TypeError, BufferError) as error:
        raise InputError(f"checksums need contiguous memory: {error}") from None
