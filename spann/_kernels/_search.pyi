import numpy as np
from numpy.typing import NDArray

def stats_bytes() -> int: ...

class NativeIndex:
    def __init__(
        self,
        metric: int,
        dtype: int,
        dim: int,
        count: int,
        max_norm: float,
        centroid_vectors: NDArray[np.uint8],
        centroids: int,
        centroid_ids: NDArray[np.uint8],
        id_bytes: int,
        entry: int,
        levels: list[tuple[NDArray[np.uint32] | None, NDArray[np.uint64], NDArray[np.uint32]]],
        chain: NDArray[np.uint32] | None,
        page: NDArray[np.uint32],
        offset: NDArray[np.uint16],
        length: NDArray[np.uint16],
        crc: NDArray[np.uint32],
        pages_per_shard: int,
    ) -> None: ...
    def search(
        self,
        files: NDArray[np.int32],
        queries: NDArray[np.uint8],
        k: int,
        max_postings: int,
        navigate: int,
        epsilon2: float,
        direct: bool,
        check: bool,
        ids: NDArray[np.int64],
        distances: NDArray[np.float32],
        stats: NDArray[np.uint8],
    ) -> tuple[int, int, int]: ...
