"""Work on one batch while the next is read."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the `items`. While the caller works on one, another thread gets the next."""
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
