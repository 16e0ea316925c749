"""Indexes with damaged bytes, and forged ones whose every checksum holds: opened, searched and verified."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import spann
from spann.errors import SpannError
from spann.format.layout import ArrayLayout
from spann.testing import clustered
from tests.fuzzing import mutate as changes
from tests.fuzzing.forge import DIRECTORY, Forgery

VALUES: list[Any] = [
    *(None, True, [], {}, "", "x", "row", "l2", "ip", "bit", "float32", [1], {"a": 1}, "\x1b[31m", "\ud800"),
    *(0.0, -0.5, 1.5, 1e300, -1e300, 3.4e38, 1e-320),
    *changes.NUMBERS,
    *(3, 4, 5, 8, 16, 32, 33, 64, 2**40, 2**57, 10**400),
]

FLOATS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e-40, 0.0)

_HOW = "how"


def seeds(directory: Path) -> None:
    make(directory / "codes", "l2", "uint8", 2, replicas=2, chained=True, names=True)
    make(directory / "classic", "cosine", "float32", 0, chained=True, names=True)
    make(directory / "ip", "ip", "float32", 4, appended=True)
    make(directory / "bits", "hamming", "bool", 0, appended=True)
    make(directory / "classic-ip", "ip", "int8", 0)
    make(directory / "half", "cosine", "float16", 3)


def make(
    path: Path,
    metric: str,
    dtype: str,
    code_bits: int,
    *,
    replicas: int | None = None,
    chained: bool = False,
    names: bool = False,
    appended: bool = False,
) -> None:
    """A small index of 160 vectors. With `chained`, 60 of them are the same."""
    if dtype == "bool":
        base = np.random.default_rng(1).random((160, 64)) < 0.5
    else:
        base = clustered(160, 24, 1, 1, dtype)[0]
        base[(base == 0).all(axis=1)] = 1
    if chained:
        base[:60] = base[0]
    ids = np.random.default_rng(0).permutation(160) + 2**33 if names else None
    params = spann.BuildParams(
        code_bits=code_bits, max_replicas=replicas, posting_size=16, calibration_queries=40, seed=1
    )
    first = 120 if appended else 160
    spann.build(base[:first], path, metric=metric, ids=ids, params=params).close()
    if appended:
        spann.append(path, base[first:]).close()


def mutate(seed: Path, work: Path, rng: random.Random) -> Path:
    forgery = _forgery(seed, work)
    forgery.reset()
    rng.choices(list(_WAYS), list(_WAYS.values()))[0](forgery, rng)
    (work / _HOW).write_text(str(rng.randrange(1 << 16)))
    return forgery.path


def execute(path: Path) -> str:
    how = int((path.parent / _HOW).read_text()) if (path.parent / _HOW).exists() else 0
    outcome = "refused"
    try:
        with spann.open(path, memory_budget="none" if how & 1 else "64MB", io="buffered") as index:
            outcome = "answered"
            queries = _queries(index.dim, index.element)
            index.search(queries, 1 + how // 8 % 20, threads=1)
            if how & 2:
                wide = spann.SearchParams(max_postings=2**31, rerank=1000, error_bound=50)
                index.search(queries, 30, wide, threads=1, order="posting")
            if how & 4:
                index.search_range(queries[:1], 0.5)
                index.info()
    except SpannError:
        outcome += ", then refused" if outcome == "answered" else ""
    if how & 48 == 0:
        with contextlib.suppress(SpannError):
            spann.verify(path)
    return outcome


@cache
def _queries(dim: int, element: str) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(5).normal(size=(3, dim)) * 20 + 1
    if element == "bit":
        return values > 1
    return values.astype({"bfloat16": "float32"}.get(element, element))


@cache
def _forgery(seed: Path, work: Path) -> Forgery:
    return Forgery(seed, work / seed.name)


# --- ways to change an index


def _bytes(forgery: Forgery, rng: random.Random) -> None:
    name = rng.choice(forgery.files)
    path = forgery.touch(name)
    path.write_bytes(changes.of_bytes(path.read_bytes(), rng))


def _file(forgery: Forgery, rng: random.Random) -> None:
    """Something else in the place of a file or of a directory."""
    name = rng.choice(forgery.files)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        name = os.path.dirname(name) or name
    path = forgery.touch(name)
    kind = rng.randrange(6)
    if kind == 0 and path.is_file():
        os.truncate(path, path.stat().st_size + rng.choice((1, 4096, 1 << 32, 1 << 43)))
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(forgery.sound / name)
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.symlink_to("/dev/zero")


def _attribute(forgery: Forgery, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change_value(forgery.about, rng)
    forgery.seal()


def _node(forgery: Forgery, rng: random.Random) -> None:
    _change_value(forgery.nodes, rng)
    forgery.seal()


def _manifest_bytes(forgery: Forgery, rng: random.Random) -> None:
    """Text that is no longer JSON, or no longer in its form, under a right checksum."""
    forgery.seal()
    path = forgery.touch("zarr.json")
    data = changes.of_bytes(path.read_bytes(), rng)
    path.write_bytes(_resealed(data))


def _values(forgery: Forgery, rng: random.Random) -> None:
    """Numbers of one or two arrays, and now and then one of the manifest that speaks of them."""
    for _ in range(rng.choice((1, 1, 2))):
        name = _some_array(forgery, rng)
        forgery.put(name, _changed(forgery.arrays[name], rng))
    if rng.random() < 0.3:
        _change_value(forgery.about, rng)
    forgery.seal()


def _postings(forgery: Forgery, rng: random.Random) -> None:
    """Bytes of postings, under checksums that fit."""
    sound = forgery.arrays["postings/pages"]
    pages = _changed(sound, rng).reshape(-1, sound.shape[1])
    if pages.dtype == sound.dtype and pages.shape == sound.shape:
        forgery.arrays["postings/pages"] = pages
        forgery.seal_postings()
        forgery.arrays["postings/pages"] = sound
    forgery.put("postings/pages", pages)
    forgery.seal()


def _shape(forgery: Forgery, rng: random.Random) -> None:
    """Another number of rows, width or type."""
    name = _some_array(forgery, rng)
    values = forgery.arrays[name]
    kind = rng.randrange(4)
    if kind == 0:
        values = values[: rng.randrange(len(values) + 1)]
    elif kind == 1:
        values = np.concatenate([values] * rng.choice((2, 3)))
    elif kind == 2:
        values = values.astype(rng.choice(("uint8", "uint16", "int32", "uint32", "uint64", "float32", "float64")))
    elif values.ndim == 2:
        values = values[:, : rng.randrange(1, values.shape[1] + 1)] if rng.random() < 0.7 else values.reshape(-1)
    forgery.put(name, values)
    forgery.seal()


def _cut(forgery: Forgery, rng: random.Random) -> None:
    """An array cut into other chunks and shards, as is allowed, or with holes for most of it, as is not."""
    name = _some_array(forgery, rng)
    values = forgery.arrays[name]
    chunk = rng.choice((1, 2, 3, 7, 64))
    layout = ArrayLayout(
        len(values), values.shape[1:], values.dtype.newbyteorder("<"), chunk, chunk * rng.choice((1, 2, 50))
    )
    forgery.put(name, values, layout)
    if rng.random() < 0.5:
        node = forgery.nodes[name]
        place = rng.choice((node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]))
        place[0] = rng.choice((2**31, 2**40, 2**57, 2**63, place[0] + 1, 10**300))
        for file in (forgery.path / name).glob("c/**/*"):
            if file.is_file() and rng.random() < 0.5:
                os.truncate(file, rng.choice((1 << 30, 1 << 38, 1 << 43)))
    forgery.seal()


def _arrays(forgery: Forgery, rng: random.Random) -> None:
    """An array less, or one under another name."""
    name = _some_array(forgery, rng)
    if rng.random() < 0.6:
        forgery.remove(name)
    if rng.random() < 0.6:
        other = rng.choice((*forgery.arrays, "vectors/live", f"{DIRECTORY}/retired", "a/b", f"{DIRECTORY}/chain"))
        forgery.put(other, forgery.arrays[name])
    forgery.seal()


_WAYS: dict[Callable[[Forgery, random.Random], None], int] = {
    _bytes: 2, _file: 1, _attribute: 5, _node: 1, _manifest_bytes: 2, _values: 6, _postings: 3, _shape: 2, _cut: 1,
    _arrays: 1,
}  # fmt: skip


def _some_array(forgery: Forgery, rng: random.Random) -> str:
    return rng.choice(list(forgery.arrays))


def _change_value(tree: Any, rng: random.Random) -> None:
    """Another value somewhere in a tree of JSON; or a value less, or one more."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = tree[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            tree = inner
            continue
        if rng.random() < 0.1:
            del tree[key]
        elif isinstance(inner, int) and not isinstance(inner, bool) and rng.random() < 0.4:
            tree[key] = rng.choice((inner + 1, inner - 1, -inner, 2 * inner, inner + 256, float(inner)))
        else:
            tree[key] = rng.choice(VALUES)
        return


