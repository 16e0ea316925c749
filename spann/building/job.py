"""What a build or an append is to do, as every stage is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from spann.building.ids import Ids
from spann.building.parallel import ordered_map
from spann.building.sizes import DEFAULT_SIZES, Sizes
from spann.building.space import Space
from spann.config import BuildDecision
from spann.format.postings import Record
from spann.types import Progress
from spann.vectors import VectorSource

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """One build or append.

    - ``source`` has the vectors, ``ids`` their ids, and ``space`` is where they are clustered.
    - ``decision`` has the parameters; ``record`` is the layout of a posting's entries.
    - ``threads`` and ``sizes`` say how the work is done, ``report`` is told of progress.
    """

    source: VectorSource
    space: Space
    decision: BuildDecision
    ids: Ids
    record: Record
    threads: int
    report: Progress
    sizes: Sizes = DEFAULT_SIZES

    def progress(self, stage: str) -> Callable[[int, int], None]:
        """A function that reports (done, total) of `stage`."""
        return lambda done, total: self.report(stage, done, total)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``map(work, items)`` on the threads of the job, results in order."""
        return ordered_map(work, items, self.threads)
