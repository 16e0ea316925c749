"""`spann search` in parts: its output, its memory, and how it resumes."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import spann
from spann.jobs import OutputFolder, Shard, find_parts
from spann.jobs.output import SUCCESS


def expected(place, k=5):
    with spann.open(place / "index.spann") as index:
        return index.search(np.load(place / "queries.npy"), k)


def test_parts_in_parts_out(place, tmp_path, done):
    out = tmp_path / "out"
    done(
        "search",
        place / "index.spann",
        place / "parts",
        "-k",
        5,
        "-o",
        f"{out}/",
        "--query-id",
        "qid",
        "--carry",
        "lang",
    )
    assert [pq.read_metadata(out / f"part-{i:05}.parquet").num_rows for i in range(4)] == [70, 0, 130, 41]
    assert json.loads((out / SUCCESS).read_text()) == {"parts": 4, "rows": 241}
    table = ds.dataset(out).to_table()
    assert table.schema.names == ["query", "query_id", "lang", "ids", "distances"]
    found = expected(place)
    assert table["query"].to_pylist() == list(range(241))
    assert table["query_id"].to_pylist() == [f"q{i}" for i in range(241)]
    assert table["lang"].to_pylist()[:4] == ["de", "en", None, "de"]
    assert table["ids"].to_pylist() == found.ids.tolist()
    assert table["distances"].to_pylist() == found.distances.tolist()


@pytest.mark.parametrize("given", ["parts/*.parquet", "parts", "queries.npy"])
@pytest.mark.parametrize("more", [(), ("--part-rows", 50, "--memory-limit", "2GiB"), ("--threads", 1)])
def test_results_do_not_depend_on_parts_and_memory(place, tmp_path, done, given, more):
    done("search", place / "index.spann", place / given, "-k", 5, "-o", f"{tmp_path}/out/", *more)
    found = expected(place)
    table = ds.dataset(tmp_path / "out").to_table()
    assert table["query"].to_pylist() == list(range(241))
    assert table["ids"].to_pylist() == found.ids.tolist()


def test_long_layout_has_a_row_for_each_neighbour(place, tmp_path, done):
    args = ("search", place / "index.spann", place / "parts", "-k", 5, "--radius", 1.5, "--carry", "lang")
    done(*args, "-o", f"{tmp_path}/out/", "--layout", "long")
    table = ds.dataset(tmp_path / "out").to_table()
    with spann.open(place / "index.spann") as index:
        columns = index.search(np.load(place / "queries.npy"), 5, radius=1.5).columns()
    assert table.schema.names == ["query", "lang", "rank", "id", "distance"]
    assert 0 < len(table) < 241 * 5
    for name in ("query", "rank", "id", "distance"):
        np.testing.assert_array_equal(table[name].to_numpy(), columns[name])


@pytest.mark.parametrize("suffix", [".npz", ".ibin", ".jsonl", ".parquet"])
def test_one_merged_file_equals_a_search_in_memory(place, tmp_path, done, suffix):
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    done("search", place / "index.spann", place / "queries.npy", "-k", 5, "--radius", 1.5, "-o", whole)
    done("search", place / "index.spann", place / "parts", "-k", 5, "--radius", 1.5, "-o", parts, "--part-rows", 50)
    assert not Path(f"{parts}.parts").exists()
    if suffix == ".parquet":
        assert pq.read_table(parts).equals(pq.read_table(whole))
    else:
        assert parts.read_bytes() == whole.read_bytes()


def test_shards_fill_one_folder_and_the_last_completes_it(place, tmp_path, done, content):
    args = ("search", place / "index.spann", place / "queries.npy", "-k", 5, "--part-rows", 40)
    done(*args, "-o", f"{tmp_path}/whole/")
    for number in (2, 3, 1):
        assert not (tmp_path / "out" / SUCCESS).exists()
        result = done(*args, "-o", f"{tmp_path}/out/", "--shard", f"{number}/3")
        assert ("other shards" in result.output) == (number != 1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_killed_job_resumes_and_ends_with_the_same_bytes(place, tmp_path, done, content):
    args = ("search", place / "index.spann", place / "queries.npy", "-k", 200, "--part-rows", 5, "--threads", 1)
    done(*args, "-o", f"{tmp_path}/whole/")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "spann.cli", *map(str, args), "-o", f"{out}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (out / "part-00002.parquet").exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    there = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 3 <= len(there) < 49
    assert not (out / SUCCESS).exists()
    assert f"{len(there)} of 49 parts are there" in done(*args, "-o", f"{out}/").stderr
    assert all(path.stat().st_mtime_ns == then for path, then in there.items())
    assert content(out) == content(tmp_path / "whole")


def test_a_job_killed_while_it_merges_resumes(place, tmp_path, done, monkeypatch):
    args = (
        "search",
        place / "index.spann",
        place / "queries.npy",
        "-k",
        5,
        "--part-rows",
        50,
        "-o",
        tmp_path / "o.npz",
    )
    with monkeypatch.context() as patch:
        patch.setattr("spann.jobs.merge.Merged.write", lambda self, path: 1 / 0)
        with pytest.raises(AssertionError, match="division by zero"):
            done(*args)
    assert (tmp_path / "o.npz.parts" / SUCCESS).exists()
    done(*args)
    assert np.array_equal(np.load(tmp_path / "o.npz")["ids"], expected(place).ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("-k", 6), "k was 5, not 6"),
        (("-k", 5, "--max-postings", 7), "params was"),
        (("-k", 5, "--part-rows", 100), "inputs was"),
        (("-k", 5, "--layout", "long"), "shape was"),
        (("-k", 5, "--radius", 1.0), "radius was null, not 1.0"),
    ],
)
def test_the_folder_of_another_job_is_refused(place, tmp_path, done, refused, content, change, message):
    args = ("search", place / "index.spann", place / "queries.npy", "-o", f"{tmp_path}/out/")
    done(*args, "-k", 5)
    before = content(tmp_path / "out")
    assert message in refused(*args, *change)
    assert content(tmp_path / "out") == before
    done(*args, *change, "--restart")
    assert content(tmp_path / "out") != before


def test_other_queries_of_the_same_name_and_size_are_another_job(place, tmp_path, done, refused):
    queries = np.load(place / "queries.npy")
    np.save(tmp_path / "q.npy", queries)
    args = ("search", place / "index.spann", tmp_path / "q.npy", "-o", f"{tmp_path}/out/")
    done(*args)
    queries[-1, -1] += 1
    np.save(tmp_path / "q.npy", queries)
    assert "holds the output of another job: its inputs was" in refused(*args)


def test_files_of_others_are_not_touched(place, tmp_path, refused):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000.parquet").write_text("mine")
    for more in ((), ("--restart",)):
        message = refused("search", place / "index.spann", place / "queries.npy", "-o", f"{tmp_path}/out/", *more)
        assert "not the output of a spann job" in message
    assert (tmp_path / "out" / "part-00000.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--carry", "nothing"), "has no column 'nothing'; it has qid, vector, lang"),
        (("--carry", "ids,lang"), "the output already has a column 'ids'"),
        (("--shard", "4/3"), "shard is '4/3'; it must look like 3/16"),
        (("--memory-limit", "1MB"), "memory_limit is 1,000,000 bytes; the program takes"),
        (("--max-rows", 3, "--layout", "long"), "without --explain and --max-rows"),
    ],
)
def test_invalid_arguments_are_refused(place, tmp_path, refused, more, message):
    assert message in refused("search", place / "index.spann", place / "parts", "-o", f"{tmp_path}/out/", *more)


def test_one_file_refuses_what_it_cannot_hold(place, tmp_path, refused):
    args = ("search", place / "index.spann", place / "parts", "-o", tmp_path / "o.npz")
    assert "--layout long is for" in refused(*args, "--layout", "long")
    assert "is one file; --shard needs a folder" in refused(*args, "--shard", "1/2")
    assert "columns of the queries are for" in refused(*args, "--carry", "lang")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_query_is_named_by_its_file_and_row(place, tmp_path, refused):
    queries = np.load(place / "queries.npy")
    queries[100, 3] = np.nan
    np.save(tmp_path / "q.npy", queries)
    message = refused("search", place / "index.spann", tmp_path / "q.npy", "-o", f"{tmp_path}/out/")
    assert f"row 100 column 3 of {tmp_path / 'q.npy'} is nan" in message
    assert not list((tmp_path / "out").glob("*part-*"))


def test_a_folder_of_files_of_several_kinds_is_refused(place, tmp_path, refused):
    np.save(tmp_path / "a.npy", np.load(place / "queries.npy"))
    (tmp_path / "b.txt").touch()
    assert "has files of several kinds, a.npy and b.txt" in refused(
        "search", place / "index.spann", tmp_path, "-o", f"{tmp_path}/out/"
    )


def test_progress_counts_the_remaining_queries(place, tmp_path, done):
    args = ("search", place / "index.spann", place / "queries.npy", "-o", f"{tmp_path}/out/", "--part-rows", 100)
    lines = [json.loads(line) for line in done(*args, "--progress", "json", "--shard", "1/2").stderr.splitlines()]
    assert (lines[-1]["stage"], lines[-1]["done"], lines[-1]["total"]) == ("search", 141, 141)
    assert done(*args, "-q").stderr == ""


def test_a_full_disk_leaves_no_part(place, tmp_path, faulty):
    parts = find_parts(place / "queries.npy", part_rows=100)
    folder = OutputFolder.open(tmp_path / "out", {"job": "test"}, len(parts))
    disk = faulty("fsync", 0, errno.ENOSPC)
    with pytest.raises(spann.StorageError, match="No space left"), folder.writing(0) as path:
        path.write_bytes(b"some")
    assert disk.failed
    assert folder.missing(Shard()) == [0, 1, 2]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_job.json"]


def test_two_processes_do_not_write_one_part(tmp_path):
    folder = OutputFolder.open(tmp_path / "out", {"job": "test"}, 1)
    with folder.writing(0) as path:
        path.write_bytes(b"some")
        with pytest.raises(spann.ExistsError, match="is being written by another process"), folder.writing(0):
            raise AssertionError
    assert folder.file(0).read_bytes() == b"some"


def test_search_batches_reads_one_ahead_and_answers_in_order(place):
    queries = np.load(place / "queries.npy")
    read = []

    def batches():
        for start in (0, 100, 100, 200):
            read.append(start)
            yield queries[start : start + (0 if len(read) == 2 else 100)]

    with spann.open(place / "index.spann") as index:
        results = index.search_batches(batches(), k=3)
        first = next(results)
        assert read == [0, 100]
        found = [first, *results]
        whole = index.search(queries, 3)
    assert [len(one.ids) for one in found] == [100, 0, 100, 41]
    np.testing.assert_array_equal(np.concatenate([one.ids for one in found]), whole.ids)


def test_search_batches_passes_errors_on_and_ends_early(place):
    queries = np.load(place / "queries.npy")
    closed = []

    def batches():
        try:
            while True:
                yield queries[:10]
        finally:
            closed.append(True)

    with spann.open(place / "index.spann") as index:
        results = index.search_batches(batches(), k=3)
        next(results)
        results.close()
        assert closed == [True]
        with pytest.raises(spann.InputError, match="queries have shape"):
            list(index.search_batches([queries[:10], queries[:10, :3]]))
