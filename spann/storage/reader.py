"""Opening and verifying an index directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError, FormatError, MissingError, SpannError
from spann.storage import files
from spann.storage.arrays import METADATA, Problem, ShardedArray
from spann.storage.json_text import to_json
from spann.storage.manifest import GROUP, Manifest, checksum_array, crc_text, parse_root
from spann.storage.places import as_path
from spann.storage.publishing import BUILDING
from spann.types import Array


class IndexReader:
    """An index on disk, read-only. Holds no file open; any thread may call."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Takes the manifest on trust; `open` is the way in that reads and checks it."""
        self.path = path
        self._manifest = manifest

    @classmethod
    def open(cls, path: Path | str) -> IndexReader:
        """Reads and checks the manifest of the index at `path`; arrays are checked when they are opened.

        Raises `MissingError` when there is no index, `FormatError` for something else or something newer, and
        `CorruptionError` for a damaged manifest.
        """
        path = Path(path).absolute()  # and the same one after a change of the working directory
        return cls(path, _read_manifest(path))

    @property
    def attributes(self) -> dict[str, Any]:
        """The attribute 'spann': what the writer was given to keep, beside the format's own entries."""
        return self._manifest.attributes

    def arrays(self) -> list[str]:
        """Names of the arrays, sorted; the checksum arrays are not among them."""
        return sorted(self._manifest.data_arrays)

    def array(self, name: str) -> ShardedArray:
        """Opens one array, checking the size and index of each of its shards (see `ShardedArray.open`)."""
        if name not in self._manifest.arrays:
            raise FormatError(f"{self.path}: the index has no array {name!r}; it has {', '.join(self.arrays())}")
        return ShardedArray.open(self.path / name, self._manifest.arrays[name])

    def checksums(self, name: str) -> NDArray[np.uint32]:
        """The CRC-32C of each chunk of array `name`, (chunks,) uint32, itself verified."""
        stored = self.array(checksum_array(name))
        if stored.dtype != np.dtype("<u4") or stored.row_shape:
            raise FormatError(f"{stored.path}: checksums are {stored.dtype} {stored.row_shape}, expected uint32 ()")
        values: NDArray[np.uint32] = stored.read_all()
        if values.shape != (self._manifest.arrays[name].chunks,):
            raise FormatError(f"{stored.path}: {values.size} checksums, expected one for each chunk of {name}")
        if crc_text(values) != self._manifest.attributes["integrity"][name]:
            raise CorruptionError(f"{stored.path}: the checksums of {name} do not match their own checksum")
        return values

    def read(self, name: str) -> Array:
        """The whole of array `name`, every byte verified. Raises as `ShardedArray.read_all` does."""
        return self.array(name).read_all(self.checksums(name))

    def disk_bytes(self) -> int:
        """Bytes of all files below the index's directory."""
        return sum(size for _, size in files.walk_files(self.path))

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
        """Reads every byte of the index and returns all that is wrong; empty when nothing is.

        `progress` is told (bytes read, bytes in all), checksums and metadata not counted. Damage is never raised, so
        that one bad file hides no other; only an index directory that cannot be listed is.
        """
        problems: list[Problem] = []
        root = self.path / METADATA
        try:
            if _read_manifest(self.path) != self._manifest:
                problems.append(Problem("damaged", root, "is not the one that was opened"))
        except SpannError as error:
            problems.append(Problem.of(error, root))
        for name, metadata in self._nodes().items():
            problems += self._verify_metadata(name, to_json(metadata))
        stored = {name: ShardedArray(self.path / name, self._manifest.arrays[name]) for name in self.arrays()}
        total = sum(array.stored_bytes for array in stored.values())
        done = 0

        def step(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, total)

        for name, array in stored.items():
            damage, crcs = self._verify_checksums(name)
            problems += damage
            problems += array.verify(crcs, step)
        return problems + self._unexpected()

    def _verify_checksums(self, name: str) -> tuple[list[Problem], NDArray[np.uint32] | None]:
        """What is wrong with the checksums of array `name`, and the checksums if nothing is."""
        path = checksum_array(name)
        stored = ShardedArray(self.path / path, self._manifest.arrays[path])
        problems = list(stored.verify())
        if problems:
            return problems, None
        try:
            return [], self.checksums(name)
        except SpannError as error:
            # One checksum covers the whole array, so the file can be named only where there is but one.
            place = stored.shard_path(0) if stored.layout.shards == 1 else stored.path
            return [Problem.of(error, place)], None

    def _verify_metadata(self, name: str, expected: bytes) -> list[Problem]:
        """Whether a node's own zarr.json is, byte for byte, what the manifest says of it."""
        path = self.path / name / METADATA
        try:
            if files.read_file(path) != expected:
                return [Problem("damaged", path, f"differs from what {self.path / METADATA} says of it")]
        except SpannError as error:
            return [Problem.of(error, path)]
        return []

    def _nodes(self) -> dict[str, Any]:
        """The metadata of every group and array below the root, by path."""
        arrays = {name: layout.metadata() for name, layout in self._manifest.arrays.items()}
        return dict(sorted({**dict.fromkeys(self._manifest.groups, GROUP), **arrays}.items()))

    def _unexpected(self) -> list[Problem]:
        expected = {self.path / METADATA, *(self.path / name / METADATA for name in self._nodes())}
        for name, layout in self._manifest.arrays.items():
            expected.update(self.path / name / layout.shard_key(shard) for shard in range(layout.shards))
        found = (as_path(path) for path, _ in files.walk_files(self.path))
        return [Problem("unexpected", path, "is not part of the index") for path in found if path not in expected]


def _read_manifest(path: Path) -> Manifest:
    root = path / METADATA
    if not files.exists(path):
        raise MissingError(f"no index at {path}{_unfinished(path)}")
    if not path.is_dir():
        raise FormatError(f"{path}: not a spann index: it is not a directory")
    if not files.exists(root):
        raise MissingError(f"no index at {path}: the directory has no {METADATA}{_unfinished(path)}")
    return parse_root(files.read_file(root), str(root))


def _unfinished(path: Path) -> str:
    building = path.resolve().with_name(path.resolve().name + BUILDING)
    return f" (but {building} is an index whose build has not finished)" if building.exists() else ""
