"""Files of results and of ground truth."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spann.errors import InputError, MissingError, StorageError
from spann.vectors.sinks import check_results_path, write_results
from spann.vectors.truth_files import read_truth, write_truth

IDS = np.array([[4, 2, 9], [7, 0, -1]], np.int64)
DISTANCES = np.array([[0.5, 1.25, 3], [0.1, 2, np.inf]], np.float32)


def test_npz_holds_ids_and_distances(tmp_path: Path) -> None:
    write_results(tmp_path / "r.npz", IDS, DISTANCES)
    with np.load(tmp_path / "r.npz") as stored:
        assert sorted(stored) == ["distances", "ids"]
        np.testing.assert_array_equal(stored["ids"], IDS)
        np.testing.assert_array_equal(stored["distances"], DISTANCES)


def test_ibin_bytes(tmp_path: Path) -> None:
    write_results(tmp_path / "r.ibin", IDS, DISTANCES)
    expected = struct.pack("<II6i", 2, 3, *IDS.ravel()) + DISTANCES.tobytes()
    assert (tmp_path / "r.ibin").read_bytes() == expected


def test_jsonl_leaves_padding_out(tmp_path: Path) -> None:
    write_results(tmp_path / "r.jsonl", IDS, DISTANCES)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines[0] == {"query": 0, "ids": [4, 2, 9], "distances": [0.5, 1.25, 3.0]}
    assert lines[1]["ids"] == [7, 0]
    assert np.float32(lines[1]["distances"][0]) == np.float32(0.1)
    assert len(lines[1]["distances"]) == 2


def test_values_that_a_format_cannot_hold_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    big = IDS + (np.array([[0, 2**31, 0], [0, 0, 0]]))
    with pytest.raises(InputError, match=r"r.ibin: id 2147483650 does not fit the int32 .*2147483647.*write .npz"):
        write_results(tmp_path / "r.ibin", big, DISTANCES)
    near = DISTANCES.copy()
    near[1, 1] = np.nan
    with pytest.raises(InputError, match=r"r.jsonl: a distance of query 1 is nan, which JSON cannot hold; write .npz"):
        write_results(tmp_path / "r.jsonl", IDS, near)
    assert list(tmp_path.iterdir()) == []
    write_results(tmp_path / "r.npz", big, near)
    np.testing.assert_array_equal(read_truth(tmp_path / "r.npz").ids, big)


def test_bad_paths_are_refused_early(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r.txt: extension '.txt' is unknown; it must be one of .npz .ibin .jsonl"):
        check_results_path(tmp_path / "r.txt")
    with pytest.raises(MissingError, match=r"gone/r.npz: its directory .*gone does not exist"):
        check_results_path(tmp_path / "gone" / "r.npz")
    (tmp_path / "dir.npz").mkdir()
    with pytest.raises(InputError, match=r"dir.npz is a directory"):
        check_results_path(tmp_path / "dir.npz")
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(InputError, match=r"plain is a file, not a directory to write to"):
        check_results_path(tmp_path / "plain" / "r.npz")
    with pytest.raises(StorageError, match=r"npz cannot be looked up: File name too long"):
        check_results_path(tmp_path / ("x" * 300 + ".npz"))
    check_results_path(str(tmp_path / "R.NPZ"))
    with pytest.raises(InputError, match=r"'.jsonl' is unknown; it must be one of .ibin .npz"):
        write_truth(tmp_path / "t.jsonl", IDS, DISTANCES)


@pytest.mark.parametrize(
    ("ids", "distances", "message"),
    [
        (IDS.astype(np.int32), DISTANCES, "ids are int32, distances float32: they must be int64 and float32"),
        (IDS, DISTANCES.astype(np.float64), "distances float64"),
        (IDS[:1], DISTANCES, r"ids have shape \(1, 3\), distances \(2, 3\): both must be the same \(nq, k\)"),
        (IDS[0], DISTANCES[0], r"ids have shape \(3,\)"),
        (IDS[:0], DISTANCES[:0], "not empty"),
    ],
)
def test_tables_of_other_forms_are_refused(
    ids: np.ndarray, distances: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"r.npz: .*{message}"):
        write_results(tmp_path / "r.npz", ids, distances)


@pytest.mark.parametrize("suffix", [".npz", ".ibin", ".jsonl"])
def test_failed_write_keeps_the_old_file_and_no_draft(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"r{suffix}"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=rf"r{suffix} cannot be written: No space left on device"):
        write_results(path, IDS, DISTANCES)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]
    monkeypatch.undo()
    write_results(path, IDS, DISTANCES)
    assert path.read_bytes() != b"old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".ibin"])
def test_truth_comes_back(suffix: str, tmp_path: Path) -> None:
    write_truth(tmp_path / f"t{suffix}", IDS, DISTANCES)
    truth = read_truth(str(tmp_path / f"t{suffix}"))
    assert truth.ids.dtype == np.int64
    np.testing.assert_array_equal(truth.ids, IDS)
    assert truth.distances is not None
    assert truth.distances.dtype == np.float32
    np.testing.assert_array_equal(truth.distances, DISTANCES)


def test_truth_without_distances(tmp_path: Path) -> None:
    ids = IDS.astype("<i4")
    (tmp_path / "t.ibin").write_bytes(struct.pack("<II", 2, 3) + ids.tobytes())
    (tmp_path / "t.ivecs").write_bytes(b"".join(struct.pack("<i", 3) + row.tobytes() for row in ids))
    np.savez(tmp_path / "t.npz", ids=np.asfortranarray(ids))
    for name in ("t.ibin", "t.ivecs", "t.npz"):
        truth = read_truth(tmp_path / name)
        assert truth.distances is None
        assert truth.ids.dtype == np.int64
        assert truth.ids.flags.c_contiguous
        np.testing.assert_array_equal(truth.ids, IDS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.ibin", b"\0" * 5, "t.ibin is 5 bytes, shorter than its 8-byte header"),
        (
            "t.ibin",
            struct.pack("<II", 2, 3) + b"\0" * 25,
            r"t.ibin is 33 bytes where its header \(2 queries, k 3\) calls for 32 \(ids only\) or 56",
        ),
        ("t.ibin", struct.pack("<II", 0xFFFFFFFF, 100), "t.ibin is 8 bytes"),
        ("t.ibin", struct.pack("<II", 0, 3), "t.ibin holds 0 queries"),
        ("t.ibin", struct.pack("<II", 3, 0), "k 0 of .*t.ibin is outside 1 to 1000000"),
        ("t.ibin", struct.pack("<IIii", 1, 2, 5, -7), "query 0 place 1 of .*t.ibin is id -7: ids are at least -1"),
        ("t.ivecs", struct.pack("<iiii", 1, 5, 2, 6), "row 1 of .*t.ivecs has 2 elements where row 0 has 1"),
        ("t.ivecs", struct.pack("<i", 1_000_001), "k 1000001 of .*t.ivecs is outside 1 to 1000000"),
        ("t.ivecs", b"\1\0", "t.ivecs is 2 bytes"),
        ("t.npz", b"PK nothing", "t.npz is not a readable .npz file"),
        ("t.fbin", b"", "extension '.fbin' is unknown; ground truth is one of .ibin .ivecs .npz"),
    ],
)
def test_damaged_truth_is_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_truth(tmp_path / name)


def test_missing_truth_and_directories(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"t.ibin does not exist"):
        read_truth(tmp_path / "t.ibin")
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(InputError, match=r"d.npz is a directory: ground truth is a file"):
        read_truth(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IDS}, "t.npz has no array named ids"),
        ({"ids": IDS.astype(float)}, "ids are 2-D float64: they must be integers"),
        ({"ids": IDS[0]}, "ids are 1-D int64"),
        ({"ids": IDS, "distances": DISTANCES[:1]}, r"distances are float32 \(1, 3\): they must be float32 \(2, 3\)"),
        ({"ids": IDS[:0]}, "t.npz holds 0 queries|not a readable"),
    ],
)
def test_npz_without_a_truth_in_it_is_refused(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_truth(tmp_path / "t.npz")


def test_npz_header_that_claims_more_than_the_file_holds_allocates_nothing(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i8", "fortran_order": False, "shape": (1 << 40, 100)})
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("ids.npy", head.getvalue())
    with pytest.raises(InputError, match=r"ids in .*t.npz has 0 bytes of values where int64 \(1099511627776, 100\) is"):
        read_truth(tmp_path / "t.npz")
