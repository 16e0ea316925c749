"""Every form in which people have vectors: read as it is, with its ids, or refused by row with the remedy."""

from __future__ import annotations

import gzip
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.fs as fs
import pyarrow.ipc as ipc
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

import spann
from spann.errors import InputError, MissingError, NarrowingWarning
from spann.vectors import open_queries, open_source, read_truth

ROWS, DIM = 90, 6
X = np.random.default_rng(4).integers(-200, 200, (ROWS, DIM)).astype(np.float32) / 8
IDS = np.random.default_rng(4).permutation(ROWS) * 5 + 2
TAKEN = np.array([88, 0, 41, 41, 7, 59])


def lists(kind: Any = None, x: Any = X) -> pa.Array:
    return pa.array(x.tolist(), pa.list_(kind or pa.float32()))


def table(kind: Any = None, rows: slice = slice(None)) -> pa.Table:
    return pa.table({"id": IDS[rows], "text": ["a"] * len(IDS[rows]), "embedding": lists(kind, X[rows])})


class Tensor:
    """What has DLPack and nothing else, as tensors of some libraries."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class Stream:
    """What gives a stream of Arrow, once, as results of databases do."""

    def __init__(self, given: pa.Table) -> None:
        self.reader = given.to_reader(20)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.reader.__arrow_c_stream__(requested_schema)


class HuggingFaceSet:
    """What spann uses of a data set of Hugging Face, without that library."""

    __module__ = "datasets.arrow_dataset"

    def __init__(self, given: pa.Table) -> None:
        self.table = given

    def with_format(self, kind: str) -> HuggingFaceSet:
        assert kind == "arrow"
        return self

    def select_columns(self, names: list[str]) -> HuggingFaceSet:
        return HuggingFaceSet(self.table.select(names))

    def iter(self, batch_size: int) -> Any:
        return (self.table[at : at + 27] for at in range(0, len(self.table), 27))


class HuggingFaceColumn:
    """A column of such a data set."""

    __module__ = "datasets.arrow_dataset"
    column_name = "embedding"

    def __init__(self, given: pa.Table) -> None:
        self.source = HuggingFaceSet(given)


def parts(write: Any, folder: Path, suffix: str) -> Path:
    """A folder as programs leave it that write in parts: one of them is empty."""
    folder.mkdir()
    for number, rows in enumerate((slice(0, 40), slice(40, 40), slice(40, 90))):
        write(table(rows=rows), folder / f"part-{number:05}{suffix}")
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.crc").touch()
    return folder


def parquet(given: pa.Table, path: Path) -> Path:
    pq.write_table(given, path, row_group_size=17)
    return path


def arrow(given: pa.Table, path: Path) -> Path:
    with ipc.new_file(path, given.schema) as file:
        file.write_table(given, max_chunksize=13)
    return path


def arrows(given: pa.Table, path: Path) -> Path:
    with ipc.new_stream(path, given.schema) as file:
        file.write_table(given, max_chunksize=13)
    return path


def orcs(given: pa.Table, path: Path) -> Path:
    orc.write_table(given, path)
    return path


def texts(given: pa.Table, path: Path) -> Path:
    """A CSV with vectors as pandas writes a column of lists."""
    pd.DataFrame({"id": given["id"], "embedding": given["embedding"].to_pylist()}).to_csv(path, index=False)
    return path


def wide(path: Path) -> Path:
    numbers = {f"f{place}": X[:, place] for place in range(DIM)}
    csv.write_csv(pa.table({"id": IDS, **numbers}), path)
    return path


def lines(given: pa.Table, path: Path, opened: Any = open) -> Path:
    with opened(path, "wt") as file:
        for row in given.select(["id", "embedding"]).to_pylist():
            file.write(json.dumps(row) + "\n")
    return path


def saved(path: Path, values: Any = X) -> Path:
    np.save(path, values)
    return path


def hdf5(path: Path, dtype: str = "f4", **attributes: str) -> Path:
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = X.astype(dtype), X[:9].astype(dtype)
        file["neighbors"], file["distances"] = np.arange(27).reshape(9, 3), np.ones((9, 3), "f4")
        file.attrs.update(attributes)
    return path


def npy_parts(folder: Path) -> Path:
    folder.mkdir()
    for number, rows in enumerate(np.split(X, [30, 50])):
        np.save(folder / f"emb_{number}.npy", rows)
    return folder


def fbin(path: Path) -> Path:
    path.write_bytes(np.array([ROWS, DIM], "<u4").tobytes() + X.tobytes())
    return path


WITH_IDS = {
    "parquet": lambda p: parquet(table(), p / "a.parquet"),
    "parquet-float64": lambda p: parquet(table(pa.float64()), p / "a.parquet"),
    "parquet-folder": lambda p: parts(parquet, p / "parts", ".parquet"),
    "parquet-folder-column": lambda p: f"{parts(parquet, p / 'parts', '.parquet')}#embedding",
    "parquet-nested-folder": lambda p: _nested(p),
    "parquet-list": lambda p: sorted(parts(parquet, p / "parts", ".parquet").glob("*.parquet")),
    "parquet-glob": lambda p: f"{parts(parquet, p / 'parts', '.parquet')}/*.parquet",
    "parquet-uri": lambda p: parts(parquet, p / "parts", ".parquet").as_uri(),
    "hugging-face-shards": lambda p: _hugging_face(p / "hf"),
    "feather": lambda p: (feather.write_feather(table(), p / "a.feather", "lz4", chunksize=40), p / "a.feather")[1],
    "arrow-ipc": lambda p: arrow(table(), p / "a.arrow"),
    "arrow-folder": lambda p: parts(arrow, p / "parts", ".arrow"),
    "arrow-stream-file": lambda p: arrows(table(), p / "a.arrows"),
    "orc": lambda p: orcs(table(), p / "a.orc"),
    "csv-of-texts": lambda p: texts(table(), p / "a.csv"),
    "csv-of-numbers": lambda p: wide(p / "a.csv"),
    "csv-folder": lambda p: parts(texts, p / "parts", ".csv"),
    "jsonl": lambda p: lines(table(), p / "a.jsonl"),
    "jsonl-packed": lambda p: lines(table(), p / "a.jsonl.gz", gzip.open),
    "arrow-table": lambda p: table(),
    "arrow-table-float64": lambda p: table(pa.float64()),
    "arrow-fixed-lists": lambda p: table().set_column(2, "embedding", lists().cast(pa.list_(pa.float32(), DIM))),
    "arrow-large-lists": lambda p: table().set_column(2, "embedding", lists().cast(pa.large_list(pa.float32()))),
    "arrow-tensors": lambda p: table().set_column(2, "v", pa.FixedShapeTensorArray.from_numpy_ndarray(X)),
    "record-batch": lambda p: table().combine_chunks().to_batches()[0],
    "record-batch-reader": lambda p: table().to_reader(20),
    "arrow-c-stream": lambda p: Stream(table()),
    "hugging-face-set": lambda p: HuggingFaceSet(table()),
    "pandas": lambda p: pd.DataFrame({"id": IDS, "embedding": X.astype(float).tolist()}),
    "pandas-arrays": lambda p: pd.DataFrame({"id": IDS, "embedding": list(X)}),
    "polars": lambda p: pl.DataFrame({"id": IDS, "embedding": X.tolist()}),
    "polars-arrays": lambda p: pl.DataFrame({"id": IDS, "embedding": X}),
    "frame-of-numbers": lambda p: pd.DataFrame(X, columns=list("abcdef")).assign(id=IDS),
    "batches-of-arrow": lambda p: iter(table().to_batches(20)),
    "batches-of-frames": lambda p: (pl.DataFrame(table()[at : at + 31]) for at in range(0, ROWS, 31)),
}

WITHOUT_IDS = {
    "npy": lambda p: saved(p / "a.npy"),
    "npy-float64": lambda p: saved(p / "a.npy", X.astype(np.float64)),
    "npy-folder": lambda p: npy_parts(p / "img_emb"),
    "npy-list": lambda p: sorted(npy_parts(p / "img_emb").iterdir()),
    "hdf5": lambda p: hdf5(p / "a.hdf5"),
    "hdf5-float64": lambda p: hdf5(p / "a.hdf5", "f8"),
    "fbin": lambda p: fbin(p / "a.fbin"),
    "array": lambda p: X,
    "array-float64": lambda p: X.astype(np.float64),
    "lists": lambda p: X.tolist(),
    "list-of-arrays": lambda p: list(X),
    "tuple-of-lists": lambda p: tuple(X.tolist()),
    "arrow-array": lambda p: lists(),
    "chunked-array": lambda p: pa.chunked_array([lists(x=X[:50]), lists(x=X[50:])]),
    "dlpack": lambda p: Tensor(X),
    "list-of-tensors": lambda p: [Tensor(row) for row in X],
    "hugging-face-column": lambda p: HuggingFaceColumn(table()),
    "pandas-column": lambda p: pd.Series(X.tolist()),
    "polars-column": lambda p: pl.Series(X.tolist()),
    "objects": lambda p: pd.Series(list(X)).to_numpy(),
    "batches-of-arrays": lambda p: (X[at : at + 25] for at in range(0, ROWS, 25)),
    "vectors-one-by-one": lambda p: iter(X),
    "batches-of-lists": lambda p: (X[at : at + 25].tolist() for at in range(0, ROWS, 25)),
}


def _nested(folder: Path) -> Path:
    """As partitions by day."""
    for number, rows in enumerate((slice(0, 50), slice(50, 90))):
        (folder / "x" / f"day={number}").mkdir(parents=True)
        parquet(table(rows=rows), folder / "x" / f"day={number}" / "a.parquet")
    return folder / "x"


def _hugging_face(folder: Path) -> Path:
    folder.mkdir()
    for number, rows in enumerate((slice(0, 50), slice(50, 90))):
        parquet(table(rows=rows), folder / f"train-{number:05}-of-00002.parquet")
    return folder


def opened(obj: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NarrowingWarning)
        return open_source(obj, **options)


@pytest.mark.parametrize("form", [*WITH_IDS, *WITHOUT_IDS])
def test_every_form_is_read_as_it_is(form: str, tmp_path: Path) -> None:
    make = {**WITH_IDS, **WITHOUT_IDS}[form]
    with opened(make(tmp_path)) as source:
        assert (source.count, source.dim, source.dtype) == (ROWS, DIM, np.float32)
        np.testing.assert_array_equal(source.read(0, ROWS), X)
        np.testing.assert_array_equal(source.read(35, 61), X[35:61])
        np.testing.assert_array_equal(source.take(TAKEN), X[TAKEN])
        np.testing.assert_array_equal(np.concatenate([block for _, block in source.blocks(23)]), X)
        ids = source.own_ids()
        assert (ids is not None) == (form in WITH_IDS)
        if ids is not None:
            np.testing.assert_array_equal(ids.values, IDS)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    with opened(make(tmp_path), max_rows=44) as source:
        assert source.count == 44
        np.testing.assert_array_equal(source.read(0, 44), X[:44])


@pytest.mark.parametrize("form", ["parquet-folder", "arrow-table-float64", "batches-of-frames", "hugging-face-shards"])
def test_an_index_goes_by_the_ids_of_its_vectors(form: str, tmp_path: Path) -> None:
    params = spann.BuildParams(calibration_queries=0)
    with opened(WITH_IDS[form](tmp_path)) as source, spann.build(source, tmp_path / "x", params=params) as index:
        assert index.search(X[:9], 1).ids.ravel().tolist() == IDS[:9].tolist()
    for no_ids in (False, np.arange(ROWS)):
        with (
            opened(parquet(table(), tmp_path / "a.parquet")) as source,
            spann.build(source, tmp_path / "y", ids=no_ids, params=params, overwrite=True) as index,
        ):
            assert index.search(X[:9], 1).ids.ravel().tolist() == list(range(9))


def test_other_columns_of_ids(tmp_path: Path) -> None:
    path = parquet(table().append_column("key", pa.array(IDS + 1)), tmp_path / "a.parquet")
    params = spann.BuildParams(calibration_queries=0)
    with spann.build(path, tmp_path / "x", ids="key", params=params) as index:
        assert index.search(X[:3], 1).ids.ravel().tolist() == (IDS[:3] + 1).tolist()
    with (
        opened(path) as source,
        pytest.raises(InputError, match="has no column 'none'; it has id, text, embedding, key"),
    ):
        source.own_ids("none")


@pytest.mark.parametrize("form", ["parquet", "arrow", "arrows", "orc", "csv", "jsonl", "table", "polars", "lists"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (None, r"row 71 of .* (is null|has no array|is None)"),
        ([1.0] * (DIM - 1), rf"row 71 of .* has {DIM - 1} numbers where row \d+ has {DIM}"),
        ([*[1.0] * (DIM - 1), None], r"row 71 .*of .* (has a null|is None)"),
        ([*[1.0] * (DIM - 1), 1e300], r"row 71 column 5 of .* is 1e\+300, beyond float32: scale"),
    ],
)
def test_a_wrong_row_is_named(form: str, wrong: Any, words: str, tmp_path: Path) -> None:
    rows = X.astype(float).tolist()
    rows[71] = wrong
    obj = _given_as(form, rows, tmp_path / f"a.{form}")
    with pytest.raises(InputError, match=words), opened(obj) as source:
        source.read(0, ROWS)


def _given_as(form: str, rows: list[Any], path: Path) -> Any:
    if form == "lists":
        return rows
    if form in ("csv", "jsonl"):
        texts_ = map(json.dumps, rows)
        head, line = ("embedding\n", '"{}"\n') if form == "csv" else ("", '{{"embedding": {}}}\n')
        path.write_text(head + "".join(line.format(text) for text in texts_))
        return path
    given = pa.table({"embedding": pa.array(rows, pa.list_(pa.float64()))})
    made = {"table": lambda given, _: given, "polars": lambda given, _: pl.DataFrame(given)}
    files = {"parquet": parquet, "arrow": arrow, "arrows": arrows, "orc": orcs}
    return {**made, **files}[form](given, path)


@pytest.mark.parametrize(
    ("dtype", "wrong", "words"),
    [
        (np.int64, 1 << 25, "row 5 column 2 of array is 33554432; float32 holds whole numbers up to 16777216 only"),
        (np.int32, -(1 << 25), "is -33554432; float32 holds whole numbers"),
        (np.uint64, (1 << 64) - 1, "is 18446744073709551615; float32"),
        (np.float64, -1e39, r"row 5 column 2 of array is -1e\+39, beyond float32"),
    ],
)
def test_wide_numbers_that_float32_cannot_hold(dtype: Any, wrong: Any, words: str) -> None:
    x = np.abs(X).astype(dtype)
    with pytest.warns(NarrowingWarning, match=f"array holds {np.dtype(dtype).name}, which becomes float32"):
        source = open_source(x)
    np.testing.assert_array_equal(source.read(3, 9), x[3:9].astype(np.float32))
    x[5, 2] = wrong
    for use in (lambda: source.read(3, 9), lambda: source.take(np.array([1, 5]))):
        with pytest.raises(InputError, match=words):
            use()


def test_narrowing_is_told_once_and_where_it_was_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", X.astype(np.float64))
    with pytest.warns(NarrowingWarning) as told:
        spann.build(path, tmp_path / "x", params=spann.BuildParams(calibration_queries=0)).close()
    assert len(told) == 1
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_queries(path).dtype == np.float32


def test_files_that_say_what_they_are_by_format(tmp_path: Path) -> None:
    path = fbin(tmp_path / "base.1B.fbin.crop_nb_90")
    with pytest.raises(InputError, match=r"extension '.crop_nb_90' is unknown; .*; --format \(format=\) says what"):
        open_source(path)
    with open_source(path, format="fbin") as source:
        np.testing.assert_array_equal(source.read(0, ROWS), X)
    with opened(parquet(table(), tmp_path / "part-0"), format="parquet") as source:
        assert source.count == ROWS
    with pytest.raises(InputError, match=r"format 'bin' is unknown; it must be one of fbin, .*parquet"):
        open_source(path, format="bin")
    with pytest.raises(InputError, match="array is a list: format and filesystem are for paths"):
        open_source([[1.0]], format="fbin")


def test_other_file_systems(tmp_path: Path) -> None:
    parts(parquet, tmp_path / "parts", ".parquet")
    inside = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    with opened("parts", filesystem=inside) as source:
        np.testing.assert_array_equal(source.read(0, ROWS), X)
    with pytest.raises(MissingError, match="none does not exist"):
        open_source("none", filesystem=inside)
    saved(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"a.npy: .npy files are read from the machine's own disks only"):
        open_source("a.npy", filesystem=inside)
    with pytest.raises(InputError, match="nowhere://x cannot be reached: Unrecognized filesystem type"):
        open_source("nowhere://x")


def test_folders_and_lists_that_cannot_be(tmp_path: Path) -> None:
    folder = parts(parquet, tmp_path / "parts", ".parquet")
    saved(folder / "x.npy")
    with pytest.raises(InputError, match=r"has files of several kinds, part-00000.parquet and x.npy: name those"):
        open_source(folder)
    (folder / "x.npy").unlink()
    parquet(table().set_column(2, "embedding", lists(pa.float64())), folder / "y.parquet")
    with pytest.raises(InputError, match=r"column 'embedding' of .*y.parquet is list<.*double>; in .* it is list<"):
        open_source(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no files"):
        open_source(tmp_path / "empty")
    with pytest.raises(MissingError, match=r"no file matches .*/none-\*.parquet"):
        open_source(f"{tmp_path}/none-*.parquet")
    saved(tmp_path / "a.npy")
    saved(tmp_path / "b.npy", X[:, :3])
    with pytest.raises(InputError, match=r"b.npy has 3 float32 where .*a.npy has 6 float32"):
        open_source([tmp_path / "a.npy", tmp_path / "b.npy"])
    folder = _hugging_face(tmp_path / "hf")
    parquet(table(), folder / "test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"several splits, test and train: name one, as .*/train-"):
        open_source(folder)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "1.5,2.5\n3,4\n", "begins with numbers: its first line must name the columns"),
        ("a.csv", "id,a,b\n1,2,x\n", "column 'b' of .* holds string: where no column is named"),
        ("a.csv", "id,a,b\n1,2,\n2,1,1\n", "row 0 of column 'b' of .* is empty"),
        ("a.csv", "id,a,b\n1,2\n", "cannot be read|is not a CSV file"),
        ("a.csv", "", "is not a CSV file"),
        ("a.csv", "a,b\n", "holds no vectors|0 whole vectors"),
        ("a.jsonl", '{"vector": [1, 2]}\n{"vec', "row 1 of .* is no JSON"),
        ("a.jsonl", '{"vector": [1, 2]}\n{"text": "a"}', "row 1 of .* has no array of numbers"),
        ("a.jsonl", '{"vector": [1, true]}', "row 0 of .* has no array of numbers"),
        ("a.jsonl", "[1, 2]\n[%s]" % ("9" * 400 + ", 1"), "row 1 of .* has a number beyond float32"),
        ("a.jsonl", "", "0 whole vectors"),
        ("a.json", "[[1, 2]]", "write one JSON object a line, as .jsonl"),
        ("a.pt", "", r"save the tensor by np.save"),
        ("a.orc", "no", "is not an ORC file"),
        ("a.arrow", "no", "is not a Feather"),
        ("a.arrows", "no", "is not a stream of Arrow"),
    ],
)
def test_texts_and_files_that_cannot_be(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        open_source(tmp_path / name)


def test_lines_of_bare_arrays_are_vectors(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[1, 2]\n\n[3.5, 4]")
    assert open_source(tmp_path / "a.jsonl").read(0, 2).tolist() == [[1, 2], [3.5, 4]]


def test_the_files_of_ann_benchmarks(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5", distance="angular")
    with open_source(path) as source, open_queries(path) as asked:
        assert (source.count, asked.count) == (ROWS, 9)
        assert source.metric is spann.Metric.COSINE
    assert open_queries(f"{path}#train").count == ROWS
    truth = read_truth(path)
    assert truth.ids.tolist() == np.arange(27).reshape(9, 3).tolist()
    assert truth.distances is not None
    np.testing.assert_array_equal(read_truth(f"{path}#neighbors").ids, truth.ids)
    params = spann.BuildParams(calibration_queries=0)
    with spann.build(path, tmp_path / "x", params=params) as index:
        assert index.metric is spann.Metric.COSINE
        assert index.search(path, 1).ids.ravel().tolist() == list(range(9))
    assert spann.plan(path).metric == "cosine"
    with pytest.raises(InputError, match="says that its metric is cosine, and l2 was asked for: leave the metric out"):
        spann.build(path, tmp_path / "y", metric="l2")
    with pytest.raises(InputError, match="says that its distance is 'jaccard', which spann has not"):
        open_source(hdf5(tmp_path / "b.hdf5", distance="jaccard"))
    with h5py.File(tmp_path / "c.hdf5", "w") as file:
        file["train"] = X
    with pytest.raises(InputError, match="has no 2-D dataset 'neighbors' of neighbours"):
        read_truth(tmp_path / "c.hdf5")


def test_streams_leave_nothing_behind(tmp_path: Path) -> None:
    with open_source(iter([X, X]), scratch=tmp_path) as source:
        assert source.count == 2 * ROWS
        assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="row 90 of batches has 3 float32 where row 0 has 6 float32"):
        open_source(iter([X, X[:, :3]]))
    with pytest.raises(InputError, match="row 1 of batches"):
        open_source(iter([X[0], X[1, :3]]))
    with pytest.raises(InputError, match="batches holds 0 whole vectors"):
        open_source(iter([]))
    with pytest.raises(spann.StorageError, match="none: vectors of batches cannot be kept there"):
        open_source(iter([X]), scratch=tmp_path / "none")


class Elsewhere(Tensor):
    def __dlpack_device__(self) -> Any:
        return (2, 0)


def test_tensors_on_a_device_are_refused() -> None:
    for given in (Elsewhere(X), [Elsewhere(X[0])]):
        with pytest.raises(InputError, match=r"lies on a device \(DLPack type 2\): move it to the CPU"):
            open_source(given)
