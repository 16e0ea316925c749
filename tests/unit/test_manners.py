"""Messages to programs that use spann, and the number of processors that it takes."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

import spann
from spann import config, control_groups, processors
from spann._kernels import io
from spann.config import thread_count
from spann.testing import clustered


def test_nothing_is_printed_until_a_program_asks(tmp_path):
    code = f"""
import numpy as np, spann, logging
spann.build(np.random.default_rng(0).random((300, 8), dtype=np.float32), {str(tmp_path / "i")!r}).close()
assert [type(handler) for handler in logging.getLogger("spann").handlers] == [logging.NullHandler]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_log_tells_of_opening_and_of_a_lack_of_io_uring(tmp_path, caplog, monkeypatch):
    base, _ = clustered(300, 8, 0, 1)
    spann.build(base, tmp_path / "i").close()
    monkeypatch.delenv("SPANN_IO", raising=False)
    monkeypatch.setattr(io, "backends", lambda: ("pool", "sync"))
    io.log_backend.cache_clear()
    with caplog.at_level(logging.INFO, "spann"):
        for _ in range(2):
            spann.open(tmp_path / "i").close()
    io.log_backend.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
    assert "io_uring is not available" in caplog.text
    assert f"{tmp_path / 'i'}: opened; " in caplog.text


def test_queries_unlike_the_collection_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "FEWEST_CALIBRATION", 200)
    rng = np.random.default_rng(0)
    base = rng.standard_normal((2000, 16), dtype=np.float32)
    spann.build(base, tmp_path / "i", params=spann.BuildParams(calibration_queries=0)).close()
    with pytest.warns(spann.SpannWarning, match="the queries are unlike the collection"):
        spann.calibrate(tmp_path / "i", 4 * rng.standard_normal((200, 16), dtype=np.float32), base=base).close()
    spann.calibrate(tmp_path / "i", rng.standard_normal((200, 16), dtype=np.float32), base=base).close()


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes control groups: the lines of /proc/self/cgroup, and files below the mount."""

    def groups_(lines, files):
        (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in lines))
        for name, text in files.items():
            (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mount" / name).write_text(text)
        monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(control_groups, "MOUNTED", tmp_path / "mount")
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))

    return groups_


PODS = "kubepods/pod1/box"
V1_LINE = "4:cpu,cpuacct:/" + PODS


@pytest.mark.parametrize(
    ("lines", "files", "count"),
    [
        ([f"0::/{PODS}"], {f"{PODS}/cpu.max": "200000 100000\n"}, 2),
        ([f"0::/{PODS}"], {f"{PODS}/cpu.max": "150000 100000\n"}, 2),
        ([f"0::/{PODS}"], {f"{PODS}/cpu.max": "10000 100000\n"}, 1),
        ([f"0::/{PODS}"], {f"{PODS}/cpu.max": "max 100000\n"}, 64),
        ([f"0::/{PODS}"], {f"{PODS}/cpu.max": "max 100000\n", "kubepods/cpu.max": "800000 100000\n"}, 8),
        (["0::/"], {"cpu.max": "300000 100000\n"}, 3),
        ([V1_LINE], {f"cpu/{PODS}/cpu.cfs_quota_us": "400000\n", f"cpu/{PODS}/cpu.cfs_period_us": "100000\n"}, 4),
        ([V1_LINE], {f"cpu/{PODS}/cpu.cfs_quota_us": "50000", f"cpu/{PODS}/cpu.cfs_period_us": "10000"}, 5),
        (["4:cpu,cpuacct:/"], {"cpu,cpuacct/cpu.cfs_quota_us": "7", "cpu,cpuacct/cpu.cfs_period_us": "1"}, 7),
        ([V1_LINE], {f"cpu/{PODS}/cpu.cfs_quota_us": "-1\n", f"cpu/{PODS}/cpu.cfs_period_us": "100000\n"}, 64),
        # Inside a container the group's path is often not there below the mount, whose root is the group.
        (["3:cpu:/docker/abc"], {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        (["5:memory:/x"], {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ([f"0::/{PODS}"], {f"{PODS}/cpu.max": "nonsense\n"}, 64),
        ([f"0::/{PODS}"], {f"{PODS}/cpu.max": "100000 0\n"}, 64),
        ([], {}, 64),
    ],
)  # fmt: skip
def test_threads_are_as_many_as_the_quota_grants(groups, lines, files, count):
    groups(lines, files)
    assert thread_count(None) == processors.processor_count() == count
    assert thread_count(7) == 7


def test_without_control_groups_all_processors_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "none")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 4})
    assert thread_count(None) == 3
