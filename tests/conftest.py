"""Shared by all tests: looking into an index, comparing with the truth, and failing disks."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spann import config
from spann.format.postings import posting_bytes, posting_span
from spann.store import files
from spann.store.reader import IndexReader
from spann.testing import FaultyDisk, exact_neighbours
from spann.types import SearchResult

QUICK = (
    "golden",
    *(f"kernels/test_{name}.py" for name in ("clustering", "crc32c", "io", "postings")),
    *(f"unit/test_build_{name}.py" for name in ("layout",)),
    *(f"unit/test_vectors_{name}.py" for name in ("checks", "ids", "sources")),
    *(
        f"unit/test_{name}.py"
        for name in (
            "c_layers",
            "config",
            "docs",
            "quantize",
            "site",
            "storage_arrays",
            "tables",
            "tune_recall",
            "words",
        )
    ),
)
"""Files and directories of tests that take less than a minute together; all others have the mark `slow`."""

Array = NDArray[Any]
Content = dict[str, bytes]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what the quick tests leave out."""
    tests = Path(__file__).parent
    quick = [tests / name for name in QUICK]
    for item in items:
        if not any(item.path.is_relative_to(place) for place in quick):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def content() -> Callable[[Path], Content]:
    """All files below a directory, by path relative to it."""

    def content_(path: Path) -> Content:
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}

    return content_


@pytest.fixture(scope="session")
def decode() -> Callable[[Path], list[tuple[Array, Array]]]:
    """The (ids, vectors) of every posting of an index, taken from the bytes of its pages."""

    def decode_(path: Path) -> list[tuple[Array, Array]]:
        reader = IndexReader.open(path)
        about = reader.attributes
        name = "postings/directory"
        page, offset, length, primaries = (
            reader.read(f"{name}/{part}") for part in ("page", "offset", "length", "primaries")
        )
        pages = reader.read("postings/pages").reshape(-1)
        start, end = posting_span(page, offset, posting_bytes(about, length, primaries))
        found = []
        for first, last, n in zip(start, end, length.tolist(), strict=True):
            data = pages[first:last] if n else pages[:0]
            ids = data[: n * about["id_bytes"]].view(f"<u{about['id_bytes']}")
            found.append((ids, data[n * about["id_bytes"] :].view(about["dtype"]).reshape(n, about["dim"])))
        return found

    return decode_


@pytest.fixture(scope="session")
def check_neighbours() -> Callable[..., None]:
    """Asserts that a result is exact, up to the order of distances that float32 cannot tell apart."""

    def check(result: SearchResult, base: Array, queries: Array, k: int, metric: str, ids: Array | None = None) -> None:
        n = min(k, len(base))
        if metric == "hamming":
            base, queries = np.unpackbits(base, axis=1).view(bool), np.unpackbits(queries, axis=1).view(bool)
        assert result.ids.shape == result.distances.shape == (len(queries), k)
        assert (result.ids[:, n:] == -1).all()
        assert (result.distances[:, n:] == (-np.inf if metric == "ip" else np.inf)).all()
        given = np.arange(len(base)) if ids is None else ids.astype(np.int64)
        order = np.argsort(given)
        at = np.minimum(np.searchsorted(given[order], result.ids[:, :n]), len(base) - 1)
        rows = order[at]
        np.testing.assert_array_equal(given[rows], result.ids[:, :n])
        _, every = exact_neighbours(base, queries, len(base), metric)
        b, q = base.astype(np.float64), queries.astype(np.float64)
        dots = q @ b.T
        norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        truth = {
            "l2": lambda: np.sqrt(np.square(q[:, None] - b).sum(axis=2)),
            "ip": lambda: dots,
            "cosine": lambda: 1 - dots / norms,
            "hamming": lambda: np.square(q[:, None] - b).sum(axis=2),
        }[metric]()
        allowed = {"l2": 1e-5 * truth.max(), "ip": 1e-5 * norms.max(), "cosine": 1e-5, "hamming": 0}[metric] + 1e-12
        np.testing.assert_allclose(result.distances[:, :n], every[:, :n], rtol=1e-5, atol=allowed)
        np.testing.assert_allclose(
            result.distances[:, :n], np.take_along_axis(truth, rows, axis=1), rtol=1e-5, atol=allowed
        )
        ordered = -result.distances[:, :n] if metric == "ip" else result.distances[:, :n]
        assert (ordered[:, 1:] >= ordered[:, :-1]).all()
        for row in result.ids[:, :n]:
            assert len(np.unique(row)) == n

    return check


class NoSync:
    """The operating system without fsync. Only a power cut could tell, and fsync takes most of the time of a small
    build."""

    def __getattr__(self, name: str) -> Any:
        return (lambda fd: None) if name == "fsync" else getattr(os, name)


@pytest.fixture(scope="session", autouse=True)
def no_sync() -> Iterator[None]:
    """Spares tests the wait for the disk, unless they replace the system themselves."""
    files.system = NoSync()
    yield
    files.system = os


@pytest.fixture(scope="session", autouse=True)
def no_calibration() -> Iterator[None]:
    """Switches calibration off unless a test asks for it, because it takes most of the time of a small build."""
    before = config.DEFAULT_CALIBRATION, config.FEWEST_CALIBRATION
    config.DEFAULT_CALIBRATION = config.FEWEST_CALIBRATION = 0
    yield
    config.DEFAULT_CALIBRATION, config.FEWEST_CALIBRATION = before


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FaultyDisk]:
    """Makes a system call of the storage fail from its `after`-th use on."""

    def faulty_(name: str, after: int, code: int = errno.ENOSPC) -> FaultyDisk:
        disk = FaultyDisk(name, after, code)
        monkeypatch.setattr(files, "system", disk)
        return disk

    return faulty_


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts an empty file system in memory with the given options, anew at each call. Skips if that is not allowed."""
    place = tmp_path / "mounted"
    place.mkdir()
    inside = False

    def unmount() -> None:
        nonlocal inside
        if inside:
            subprocess.run(["umount", "--lazy", place], check=True)
            inside = False

    def mount(options: str) -> Path:
        nonlocal inside
        unmount()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "spann-test", place], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"mounting a file system is not allowed here: {done.stderr.strip()}")
        inside = True
        return place

    yield mount
    unmount()
