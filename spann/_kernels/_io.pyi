import numpy as np
from numpy.typing import NDArray

AUTO: int
URING: int
POOL: int
SYNC: int
MAX_DEPTH: int

def open_close(backend: int, depth: int) -> tuple[int, int]: ...
def read_many(
    backend: int,
    depth: int,
    least: int,
    fds: NDArray[np.int32],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.uint32],
    out: NDArray[np.uint8],
    results: NDArray[np.int64],
) -> int: ...
def time_reads(
    backend: int, depth: int, fd: int, offsets: NDArray[np.int64], length: int, buffers: NDArray[np.uint8]
) -> tuple[int, int, int, float, float]: ...
