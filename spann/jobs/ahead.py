"""Work on one batch while the next is read."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The `items`, of which the next is got, on a thread of its own, while the caller is busy with the one before."""
    end = object()
    source = iter(items)
    with ThreadPoolExecutor(1, "spann-ahead") as pool:
        coming = pool.submit(next, source, end)
        try:
            while (item := coming.result()) is not end:
                coming = pool.submit(next, source, end)
                yield item  # type: ignore[misc]
        finally:
            coming.cancel()
            pool.shutdown()
            if isinstance(source, Generator):
                source.close()
