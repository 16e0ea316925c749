"""Changes an index on disk and repairs every checksum above the change, so that only its content is wrong."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from spann._kernels.checksum import crc32c, crc32c_blocks
from spann.format.json_text import to_json
from spann.format.layout import ArrayLayout
from spann.format.manifest import GROUP, checksum_array, crc_text, groups_of
from spann.format.postings import posting_bytes, posting_span
from spann.store.reader import IndexReader

DIRECTORY = "postings/directory"


class Forgery:
    """A copy of a sound index that is changed again and again, each time from what the sound one is."""

    def __init__(self, sound: Path, path: Path) -> None:
        self.path = path
        shutil.copytree(sound, path)
        reader = IndexReader.open(path)
        self.sound, self._sound_root = sound, (path / "zarr.json").read_bytes()
        self.arrays = {name: reader.read(name) for name in reader.arrays()}
        self.files = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
        self._changed: set[str] = set()
        self.document: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Brings back the sound index."""
        for name in self._changed:
            path, sound = self.path / name, self.sound / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif os.path.lexists(path):
                path.unlink()
            if sound.is_dir():
                shutil.copytree(sound, path)
            elif sound.exists():
                shutil.copyfile(sound, path)
        self._changed = set()
        self.document = json.loads(self._sound_root)

    @property
    def about(self) -> dict[str, Any]:
        """The attribute 'spann', to be changed in place before `seal`."""
        found: dict[str, Any] = self.document["attributes"]["spann"]
        return found

    @property
    def nodes(self) -> dict[str, Any]:
        """Metadata of arrays and groups, by path."""
        found: dict[str, Any] = self.document["consolidated_metadata"]["metadata"]
        return found

    def touch(self, name: str) -> Path:
        """The path of a file, or directory, that is to be changed by hand."""
        self._changed.add(name)
        return self.path / name

    def put(self, name: str, values: np.ndarray[Any, Any], layout: ArrayLayout | None = None) -> None:
        """Writes array `name` anew, with its checksums; the manifest is changed in memory alone."""
        values = np.ascontiguousarray(values)
        crcs = self._write(name, values, layout or ArrayLayout.plan(len(values), values.dtype, values.shape[1:]))
        self._write(checksum_array(name), crcs, ArrayLayout.plan(len(crcs), crcs.dtype, ()))
        self.about["integrity"][name] = crc_text(crcs)
        self._add_groups()

    def remove(self, name: str) -> None:
        """Removes array `name` from the manifest and the disk."""
        for path in (name, checksum_array(name)):
            shutil.rmtree(self.touch(path))
            del self.nodes[path]
        del self.about["integrity"][name]
        self._add_groups()

    def seal_postings(self) -> None:
        """Gives the postings the checksums that the bytes of `arrays` have now, as far as there are such."""
        names = ("page", "offset", "length", "primaries", "crc32c")
        page, offset, length, primaries, crc = (self.arrays[f"{DIRECTORY}/{name}"].copy() for name in names)
        start, end = posting_span(page, offset, posting_bytes(self.about, length, primaries))
        pages = self.arrays["postings/pages"].reshape(-1)
        for p in np.flatnonzero(length):
            crc[p] = crc32c(pages[start[p] : end[p]])
        self.put(f"{DIRECTORY}/crc32c", crc)

    def seal(self) -> None:
        """Writes the manifest with the checksum that it has now."""
        self.about.pop("checksum", None)
        document = copy.deepcopy(self.document)
        document["attributes"]["spann"]["checksum"] = f"{crc32c(_text(document)):08x}"
        self.touch("zarr.json").write_bytes(_text(document))

    def _add_groups(self) -> None:
        arrays = [name for name, node in self.nodes.items() if node != GROUP]
        wanted, there = set(groups_of(arrays)), {name for name, node in self.nodes.items() if node == GROUP}
        for group in wanted - there:
            self.nodes[group] = dict(GROUP)
            path = self.touch(group) / "zarr.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(to_json(GROUP))
        for group in there - wanted:
            del self.nodes[group]
            shutil.rmtree(self.touch(group), ignore_errors=True)

    def _write(self, name: str, values: np.ndarray[Any, Any], layout: ArrayLayout) -> np.ndarray[Any, Any]:
        path = self.touch(name)
        shutil.rmtree(path, ignore_errors=True)
        raw = np.zeros(layout.chunks * layout.chunk_bytes, np.uint8)
        raw[: values.nbytes] = values.reshape(-1).view(np.uint8)
        for shard in range(layout.shards):
            file = path / layout.shard_key(shard)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = raw[shard * layout.shard_bytes :][: layout.shard_chunks(shard) * layout.chunk_bytes]
            file.write_bytes(part.tobytes() + layout.index(shard))
        path.mkdir(parents=True, exist_ok=True)
        (path / "zarr.json").write_bytes(to_json(layout.metadata()))
        self.nodes[name] = layout.metadata()
        return crc32c_blocks(raw, layout.chunk_bytes).astype("<u4") if raw.size else np.zeros(0, "<u4")


def _text(document: Any) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("ascii", errors="backslashreplace")
