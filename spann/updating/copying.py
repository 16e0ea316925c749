"""A copy of a collection at one moment: its index, by links where the file system has them, and its log."""

from __future__ import annotations

from pathlib import Path

from spann.changing.generation import Generation
from spann.format.manifest import RESERVED
from spann.store.log import copy_log, log_of
from spann.store.writer import IndexWriter


def snapshot_index(path: str | Path, target: str | Path, *, created_by: str) -> None:
    """Makes `target` a copy of the collection at `path` as it is now. Nothing that is done to one changes the other.

    Writers wait meanwhile. Raises `ExistsError` if something is at `target`, or another process changes the index."""
    with Generation(path, created_by=created_by) as following, IndexWriter(target, created_by=created_by) as writer:
        old = following.old
        log = log_of(old) if old.collection.updates is not None else None
        if log is not None and log.exists:
            with log.locked():
                copy_log(log, writer.path)  # replaces the log that a killed copy left behind
        for name in old.arrays():
            chunk_bytes = old.layout(name).chunk_bytes
            writer.extend_array(name, old.array(name), old.checksums(name), chunk_bytes=chunk_bytes).finish()
        about = {name: value for name, value in old.attributes.items() if name not in RESERVED}
        writer.publish(about, features=old.attributes["features"], generation=old.attributes["generation"])
