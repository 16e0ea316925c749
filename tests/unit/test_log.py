"""The write log: what was acknowledged is read back, what was not is cut off, and damage is never passed over."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spann._kernels.checksum import crc32c
from spann.errors import CorruptionError, ExistsError, FormatError, InputError, MissingError, SpannError, StorageError
from spann.format.log import DELETE, FRAME_BYTES, HEADER_BYTES, MARK_OFFSET, PUT, Frame, encode_mark
from spann.store import files
from spann.store.log import Log, LogRewoundError, create_log
from spann.testing import FaultyDisk, PowerCut, PowerCutDisk

LINEAGE = "0badcafe"
DTYPE = np.dtype(np.float32)
WIDTH = 3


def opened(place: Path, first: int = 1) -> Log:
    return Log(place / "i", LINEAGE, first, DTYPE, WIDTH)


def put(*ids: int) -> Frame:
    vectors = np.arange(WIDTH * len(ids), dtype=np.float32).reshape(-1, WIDTH) + ids[0]
    return Frame(PUT, 0, np.array(ids, np.int64), vectors)


def delete(*ids: int) -> Frame:
    return Frame(DELETE, 0, np.array(ids, np.int64))


def write(log: Log, *frames: Frame) -> list[Frame]:
    with log.locked():
        log.poll()
        return log.append(frames)


def told(frames: list[Frame]) -> list[tuple]:
    return [(f.kind, f.sequence, f.ids.tolist(), None if f.vectors is None else f.vectors.tolist()) for f in frames]


@pytest.fixture
def place(tmp_path):
    create_log(tmp_path / "i", LINEAGE, 1)
    return tmp_path


def file_of(place: Path, number: int = 1) -> Path:
    return place / "i.log" / f"{number:010d}"


def test_frames_are_read_back_by_everyone(place):
    writer, reader = opened(place), opened(place)
    first = write(writer, put(5, 7), delete(5))
    assert [frame.sequence for frame in first] == [1, 2]
    assert told(reader.poll()) == told(first)
    assert reader.poll() == []
    other = opened(place)
    second = write(other, put(2**62))
    assert [frame.sequence for frame in second] == [3]
    assert told(reader.poll()) == told(writer.poll()) == told(second)
    assert told(opened(place).poll()) == told(first + second)


def test_files_follow_each_other(place):
    log = opened(place)
    written = write(log, put(1))
    for number in (2, 3):
        with log.locked():
            log.poll()
            assert log.rotate() == number
            assert log.rotate() == number  # an empty file stays the last
        written += write(log, put(number), delete(1))
    assert told(opened(place).poll()) == told(written)
    assert told(opened(place, 3).poll()) == told(written[3:])
    with log.locked():
        log.poll()
        log.remove_before(3)
    assert sorted(p.name for p in (place / "i.log").iterdir()) == ["0000000003", "lock"]
    with pytest.raises(MissingError, match="0000000001"):
        opened(place).poll()


@pytest.mark.parametrize("end", [1, 17, FRAME_BYTES, FRAME_BYTES + 9])
def test_a_torn_end_is_cut_off_by_the_next_writer(place, end):
    whole = write(opened(place), put(1, 2))
    whole_bytes = file_of(place).read_bytes()
    write(opened(place), put(3))
    torn = file_of(place).read_bytes()[: len(whole_bytes) + end]
    file_of(place).write_bytes(torn[:MARK_OFFSET] + encode_mark(len(whole_bytes)) + torn[HEADER_BYTES:])
    reader = opened(place)
    assert told(reader.poll()) == told(whole)
    again = write(opened(place), delete(2))
    assert told(reader.poll()) == told(again)
    assert told(opened(place).poll()) == told(whole + again)


def test_every_length_and_every_flipped_byte_is_found_or_does_no_harm(place):
    log = opened(place)
    whole = write(log, put(1, 2))
    whole += write(log, delete(1))
    whole += write(log, put(9))
    sound = file_of(place).read_bytes()
    damaged = [sound[:length] for length in range(len(sound))]
    damaged += [sound[:at] + bytes([sound[at] ^ 16]) + sound[at + 1 :] for at in range(len(sound))]
    said: list[str] = []
    for data in damaged:
        file_of(place).write_bytes(data)
        try:
            found = told(opened(place).poll())
        except SpannError as error:
            said.append(str(error))
        else:
            assert found == told(whole)
    assert all(str(file_of(place)) in message for message in said)
    assert len(said) >= len(damaged) - (HEADER_BYTES - MARK_OFFSET)


def test_damage_inside_names_file_and_byte(place):
    log = opened(place)
    write(log, put(1))
    at = file_of(place).stat().st_size
    write(log, put(2))
    data = bytearray(file_of(place).read_bytes())
    data[at + FRAME_BYTES] ^= 1
    file_of(place).write_bytes(data)
    with pytest.raises(CorruptionError, match=rf"0000000001: frame 2 at byte {at} is damaged"):
        opened(place).poll()
    assert [problem.kind for problem in opened(place).problems()] == ["damaged"]


def test_damage_in_a_file_that_is_not_the_last_is_found(place):
    log = opened(place)
    write(log, put(1), put(2))
    with log.locked():
        log.poll()
        log.rotate()
    write(log, put(3))
    data = file_of(place).read_bytes()
    file_of(place).write_bytes(data[:-1])
    with pytest.raises(CorruptionError, match="frame 2 is missing or damaged"):
        opened(place).poll()


def test_another_log_is_refused(place, tmp_path_factory):
    write(opened(place), put(1))
    with pytest.raises(FormatError, match="belongs to another index"):
        Log(place / "i", "00000001", 1, DTYPE, WIDTH).poll()
    with pytest.raises(CorruptionError, match="it needs 16 for each"):
        Log(place / "i", LINEAGE, 1, DTYPE, 2).poll()
    file_of(place).rename(file_of(place, 2))
    with pytest.raises(FormatError, match="expected file 2"):
        Log(place / "i", LINEAGE, 2, DTYPE, WIDTH).poll()


def test_swapped_frames_are_found(place):
    log, ends = opened(place), [HEADER_BYTES]
    for number in (1, 2):
        write(log, put(number))
        ends.append(file_of(place).stat().st_size)
    data = file_of(place).read_bytes()
    a, b, c = ends
    file_of(place).write_bytes(data[:a] + data[b:c] + data[a:b])
    with pytest.raises(CorruptionError, match="frame 2 stands where frame 1 belongs"):
        opened(place).poll()


def test_a_newer_log_is_refused(place):
    data = bytearray(file_of(place).read_bytes())
    data[8] = 2
    data[32:36] = crc32c(bytes(data[:32])).to_bytes(4, "little")
    file_of(place).write_bytes(data)
    with pytest.raises((FormatError, CorruptionError)):
        opened(place).poll()


def test_an_index_copied_alone_has_no_operations(tmp_path):
    log = opened(tmp_path)
    assert (log.exists, log.poll(), log.bytes(), list(log.problems())) == (False, [], 0, [])
    with pytest.raises(MissingError, match="log of the index is missing"), log.locked():
        pass


def test_only_the_holder_of_the_lock_writes(place):
    with pytest.raises(InputError, match="only the holder"):
        opened(place).append([put(1)])
    with opened(place).locked(), pytest.raises(ExistsError, match=r"held this lock for 0\.05 s"):
        opened(place).locked(0.05).__enter__()


def test_files_that_are_not_logs_stay(tmp_path):
    (tmp_path / "i.log").mkdir()
    (tmp_path / "i.log" / "mine").write_text("keep")
    with pytest.raises(ExistsError, match="holds 'mine', which no log does"):
        create_log(tmp_path / "i", LINEAGE, 1)
    (tmp_path / "i.log" / "mine").unlink()
    create_log(tmp_path / "i", LINEAGE, 4)
    assert opened(tmp_path, 4).poll() == []


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_write_that_fails_is_told_and_the_next_begins_a_file(place, monkeypatch, name):
    log = opened(place)
    kept = write(log, put(1))
    disk = FaultyDisk(name, 0, errno.EIO)
    with monkeypatch.context() as patch:
        patch.setattr(files, "system", disk)
        if name == "fsync":  # which the faulty disk leaves out of the others
            disk.name = "fsync"
        with pytest.raises(StorageError, match="may or may not be in the log"):
            write(log, put(2))
    kept += write(log, put(3))
    assert told(opened(place).poll()) == told(kept)
    assert file_of(place, 2).exists()


def test_a_reader_of_what_was_given_up_begins_anew(place, monkeypatch):
    writer, reader = opened(place), opened(place)
    write(writer, put(1))
    read = []

    class Disk:
        """Its fsync fails, after somebody has read what was written."""

        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, fd):
            read.extend(reader.poll())
            raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(files, "system", Disk())
        with pytest.raises(StorageError):
            write(writer, put(2))
    assert [frame.sequence for frame in read] == [1, 2]
    assert write(writer, put(3))[0].sequence == 2
    with pytest.raises(LogRewoundError):
        reader.poll()
    assert [frame.ids.tolist() for frame in opened(place).poll()] == [[1], [3]]


def _put_many(place: str, first: int) -> None:
    log = opened(Path(place))
    for number in range(20):
        write(log, put(first + number))


def test_processes_wait_for_each_other(place):
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_put_many, args=(str(place), 100 * n)) for n in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    found = opened(place).poll()
    assert sorted(int(frame.ids[0]) for frame in found) == [100 * n + i for n in range(4) for i in range(20)]
    assert [frame.sequence for frame in found] == list(range(1, 81))


def _work(place: Path, said: list[int]) -> None:
    """Writes, rotates and removes; notes the number of frames that were acknowledged."""
    log = opened(place)
    for number in range(6):
        write(log, put(number), delete(number))
        said[0] = 2 * number + 2
        if number % 2:
            with log.locked():
                log.poll()
                log.rotate()


def test_a_power_cut_at_every_call_loses_nothing_that_was_acknowledged(tmp_path, monkeypatch):
    after, done = 0, False
    while not done:
        place = tmp_path / str(after)
        place.mkdir()
        create_log(place / "i", LINEAGE, 1)
        disk, said = PowerCutDisk(after, seed=after), [0]
        with monkeypatch.context() as patch:
            patch.setattr(files, "system", disk)
            try:
                _work(place, said)
                done = True
            except PowerCut:
                pass
        disk.restart()
        found = opened(place).poll()
        assert said[0] <= len(found) <= said[0] + 2
        write(opened(place), put(77))
        assert opened(place).poll()[-1].ids.tolist() == [77]
        after += 1
    assert after > 20


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete", "rotate", "cut"]), st.lists(st.integers(0, 2**63 - 1), min_size=1)),
        max_size=12,
    )
)
def test_any_history_is_read_back(tmp_path_factory, steps):
    place = tmp_path_factory.mktemp("log")
    create_log(place / "i", LINEAGE, 1)
    log, reader, expected, seen = opened(place), opened(place), [], []
    for before, (kind, ids) in zip([("", []), *steps], steps, strict=False):
        if kind == "cut" == before[0]:
            continue
        if kind == "rotate":
            with log.locked():
                log.poll()
                log.rotate()
        elif kind == "cut":  # a writer dies in the middle
            last = max(p for p in (place / "i.log").iterdir() if p.name != "lock")
            with last.open("ab") as file:
                file.write(put(1).encode()[: ids[0] % 60])
        else:
            frame = Frame(PUT, 0, np.array(ids), np.zeros((len(ids), WIDTH), DTYPE)) if kind == "put" else delete(*ids)
            expected += write(log, frame)
        seen += reader.poll()
    assert told(seen) == told(expected) == told(opened(place).poll())
