"""Opening and verifying an index directory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spann.errors import CorruptionError, FormatError, MissingError, SpannError, StorageError
from spann.format.collection import Collection
from spann.format.json_text import to_json
from spann.format.layout import ArrayLayout
from spann.format.manifest import LARGEST_MANIFEST, Manifest, checksum_array, crc_text, parse_root
from spann.store import files
from spann.store.arrays import METADATA, Problem, ShardedArray
from spann.store.places import Directory, Place, as_path
from spann.store.publishing import BUILDING
from spann.store.stored import read_stored, walk
from spann.types import Array

REPLACED = 100
"""Times that an index may be replaced while it is opened, one after another, before that is given up."""

T = TypeVar("T")


class IndexReader:
    """An index on disk, read-only. Holds its directory open and no file; any thread may call.

    All that it reads is of the index that it opened, also while another takes the place at the path. Files of the old
    one are removed then, so that what is not read yet may be missing: see `on_current`.
    """

    def __init__(self, directory: Directory, manifest: Manifest) -> None:
        """Takes the manifest on trust; `open` is the way in that reads and checks it."""
        self.path = directory.path
        self._directory, self._manifest = directory, manifest

    @classmethod
    def open(cls, path: Path | str) -> IndexReader:
        """Reads and checks the manifest of the index at `path`; arrays are checked when they are opened.

        Raises `MissingError` when there is no index, `FormatError` for something else or something newer, and
        `CorruptionError` for a damaged manifest.
        """
        path = Path(path).absolute()  # and the same one after a change of the working directory
        for _ in range(REPLACED):
            directory = _open_directory(path)
            try:
                return cls(directory, _read_manifest(directory))
            except SpannError:
                if directory.is_current():
                    raise
        raise _too_often(path)

    def close(self) -> None:
        """Lets go of the directory: no array can be read from then on, but all else is at hand."""
        self._directory.close()

    def is_current(self) -> bool:
        """Whether this is still the index at the path."""
        return self._directory.is_current()

    @cached_property
    def collection(self) -> Collection:
        """What the manifest says of the collection, once it is sure that the arrays are those that belong to it.

        Raises `FormatError` for an entry or an array that breaks docs/FORMAT.md."""
        where = str(self.path / METADATA)
        found = Collection.parse(self.attributes, where)
        found.check_arrays({name: self._manifest.arrays[name] for name in self.arrays()}, where)
        return found

    @property
    def attributes(self) -> dict[str, Any]:
        """The attribute 'spann': what the writer was given to keep, beside the format's own entries."""
        return self._manifest.attributes

    def arrays(self) -> list[str]:
        """Names of the arrays, sorted; the checksum arrays are not among them."""
        return sorted(self._manifest.data_arrays)

    def array(self, name: str) -> ShardedArray:
        """Opens one array, checking the size and index of each of its shards (see `ShardedArray.open`)."""
        return ShardedArray.open(self._directory / name, self.layout(name))

    def layout(self, name: str) -> ArrayLayout:
        """Shape, type and cut of one array, as the manifest has them. `FormatError` where there is none."""
        if name not in self._manifest.arrays:
            raise FormatError(f"{self.path}: the index has no array {name!r}; it has {', '.join(self.arrays())}")
        return self._manifest.arrays[name]

    def _array(self, name: str) -> ShardedArray:
        return ShardedArray(self._directory / name, self.layout(name))

    def checksums(self, name: str) -> NDArray[np.uint32]:
        """The CRC-32C of each chunk of array `name`, (chunks,) uint32, itself verified."""
        stored = self._array(checksum_array(name))
        if stored.dtype != np.dtype("<u4") or stored.row_shape:
            raise FormatError(f"{stored.path}: checksums are {stored.dtype} {stored.row_shape}, expected uint32 ()")
        if stored.rows != self.layout(name).chunks:
            raise FormatError(f"{stored.path}: {stored.rows} checksums, expected one for each chunk of {name}")
        values: NDArray[np.uint32] = stored.read_all()
        if crc_text(values) != self._manifest.attributes["integrity"][name]:
            raise CorruptionError(f"{stored.path}: the checksums of {name} do not match their own checksum")
        return values

    def read(self, name: str) -> Array:
        """The whole of array `name`, every byte verified. Raises as `ShardedArray.read_all` does."""
        return self._array(name).read_all(self.checksums(name))

    def disk_bytes(self) -> int:
        """Bytes of all files of the index."""
        arrays = sum(layout.stored_bytes for layout in self._manifest.arrays.values())
        return arrays + len(self._manifest.text()) + sum(len(to_json(node)) for node in self._manifest.nodes().values())

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
        """Reads every byte of the index and returns all that is wrong; empty when nothing is.

        `progress` is told (bytes read, bytes in all), checksums and metadata not counted. Damage is never raised, so
        that one bad file hides no other; only an index directory that cannot be listed is.
        """
        text = self._manifest.text()
        problems = self._verify_metadata("", text, "is not in the form of JSON that docs/FORMAT.md asks for")
        for name, metadata in self._manifest.nodes().items():
            problems += self._verify_metadata(
                name, to_json(metadata), f"differs from what {self.path / METADATA} says of it"
            )
        stored = {name: self._array(name) for name in self.arrays()}
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
        stored = self._array(path)
        problems = list(stored.verify())
        if problems:
            return problems, None
        try:
            return [], self.checksums(name)
        except SpannError as error:
            # One checksum covers the whole array, so the file can be named only where there is but one.
            place = stored.shard_path(0) if stored.layout.shards == 1 else stored.path
            return [Problem.of(error, place)], None

    def _verify_metadata(self, name: str, expected: bytes, otherwise: str) -> list[Problem]:
        """Whether a node's own zarr.json is, byte for byte, what it must be."""
        place = self._directory / f"{name}/{METADATA}".lstrip("/")
        try:
            if read_stored(place, LARGEST_MANIFEST) != expected:
                return [Problem("damaged", place.path, otherwise)]
        except SpannError as error:
            return [Problem.of(error, place)]
        return []

    def _unexpected(self) -> list[Problem]:
        """All that lies in the directory and does not belong there."""
        found = (as_path(place) for place in walk(Place(self._directory, ())))
        strange = (path for path in found if not self._belongs(path.relative_to(self.path).as_posix()))
        return [Problem("unexpected", path, "is not part of the index") for path in strange]

    def _belongs(self, name: str) -> bool:
        """Whether a file of this name is a shard of an array, or the metadata of a node."""
        node, _, last = name.rpartition("/")
        if last == METADATA:
            return node == "" or node in self._manifest.arrays or node in self._manifest.groups
        array, found, key = name.partition("/c/")
        layout = self._manifest.arrays.get(array) if found else None
        number = key.split("/")[0]
        if layout is None or not number.isascii() or not number.isdigit() or len(number) > 20:
            return False
        shard = int(number)
        return shard < layout.shards and f"c/{key}" == layout.shard_key(shard)


