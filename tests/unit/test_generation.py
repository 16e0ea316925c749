"""The next generation of an index: what it keeps, what it changes, and what is left where it is given up."""

from __future__ import annotations

import numpy as np
import pytest

import spann
from spann.changing.generation import Generation
from spann.errors import ExistsError, InputError, MissingError
from spann.store.reader import IndexReader
from spann.testing import clustered

BASE, QUERIES = clustered(300, 16, 5, 1)
PROGRAM = "spann test"


@pytest.fixture
def built(tmp_path):
    spann.build(BASE, tmp_path / "i", params=spann.BuildParams(code_bits=2), ids=np.arange(300) * 2).close()
    return tmp_path / "i"


def resume(following, **about):
    return following.resume("test", about, command="spann test", files={"a": ("x",)})


def shards(path, name):
    return sorted(file for file in (path / name / "c").rglob("*") if file.is_file())


def test_untouched_arrays_are_links_and_attributes_stay(built):
    before = IndexReader.open(built).attributes
    inodes = {file.relative_to(built): file.stat().st_ino for file in shards(built, "vectors/exact")}
    with Generation(built, created_by=PROGRAM) as following:
        resume(following)
        following.publish({"sources": ["elsewhere"]})
    after = IndexReader.open(built).attributes
    assert after["generation"] == before["generation"] + 1
    assert (after["sources"], after["created_by"]) == (["elsewhere"], PROGRAM)
    same = set(before) - {"generation", "sources", "created_by", "checksum"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert {file.relative_to(built): file.stat().st_ino for file in shards(built, "vectors/exact")} == inodes
    assert spann.verify(built) == []


def test_arrays_are_extended_rewritten_and_dropped(built):
    old = IndexReader.open(built).read("vectors/ids")
    with Generation(built, created_by=PROGRAM) as following:
        resume(following)
        more = following.extend("vectors/ids", 2)
        more.append(np.array([1, 3], old.dtype))
        more.finish()
        following.rewrite("quantizer/origin", np.zeros(16, np.float32))
        following.drop("postings/shapes")
        following.publish({})
    reader = IndexReader.open(built)
    np.testing.assert_array_equal(reader.read("vectors/ids"), [*old, 1, 3])
    assert not reader.read("quantizer/origin").any()
    assert "postings/shapes" not in reader.arrays()


def test_without_a_publication_the_index_stays(built, content):
    before = content(built)
    with Generation(built, created_by=PROGRAM) as following:
        resume(following)
        following.rewrite("quantizer/origin", np.zeros(16, np.float32))
    assert content(built) == before
    assert [path.name for path in built.parent.iterdir()] == ["i"]


def test_work_with_a_mark_survives_an_error_and_is_resumed(built, content):
    before = content(built)

    def mark():
        (built.with_name("i.building") / "temporary" / "x").write_text("done")
        return {"done": 1}

    def stopped():
        with Generation(built, created_by=PROGRAM) as following:
            checkpoint = resume(following, rows=3)
            checkpoint._last = -1e9  # a mark is due
            checkpoint.reached("a", mark)
            raise OSError("stop")

    with pytest.raises(OSError, match="stop") as caught:
        stopped()
    assert "the same command resumes it" in caught.value.__notes__[0]
    with Generation(built, created_by=PROGRAM):
        pass  # the work of others stays where it is
    with Generation(built, created_by=PROGRAM) as following, pytest.raises(InputError, match="whose rows is 3, not 4"):
        resume(following, rows=4)
    assert content(built) == before
    with Generation(built, created_by=PROGRAM) as following:
        assert resume(following, rows=3).of("a") == {"done": 1}
        following.publish({})
    assert [path.name for path in built.parent.iterdir()] == ["i"]


def test_one_change_at_a_time(built):
    with (
        Generation(built, created_by=PROGRAM),
        pytest.raises(ExistsError, match="another process"),
        Generation(built, created_by=PROGRAM),
    ):
        pass


def test_a_generation_needs_an_index(tmp_path):
    with pytest.raises(MissingError, match="no index at"):
        Generation(tmp_path / "i", created_by=PROGRAM)
    assert list(tmp_path.iterdir()) == []
