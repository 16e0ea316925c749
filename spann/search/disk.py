"""What a read and a byte cost on the disk that holds an index, measured when it is opened for direct I/O."""

from __future__ import annotations

import numpy as np

from spann._kernels.io import time_reads
from spann.errors import StorageError
from spann.format.postings import PAGE

CACHED_JOIN = 1
"""Pages between two reads worth reading as well where they come from the page cache: a call costs what copying a page
does."""

LONGEST_JOIN = 6

_READS = 40
_ROUNDS = 4
_LONG = 8  # pages
_DEPTH = 32
_SMALLEST_FILE = 4 << 20


def join_pages(descriptor: int, file_bytes: int, *, direct: bool) -> int:
    """Pages between two reads up to which one read of all is cheaper than two, under load.

    With c the cost of a read and p that of a page in it, a gap of g pages is worth reading while g p < c. Both come
    from timing random reads of 1 and of 8 pages of the file, 32 at once: some 15 ms.
    """
    if not direct or file_bytes < _SMALLEST_FILE:
        return CACHED_JOIN
    rng = np.random.default_rng(0)
    places = rng.integers(0, file_bytes // PAGE - _LONG, _ROUNDS * 2 * _READS) * PAGE
    per_read, per_long = [], []
    try:
        time_reads(descriptor, places[:_READS], PAGE, depth=_DEPTH)  # wakes the device
        for part in np.array_split(places, _ROUNDS):
            short, long = np.array_split(part, 2)
            per_read.append(time_reads(descriptor, short, PAGE, depth=_DEPTH).seconds / len(short))
            per_long.append(time_reads(descriptor, long, _LONG * PAGE, depth=_DEPTH).seconds / len(long))
    except StorageError as error:
        raise StorageError(f"measuring the disk: {error}") from error
    # The fastest round: others were disturbed.
    page = max(1e-9, (min(per_long) - min(per_read)) / (_LONG - 1))
    return int(np.clip(min(per_read) / page - 1, 0, LONGEST_JOIN))
