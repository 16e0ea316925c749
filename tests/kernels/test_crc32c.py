"""CRC-32C against published vectors and a bitwise twin, by the CRC instruction and by tables."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from spann._kernels import _checksum
from spann._kernels.checksum import crc32c, crc32c_blocks
from spann.errors import InputError

LEVELS = [pytest.param(_checksum.crc32c, id="chosen"), pytest.param(_checksum.crc32c_scalar, id="scalar")]

# RFC 3720, appendix B.4, and the check value of every CRC catalogue.
VECTORS = [
    (b"", 0),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
]


def twin(data: bytes, value: int = 0) -> int:
    """The definition: long division, one bit at a time."""
    register = value ^ 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_published_vectors(level, data, expected):
    assert level(data) == twin(data) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_every_short_length_and_alignment(level):
    data = np.random.default_rng(0).integers(0, 256, 400, dtype=np.uint8)
    for length in range(70):
        for start in range(8):
            part = data[start : start + length]
            assert level(part) == twin(part.tobytes())


@pytest.mark.parametrize("level", LEVELS)
def test_around_the_lane_lengths_and_from_any_value(level):
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, 14_000, dtype=np.uint8)
    for round_bytes in (384, 4032, 4096, 8064, 4032 + 384):
        for length in range(round_bytes - 9, round_bytes + 10, 3):
            start, value = int(rng.integers(0, 64)), int(rng.integers(0, 1 << 32))
            part = data[start : start + length]
            assert level(part, value) == twin(part.tobytes(), value)


def test_levels_agree_on_random_and_large_buffers():
    rng = np.random.default_rng(2)
    data = rng.integers(0, 256, (4 << 20) + 17, dtype=np.uint8)
    assert _checksum.crc32c(data) == _checksum.crc32c_scalar(data)
    for _ in range(500):
        start, length, value = (int(rng.integers(0, n)) for n in (1000, 50_000, 1 << 32))
        part = data[start : start + length]
        assert _checksum.crc32c(part, value) == _checksum.crc32c_scalar(part, value)


def test_parts_chain_to_the_whole():
    data = np.random.default_rng(3).bytes(20_000)
    for cut in (0, 1, 4031, 4032, 19_999, 20_000):
        assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_every_flipped_bit_changes_the_value():
    data = bytearray(np.random.default_rng(4).bytes(64))
    before = crc32c(bytes(data))
    for bit in range(64 * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert crc32c(bytes(data)) != before
        data[bit // 8] ^= 1 << bit % 8


def test_the_environment_forces_the_tables():
    code = "from spann._kernels import _checksum as c; print(c.is_hardware(), hex(c.crc32c(bytes(5000))))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SPANN_SIMD": "scalar"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["False", hex(_checksum.crc32c(bytes(5000)))]


@pytest.mark.parametrize(("size", "block"), [(0, 8), (1, 8), (8, 8), (4096 * 3, 4096), (4096 * 3 + 5, 4096), (10, 100)])
def test_blocks(size, block):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    found = crc32c_blocks(data, block)
    assert found.dtype == np.uint32
    assert found.tolist() == [crc32c(data[i : i + block]) for i in range(0, size, block)]


def test_any_contiguous_memory_is_accepted():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert (
        crc32c(values) == crc32c(values.tobytes()) == crc32c(memoryview(values)) == crc32c(bytearray(values.tobytes()))
    )
    assert crc32c(np.empty((0, 4), dtype=np.int64)) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: crc32c(np.arange(10)[::2]),
        lambda: crc32c("text"),
        lambda: crc32c(b"", -1),
        lambda: crc32c(b"", 1 << 32),
        lambda: crc32c_blocks(np.zeros(4, dtype=np.uint8), 0),
        lambda: crc32c_blocks(np.zeros(4, dtype=np.int8), 2),
        lambda: crc32c_blocks(np.zeros(8, dtype=np.uint8)[::2], 2),
        lambda: crc32c_blocks(np.zeros((2, 2), dtype=np.uint8), 2),
    ],
)
def test_anything_else_is_refused(call):
    with pytest.raises(InputError):
        call()
