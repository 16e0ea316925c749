"""An interrupted build resumes, and ends with the same bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

import spann
from spann.building import checkpoint
from spann.building.checkpoint import Checkpoint, open_checkpoint
from spann.building.stages import refine
from spann.building.temporary import RecordFile
from spann.errors import CorruptionError, InputError, StorageError
from spann.store import files
from spann.testing import FaultyDisk, PowerCut, PowerCutDisk, ShortDisk, clustered
from tests import builds

BASE, QUERIES = clustered(6000, 16, 10, 1)
PARAMS = {
    "codes": spann.BuildParams(code_bits=2),
    "classic": spann.BuildParams(code_bits=0),
    "replicas": spann.BuildParams(code_bits=2, max_replicas=4),
}
ROOT = Path(__file__).parents[2]

build = partial(builds.build, sizes=builds.MANY)

CHILD = """
import sys, numpy as np, spann
from spann import config
from tests.builds import MANY, build
config.DEFAULT_CALIBRATION = config.FEWEST_CALIBRATION = 0
base, index, bits, replicas, *queries = sys.argv[1:]
params = spann.BuildParams(code_bits=int(bits), max_replicas=int(replicas))
params = params.with_(calibration_queries=int(queries[0])) if queries else params
build(np.load(base), index, params=params, threads=2, sizes=MANY)
"""


class Stopped(Exception):
    pass


def files_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@cache
def whole(kind, count=6000, queries=0):
    """The files of a build that nothing disturbed."""
    params = PARAMS[kind].with_(calibration_queries=queries) if queries else PARAMS[kind]
    with tempfile.TemporaryDirectory() as place:
        build(BASE[:count], Path(place) / "i", params=params, threads=1)
        return files_of(Path(place) / "i")


@cache
def changes(kind, count):
    """Calls of such a build that change the disk."""
    disk, before = PowerCutDisk(10**9), files.system
    files.system = disk
    try:
        with tempfile.TemporaryDirectory() as place:
            build(BASE[:count], Path(place) / "i", params=PARAMS[kind], threads=1)
    finally:
        files.system = before
    return disk.calls


def stop_at(stage, share, seen=None):
    def progress(at, done, total):
        if seen is not None:
            seen.append(at)
        if at == stage and done >= share * total:
            raise Stopped

    return progress


STOPS = [("scan", 0), ("partition", 0.5), ("partition", 1), ("cluster", 0.3), ("cluster", 1), ("assign", 0.5),
         ("assign", 1), ("graph", 1), ("layout", 1), ("write", 0.1), ("write", 0.5), ("write", 1)]  # fmt: skip
ONLY = [("codes", "refine", 0.2), ("codes", "refine", 0.5), ("codes", "refine", 0.8), ("codes", "refine", 1),
        ("codes", "arrange", 0.5), ("replicas", "arrange", 0.5)]  # fmt: skip
"""Stages that only some kinds of index have."""


@pytest.mark.parametrize(("kind", "stage", "share"), [*((kind, *stop) for kind in PARAMS for stop in STOPS), *ONLY])
def test_same_bytes_wherever_it_stopped(tmp_path, content, kind, stage, share):
    with pytest.raises(Stopped) as caught:
        build(BASE, tmp_path / "i", params=PARAMS[kind], progress=stop_at(stage, share), threads=2)
    kept = stage not in ("scan", "partition")
    assert (tmp_path / "i.building").exists() == kept
    assert len(getattr(caught.value, "__notes__", [])) == kept
    seen = []
    build(BASE, tmp_path / "i", params=PARAMS[kind], progress=lambda at, *_: seen.append(at), threads=1)
    assert content(tmp_path / "i") == whole(kind)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i"]
    assert ("partition" in seen) == (not kept)
    if stage in ("layout", "write", "arrange"):
        assert "cluster" not in seen
    if stage == "write":
        assert "graph" not in seen


def test_a_build_stopped_many_times_ends_with_the_same_bytes(tmp_path, content):
    stops = [("cluster", 0.1), ("cluster", 0.4), ("cluster", 0.8), ("assign", 0.2), ("assign", 0.7), ("arrange", 0.4),
             ("arrange", 0.8), ("write", 0.3), ("write", 0.6), ("write", 1)]  # fmt: skip
    expected = whole("replicas")
    for stage, share in stops:
        with pytest.raises(Stopped):
            build(BASE, tmp_path / "i", params=PARAMS["replicas"], progress=stop_at(stage, share))
    build(BASE, tmp_path / "i", params=PARAMS["replicas"])
    assert content(tmp_path / "i") == expected


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize("stage", ["cluster", "refine", "arrange", "write"])
def test_finished_work_is_not_repeated(tmp_path, kind, stage):
    if stage == "arrange" and kind == "classic":
        pytest.skip("vectors in postings are not arranged")
    if stage == "refine" and kind != "codes":
        pytest.skip("representatives are not refined")
    done = []
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=PARAMS[kind], progress=stop_at(stage, 0.7))
    build(
        BASE, tmp_path / "i", params=PARAMS[kind],
        progress=lambda at, n, total: done.append((at, n / total)),
    )  # fmt: skip
    assert min(share for at, share in done if at == stage) > 0.6
    assert stage != "write" or "arrange" not in dict(done)


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize("stage", ["truth", "calibrate"])
def test_the_truth_is_kept(tmp_path, content, kind, stage):
    """Part by part: it is stopped in the fourth of six."""
    params = PARAMS[kind].with_(calibration_queries=40)
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=params, progress=stop_at(stage, 0.6))
    seen = []
    build(BASE, tmp_path / "i", params=params, progress=lambda at, *done: seen.append((at, *done)))
    stages = {at for at, *_ in seen}
    assert ("truth" in stages) == (stage == "truth")
    if stage == "truth":
        assert next(done for at, done, _ in seen if at == "truth") == 4000
    assert not {"arrange", "write"} & stages
    assert content(tmp_path / "i") == whole(kind, queries=40)


def test_parts_of_other_bounds_are_found_again(tmp_path, content):
    params = PARAMS["codes"].with_(calibration_queries=40)
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=params, progress=stop_at("truth", 0.6))
    seen, sizes = [], replace(builds.MANY, truth_rows=1500)
    build(BASE, tmp_path / "i", params=params, progress=lambda at, *done: seen.append((at, *done)), sizes=sizes)
    assert next(done for at, done, _ in seen if at == "truth") <= 1500
    assert content(tmp_path / "i") == whole("codes", queries=40)


def test_a_mark_is_first_due_after_assignment(tmp_path, content, monkeypatch):
    """The mark then includes earlier stages."""
    expected = whole("replicas")
    seen, clock, sizes = set(), [0.0], replace(builds.MANY, mark_seconds=1.0)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])

    def progress(at, done, total):
        seen.add(at)
        if at == "layout":
            clock[0] += 1.0
        if at == "write":
            raise Stopped

    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=PARAMS["replicas"], progress=progress, threads=1, sizes=sizes)
    assert (tmp_path / "i.building" / "temporary" / checkpoint.FILE).exists()
    build(BASE, tmp_path / "i", params=PARAMS["replicas"])
    assert content(tmp_path / "i") == expected


def test_marks_of_a_slow_disk_are_rare(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    marks = checkpoint.Checkpoint(tmp_path, {})

    def mark():
        clock[0] += 0.5
        return {}

    taken = []
    for second in range(101, 141):
        clock[0] = max(clock[0], second)
        before = clock[0]
        marks.reached("write", mark)
        if clock[0] > before:
            taken.append(second)
    assert taken == [101, 112, 123, 134]


@pytest.mark.parametrize("stage", ["scan", "cluster"])
def test_stopping_the_second_time_keeps_what_the_first_did(tmp_path, stage):
    for at, share in (("cluster", 0.5), (stage, 0.0)):
        with pytest.raises(Stopped):
            build(BASE, tmp_path / "i", params=PARAMS["codes"], progress=stop_at(at, share))
    seen = []
    build(BASE, tmp_path / "i", params=PARAMS["codes"], progress=lambda at, *_: seen.append(at))
    assert "partition" not in seen


@pytest.fixture
def unfinished(tmp_path):
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=PARAMS["codes"], progress=stop_at("cluster", 0.5))
    return tmp_path / "i"


@pytest.mark.parametrize("change", ["vectors", "params", "metric", "ids"])
def test_another_build_is_refused(unfinished, content, change):
    base = BASE.copy()
    base[4321, 5] += 1
    arguments = {
        "vectors": {"vectors": base, "params": PARAMS["codes"]},
        "params": {"vectors": BASE, "params": PARAMS["codes"].with_(seed=1)},
        "metric": {"vectors": BASE, "params": PARAMS["codes"], "metric": "cosine"},
        "ids": {"vectors": BASE, "params": PARAMS["codes"], "ids": np.arange(6000) + 5},
    }[change]
    name = {"params": "seed"}.get(change, change)
    before = content(unfinished.with_name("i.building"))
    with pytest.raises(InputError, match=f"unfinished `spann build .*` has done, whose {name} is .* --restart"):
        build(path=unfinished, **arguments)
    assert content(unfinished.with_name("i.building")) == before
    build(path=unfinished, restart=True, **arguments)
    assert spann.verify(unfinished) == []
    assert [p.name for p in unfinished.parent.iterdir()] == ["i"]


@pytest.mark.parametrize("name", ["tree-vectors", "leaves", "means", "tree-rows", "regions-vectors"])
def test_damaged_temporary_files_are_found(unfinished, name):
    path = unfinished.with_name("i.building") / "temporary" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=f"{name}: its first .* are not those that were written"):
        build(BASE, unfinished, params=PARAMS["codes"])
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(CorruptionError, match=f"{name}: .* bytes long, expected at least"):
        build(BASE, unfinished, params=PARAMS["codes"])
    build(BASE, unfinished, params=PARAMS["codes"], restart=True)
    assert spann.verify(unfinished) == []


def test_a_damaged_graph_is_found(tmp_path):
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=PARAMS["codes"], progress=stop_at("write", 0.1))
    path = tmp_path / "i.building" / "temporary" / "graph"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"graph: its first .* are not those that were written"):
        build(BASE, tmp_path / "i", params=PARAMS["codes"])


@pytest.mark.parametrize(("array", "stage"), [("vectors/exact", "arrange"), ("postings/pages", "write")])
def test_damaged_arrays_are_found(tmp_path, array, stage):
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=PARAMS["codes"], progress=stop_at(stage, 0.5))
    path = tmp_path / "i.building" / array / "c" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=f"{array}: its first .* rows are not those that were written"):
        build(BASE, tmp_path / "i", params=PARAMS["codes"])
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(CorruptionError, match=r"c/0/0: .* bytes long, expected at least"):
        build(BASE, tmp_path / "i", params=PARAMS["codes"])
    build(BASE, tmp_path / "i", params=PARAMS["codes"], restart=True)
    assert spann.verify(tmp_path / "i") == []
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


def test_a_build_resumes_after_a_power_cut(unfinished, content):
    """Unsynced data are gone or torn: files longer than the marks say with anything in them, a torn last mark."""
    place = unfinished.with_name("i.building") / "temporary"
    marks = (place / checkpoint.FILE).read_bytes()
    for name in ("tree-vectors", "tree-rows", "leaves", "means"):
        with (place / name).open("ab") as file:
            file.write(os.urandom(12_345))
    (place / checkpoint.FILE).write_bytes(marks + b'01234567 {"stage": "clu')
    (place / "edges-0").write_bytes(b"left over")
    build(BASE, unfinished, params=PARAMS["codes"])
    assert content(unfinished) == whole("codes")


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize("part", range(4))
def test_power_cuts_everywhere(tmp_path, content, monkeypatch, kind, part):
    """At every 24th call that changes the disk, from four starts. The build resumes or begins anew, and ends with the
    same bytes."""
    base = BASE[:700]  # two regions
    expected, went_on = whole(kind, len(base)), 0
    for after in range(6 * part, changes(kind, len(base)), 24):
        place = tmp_path / str(after)
        place.mkdir()
        disk = PowerCutDisk(after, seed=after)
        monkeypatch.setattr(files, "system", disk)
        with pytest.raises(PowerCut):
            build(base, place / "i", params=PARAMS[kind], threads=1)
        disk.restart()
        monkeypatch.setattr(files, "system", PowerCutDisk(10**9))
        went_on += (place / "i.building" / "temporary" / checkpoint.FILE).exists()
        if not (place / "i").exists():
            build(base, place / "i", params=PARAMS[kind], threads=1)
        assert content(place / "i") == expected
        shutil.rmtree(place)
    assert went_on > 3


@pytest.mark.parametrize("kind", PARAMS)
def test_reads_and_writes_cut_short(tmp_path, content, monkeypatch, kind):
    expected = whole(kind, 2500)
    monkeypatch.setattr(files, "system", ShortDisk(1237))
    with pytest.raises(Stopped):
        build(BASE[:2500], tmp_path / "i", params=PARAMS[kind], progress=stop_at("cluster", 0.5), threads=2)
    build(BASE[:2500], tmp_path / "i", params=PARAMS[kind], threads=2)
    assert content(tmp_path / "i") == expected


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize(("name", "code"), [("pwrite", errno.ENOSPC), ("preadv", errno.EIO), ("fsync", errno.EIO)])
def test_a_failing_disk_and_then_a_sound_one(tmp_path, content, monkeypatch, kind, name, code):
    base = BASE[:2500]
    expected, sound, went_on = whole(kind, len(base)), files.system, 0
    for after in range(0, 200, 17):
        disk = FaultyDisk(name, after, code)
        monkeypatch.setattr(files, "system", disk)
        with contextlib.suppress(StorageError):
            build(base, tmp_path / "i", params=PARAMS[kind], threads=1)
        assert disk.failed or (tmp_path / "i").exists()
        went_on += (tmp_path / "i.building").exists()
        monkeypatch.setattr(files, "system", sound)
        if (tmp_path / "i").exists():
            break
    if not (tmp_path / "i").exists():
        build(base, tmp_path / "i", params=PARAMS[kind], threads=1)
    assert content(tmp_path / "i") == expected
    assert went_on > 0


def test_the_checkpoint_ends_at_its_first_bad_line(tmp_path):
    about = {"what": 1}
    one = Checkpoint(tmp_path, about, sizes=builds.MARKS)
    for number in range(3):
        one.reached("a", lambda number=number: {"number": number})
    text = (tmp_path / checkpoint.FILE).read_bytes()
    lines = text.splitlines(keepends=True)
    assert len(lines) == 4
    for cut in (len(text) - 1, len(text) - 10):
        (tmp_path / checkpoint.FILE).write_bytes(text[:cut])
        assert Checkpoint(tmp_path, about).of("a") == {"number": 1}
    (tmp_path / checkpoint.FILE).write_bytes(lines[0] + lines[1].replace(b"0}", b"7}") + lines[2] + lines[3])
    found = Checkpoint(tmp_path, about)
    assert not found.begun
    assert (tmp_path / checkpoint.FILE).read_bytes() == lines[0]
    (tmp_path / "x").write_text("")
    open_checkpoint(tmp_path, about, {"a": ("x",)}, restart=False)
    assert list(tmp_path.iterdir()) == []


def test_record_files_are_continued(tmp_path):
    records = np.arange(100, dtype=np.int32).reshape(50, 2)
    with RecordFile(tmp_path / "f", np.dtype(np.int32), (2,)) as file:
        file.append(records[:20])
        early = file.state()
        file.append(records[20:])
        file.put(10, records[10:12])
        late = file.state()
    assert late["count"] == 50
    with RecordFile(tmp_path / "f", np.dtype(np.int32), (2,), late) as file:
        np.testing.assert_array_equal(file.read(0, 50), records)
    with RecordFile(tmp_path / "f", np.dtype(np.int32), (2,), early) as file:
        assert file.count == 20
        file.append(records[20:])
        assert file.state() == late


@pytest.mark.parametrize(("bits", "replicas"), [(2, 1), (0, 5)])
def test_killed_at_random_times(tmp_path, content, bits, replicas):
    """`kill -9` of a process, ten rounds each."""
    rng = random.Random(bits)
    np.save(tmp_path / "base.npy", BASE)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "base.npy"), str(tmp_path / "i"), str(bits), str(replicas)]
    command.append("20")  # a short calibration
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = time.monotonic()
    subprocess.run([*command[:4], str(tmp_path / "whole"), *command[5:]], check=True, env=environment)
    seconds = time.monotonic() - begin
    expected, went_on = content(tmp_path / "whole"), 0
    for _ in range(10):
        with subprocess.Popen(command, env=environment) as process:
            time.sleep(seconds * rng.uniform(0.3, 1.0))
            process.send_signal(signal.SIGKILL)
        place = tmp_path / "i.building" / "temporary" / checkpoint.FILE
        went_on += place.exists()
        if (tmp_path / "i").exists():
            assert content(tmp_path / "i") == expected
            spann.verify(tmp_path / "i")
            subprocess.run(["rm", "-r", str(tmp_path / "i")], check=True)
    assert went_on > 0, "never stopped in the middle"
    if not (tmp_path / "i").exists():
        subprocess.run(command, check=True, env=environment)
    assert content(tmp_path / "i") == expected


@pytest.mark.parametrize(("stage", "share", "passes"), [("refine", 0.3, 2), ("refine", 0.8, 1), ("assign", 0.5, 0)])
def test_means_of_cells_are_kept(tmp_path, content, monkeypatch, stage, share, passes):
    expected = whole("codes")
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=PARAMS["codes"], progress=stop_at(stage, share))
    means, made = refine._means, []
    monkeypatch.setattr(refine, "_means", lambda *about: made.append(means(*about)) or made[-1])
    build(BASE, tmp_path / "i", params=PARAMS["codes"])
    assert len(made) == passes
    assert content(tmp_path / "i") == expected


@pytest.mark.parametrize("removing", ["what a finished build leaves", "what is not gone on with"])
def test_killed_while_files_are_removed(tmp_path, content, removing):
    """No checkpoint may outlive the files that it names."""
    with pytest.raises(Stopped):
        build(BASE, tmp_path / "i", params=PARAMS["codes"], progress=stop_at("refine", 0.8))
    np.save(tmp_path / "base.npy", BASE)
    if removing == "what a finished build leaves":
        die = (
            "tree = files.remove_tree\n"
            "def remove(path):\n"
            "    here = sorted(path.path.iterdir(), key=lambda each: each.name == checkpoint.FILE)\n"
            "    for each in here[:3]: each.unlink()\n"
            "    os._exit(9)\n"
            "files.remove_tree = remove\n"
        )
    else:
        die = "file = files.remove_file\nfiles.remove_file = lambda path: (file(path), os._exit(9))\n"
    restart = removing == "what is not gone on with"
    script = "import os\nfrom spann.building import checkpoint\nfrom spann.store import files\n" + die + CHILD
    script = script.replace("threads=2", f"threads=2, restart={restart}")
    command = [sys.executable, "-c", script, "base.npy", "i", "2", "1"]
    assert subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 9
    if (tmp_path / "i").exists():
        assert spann.verify(tmp_path / "i") == []
        shutil.rmtree(tmp_path / "i")
    build(BASE, tmp_path / "i", params=PARAMS["codes"])
    assert content(tmp_path / "i") == whole("codes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.npy", "i"]


def test_the_command_names_the_kept_work_and_resumes(tmp_path):
    np.save(tmp_path / "base.npy", BASE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = (
        "import functools; import spann.functions; from spann import config; from tests.builds import MANY; "
        "config.DEFAULT_CALIBRATION = config.FEWEST_CALIBRATION = 0; "
        "spann.functions.build_index = functools.partial(spann.functions.build_index, sizes=MANY); "
        "from spann.cli import main; main()"
    )
    build = [sys.executable, "-c", script, "build", "base.npy", "i", "--code-bits", "2", "--progress", "json"]
    with subprocess.Popen(build, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if json.loads(line)["stage"] == "cluster":
                process.kill()
                break
    other = subprocess.run([*build, "--seed", "3"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert other.returncode == 2
    assert "unfinished `spann build base.npy i` has done, whose seed is 0, not 3" in other.stderr
    assert subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    assert spann.verify(tmp_path / "i") == []
