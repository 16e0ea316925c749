"""Threads that search one index, and what ends their work early: an error of one, or an interrupt of who waits."""

from __future__ import annotations

import _thread
import itertools
import signal
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from spann._kernels import _search

Stop = _search.Stop
_Tasks = SimpleQueue[Callable[[], None] | None]


SIGNAL_SECONDS = 0.05
"""The main thread sees a signal that the system has given to another thread no later."""


class StoppedError(Exception):
    """The work of a thread was ended by a `Stop`; another thread knows why."""


class Workers:
    """Runs native searches on threads that outlive them, and with them their buffers.

    A native call looks at its `Stop` every few microseconds. Signals reach Python in its main thread, between two
    native calls. So what may take long is left to other threads, and the main thread waits: that, an interrupt ends.

    Only locks, queues and threads of C are used: an interrupt at a wrong place in the Python code of a condition or an
    executor leaves another thread with an error, or waiting for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: _Tasks = SimpleQueue()
        self._threads = 0
        self._closed = False
        weakref.finalize(self, self._tasks.put, None)

    def run(self, work: Callable[[], None], threads: int, stop: Stop, *, brief: bool) -> None:
        """Does `work` on `threads` threads; on the calling one, where that is enough and an interrupt can wait for it.

        All have ended when this returns. The first error of one stops the others, and is raised then. An interrupt
        stops all, and is raised at once: they end within milliseconds."""
        if threads == 1 and (brief or threading.current_thread() is not threading.main_thread()):
            work()
            return
        errors: list[BaseException] = []
        waiting = True
        ended = itertools.count(1)
        gate = threading.Lock()
        gate.acquire()

        def one() -> None:
            try:
                work()
            except BaseException as error:
                stop.set()
                errors.append(error)
                if not waiting:
                    errors.clear()
            if next(ended) == threads:
                gate.release()

        try:
            self._hand_out(one, threads)
            while not gate.acquire(timeout=SIGNAL_SECONDS):
                pass
            if errors:
                raise min(errors, key=lambda error: isinstance(error, StoppedError))
        except BaseException:
            stop.set()
            raise
        finally:
            # The traceback of an error leads back to this list. Such a circle would keep what `work` holds, a whole
            # batch, until the garbage collector comes.
            waiting = False
            errors.clear()

    def close(self) -> None:
        """Lets nothing begin any more; the threads end."""
        with self._lock:
            self._closed = True
            self._tasks.put(None)

    def _hand_out(self, task: Callable[[], None], times: int) -> None:
        with self._lock:
            if self._closed:
                raise StoppedError
            while self._threads < times:
                _thread.start_new_thread(_serve, (self._tasks,))
                self._threads += 1
            for _ in range(times):
                self._tasks.put(task)


def _serve(tasks: _Tasks) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for others
    while task := tasks.get():
        task()
        del task  # and what it holds, while nothing is to be done
    tasks.put(None)  # for the next
