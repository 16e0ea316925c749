import numpy as np
from numpy.typing import NDArray

PAGE: int
SLACK: int
HEADER_BYTES: int
FACTOR_BYTES: int
MAX_DIRECTIONS: int

def posting_parts(
    id_bytes: int, row_bytes: int, code_bytes: int, entries: int, primaries: int
) -> tuple[int, int, int, int, int, int]: ...
def shape_parts(code_bytes: int, directions: int) -> tuple[int, int, int, int, int, int, int]: ...
def pack(
    ids: NDArray[np.uint8],
    vectors: NDArray[np.uint8],
    lengths: NDArray[np.uint16],
    starts: NDArray[np.uint64],
    out: NDArray[np.uint8],
    crcs: NDArray[np.uint32],
) -> None: ...
def pack_coded(
    headers: NDArray[np.uint8],
    ids: NDArray[np.uint8],
    add: NDArray[np.uint8],
    scale: NDArray[np.uint8],
    rows: NDArray[np.uint8],
    row_bytes: int,
    codes: NDArray[np.uint8],
    lengths: NDArray[np.uint16],
    primaries: NDArray[np.uint16],
    starts: NDArray[np.uint64],
    out: NDArray[np.uint8],
    crcs: NDArray[np.uint32],
) -> None: ...
def arrange(
    x: NDArray[np.float32], lengths: NDArray[np.int64], bounds: NDArray[np.int64], order: NDArray[np.int64]
) -> int: ...
