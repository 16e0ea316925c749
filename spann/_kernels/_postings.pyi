import numpy as np
from numpy.typing import NDArray

def pack(
    ids: NDArray[np.uint8],
    vectors: NDArray[np.uint8],
    lengths: NDArray[np.uint16],
    starts: NDArray[np.uint64],
    out: NDArray[np.uint8],
    crcs: NDArray[np.uint32],
) -> None: ...
