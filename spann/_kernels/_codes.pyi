import numpy as np
from numpy.typing import NDArray

def query_bytes(padded: int, bits: int) -> int: ...
def rotate(x: NDArray[np.float32], signs: NDArray[np.uint8], out: NDArray[np.float32]) -> int: ...
def prepare(
    x: NDArray[np.float32],
    signs: NDArray[np.uint8],
    rotated: NDArray[np.float32],
    bits: int,
    buffer: NDArray[np.uint8],
) -> tuple[float, float, float] | None: ...
def dots(
    buffer: NDArray[np.uint8],
    padded: int,
    bits: int,
    codes: NDArray[np.uint8],
    tail: NDArray[np.uint8],
    tail_rows: int,
    out: NDArray[np.int32],
) -> int: ...
def estimate(
    buffer: NDArray[np.uint8],
    padded: int,
    bits: int,
    step: float,
    offset: float,
    codes: NDArray[np.uint8],
    tail: NDArray[np.uint8],
    tail_rows: int,
    add: NDArray[np.uint16],
    scale: NDArray[np.uint16],
    headers: NDArray[np.float32],
    base: NDArray[np.float32],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    out: NDArray[np.float32],
) -> int: ...
def encode(
    x: NDArray[np.float32],
    centroids: NDArray[np.float32],
    lengths: NDArray[np.int64],
    origin: NDArray[np.float32],
    signs: NDArray[np.uint8],
    bits: int,
    ip: bool,
    far: NDArray[np.int8] | None,
    codes: NDArray[np.uint8],
    add: NDArray[np.uint16],
    scale: NDArray[np.uint16],
    headers: NDArray[np.float32],
) -> int: ...
