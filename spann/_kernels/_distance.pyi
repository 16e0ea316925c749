import numpy as np
from numpy.typing import NDArray

METRICS: dict[str, int]
ELEMENTS: dict[str, int]

def simd_level() -> int: ...
def simd_widest() -> int: ...
def score(
    metric: int, dtype: int, query: NDArray[np.uint8], rows: NDArray[np.uint8], dim: int, out: NDArray[np.float32]
) -> int: ...
def gather(
    metric: int,
    dtype: int,
    query: NDArray[np.uint8],
    rows: NDArray[np.uint8],
    index: NDArray[np.uint32],
    dim: int,
    out: NDArray[np.float32],
) -> int: ...
def measure(
    metric: int, dtype: int, query: NDArray[np.uint8], rows: NDArray[np.uint8], dim: int, out: NDArray[np.float64]
) -> int: ...
def dot_tile(rows: NDArray[np.float32], tile: NDArray[np.float32], out: NDArray[np.float32]) -> int: ...
