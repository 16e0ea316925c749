"""The directory in which an index is made, with what an earlier process has left there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from spann.building.checkpoint import FILE, Checkpoint, open_checkpoint
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.temporary import RecordFile, State
from spann.store import files
from spann.store.writer import IndexWriter

T = TypeVar("T")

log = logging.getLogger(__name__)


class Workspace:
    """An index under way at `path`: its arrays (`writer`), its `temporary` files and its `checkpoint`.

    A context manager. Entering takes the lock of the index. An earlier process may have left unfinished work there;
    `resume` takes it over, and until then it stays as it is. Leaving without a publication removes what was made.
    An error is the exception: work that has a mark in the checkpoint stays, and a note on the error says so.

    The constructor and entering raise as `IndexWriter` does.
    """

    def __init__(
        self, path: Path | str, *, created_by: str, overwrite: bool = False, sizes: Sizes = DEFAULT_SIZES
    ) -> None:
        self.writer = IndexWriter(
            path, created_by=created_by, overwrite=overwrite, resumes=True, shard_bytes=sizes.shard_bytes
        )
        self.path, self.temporary = self.writer.path, self.writer.temporary
        self.created_by, self.sizes = created_by, sizes
        self._files = ExitStack()
        self._checkpoint: Checkpoint | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint of this work, after `resume`."""
        assert self._checkpoint is not None, "the work was not resumed"
        return self._checkpoint

    def identity(self) -> dict[str, str]:
        """What the work begins with, for the checkpoint to know it again."""
        return {}

    def resume(
        self,
        work: str,
        about: Mapping[str, Any],
        *,
        command: str,
        files: Mapping[str, tuple[str, ...]],
        arrays: Mapping[str, str] | None = None,
        restart: bool = False,
    ) -> Checkpoint:
        """Takes over the marks of an earlier process that did the same work, and removes everything else it left.

        `work` (such as "append") and `about` (JSON) identify the work, together with the program and `identity`.
        `command` is what the user repeats to finish it. A mark of a stage speaks of the temporary files
        `files[stage]`, names or patterns, and of the array `arrays[stage]`. Raises `InputError` if the work there is
        another; `restart` removes it instead."""
        self._checkpoint = checkpoint = open_checkpoint(
            self.temporary,
            {"program": self.created_by, "work": work, **self.identity(), **about},
            files,
            command=command,
            restart=restart,
            sizes=self.sizes,
        )
        if checkpoint.begun:
            log.info("%s resumes what an earlier run has done; marked are: %s", command, ", ".join(checkpoint.stages))
        self.writer.clear(but=[name for stage, name in (arrays or {}).items() if checkpoint.of(stage)])
        return checkpoint

    def hold(self, opened: AbstractContextManager[T]) -> T:
        """Enters `opened`; it is left at the end of the work, or by `let_go`."""
        return self._files.enter_context(opened)

    def records(
        self, name: str, dtype: DTypeLike, shape: Sequence[int] = (), *, state: State | None = None
    ) -> RecordFile:
        """The temporary file `name` with records of `dtype` and `shape`, new or with the `state` of a mark."""
        return self.hold(RecordFile(self.temporary / name, np.dtype(dtype), shape, state))

    def let_go(self) -> None:
        """Leaves all that is held, in reverse order."""
        self._files.close()

    def __enter__(self) -> Self:
        self.writer.__enter__()
        self.writer.keep = files.exists(self.temporary / FILE)  # it may be of other work
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.let_go()
        if self._checkpoint is not None:
            writer = self.writer
            writer.keep = error is not None and self._checkpoint.begun and not writer.published
            if error is not None and writer.keep:
                error.add_note(
                    f"what is done is kept in {writer.work}: the same command resumes it, or starts anew with --restart"
                )
        self.writer.__exit__(kind, error, tb)
