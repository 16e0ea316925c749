"""Indexes with wrong content under right checksums are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spann
from spann._kernels.checksum import crc32c
from spann.format.postings import PAGE, posting_bytes, posting_span
from spann.format.shapes import shape_record
from spann.store.reader import IndexReader
from spann.store.writer import IndexWriter

RESERVED = ("format_version", "features", "generation", "created_by", "checksum", "integrity")

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "i"
    base = np.random.default_rng(3).integers(0, 255, (600, 8)).astype(np.uint8)
    spann.build(base, path, params=spann.BuildParams(posting_size=10)).close()
    return path


def forge(sound: Path, path: Path, change: Callable[[Arrays, Arrays], None]) -> list[str]:
    """Rewrites the index with `change` made to its arrays and attributes. Returns the problems that verification
    finds."""
    reader = IndexReader.open(sound)
    arrays = {name: reader.read(name).copy() for name in reader.arrays()}
    about = {name: value for name, value in reader.attributes.items() if name not in RESERVED}
    change(arrays, about)
    if change is not wrong_checksum:
        seal(arrays, about)
    with IndexWriter(path, created_by="test") as writer:
        for name, values in arrays.items():
            writer.write_array(name, values)
        writer.publish(about, features=reader.attributes["features"])
    return [problem.detail for problem in spann.verify(path)]


def seal(arrays: Arrays, about: Arrays) -> None:
    """Gives the postings the checksums that their bytes have now."""
    name = "postings/directory"
    page, offset, length, primaries = (arrays[f"{name}/{part}"] for part in ("page", "offset", "length", "primaries"))
    start, end = posting_span(page, offset, posting_bytes(about, length, primaries))
    pages = arrays["postings/pages"].reshape(-1)
    for p in np.flatnonzero(length):
        arrays[f"{name}/crc32c"][p] = crc32c(pages[start[p] : end[p]])


def wrong_checksum(arrays: Arrays, about: Arrays) -> None:
    arrays["postings/directory/crc32c"][first_posting(arrays)] ^= 1


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


def bits_under_l2(arrays: Arrays, about: Arrays) -> None:
    about["dtype"] = "bit"


def numbers_under_hamming(arrays: Arrays, about: Arrays) -> None:
    about["metric"] = "hamming"


def codes_of_bits(arrays: Arrays, about: Arrays) -> None:
    about |= {"dtype": "bit", "metric": "hamming"}


LOST = 599


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (alien_id, "holds id 600; the collection has 600 rows"),
        (lost_row, "represents a centroid"),
        (over_bound, "over its bound of"),
        (too_many_primaries, "primaries"),
        (other_sum, "the manifest says"),
        (one_primary_less, "vectors are centroids; the collection has 600 rows"),
        (overlap, "two postings overlap"),
        (byte_after_the_last, "are not 0"),
        (wrong_checksum, "does not match its checksum"),
        (bits_under_l2, "bit vectors of dimension 8 with codes of 0 bits cannot be under l2"),
        (numbers_under_hamming, "uint8 vectors of dimension 8 with codes of 0 bits cannot be under hamming"),
    ],
)
def test_wrong_content_under_right_checksums_is_found(sound, tmp_path, change, says):
    assert LOST not in IndexReader.open(sound).read("centroids/ids"), "the row that is lost must be in postings"
    found = forge(sound, tmp_path / "i", change)
    assert any(says in detail for detail in found), found


def test_a_faithful_copy_is_sound(sound, tmp_path):
    assert forge(sound, tmp_path / "i", lambda arrays, about: None) == []


# --- with codes


@pytest.fixture(scope="module")
def coded(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("coded") / "i"
    base = np.random.default_rng(3).integers(0, 255, (600, 8)).astype(np.uint8)
    base[:90] = base[0]
    params = spann.BuildParams(code_bits=2, max_replicas=4, posting_size=20)
    spann.build(base, path, ids=np.arange(600) + 1000, params=params).close()
    assert "postings/directory/chain" in IndexReader.open(path).arrays()
    return path


def fields(arrays: Arrays, posting: int) -> dict[str, np.ndarray]:
    """Views of the parts of a posting, to write through."""
    name = "postings/directory"
    start = int(arrays[f"{name}/page"][posting]) * PAGE + int(arrays[f"{name}/offset"][posting])
    n, p = (int(arrays[f"{name}/{part}"][posting]) for part in ("length", "primaries"))
    data = arrays["postings/pages"].reshape(-1)[start:]
    rows = 20 + 8 * n
    return {
        "header": data[:20].view("<f4"),
        "ids": data[20 : 20 + 4 * n].view("<u4"),
        "rows": data[rows : rows + 4 * (n - p)].view("<u4"),
    }


def with_replicas(arrays: Arrays) -> int:
    name = "postings/directory"
    return int(np.argmax(arrays[f"{name}/length"].astype(int) - arrays[f"{name}/primaries"]))


def coded_alien_id(arrays: Arrays, about: Arrays) -> None:
    fields(arrays, 0)["ids"][0] = 999


def coded_id_twice(arrays: Arrays, about: Arrays) -> None:
    ids = fields(arrays, 0)["ids"]
    ids[0] = ids[1]


def coded_other_replica(arrays: Arrays, about: Arrays) -> None:
    rows = fields(arrays, with_replicas(arrays))["rows"]
    rows[0] = (rows[0] + 1) % 600


def coded_row_beyond(arrays: Arrays, about: Arrays) -> None:
    fields(arrays, with_replicas(arrays))["rows"][0] = 600


def coded_replica_of_unknown_id(arrays: Arrays, about: Arrays) -> None:
    fields(arrays, with_replicas(arrays))["ids"][-1] = 1600


def coded_wild_header(arrays: Arrays, about: Arrays) -> None:
    fields(arrays, 0)["header"][2] = np.nan


def coded_page_checksum(arrays: Arrays, about: Arrays) -> None:
    arrays["vectors/exact_crc32c"][1] ^= 1


def coded_page_checksums_short(arrays: Arrays, about: Arrays) -> None:
    arrays["vectors/exact_crc32c"] = arrays["vectors/exact_crc32c"][:-1]


def coded_too_many_primaries(arrays: Arrays, about: Arrays) -> None:
    arrays["postings/directory/primaries"][0] = arrays["postings/directory/length"][0] + 1


def coded_one_primary_less(arrays: Arrays, about: Arrays) -> None:
    arrays["postings/directory/primaries"][0] -= 1


def coded_exact_store_short(arrays: Arrays, about: Arrays) -> None:
    arrays["vectors/exact"] = arrays["vectors/exact"][:-1]


def coded_other_type(arrays: Arrays, about: Arrays) -> None:
    arrays["vectors/exact"] = arrays["vectors/exact"].astype(np.int8)


def coded_bits(arrays: Arrays, about: Arrays) -> None:
    about["code_bits"] = 1


def coded_no_signs(arrays: Arrays, about: Arrays) -> None:
    arrays["quantizer/signs"] = arrays["quantizer/signs"][:3]


def coded_no_origin(arrays: Arrays, about: Arrays) -> None:
    arrays["quantizer/origin"] = arrays["quantizer/origin"][:5]


def coded_centroid(arrays: Arrays, about: Arrays) -> None:
    arrays["centroids/vectors"] = arrays["centroids/vectors"].astype(np.int64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (wrong_checksum, "does not match its checksum"),
        (codes_of_bits, "with codes of 2 bits cannot be under hamming"),
        (coded_alien_id, "holds id 999, which no vector has"),
        (coded_id_twice, "has a primary that is one elsewhere as well"),
        (coded_other_replica, "which is not that vector"),
        (coded_row_beyond, "of row 600 of the exact store, which is not that vector"),
        (coded_replica_of_unknown_id, "a replica with id 1600"),
        (coded_wild_header, "has a header that is not finite"),
        (coded_page_checksum, "page 1 of vectors/exact does not match its checksum"),
        (coded_page_checksums_short, "array 'vectors/exact_crc32c' is uint32 (1,); expected uint32 (2,)"),
        (coded_too_many_primaries, "primaries"),
        (
            coded_one_primary_less,
            "postings hold 599 primaries and 0 vectors are centroids",
        ),
        (coded_exact_store_short, "array 'vectors/exact' is uint8 (599, 8); expected uint8 (600, 8)"),
        (coded_other_type, "array 'vectors/exact' is int8 (600, 8); expected uint8 (600, 8)"),
        (coded_bits, ""),
        (coded_no_signs, "array 'quantizer/signs' is uint8 (3, 4); expected uint8 (4, 4)"),
        (coded_no_origin, "array 'quantizer/origin' is float32 (5,); expected float32 (8,)"),
        (coded_centroid, "array 'centroids/vectors' is int64"),
    ],
)
def test_wrong_codes_under_right_checksums_are_found(coded, tmp_path, change, says):
    found = forge(coded, tmp_path / "i", change)
    assert any(says in detail for detail in found), found


def test_a_faithful_copy_of_codes_is_sound(coded, tmp_path):
    assert forge(coded, tmp_path / "i", lambda arrays, about: None) == []


@pytest.mark.parametrize("part", ["header", "spread", "rest", "offsets"])
def test_shapes_are_finite(tmp_path, part):
    base = np.random.default_rng(3).integers(0, 255, (600, 8)).astype(np.uint8)
    spann.build(base, tmp_path / "sound", params=spann.BuildParams(code_bits=2, posting_size=40)).close()

    def spoil(arrays: Arrays, about: Arrays) -> None:
        kind = shape_record(about["dim"], about["code_bits"], about["directions"])
        arrays["postings/shapes"].reshape(-1).view(kind)[part][3] = np.inf

    (found,) = forge(tmp_path / "sound", tmp_path / "i", spoil)
    assert found.endswith("the shape of posting 3 is not finite")
    assert forge(tmp_path / "sound", tmp_path / "same", lambda arrays, about: None) == []
