import numpy as np
from numpy.typing import NDArray

def cluster(
    x: NDArray[np.float32],
    rows: NDArray[np.int64],
    leaves: int,
    group_rows: int,
    iterations: int,
    balance: float,
    slack: float,
    seed: int,
    leaf_end: NDArray[np.uint32],
    leaf_rep: NDArray[np.uint32],
    leaf_group: NDArray[np.uint32],
) -> int: ...
def balanced_kmeans(
    x: NDArray[np.float32],
    iterations: int,
    balance: float,
    seed: int,
    centres: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> int: ...
def closure(
    sqdist: NDArray[np.float32],
    centroids: NDArray[np.float32],
    near: int,
    reach: float,
    rng: float,
    chosen: NDArray[np.uint32],
    chosen_sqdist: NDArray[np.float32],
    counts: NDArray[np.uint32],
) -> int: ...
