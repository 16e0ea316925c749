"""Every format can be written, and read back is what it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spann.elements import memory_dtype, pack, rounded, unpack
from spann.errors import InputError, MissingError
from spann.vectors import convert, open_source
from spann.vectors.conversion import TYPES

RNG = np.random.default_rng(0)
VALUES = {
    "uint8": RNG.integers(0, 256, (1000, 7)).astype(np.uint8),
    "int8": RNG.integers(-128, 128, (1000, 7)).astype(np.int8),
    "float16": RNG.standard_normal((1000, 7)).astype(np.float16),
    "float32": RNG.standard_normal((1000, 7)).astype(np.float32),
}
VALUES["bfloat16"] = pack(VALUES["float32"], "bfloat16").view("V2")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("spann.vectors.conversion.BLOCK_BYTES", 999)


@pytest.mark.parametrize(("suffix", "dtype"), [(s, t) for s, types in TYPES.items() for t in types])
def test_written_and_read_back(tmp_path, suffix, dtype):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    seen = []
    path = tmp_path / f"v{suffix}"
    given = open_source(VALUES[dtype])
    convert(given, path, progress=lambda *told: seen.append(told))
    with open_source(path) as source:
        assert source.element == dtype
        np.testing.assert_array_equal(source.read(0, 1000), given.read(0, 1000))
    assert seen[-1] == ("convert", 1000, 1000)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations([".fbin", ".npy", ".fvecs"], 2)))
def test_from_format_to_format(tmp_path, one, other):
    convert(open_source(VALUES["float32"]), tmp_path / f"a{one}")
    with open_source(tmp_path / f"a{one}") as source:
        convert(source, tmp_path / f"b{other}")
    with open_source(tmp_path / f"b{other}") as source:
        np.testing.assert_array_equal(source.read(0, 1000), VALUES["float32"])


def test_types_change_where_values_allow_it(tmp_path):
    convert(open_source(VALUES["uint8"]), tmp_path / "a.fbin")
    with open_source(tmp_path / "a.fbin") as source:
        assert source.dtype == np.float32
        convert(source, tmp_path / "b.u8bin")
    with open_source(tmp_path / "b.u8bin") as source:
        np.testing.assert_array_equal(source.read(0, 1000), VALUES["uint8"])
    convert(open_source(VALUES["float32"]), tmp_path / "c.npy", "float16")
    with open_source(tmp_path / "c.npy") as source:
        np.testing.assert_array_equal(source.read(0, 1000), VALUES["float32"].astype(np.float16))


@pytest.mark.parametrize(
    ("value", "dtype", "suffix"),
    [
        (0.5, "uint8", ".u8bin"),
        (256.0, "uint8", ".bvecs"),
        (-1.0, "uint8", ".npy"),
        (128.0, "int8", ".i8bin"),
        (1e5, "float16", ".f16bin"),
        (np.nan, "int8", ".i8bin"),
        (3.4e38, "bfloat16", ".bf16bin"),
    ],
)
def test_values_that_do_not_fit(tmp_path, value, dtype, suffix):
    values = np.ones((500, 3), np.float32)
    values[321, 2] = value
    with pytest.raises(InputError, match=f"row 321 column 2 of array is .*, which {dtype} cannot hold"):
        convert(open_source(values), tmp_path / f"v{suffix}", dtype)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(tmp_path):
    source = open_source(VALUES["uint8"])
    with pytest.raises(InputError, match=r"extension '\.csv' is unknown"):
        convert(source, tmp_path / "v.csv")
    with pytest.raises(InputError, match=r"\.fbin cannot hold uint8; it holds float32"):
        convert(source, tmp_path / "v.fbin", "uint8")
    with pytest.raises(MissingError, match="does not exist"):
        convert(source, tmp_path / "none" / "v.npy")


@pytest.mark.parametrize("suffix", [".spmat", ".csr", ".mtx"])
def test_sparse_vectors_are_refused_with_the_reason(tmp_path, suffix):
    (tmp_path / f"v{suffix}").write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match="hold sparse vectors, and spann searches dense ones"):
        open_source(tmp_path / f"v{suffix}")


def test_bfloat16_from_ml_dtypes_and_back(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = VALUES["float32"].astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "saved.npy", given)
    convert(open_source(given), tmp_path / "written.npy")
    assert (tmp_path / "saved.npy").read_bytes()[128:] == (tmp_path / "written.npy").read_bytes()[128:]
    convert(open_source(VALUES["float32"]), tmp_path / "rounded.bf16bin")
    for place in (given, given[::-1][::-1], *(tmp_path / name for name in ("saved.npy", "rounded.bf16bin"))):
        with open_source(place) as source:
            assert (source.element, source.dtype, source.stored_bytes) == ("bfloat16", np.float32, 14)
            np.testing.assert_array_equal(source.read(0, 1000), given.astype(np.float32))
            rows = np.array([5, 3, 5, 999])
            np.testing.assert_array_equal(source.take(rows), given[rows].astype(np.float32))
    back = np.load(tmp_path / "written.npy").view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(back.astype(np.float32), given.astype(np.float32))


def test_rounding_to_bfloat16_is_that_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.random.default_rng(1).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    bits[:5] = [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0xFFFFFFFF, 0x7F800001]  # ties, beyond the largest, NaN
    values = bits.view(np.float32)
    with np.errstate(invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(rounded(values), expected)
    np.testing.assert_array_equal(unpack(pack(rounded(values), "bfloat16"), "bfloat16"), expected)
    exact = expected[~np.isnan(expected)]
    np.testing.assert_array_equal(unpack(pack(exact, "bfloat16"), "bfloat16"), exact)


def test_parquet_has_float32_for_bfloat16(tmp_path):
    pytest.importorskip("pyarrow")
    source = open_source(VALUES["bfloat16"])
    convert(source, tmp_path / "v.parquet")
    with open_source(tmp_path / "v.parquet") as back:
        assert back.dtype == memory_dtype("bfloat16")
        np.testing.assert_array_equal(back.read(0, 1000), source.read(0, 1000))
