"""Every "must" of docs/FORMAT.md: a verification finds an index that breaks it under right checksums. Opening refuses
it where it must. Each error is one of spann's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spann
from spann._kernels.codes import code_bytes
from spann.errors import FormatError, SpannError
from spann.format.layout import ArrayLayout
from tests.fuzzing import indexes
from tests.fuzzing.forge import DIRECTORY, Forgery

Change = Callable[[Forgery], None]


@pytest.fixture(scope="module")
def forgeries(tmp_path_factory) -> Callable[[str], Forgery]:
    directory = tmp_path_factory.mktemp("sound")
    made: dict[str, Forgery] = {}
    how: dict[str, dict[str, Any]] = {
        "codes": {"metric": "l2", "dtype": "float32", "code_bits": 2, "replicas": 2, "chained": True, "names": True},
        "ip": {"metric": "ip", "dtype": "float32", "code_bits": 4, "appended": True},
        "classic": {"metric": "cosine", "dtype": "float32", "code_bits": 0, "chained": True, "replicas": 3},
        "classic-ip": {"metric": "ip", "dtype": "int8", "code_bits": 0},
        "cosine": {"metric": "cosine", "dtype": "float32", "code_bits": 3},
        "bits": {"metric": "hamming", "dtype": "bool", "code_bits": 0},
    }

    def forgery(kind: str) -> Forgery:
        if kind not in made:
            sound = directory / kind
            indexes.make(sound, **how[kind])
            assert spann.verify(sound) == []
            made[kind] = Forgery(sound, directory / f"{kind}-forged")
        made[kind].reset()
        return made[kind]

    return forgery


def attribute(**values: Any) -> Change:
    """Other entries of the manifest; None: without it."""

    def change(f: Forgery) -> None:
        f.about.update(values)
        for name in [name for name, value in values.items() if value is None]:
            del f.about[name]

    return change


def inside(name: str, **values: Any) -> Change:
    return lambda f: f.about[name].update(values)


def array(name: str, change: Callable[[np.ndarray[Any, Any]], Any]) -> Change:
    """Other values of an array: changed in place, or those that are returned."""

    def apply(f: Forgery) -> None:
        values = f.arrays[name].copy()
        found = change(values)
        f.put(name, values if found is None else found)

    return apply


def put(value: Any, at: Any = 0) -> Callable[[np.ndarray[Any, Any]], None]:
    def change(values: np.ndarray[Any, Any]) -> None:
        values[at] = value

    return change


def posting(change: Callable[[dict[str, np.ndarray[Any, Any]], Forgery], None], *, replicas: bool = False) -> Change:
    """Other bytes in a posting (the first that has replicas, if it must have some), under a checksum that fits."""

    def apply(f: Forgery) -> None:
        names = ("page", "offset", "length", "primaries")
        page, offset, length, primaries = (f.arrays[f"{DIRECTORY}/{name}"].astype(int) for name in names)
        p = int(np.argmax(length > primaries if replicas else length > 1))
        assert length[p] > (primaries[p] if replicas else 1)
        pages = f.arrays["postings/pages"].copy()
        data, n, k = pages.reshape(-1)[4096 * page[p] + offset[p] :], length[p], primaries[p]
        id_bytes, coded = f.about["id_bytes"], "codes" in f.about["features"]
        header, sizes = (20, [id_bytes, 2, 2]) if coded else (0, [id_bytes])
        kinds = [f"<u{id_bytes}", "<u2", "<u2"]
        fields, at = {"header": data[:header].view("<f4")}, header
        for name, size, kind in zip(("ids", "add", "scale"), sizes, kinds, strict=False):
            fields[name] = data[at : at + n * size].view(kind)
            at += n * size
        if coded:
            fields["rows"] = data[at : at + 4 * (n - k)].view("<u4")
            size = code_bytes(f.about["dim"], f.about["code_bits"])
            fields["codes"] = data[at + 4 * (n - k) :][: n * size].reshape(n, size)
        else:
            width = f.arrays["centroids/vectors"].itemsize * f.arrays["centroids/vectors"].shape[1]
            fields["vectors"] = data[at : at + n * width].reshape(n, width)
        fields["primaries"] = np.array(k)
        change(fields, f)
        sound = f.arrays["postings/pages"]
        f.arrays["postings/pages"] = pages
        f.seal_postings()
        f.put("postings/pages", pages)
        f.arrays["postings/pages"] = sound

    return apply


def factor(name: str) -> Callable[[dict[str, Any], Forgery], None]:
    """Another factor of the last entry of a posting."""

    def change(fields: dict[str, Any], f: Forgery) -> None:
        fields[name][-1] ^= 1 << 14

    return change


def both(*changes: Change) -> Change:
    def apply(f: Forgery) -> None:
        for change in changes:
            change(f)

    return apply


def metadata(name: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(f: Forgery) -> None:
        change(f.nodes[name])

    return apply


def equal_centroids(values: np.ndarray[Any, Any]) -> None:
    values[1] = values[0]


def duplicate_id(fields: dict[str, np.ndarray[Any, Any]], f: Forgery) -> None:
    fields["ids"][-1] = fields["ids"][0]


def other_copy(fields: dict[str, np.ndarray[Any, Any]], f: Forgery) -> None:
    fields["vectors"][-1] = fields["vectors"][0]


def representative(fields: dict[str, np.ndarray[Any, Any]], f: Forgery) -> None:
    fields["ids"][-1] = f.arrays["centroids/ids"][0]


def not_a_number(fields: dict[str, np.ndarray[Any, Any]], f: Forgery) -> None:
    fields["vectors"].view("<f4")[0, 0] = np.nan


def shape_of_nothing(f: Forgery) -> None:
    """An empty posting, appended, that has a shape."""
    count = f.about["postings"]
    for name in ("page", "offset", "length", "primaries", "crc32c"):
        values = f.arrays[f"{DIRECTORY}/{name}"]
        f.put(f"{DIRECTORY}/{name}", np.append(values, values.dtype.type(0)))
    f.put(f"{DIRECTORY}/appended", np.append(f.arrays[f"{DIRECTORY}/appended"], np.uint32(0)))
    shapes = f.arrays["postings/shapes"]
    f.put("postings/shapes", np.concatenate([shapes, np.ones((1, shapes.shape[1]), np.uint8)]))
    f.about["postings"] = count + 1


def checksum_of_nothing(f: Forgery) -> None:
    shape_of_nothing(f)
    f.put(
        "postings/shapes",
        np.concatenate([f.arrays["postings/shapes"], np.zeros((1, f.arrays["postings/shapes"].shape[1]), np.uint8)]),
    )
    f.put(f"{DIRECTORY}/crc32c", np.append(f.arrays[f"{DIRECTORY}/crc32c"], np.uint32(7)))


L0 = "centroids/graph/level0"


def each(
    kind: str, change: Callable[[str, Any], Change], names: str, values: tuple[Any, ...]
) -> list[tuple[str, Change]]:
    return [(kind, change(name, value)) for name in names.split() for value in values]


ATTRIBUTES: list[tuple[str, Change]] = [
    *each(
        "ip",
        lambda name, value: attribute(**{name: value}),
        "dim count centroids postings entries posting_bound id_bytes row_bytes code_bits directions",
        (None, -1, 0, 2**63, 1.5, "x", True, []),
    ),
    *each("ip", lambda name, value: attribute(**{name: value}), "metric dtype ids graph", (None, "x", -1, [], {})),
    *each("ip", lambda name, value: attribute(**{name: value}), "parameters calibration", ("x", -1, [])),
    *each("ip", lambda name, value: attribute(**{name: value}), "max_norm", (None, "x", -1.0, 1e300, True)),
    *each("classic", lambda name, value: attribute(**{name: value}), "max_norm", (1.0, 1e-9)),
    *each("codes", lambda name, value: inside("graph", **{name: value}), "levels entry", (-1, 2**40, 0.5, None)),
    ("codes", inside("graph", levels=0)),
    *each(
        "ip",
        lambda name, value: attribute(features=value),
        "features",
        (
            *(None, "x", [[]], ["codes"], ["codes", "shapes"], ["appended", "shapes"]),
            *(["appended", "codes", "codes", "shapes"], ["codes", "appended", "shapes"]),
            *(["appended", "codes", "deleted", "shapes"], ["appended", "bfloat16", "codes", "shapes"]),
        ),
    ),
    ("classic", attribute(code_bits=4)),
    ("classic", attribute(row_bytes=4)),
    ("classic", attribute(directions=-5)),
    ("classic", attribute(features=["codes"])),
    ("bits", attribute(metric="l2")),
    ("bits", attribute(dtype="uint8")),
    ("bits", attribute(dim=63)),
    *each("codes", lambda name, value: attribute(**{name: value}), "generation created_by", (None, -1, [])),
    *each(
        "codes",
        lambda name, value: inside("calibration", **{name: value}),
        "origin queries unlike columns curves",
        (None, "x", -1, {"0": []}, {"10": [[1]]}, {"ten": []}, ["a", "a"]),
    ),
]

ARRAYS: list[tuple[str, Change]] = [
    ("classic", lambda f: f.put("vectors/ids", np.arange(160))),
    ("classic", lambda f: f.put("vectors/live", np.zeros(160, np.uint8))),
    ("classic", lambda f: f.put(f"{DIRECTORY}/retired", np.zeros(1, np.uint32))),
    ("classic", lambda f: f.put("a/b", np.zeros(1, np.uint32))),
    ("classic", lambda f: f.put("vectors/exact", np.zeros((160, 24), np.float32))),
    *each(
        "codes",
        lambda name, value: lambda f: f.remove(name),
        f"quantizer/signs vectors/exact {DIRECTORY}/page {L0}/offsets vectors/ids {DIRECTORY}/chain",
        (None,),
    ),
    ("ip", lambda f: f.remove("postings/shapes")),
    *each(
        "codes",
        lambda name, value: array(f"{DIRECTORY}/{name}", lambda v: v.astype(np.float64)),
        "page offset length primaries crc32c chain",
        (None,),
    ),
    *each(
        "codes",
        lambda name, value: array(name, lambda v: v[:-1]),
        f"quantizer/origin vectors/exact_crc32c vectors/ids {L0}/offsets {DIRECTORY}/crc32c",
        (None,),
    ),
    ("ip", array("postings/shapes", lambda v: v[:, :-1])),
    ("codes", array("centroids/vectors", lambda v: v.astype(np.float64))),
    ("classic", array("centroids/vectors", lambda v: v.astype(np.float16))),
    ("classic", array("centroids/ids", lambda v: v.astype(np.uint64))),
    ("codes", metadata(f"{DIRECTORY}/page", lambda node: node.update(fill_value=0.0))),
    ("codes", metadata(f"{DIRECTORY}/page", lambda node: node.update(extra=1))),
    ("codes", metadata(f"{DIRECTORY}/page", lambda node: node.update(shape=[2**62]))),
    ("codes", metadata(f"{DIRECTORY}/page", lambda node: node.update(shape=[10**3000]))),
    ("codes", metadata("vectors", lambda node: node.update(zarr_format=3.0))),
    ("codes", lambda f: f.document.update(more=1)),
    ("codes", lambda f: f.document["consolidated_metadata"].update(must_understand=True)),
    ("codes", lambda f: f.about["integrity"].pop("vectors/exact")),
    ("codes", lambda f: f.about["integrity"].update({"vectors/exact": "0"})),
]

RELIED_ON: list[tuple[str, Change]] = [
    *(("codes", array(f"{L0}/neighbors", put(value))) for value in (10**6, 2**32 - 1)),
    ("codes", array(f"{L0}/offsets", put(1))),
    ("codes", array(f"{L0}/offsets", put(2**63, 1))),
    ("codes", array(f"{DIRECTORY}/chain", put(1))),
    ("codes", array(f"{DIRECTORY}/chain", lambda v: np.zeros_like(v))),
    ("codes", array(f"{DIRECTORY}/chain", lambda v: v[[0, 0, *range(2, len(v))]])),
    ("ip", array(f"{DIRECTORY}/appended", put(10**6))),
    ("codes", array(f"{DIRECTORY}/offset", put(4096))),
    ("codes", array(f"{DIRECTORY}/page", put(2**32 - 1))),
    ("codes", array(f"{DIRECTORY}/length", put(65535))),
    ("codes", array(f"{DIRECTORY}/primaries", put(65535))),
    ("codes", array(f"{DIRECTORY}/primaries", lambda v: v - (v > 1))),
    ("codes", array("quantizer/origin", put(3e38))),
    ("codes", array("quantizer/origin", put(np.nan))),
    *(("codes", array("centroids/vectors", put(value, (0, 0)))) for value in (np.nan, np.inf)),
    ("classic", array("centroids/vectors", put(0.0))),
    ("classic", array("centroids/ids", put(2**32 - 1))),
    ("ip", array("postings/shapes", put(255, (0, slice(0, 20))))),
    ("classic", attribute(count=1)),
    ("classic", attribute(count=161)),
    ("codes", attribute(posting_bound=1)),
]

CONTENT: list[tuple[str, Change, str]] = [
    ("codes", array("centroids/vectors", equal_centroids), "two centroids are equal"),
    ("classic", array("centroids/ids", equal_centroids), "represented by the same vector"),
    ("codes", array("vectors/ids", equal_centroids), "twice"),
    ("codes", array("vectors/ids", put(-1)), "at least 0"),
    ("codes", array("vectors/ids", put(5)), "which no vector has"),
    ("ip", array("quantizer/origin", put(1)), "is not 0, as it must be under ip"),
    ("ip", array("centroids/lift", put(np.nan)), "no length"),
    *(("ip", attribute(max_norm=value), "the longest vector has length") for value in (0.0, 1.0, 1e6)),
    ("classic-ip", attribute(max_norm=1e6), "the longest vector has length"),
    ("codes", posting(duplicate_id, replicas=True), "twice"),
    ("codes", posting(lambda p, f: put(2**60)(p["ids"])), "which no vector has"),
    ("codes", posting(lambda p, f: put(0, -1)(p["rows"]), replicas=True), "which is not that vector"),
    ("codes", posting(lambda p, f: put(2**32 - 1, -1)(p["rows"]), replicas=True), "which is not that vector"),
    ("codes", posting(lambda p, f: put(np.inf, 3)(p["header"])), "header that is not finite"),
    ("classic", posting(lambda p, f: duplicate_id(p, f)), ""),
    ("classic", posting(other_copy, replicas=True), "no copy of its primary"),
    ("classic", posting(representative, replicas=True), "represents a centroid"),
    ("classic", posting(not_a_number), "is not finite"),
    ("classic", posting(lambda p, f: put(0)(p["vectors"])), "not of a length"),
    ("classic-ip", array(f"{DIRECTORY}/crc32c", lambda v: v ^ 1), "does not match its checksum"),
    ("ip", shape_of_nothing, "its shape is not 0"),
    ("ip", checksum_of_nothing, "a checksum that is not 0"),
    ("codes", array("postings/pages", lambda v: np.vstack([v, np.eye(1, 4096, 17, dtype=np.uint8)])), "are not 0"),
    ("codes", array("vectors/exact", put(np.nan, (3, 3))), "row 3 of vectors/exact is not finite"),
    ("codes", array("vectors/exact_crc32c", put(0)), "page 0 of vectors/exact"),
    ("codes", array("quantizer/signs", lambda v: ~v[::-1].copy() ^ 0x5A), "does not follow"),
    *(
        (kind, array("quantizer/origin", lambda v: v + np.float32(0.01)), "`add` of entry")
        for kind in ("codes", "cosine")
    ),
    ("cosine", array("quantizer/origin", lambda v: v * 0), "`add` of entry"),
    *((kind, posting(factor(name)), f"`{name}` of entry") for kind in ("codes", "ip") for name in ("add", "scale")),
    ("codes", posting(factor("add"), replicas=True), "`add` of entry"),
    ("codes", posting(lambda p, f: put(p["header"][4] / 2, 4)(p["header"]), replicas=True), "`error` of entry"),
    ("ip", posting(lambda p, f: put(p["codes"][::-1].copy(), slice(None))(p["codes"])), "does not follow"),
    ("codes", posting(lambda p, f: put(p["codes"][-1] ^ 255, -1)(p["codes"]), replicas=True), "does not follow"),
]


def problems(path: Path) -> list[str]:
    """The problems that a verification finds; or the error, if the manifest cannot be read at all."""
    try:
        return [problem.detail for problem in spann.verify(path)]
    except SpannError as error:
        return [str(error)]


def check(forgeries: Callable[[str], Forgery], kind: str, change: Change, says: str, *, opens: bool) -> None:
    f = forgeries(kind)
    change(f)
    f.seal()
    found = problems(f.path)
    assert found
    assert any(says in text for text in found), found
    assert all(text.isprintable() and len(text) < 2000 for text in found)
    if not opens:
        with pytest.raises(SpannError):
            spann.open(f.path, io="buffered").close()


@pytest.mark.parametrize("number", range(len(ATTRIBUTES)))
def test_a_wrong_entry_of_the_manifest_is_refused(forgeries, number):
    kind, change = ATTRIBUTES[number]
    check(forgeries, kind, change, "", opens=False)


@pytest.mark.parametrize("number", range(len(ARRAYS)))
def test_missing_or_foreign_arrays_are_refused(forgeries, number):
    kind, change = ARRAYS[number]
    f = forgeries(kind)
    change(f)
    f.seal()
    found = problems(f.path)
    assert found
    assert all(len(text) < 1000 for text in found)


@pytest.mark.parametrize("number", range(len(RELIED_ON)))
def test_broken_numbers_of_a_search_are_refused(forgeries, number):
    check(forgeries, *RELIED_ON[number], "", opens=False)


@pytest.mark.parametrize(("kind", "change", "says"), CONTENT)
def test_wrong_content_is_found_by_verification(forgeries, kind, change, says):
    check(forgeries, kind, change, says, opens=True)


@pytest.mark.parametrize("what", ["fifo", "link", "link out", "directory", "hole", "socket"])
@pytest.mark.parametrize("where", ["zarr.json", "centroids/vectors/c/0/0", "postings/pages/c/0/0", "vectors/exact"])
def test_files_are_regular_and_on_disk(forgeries, where, what):
    f = forgeries("codes")
    path = f.touch(where)
    if what == "hole":
        if path.is_dir():
            path = f.touch(where + "/c/0/0")
        os.truncate(path, 1 << 40)
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if what == "fifo":
            os.mkfifo(path)
        elif what == "link":
            path.symlink_to(f.sound / where)
        elif what == "link out":
            path.symlink_to("/dev/zero")
        elif what == "directory":
            path.mkdir()
        else:
            import socket

            with socket.socket(socket.AF_UNIX) as s:
                here = Path.cwd()
                os.chdir(path.parent)
                try:
                    s.bind(path.name)
                finally:
                    os.chdir(here)
    with pytest.raises(SpannError):
        spann.open(f.path, io="buffered").close()
    assert problems(f.path)


def test_missing_shards_are_found_before_anything_is_read(forgeries):
    f = forgeries("codes")
    layout = ArrayLayout(2**40, (1,), np.dtype("u1"), 1, 1)
    f.put("vectors/exact", np.zeros((2, 1), np.uint8), ArrayLayout(2, (1,), np.dtype("u1"), 1, 1))
    f.nodes["vectors/exact"] = layout.metadata()
    (f.path / "vectors/exact/zarr.json").write_bytes(b"{}")
    f.seal()
    found = spann.verify(f.path)
    assert len(found) < 100
    with pytest.raises(FormatError, match="expected"):
        spann.open(f.path)