def on_current(
    path: Path | str, work: Callable[[IndexReader], T], sound: Callable[[T], bool] = lambda found: True
) -> T:
    """What `work` makes of the index at `path`; once more where it fails, or its result is not `sound`, while another
    index took the place. Raises what `work` and `IndexReader.open` do."""
    for _ in range(REPLACED):
        reader = IndexReader.open(path)
        try:
            found = work(reader)
            if sound(found) or reader.is_current():
                return found
        except SpannError:
            if reader.is_current():
                raise
    raise _too_often(Path(path))


def _too_often(path: Path) -> StorageError:
    return StorageError(f"{path}: was replaced {REPLACED} times while it was read: try again when nothing changes it")


def _open_directory(path: Path) -> Directory:
    if not files.exists(path):
        raise MissingError(f"no index at {path}{_unfinished(path)}")
    if not path.is_dir():
        raise FormatError(f"{path}: not a spann index: it is not a directory")
    return Directory.to_read(path)


def _read_manifest(directory: Directory) -> Manifest:
    path = directory.path
    try:
        data = read_stored(directory / METADATA, LARGEST_MANIFEST)
    except MissingError:
        raise MissingError(f"no index at {path}: the directory has no {METADATA}{_unfinished(path)}") from None
    return parse_root(data, str(path / METADATA))


def _unfinished(path: Path) -> str:
    building = path.resolve().with_name(path.resolve().name + BUILDING)
    return f" (but {building} is an index whose build has not finished)" if building.exists() else ""
