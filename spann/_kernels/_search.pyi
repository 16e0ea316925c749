import numpy as np
from numpy.typing import NDArray

OK: int
NO_SIMD: int
NO_MEMORY: int
READ_FAILED: int
READ_SHORT: int
DAMAGED: int
IO_FAILED: int
STOPPED: int

TAIL_RUNS: int
TAIL_SLACK: int

def tail_bytes() -> tuple[int, int]: ...
def stats_bytes() -> int: ...

class NativeIndex:
    searches: int
    def __init__(
        self, *, metric: int, dtype: int, dim: int, count: int, entries: int, id_bytes: int, max_norm: float
    ) -> None: ...
    def close(self) -> None: ...
    def forked(self) -> None: ...
    def set_centroids(
        self,
        metric: int,
        dtype: int,
        vectors: NDArray[np.uint8],
        centroids: int,
        ids: NDArray[np.uint8] | None,
        entry: int,
        levels: list[tuple[NDArray[np.uint32] | None, NDArray[np.uint64], NDArray[np.uint32]]],
    ) -> None: ...
    def set_postings(
        self,
        chain: NDArray[np.uint32] | None,
        page: NDArray[np.uint32],
        offset: NDArray[np.uint16],
        length: NDArray[np.uint16],
        primaries: NDArray[np.uint16] | None,
        crc: NDArray[np.uint32],
        pages_per_shard: int,
        files: NDArray[np.int32],
    ) -> None: ...
    def set_codes(
        self,
        bits: int,
        padded_dim: int,
        row_bytes: int,
        origin: NDArray[np.float32],
        signs: NDArray[np.uint8],
        first_row: NDArray[np.uint64],
        first_entry: NDArray[np.uint64],
        query_norm: float,
        centroid_sqnorm: NDArray[np.float32] | None,
        exact_shard_rows: int,
        exact_crc: NDArray[np.uint32],
        exact_files: NDArray[np.int32],
    ) -> None: ...
    def set_shapes(self, directions: int, shape_bytes: int, shapes: NDArray[np.uint8]) -> None: ...
    def unpack(
        self,
        postings: NDArray[np.uint32],
        starts: NDArray[np.uint64],
        block: NDArray[np.uint8],
        ids: NDArray[np.uint8],
        add: NDArray[np.uint8],
        scale: NDArray[np.uint8],
        rows: NDArray[np.uint8],
        codes: NDArray[np.uint8],
        headers: NDArray[np.uint8],
    ) -> int: ...
    def unpack_tail(
        self,
        parts: NDArray[np.uint8],
        block: NDArray[np.uint8],
        ids: NDArray[np.uint8],
        rows: NDArray[np.uint8],
        add: NDArray[np.float32],
        scale: NDArray[np.float32],
        codes: NDArray[np.uint8],
    ) -> int: ...
    def unpack_vectors(
        self, parts: NDArray[np.uint8], block: NDArray[np.uint8], ids: NDArray[np.uint8], vectors: NDArray[np.uint8]
    ) -> int: ...
    def set_tail(self, runs: NDArray[np.uint8], ids: NDArray[np.uint8]) -> None: ...
    def set_tail_vectors(self, vectors: NDArray[np.uint8]) -> None: ...
    def set_tail_codes(
        self,
        rows: NDArray[np.uint8],
        add: NDArray[np.float32],
        scale: NDArray[np.float32],
        codes: NDArray[np.uint8],
    ) -> None: ...
    def set_tail_parts(
        self,
        row: NDArray[np.uint64],
        primaries: NDArray[np.uint16],
        centroid: NDArray[np.uint32],
        first: NDArray[np.uint64],
    ) -> None: ...
    def pin(
        self,
        postings: int,
        ids: NDArray[np.uint8],
        add: NDArray[np.uint8],
        scale: NDArray[np.uint8],
        rows: NDArray[np.uint8],
        codes: NDArray[np.uint8],
        headers: NDArray[np.uint8],
    ) -> None: ...

class Stop:
    def set(self) -> None: ...

LIVE_SLACK: int

class Live:
    count: int
    def __init__(self, count: int, length: NDArray[np.uint16]) -> None: ...
    def set_rows(self, rows: NDArray[np.uint8]) -> None: ...
    def set_dead(self, ids: NDArray[np.int64]) -> None: ...
    def set_listed(self, ids: NDArray[np.int64]) -> None: ...
    def set_filter(self, centroids: NDArray[np.uint32] | None) -> None: ...
    def is_dead(self, id: int) -> bool: ...

class Params:
    stop: Stop
    live: Live | None
    max_postings: int
    efforts: int
    def __init__(
        self,
        *,
        k: int,
        max_postings: int,
        navigate: int,
        epsilon2: float,
        rerank: int,
        error_bound: float,
        radius: float,
        join: int,
        in_flight: int,
        depth: int,
        backend: int,
        direct: bool,
        check: bool,
        stop: Stop,
        live: Live | None,
    ) -> None: ...
    def set_in_flight(self, queries: int) -> None: ...
    def set_efforts(self, efforts: list[tuple[float, int, float]], rank: float = 0) -> None: ...

class Searcher:
    def __init__(self, index: NativeIndex) -> None: ...
    def run(
        self,
        params: Params,
        queries: NDArray[np.uint8],
        cursor: NDArray[np.int64],
        ids: NDArray[np.int64],
        distances: NDArray[np.float32],
        stats: NDArray[np.uint8],
    ) -> tuple[int, int, int, int]: ...
    def expected(
        self, params: Params, queries: NDArray[np.uint8], out: NDArray[np.float32]
    ) -> tuple[int, int, int, int]: ...
    def nearest(
        self, params: Params, queries: NDArray[np.uint8], out: NDArray[np.uint32]
    ) -> tuple[int, int, int, int]: ...

class Batch:
    def __init__(
        self,
        index: NativeIndex,
        params: Params,
        queries: NDArray[np.uint8],
        ids: NDArray[np.int64],
        distances: NDArray[np.float32],
        stats: NDArray[np.uint8],
        unfinished: NDArray[np.uint8],
    ) -> None: ...
    @staticmethod
    def query_bytes(index: NativeIndex, params: Params) -> int: ...
    def next(self) -> bool: ...
    def step(self, searcher: Searcher) -> tuple[int, int, int, int]: ...
