"""What checksums cannot say: indexes whose every checksum holds and whose content is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spann
from spann.storage import PAGE, IndexReader, IndexWriter

RESERVED = ("format_version", "features", "generation", "created_by", "checksum", "integrity")

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "i"
    base = np.random.default_rng(3).integers(0, 255, (600, 8)).astype(np.uint8)
    spann.build(base, path, params=spann.BuildParams(posting_size=10)).close()
    return path


def forge(sound: Path, path: Path, change: Callable[[Arrays, Arrays], None]) -> list[str]:
    """Rewrites the index with `change` made to its arrays and attributes; what verification says of the result."""
    reader = IndexReader.open(sound)
    arrays = {name: reader.read(name).copy() for name in reader.arrays()}
    about = {name: value for name, value in reader.attributes.items() if name not in RESERVED}
    change(arrays, about)
    with IndexWriter(path, created_by="test") as writer:
        for name, values in arrays.items():
            writer.write_array(name, values)
        writer.publish(about)
    return [problem.detail for problem in spann.verify(path)]


def first_posting(arrays: Arrays) -> int:
    return int(np.flatnonzero(arrays["postings/directory/length"])[0])


def ids_of(arrays: Arrays, posting: int) -> np.ndarray:
    """A view of the ids of a posting, to write through."""
    name = "postings/directory"
    start = int(arrays[f"{name}/page"][posting]) * PAGE + int(arrays[f"{name}/offset"][posting])
    length = int(arrays[f"{name}/length"][posting])
    return arrays["postings/pages"].reshape(-1)[start : start + 4 * length].view("<u4")


def alien_id(arrays: Arrays, about: Arrays) -> None:
    ids_of(arrays, first_posting(arrays))[0] = 600


def lost_row(arrays: Arrays, about: Arrays) -> None:
    for posting in np.flatnonzero(arrays["postings/directory/length"]):
        ids = ids_of(arrays, posting)
        ids[ids == LOST] = arrays["centroids/ids"][0]


def over_bound(arrays: Arrays, about: Arrays) -> None:
    about["posting_bound"] = int(arrays["postings/directory/length"].max()) - 1


def too_many_primaries(arrays: Arrays, about: Arrays) -> None:
    posting = first_posting(arrays)
    arrays["postings/directory/primaries"][posting] = arrays["postings/directory/length"][posting] + 1


def other_sum(arrays: Arrays, about: Arrays) -> None:
    about["entries"] += 1


def one_primary_less(arrays: Arrays, about: Arrays) -> None:
    primaries = arrays["postings/directory/primaries"]
    primaries[np.flatnonzero(primaries)[0]] -= 1


def overlap(arrays: Arrays, about: Arrays) -> None:
    first, second = np.flatnonzero(arrays["postings/directory/length"])[:2]
    for part in ("page", "offset"):
        arrays[f"postings/directory/{part}"][second] = arrays[f"postings/directory/{part}"][first]


def byte_after_the_last(arrays: Arrays, about: Arrays) -> None:
    arrays["postings/pages"] = np.vstack([arrays["postings/pages"], np.eye(1, PAGE, 17, dtype=np.uint8)])


LOST = 599


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (alien_id, "holds id 600; the collection has 600 rows"),
        (lost_row, f"row {LOST} is in no posting and represents no centroid"),
        (over_bound, "over its bound of"),
        (too_many_primaries, "primaries"),
        (other_sum, "the manifest says"),
        (one_primary_less, "centroids and primaries are 599 together; the collection has 600 rows"),
        (overlap, "two postings overlap"),
        (byte_after_the_last, "are not 0"),
    ],
)
def test_wrong_content_under_right_checksums_is_found(sound, tmp_path, change, says):
    assert LOST not in IndexReader.open(sound).read("centroids/ids"), "the row that is lost must be in postings"
    found = forge(sound, tmp_path / "i", change)
    assert any(says in detail for detail in found), found


def test_a_faithful_copy_is_sound(sound, tmp_path):
    assert forge(sound, tmp_path / "i", lambda arrays, about: None) == []
