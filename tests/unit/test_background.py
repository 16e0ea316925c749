"""Work beside other work: when its result is there, and what becomes of it when the other fails."""

from __future__ import annotations

import threading

import pytest

from spann.building.background import Background


def test_the_result_is_settled_once_by_whoever_looks_first():
    done, settled, told = threading.Event(), [], []

    def make(step):
        step(2, 5)
        done.set()
        return "made"

    with Background(make, finished=settled.append, report=lambda *at: told.append(at)) as work:
        assert done.wait(10)
        assert work.result() == "made"
        report = work.watched(lambda *at: told.append(at))
        report("stage", 1, 1)
        assert work.result() == "made"
    assert settled == ["made"]
    assert told == [(2, 5), ("stage", 1, 1)]


def test_at_once_it_is_made_where_it_is_asked_for():
    settled, told, threads = [], [], []

    def make(step):
        threads.append(threading.current_thread())
        step(1, 1)
        return 7

    with Background(make, finished=settled.append, report=lambda *at: told.append(at), at_once=True) as work:
        assert (settled, told, threads) == ([7], [(1, 1)], [threading.current_thread()])
        assert work.result() == 7
    assert settled == [7]


def test_an_error_of_its_own_is_raised_with_the_result():
    def make(step):
        raise OSError("no graph")

    work = Background(make, finished=pytest.fail, report=lambda *_: None)
    with pytest.raises(OSError, match="no graph"), work:
        work.result()


def test_an_error_beside_it_stops_it_at_the_next_step():
    begun, failed, steps = threading.Event(), threading.Event(), []

    def make(step):
        begun.set()
        assert failed.wait(10)
        while True:
            steps.append(1)
            step(0, 1)

    class Work(Background):
        def __exit__(self, *error):
            threading.Timer(0.05, failed.set).start()
            super().__exit__(*error)

    running, work = threading.active_count(), Work(make, finished=pytest.fail, report=lambda *_: None)

    def other():
        with work:
            assert begun.wait(10)
            raise ValueError("other")

    with pytest.raises(ValueError, match="other"):
        other()
    assert len(steps) == 1
    assert threading.active_count() <= running + 1
