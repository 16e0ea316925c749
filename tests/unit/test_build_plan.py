"""The plan of a build: its predictions, and the refusal of builds that cannot fit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import spann
from spann.building import plan
from spann.building.sizes import Sizes
from spann.building.stages.partition import Partition, partition
from spann.building.stages.scan import scan
from spann.config import parse_size
from spann.errors import InputError
from spann.store import files
from spann.testing import clustered
from spann.types import Metric
from spann.vectors import ArraySource, open_source
from tests import builds

BASE, QUERIES = clustered(30_000, 32, 50, 1)


CLOSURE = {"code_bits": 2, "max_replicas": 8, "centroids": 0.03}


@pytest.mark.parametrize("settings", [{}, {"code_bits": 1}, {"code_bits": 0, "max_replicas": 1}, CLOSURE])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_sizes_are_predicted(tmp_path, settings, metric):
    """With replicas, whose number the data decide, it is the most that is predicted: these data have low dimension."""
    params = spann.BuildParams(**settings)
    planned = spann.plan(BASE, metric=metric, params=params)
    with spann.build(BASE, tmp_path / "i", metric=metric, params=params) as index:
        info = index.info()
    assert planned.centroids == pytest.approx(info["centroids"], rel=0.01)
    assert info["disk_bytes"] <= 1.25 * planned.disk_bytes
    if params.max_replicas in (None, 1):
        assert planned.disk_bytes == pytest.approx(info["disk_bytes"], rel=0.25)
        assert planned.open_memory_bytes == pytest.approx(info["open_memory_bytes"], rel=0.25)
    assert info["open_memory_bytes"] <= 1.25 * planned.open_memory_bytes
    with spann.open(tmp_path / "i", memory_budget="none") as index:
        assert planned.open_memory_least == pytest.approx(index.open_memory_bytes, rel=0.3)


CHILD = """
import sys
import spann
params = spann.BuildParams(code_bits=int(sys.argv[1]), calibration_queries=2000)
spann.build("base.npy", "i", params=params, threads=2, memory_limit="2GiB").close()
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")))
"""


@pytest.mark.parametrize("bits", [2, 0])
def test_peak_memory_is_predicted(tmp_path, bits):
    """Wide vectors with a calibration: its truth once took more memory than planned. So few vectors leave some threads,
    and their memory, unused."""
    np.save(tmp_path / "base.npy", clustered(20_000, 768, 0, 2, np.float32)[0])
    params = spann.BuildParams(code_bits=bits, calibration_queries=2000)
    planned = spann.plan(tmp_path / "base.npy", params=params, threads=2, memory_limit="2GiB")
    command = [sys.executable, "-c", CHILD, str(bits)]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert 0.75 < planned.memory_bytes / int(found.stdout) < 1.75


def test_temporary_files_stay_below_the_prediction(tmp_path, monkeypatch):
    largest = 0

    def look(stage, done, total):
        nonlocal largest
        place = tmp_path / "i.building" / "temporary"
        if place.exists():
            largest = max(largest, sum(size for _, size in files.walk_files(place)))

    planned = spann.plan(BASE)
    spann.build(BASE, tmp_path / "i", progress=look).close()
    assert 0.5 * planned.temporary_bytes < largest <= planned.temporary_bytes


def test_too_little_memory_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"limit is 1000000 bytes .*: the program itself takes .* raise the limit"):
        spann.build(BASE, tmp_path / "i", memory_limit="1MB")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_plan_says_what_helps():
    with pytest.raises(
        InputError, match=r"100000000 bytes \(100\.0 MB\); .*: the program itself takes \d+\.\d MB of that"
    ):
        spann.plan(BASE, memory_limit="100MB", threads=1)
    many = spann.BuildParams(centroids=0.5, code_bits=0)
    most = plan.plan_build(ArraySource(BASE), Metric.L2, many, threads=1, limit=1 << 40).memory_bytes
    with pytest.raises(InputError, match="raise the limit, or lower centroids"):
        spann.plan(BASE, memory_limit=most - 1, params=many, threads=1)


def test_less_memory_means_fewer_threads_and_the_same_index(tmp_path):
    source = ArraySource(BASE)
    least = plan.plan_build(source, Metric.L2, spann.BuildParams(), threads=1, limit=1 << 40).memory_bytes
    planned = spann.plan(BASE, threads=8, memory_limit=least)
    assert planned.threads == 1
    assert spann.plan(BASE, threads=8, memory_limit=least + plan.WORKER_BYTES).threads == 2
    with pytest.raises(InputError):
        spann.plan(BASE, threads=8, memory_limit=least - 1)
    spann.build(BASE, tmp_path / "a", memory_limit=least).close()
    spann.build(BASE, tmp_path / "b", threads=2).close()
    one, two = (
        {p.relative_to(d): p.read_bytes() for p, _ in files.walk_files(d)} for d in (tmp_path / "a", tmp_path / "b")
    )
    assert one == two


def test_too_little_disk_is_refused(tmp_path, monkeypatch):
    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def statvfs(self, path):
            found = os.statvfs(path)
            return os.statvfs_result((*found[:4], 10, *found[5:]))

    monkeypatch.setattr(files, "system", Full())
    with pytest.raises(InputError, match="bytes of disk"):
        spann.build(BASE, tmp_path / "i")
    assert list(tmp_path.iterdir()) == []


def test_sizes_as_text():
    assert [parse_size(s, "x") for s in (5, "5", "2kB", "1.5 KiB", "3MiB", "1g")] == [5, 5, 2000, 1536, 3 << 20, 10**9]
    for wrong in (0, -1, True, "", "many", "0", "3XB", 1.5, None):
        with pytest.raises(InputError, match="x is"):
            parse_size(wrong, "x")


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("levels", [1, 2])
def test_partition_keeps_every_vector_once(tmp_path, dtype, levels):
    sizes = Sizes(region_bytes=4 * 32 * 300, region_fanout=1024 if levels == 1 else 16)
    base = clustered(10_000, 32, 0, 3, dtype=dtype)[0]
    base[2000:5000] = base[0]  # copies cannot be told apart, and are cut by position
    source = open_source(base)
    space, _ = scan(source, Metric.L2, 2, lambda *a: None)
    results = []
    for threads in (1, 3):
        place = tmp_path / str(threads)
        place.mkdir()
        seen = []
        job = builds.job(source, space, threads=threads, sizes=sizes, seed=7, report=lambda *a, to=seen: to.append(a))
        with Partition(place, "regions", source) as out:
            ends = partition(job, out)
            rows = out.rows(0, source.count)
            np.testing.assert_array_equal(out.read(0, source.count), base[rows])
            picked = np.array([9999, 0, 17, 17])
            np.testing.assert_array_equal(out.rows_of(picked), rows[picked])
            np.testing.assert_array_equal(out.take(picked), base[rows[picked]])
        assert sorted(p.name for p in place.iterdir()) == ["regions-rows", "regions-vectors"]
        assert seen[-1] == ("partition", *seen[-1][2:], seen[-1][2])
        np.testing.assert_array_equal(np.sort(rows), np.arange(source.count))
        rows_of = np.diff(ends, prepend=0)
        assert ends[-1] == source.count
        assert rows_of.min() > 0
        assert rows_of.max() <= 600
        within = [np.square(part - part.mean(axis=0)).sum() for part in np.split(base[rows].astype(float), ends[:-1])]
        assert sum(within) < 0.8 * np.square(base.astype(float) - base.mean(axis=0)).sum()
        results.append((rows, ends))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
