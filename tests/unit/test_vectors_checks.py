"""Refusing values that no distance can be computed from."""

from __future__ import annotations

import numpy as np
import pytest

from spann.errors import InputError
from spann.vectors import checks
from spann.vectors.checks import check_finite, check_nonzero


@pytest.fixture(params=[1, 100, 256 << 10], autouse=True)
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_PIECE", request.param)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_first_value_that_is_not_finite_is_named(dtype: str, value: float, shown: str) -> None:
    block = np.ones((40, 6), dtype)
    check_finite(block, 0, "base.fbin")
    block[17, 3] = value
    block[17, 5] = block[30, 0] = np.nan
    with pytest.raises(InputError) as caught:
        check_finite(block, 1000, "base.fbin")
    assert str(caught.value) == f"row 1017 column 3 of base.fbin is {shown}: every value must be finite"


def test_largest_finite_values_pass() -> None:
    for dtype in (np.float16, np.float32):
        check_finite(np.full((30, 8), np.finfo(dtype).max), 0, "x")
        check_finite(np.full((30, 8), np.finfo(dtype).min), 0, "x")
    check_finite(np.full((3, 8), 255, np.uint8), 0, "x")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_first_row_of_zeros_is_named(dtype: str) -> None:
    block = np.zeros((40, 6), dtype)
    block[np.arange(40), np.arange(40) % 6] = 1
    check_nonzero(block, 0, "base.u8bin")
    block[21] = block[33] = 0
    with pytest.raises(InputError, match=r"^row 521 of base.u8bin is all zeros: it has no direction, which cosine"):
        check_nonzero(block, 500, "base.u8bin")


def test_negative_zeros_are_zeros() -> None:
    with pytest.raises(InputError, match="row 0 of q is all zeros"):
        check_nonzero(np.full((1, 3), -0.0, np.float32), 0, "q")
