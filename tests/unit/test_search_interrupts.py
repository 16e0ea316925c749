"""Searches that end early leave the index as good as before."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

import spann
from spann.measuring.exact import exact_search
from spann.search.workers import Stop, StoppedError, Workers
from spann.testing import clustered
from spann.vectors import open_source

ALL = spann.SearchParams(max_postings=2**31, rerank=2**31, error_bound=1e6)
PATIENCE = 2.0
"""Seconds; the machine may be busy. What is interrupted takes many times as long."""


@pytest.fixture(scope="module", params=[4, 0], ids=["codes", "classic"])
def index(request, tmp_path_factory):
    base, _ = clustered(20_000, 16, 1, 3)
    path = tmp_path_factory.mktemp("interrupts") / "i"
    params = spann.BuildParams(code_bits=request.param, calibration_queries=0)
    with spann.build(base, path, params=params) as found:
        yield found


@pytest.fixture(scope="module")
def queries():
    return clustered(100, 16, 50_000, 3)[1]


@contextmanager
def interrupted(after: float = 0.1) -> Iterator[None]:
    """Sends the process a SIGINT, which must end the block in time."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs aside may ignore it
    timer = threading.Timer(after, send)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        assert time.monotonic() - sent[0] < PATIENCE
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("order", ["query", "posting"])
def test_an_interrupt_ends_a_batch(index, queries, threads, order):
    before = index.search(queries[:20], 10, ALL)
    with interrupted():
        index.search(queries, 10, ALL, threads=threads, order=order)
    after = index.search(queries[:20], 10, ALL, threads=threads, order=order)
    np.testing.assert_array_equal(before.ids, after.ids)


def test_an_interrupt_ends_exact_search():
    rng = np.random.default_rng(0)
    base = open_source(rng.standard_normal((60_000, 64)).astype(np.float32))
    with interrupted():
        exact_search(base, rng.standard_normal((20_000, 64)).astype(np.float32), 10, "l2", threads=2)


def test_an_interrupt_ends_one_query(index, queries):
    with interrupted(0.05):
        while True:
            index.search(queries[:1], 20_000, ALL, threads=1)


def test_an_interrupt_ends_ranges_and_iterations(index, queries):
    with interrupted():
        index.search_range(queries, 1e6, params=ALL)
    with interrupted(0.05):
        while True:
            for _ in index.iterate(queries[0], params=ALL):
                pass


def test_closing_ends_searches(index, queries):
    with spann.open(index.path) as mine:
        ends: list[BaseException] = []

        def search(threads: int) -> None:
            try:
                mine.search(queries, 10, ALL, threads=threads)
            except BaseException as error:
                ends.append(error)

        searches = [threading.Thread(target=search, args=(threads,)) for threads in (1, 2)]
        for one in searches:
            one.start()
        time.sleep(0.1)
        start = time.monotonic()
        mine.close()
        for one in searches:
            one.join()
        assert time.monotonic() - start < PATIENCE
    assert [type(end) for end in ends] == [spann.InputError] * 2
    assert all("was closed during the search" in str(end) for end in ends)
    with pytest.raises(spann.InputError, match="the index is closed"):
        mine.search(queries[:1], 1)


def test_a_cancelled_task_ends_its_thread(index, queries):
    async def task() -> None:
        await asyncio.wait_for(index.search_async(queries, 10, params=ALL), 0.1)

    start = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(task())
    assert time.monotonic() - start < PATIENCE


def test_an_error_of_one_thread_stops_the_others():
    workers, stop = Workers(), Stop()
    stopped = threading.Event()

    class Asked:
        """As a native search that looks at its stop."""

        def set(self) -> None:
            stopped.set()
            stop.set()

    first = threading.Lock()

    def work() -> None:
        if first.acquire(blocking=False):
            raise OSError("of one")
        assert stopped.wait(10)
        raise StoppedError

    with pytest.raises(OSError, match="of one"):
        workers.run(work, 3, Asked(), brief=False)
    workers.close()


def test_a_damaged_posting_ends_the_batch_of_all_threads(tmp_path, queries):
    base, _ = clustered(3000, 16, 1, 3)
    params = spann.BuildParams(code_bits=0, calibration_queries=0)
    with spann.build(base, tmp_path / "i", params=params) as index:
        pages = tmp_path / "i" / "postings" / "pages" / "c" / "0" / "0"
        with pages.open("r+b") as file:
            file.write(bytes(8192))
        for threads in (1, 2):
            start = time.monotonic()
            with pytest.raises(spann.CorruptionError, match="damaged"):
                index.search(queries, 100, ALL, threads=threads, order="query")
            assert time.monotonic() - start < PATIENCE


def test_interrupts_at_any_place_leave_the_threads_at_work():
    """Many of them, some while a search begins or ends."""
    workers = Workers()
    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for i in range(300):
            sender = threading.Timer(0.0002 * (i % 10), os.kill, (os.getpid(), signal.SIGINT))
            sender.daemon = True
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                sender.start()
                while True:
                    workers.run(lambda: done.append(1), 3, Stop(), brief=False)
            sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    count = len(done)
    workers.run(lambda: done.append(1), 3, Stop(), brief=False)
    assert len(done) >= count + 3
    workers.close()
    with pytest.raises(StoppedError):
        workers.run(lambda: None, 2, Stop(), brief=False)


class Memory:
    """What a search holds."""


@pytest.mark.parametrize("interrupt", [False, True], ids=["stopped", "interrupted"])
def test_an_ended_search_frees_its_memory_without_the_garbage_collector(interrupt):
    workers, caught = Workers(), threading.Event()

    def search(memory: Memory) -> None:
        def work() -> None:
            assert memory
            if interrupt:
                os.kill(os.getpid(), signal.SIGINT)
                caught.wait()
            raise StoppedError

        with suppress(KeyboardInterrupt, StoppedError):
            workers.run(work, 1, Stop(), brief=False)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    try:
        memory = Memory()
        freed = weakref.ref(memory)
        search(memory)
        del memory
        caught.set()
        workers.run(lambda: None, 1, Stop(), brief=False)  # by the same thread, when it has ended the other
        assert freed() is None
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)
        workers.close()
