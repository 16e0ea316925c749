"""The SIMD levels to test, and memory with a guarded end."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spann._kernels.distances import SIMD_LEVELS, simd_levels


@pytest.fixture(params=SIMD_LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SIMD level, set while the test runs."""
    name: str = request.param
    if name not in simd_levels():
        pytest.skip(f"this processor has no {name}")
    monkeypatch.setenv("SPANN_SIMD", name)
    return name


@pytest.fixture(scope="session")
def guarded() -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Copies an array to the end of a page after which reading is a fault."""
    libc = ctypes.CDLL(None, use_errno=True)

    def copy(array: NDArray[Any]) -> NDArray[Any]:
        page = mmap.PAGESIZE
        size = -(-array.nbytes // page) * page
        memory = mmap.mmap(-1, size + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if libc.mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        placed: NDArray[Any] = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
        placed[...] = array
        return placed

    return copy