def _changed(values: np.ndarray[Any, Any], rng: random.Random) -> np.ndarray[Any, Any]:
    """Some of the numbers are others."""
    values = values.copy()
    flat = values.reshape(-1)
    if not flat.size:
        return values
    if rng.random() < 0.08:
        flat[:] = _number(flat, rng)
        return values
    for _ in range(rng.choice((1, 1, 2, 8))):
        flat[rng.randrange(flat.size)] = _number(flat, rng)
    return values


def _number(flat: np.ndarray[Any, Any], rng: random.Random) -> Any:
    kind = flat.dtype
    if rng.random() < 0.3:
        return flat[rng.randrange(flat.size)]
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return np.float64(rng.choice(FLOATS)).astype(kind)
    number = (
        rng.choice(changes.NUMBERS) if rng.random() < 0.7 else int(flat[rng.randrange(flat.size)]) + rng.choice((-1, 1))
    )
    return np.uint64(number % (1 << 64)).astype(kind)


def _resealed(text: bytes) -> bytes:
    """A manifest with the checksum that it ought to have, if it has a place for one."""
    from spann._kernels.checksum import crc32c
    from spann.format.manifest import _CHECKSUM_LINE

    found = list(_CHECKSUM_LINE.finditer(text))
    if len(found) != 1:
        return text
    start, end = found[0].span()
    return text[:start] + b'      "checksum": "%08x",\n' % crc32c(text[:start] + text[end:]) + text[end:]
