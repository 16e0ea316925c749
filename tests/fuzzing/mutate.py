"""Changes to bytes and files that make damaged ones of sound ones, each decided by a `random.Random`."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

NUMBERS = [
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65535,
    65536,
    *(2**n + d for n in (31, 32, 63, 64) for d in (-1, 0, 1)),
]
"""Where programs go wrong: around the ends of what types hold."""

WORDS = [
    "null",
    "true",
    "[]",
    "{}",
    '""',
    "NaN",
    "Infinity",
    "1e999",
    "-0",
    "1e-320",
    "0.5",
    "9" * 400,
    '"\\u001b[31m"',
]
"""Values to put in the place of a number of a text."""

GROWTH = 1 << 40
"""Bytes that a file may be given as a hole."""

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_CHANGES)(data, rng)
    return data


def of_file(seed: Path, work: Path, rng: random.Random) -> Path:
    """A file of the seed's name in the directory `work`: its bytes changed, or grown by a hole."""
    out = work / seed.name
    if rng.random() < 0.98:
        out.write_bytes(of_bytes(seed.read_bytes(), rng))
    else:
        out.write_bytes(seed.read_bytes())
        os.truncate(out, out.stat().st_size + rng.randrange(1, GROWTH))
    return out


def flip(data: bytes, rng: random.Random) -> bytes:
    """One bit."""
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _byte(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _integer(data: bytes, rng: random.Random) -> bytes:
    """A number of 2, 4 or 8 bytes, most often where one may begin."""
    size = rng.choice((2, 4, 8))
    at = rng.randrange(len(data) + 1)
    at -= at % size if rng.random() < 0.8 else 0
    value = rng.choice(NUMBERS) % (1 << 8 * size)
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 4, 8, 64)) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 8, 64))) + data[at:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    part = data[at : at + rng.choice((4, 16, 64, 256))]
    to = rng.randrange(len(data) + 1)
    return data[:to] + part * rng.choice((1, 1, 2, 8)) + data[to + (len(part) if rng.random() < 0.5 else 0) :]


def _text(data: bytes, rng: random.Random) -> bytes:
    """A number that stands as text, where there is one."""
    found = list(_NUMBER.finditer(data[:100_000]))
    if not found:
        return _byte(data, rng)
    at = rng.choice(found)
    new = str(rng.choice(NUMBERS)) if rng.random() < 0.6 else rng.choice(WORDS)
    return data[: at.start()] + new.encode() + data[at.end() :]


_CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    *(flip, flip, _byte, _byte, _integer, _integer, _integer, _text, _text, _text),
    *(_cut, _remove, _insert, _repeat),
]
