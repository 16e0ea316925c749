"""Thin door to ext/c/search. spann.search.opened makes the arrays of an index, and spann.search.engine the searches."""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport getpid

from c_io cimport spann_file
from c_kernels cimport spann_dtype, spann_metric
from c_search cimport *

cdef extern from "base/memory.h" nogil:
    void spann_give_back()

# How a native call ended.
OK = SPANN_OK
NO_SIMD = SPANN_NO_SIMD
NO_MEMORY = SPANN_NO_MEMORY
READ_FAILED = SPANN_READ_FAILED
READ_SHORT = SPANN_READ_SHORT
DAMAGED = SPANN_DAMAGED
IO_FAILED = SPANN_IO_FAILED
STOPPED = SPANN_STOPPED


TAIL_RUNS = SPANN_TAIL_RUNS
TAIL_SLACK = SPANN_TAIL_SLACK


def tail_bytes():
    """Sizes of a run of a tail and of a part of it; the caller's record types must agree."""
    return sizeof(spann_tail_run), sizeof(spann_part)


def stats_bytes():
    """Bytes of one query's statistics. The caller's record type must agree."""
    return sizeof(spann_query_stats)


cdef class NativeIndex:
    """The C view of an open index. Holds references to every array it points into."""

    cdef spann_index index
    cdef spann_level *graph
    cdef list kept
    cdef readonly int64_t searches  # native calls under way; counted while the GIL is held

    def __cinit__(self):
        memset(&self.index, 0, sizeof(spann_index))
        self.graph = NULL
        self.kept = []
        self.searches = 0

    def __dealloc__(self):
        # Searchers hold the index, so their buffers are already freed. Arrays go before the heaps are trimmed.
        free(self.graph)
        self.kept = None
        spann_give_back()

    def __init__(self, *, int metric, int dtype, uint64_t dim, uint64_t count, uint64_t entries, uint32_t id_bytes,
                 float max_norm):
        self.index.kind = &spann_exact_postings
        self.index.metric = <spann_metric> metric
        self.index.dtype = <spann_dtype> dtype
        self.index.dim = dim
        self.index.count = count
        self.index.entries = entries
        self.index.id_bytes = id_bytes
        self.index.max_norm = max_norm

    def close(self):
        """Ends the searches under way soon, and refuses new ones."""
        self.index.closed = 1

    def forked(self):
        """Forgets the searches of the parent process, after a fork."""
        self.searches = 0

    def set_centroids(self, int metric, int dtype, const unsigned char[::1] vectors, uint64_t centroids,
                      const unsigned char[::1] ids, uint32_t entry, list levels):
        """`ids` is None with codes. `levels` are tuples of (nodes or None, offsets, neighbors)."""
        cdef const uint32_t[::1] nodes
        cdef const uint64_t[::1] offsets
        cdef const uint32_t[::1] neighbors
        cdef spann_level *level
        self.graph = <spann_level *> malloc(len(levels) * sizeof(spann_level))
        if self.graph == NULL:
            raise MemoryError
        for i, (level_nodes, level_offsets, level_neighbors) in enumerate(levels):
            level = &self.graph[i]
            offsets = level_offsets
            neighbors = level_neighbors
            level.nodes = NULL
            if level_nodes is not None:
                nodes = level_nodes
                level.nodes = &nodes[0]
            level.offsets = &offsets[0]
            level.neighbors = &neighbors[0] if neighbors.shape[0] else NULL
            level.size = offsets.shape[0] - 1
        self.index.centroids = centroids
        self.index.centroid_metric = <spann_metric> metric
        self.index.centroid_dtype = <spann_dtype> dtype
        self.index.centroid_vectors = &vectors[0]
        self.index.centroid_ids = &ids[0] if ids is not None else NULL
        self.index.levels = <uint32_t> len(levels)
        self.index.graph = self.graph
        self.index.entry = entry
        self.kept += [levels, vectors, ids]

    def set_postings(self, const uint32_t[::1] chain, const uint32_t[::1] page,
                     const uint16_t[::1] offset, const uint16_t[::1] length, const uint16_t[::1] primaries,
                     const uint32_t[::1] crc, uint64_t pages_per_shard, const int[::1] files):
        """The postings that searches visit. `chain` is None if posting i is the only one of centroid i. `primaries` is
        None without codes."""
        self.index.postings = page.shape[0]
        self.index.chain = &chain[0] if chain is not None else NULL
        self.index.posting_page = &page[0]
        self.index.posting_offset = &offset[0]
        self.index.posting_length = &length[0]
        self.index.posting_primaries = &primaries[0] if primaries is not None else NULL
        self.index.posting_crc = &crc[0]
        self.index.pages_per_shard = pages_per_shard
        self.index.posting_files = <const spann_file *> &files[0] if files.shape[0] else NULL
        self.kept += [chain, page, offset, length, primaries, crc, files]

    def set_codes(self, uint32_t bits, uint32_t padded_dim, uint32_t row_bytes, const float[::1] origin,
                  const unsigned char[:, ::1] signs, const uint64_t[::1] first_row, const uint64_t[::1] first_entry,
                  float query_norm, const float[::1] centroid_sqnorm, uint64_t exact_shard_rows,
                  const uint32_t[::1] exact_crc, const int[::1] exact_files):
        """`centroid_sqnorm` is None unless the metric is ip."""
        self.index.kind = &spann_coded_postings
        self.index.code_bits = bits
        self.index.padded_dim = padded_dim
        self.index.row_bytes = row_bytes
        self.index.origin = &origin[0]
        self.index.signs = &signs[0, 0]
        self.index.first_row = &first_row[0]
        self.index.first_entry = &first_entry[0]
        self.index.query_norm = query_norm
        self.index.centroid_sqnorm = &centroid_sqnorm[0] if centroid_sqnorm is not None else NULL
        self.index.exact_shard_rows = exact_shard_rows
        self.index.exact_crc = &exact_crc[0]
        self.index.exact_files = <const spann_file *> &exact_files[0]
        self.kept += [origin, signs, first_row, first_entry, centroid_sqnorm, exact_crc, exact_files]

    def set_shapes(self, uint32_t directions, uint64_t shape_bytes, const unsigned char[::1] shapes):
        """The shapes of all postings, followed by the slack of codes.h."""
        self.index.directions = directions
        self.index.shape_bytes = shape_bytes
        self.index.shapes = &shapes[0]
        self.kept.append(shapes)

    def unpack(self, const uint32_t[::1] postings, const uint64_t[::1] starts, const unsigned char[::1] block,
               unsigned char[::1] ids, unsigned char[::1] add, unsigned char[::1] scale, unsigned char[::1] rows,
               unsigned char[::1] codes, unsigned char[::1] headers):
        """Copies `postings`, which begin at `starts` in `block`, to their places in the other arrays. Returns the
        first posting whose checksum does not match, or -1."""
        cdef int64_t bad
        with nogil:
            bad = spann_unpack(&self.index, &postings[0], &starts[0], postings.shape[0], &block[0], &ids[0], &add[0],
                               &scale[0], &rows[0], &codes[0], &headers[0])
        return bad

    def unpack_tail(self, const unsigned char[:, ::1] parts, const unsigned char[::1] block, unsigned char[::1] ids,
                    unsigned char[::1] rows, float[::1] add, float[::1] scale, unsigned char[::1] codes):
        """Copies postings of codes, records of `spann_part`, to their places in a tail.

        Returns the first of them that is damaged, or -1."""
        cdef int64_t bad
        with nogil:
            bad = spann_unpack_tail(&self.index, <const spann_part *> &parts[0, 0], parts.shape[0], &block[0], &ids[0],
                                    &rows[0], &add[0], &scale[0], &codes[0])
        return bad

    def unpack_vectors(self, const unsigned char[:, ::1] parts, const unsigned char[::1] block,
                       unsigned char[::1] ids, unsigned char[::1] vectors):
        """The same for postings of vectors."""
        cdef int64_t bad
        with nogil:
            bad = spann_unpack_vectors(&self.index, <const spann_part *> &parts[0, 0], parts.shape[0], &block[0],
                                       &ids[0], &vectors[0])
        return bad

    def set_tail(self, const unsigned char[::1] runs, const unsigned char[::1] ids):
        """`TAIL_RUNS` records of `spann_tail_run` for each centroid, and the ids of the entries."""
        self.index.tail.runs = <const spann_tail_run *> &runs[0]
        self.index.tail.ids = &ids[0]
        self.kept += [runs, ids]

    def set_tail_vectors(self, const unsigned char[::1] vectors):
        """Without codes: the vectors of the entries."""
        self.index.tail.vectors = &vectors[0]
        self.kept.append(vectors)

    def set_tail_codes(self, const unsigned char[::1] rows, const float[::1] add, const float[::1] scale,
                       const unsigned char[::1] codes):
        """With codes: rows, factors and codes of the entries. Factors and codes have `TAIL_SLACK` entries more, and the
        slack that codes.h asks for follows the codes."""
        self.index.tail.rows = &rows[0]
        self.index.tail.add = &add[0]
        self.index.tail.scale = &scale[0]
        self.index.tail.codes = &codes[0]
        self.kept += [rows, add, scale, codes]

    def set_tail_parts(self, const uint64_t[::1] row, const uint16_t[::1] primaries, const uint32_t[::1] centroid,
                       const uint64_t[::1] first):
        """With codes: the postings that the entries come from, by rising row."""
        self.index.tail.parts = row.shape[0]
        self.index.tail.part_row = &row[0]
        self.index.tail.part_primaries = &primaries[0]
        self.index.tail.part_centroid = &centroid[0]
        self.index.tail.part_first = &first[0]
        self.kept += [row, primaries, centroid, first]

    def pin(self, uint64_t postings, const unsigned char[::1] ids, const unsigned char[::1] add,
            const unsigned char[::1] scale, const unsigned char[::1] rows, const unsigned char[::1] codes,
            const unsigned char[::1] headers):
        """Pins postings 0 to `postings` - 1, entry by entry. Only replicas have `rows`. `codes` are followed by the
        slack of codes.h."""
        self.index.pinned = postings
        self.index.pinned_ids = &ids[0]
        self.index.pinned_add = &add[0]
        self.index.pinned_scale = &scale[0]
        self.index.pinned_rows = &rows[0]
        self.index.pinned_codes = &codes[0]
        self.index.pinned_headers = &headers[0]
        self.kept += [ids, add, scale, rows, codes, headers]


cdef class Live:
    """Which stored vectors count in the searches whose `Params` have it: `count`, at least 1. Of `length` entries in
    each posting (postings,), as many may count. Its arrays never change."""

    cdef spann_live live
    cdef list kept

    def __cinit__(self):
        memset(&self.live, 0, sizeof(spann_live))

    def __init__(self, uint64_t count, const uint16_t[::1] length):
        self.live.count = count
        self.live.length = &length[0]
        self.kept = [length]

    @property
    def count(self):
        return self.live.count

    def set_rows(self, const unsigned char[::1] rows):
        """With codes: the bits of the rows of the exact store, and `LIVE_SLACK` bytes."""
        self.live.rows = &rows[0]
        self.kept.append(rows)

    def set_dead(self, const int64_t[::1] ids):
        """Without codes: the ids that do not count."""
        cdef uint64_t size = 16, place
        cdef Py_ssize_t i
        cdef uint64_t[::1] table
        while size < 2 * <uint64_t> ids.shape[0]:
            size *= 2
        found = bytearray(size * sizeof(uint64_t))
        table = memoryview(found).cast("Q")
        for i in range(ids.shape[0]):
            place = spann_live_place(<uint64_t> ids[i], size - 1)
            while table[place]:
                place = (place + 1) & (size - 1)
            table[place] = <uint64_t> ids[i] + 1
        self.live.dead = &table[0]
        self.live.dead_mask = size - 1
        self.kept.append(table)

    def set_listed(self, const int64_t[::1] ids):
        """Without codes: the ids that count."""
        self.set_dead(ids)
        self.live.listed = 1

    def set_filter(self, const uint32_t[::1] centroids):
        """Says that a filter leaves vectors out. With `centroids` (n,), only their postings are looked at."""
        self.live.filter = 1
        if centroids is not None and centroids.shape[0]:
            self.live.centroids = &centroids[0]
            self.live.centroid_count = centroids.shape[0]
            self.kept.append(centroids)

    def is_dead(self, uint64_t id):
        """Without codes: whether an id does not count."""
        return spann_is_dead(&self.live, id) != 0


LIVE_SLACK = SPANN_LIVE_SLACK


cdef class Stop:
    """Ends the searches whose `Params` hold it. Any thread may set it; searches look every few microseconds."""

    cdef int32_t wanted

    def __cinit__(self):
        self.wanted = 0

    def set(self):
        self.wanted = 1


cdef class Params:
    """Parameters of a batch, in the form of the native code."""

    cdef spann_search_params params
    cdef spann_effort *effort
    cdef readonly Stop stop
    cdef readonly Live live

    def __cinit__(self):
        self.effort = NULL

    def __dealloc__(self):
        free(self.effort)

    def __init__(self, *, uint32_t k, uint32_t max_postings, uint32_t navigate, float epsilon2, uint32_t rerank,
                 float error_bound, float radius, uint32_t join, uint32_t in_flight, uint32_t depth, int backend,
                 bint direct, bint check, Stop stop not None, Live live):
        self.params.k = k
        self.params.max_postings = max_postings
        self.params.navigate = navigate
        self.params.epsilon2 = epsilon2
        self.params.rerank = rerank
        self.params.error_bound = error_bound
        self.params.radius = radius
        self.params.join = join
        self.params.in_flight = in_flight
        self.params.depth = depth
        self.params.backend = backend
        self.params.direct = direct
        self.params.check = check
        self.params.stop = &stop.wanted
        self.params.live = &live.live if live is not None else NULL
        self.live = live
        self.stop = stop
        self.params.effort = NULL
        self.params.efforts = 0
        self.params.rank = 0

    @property
    def max_postings(self):
        return self.params.max_postings

    @property
    def efforts(self):
        return self.params.efforts

    def set_in_flight(self, uint32_t queries):
        self.params.in_flight = queries

    def set_efforts(self, list efforts, float rank=0):
        """Sets the efforts: (count, max_postings, epsilon2), by rising count. With a `rank` they go by that many times
        the vectors nearer than the k-th match."""
        cdef uint32_t n = <uint32_t> len(efforts)
        free(self.effort)
        self.effort = <spann_effort *> malloc(max(1, n) * sizeof(spann_effort))
        if self.effort == NULL:
            raise MemoryError
        for i, (count, postings, epsilon2) in enumerate(efforts):
            self.effort[i].count = count
            self.effort[i].max_postings = postings
            self.effort[i].epsilon2 = epsilon2
        self.params.effort = self.effort
        self.params.efforts = n
        self.params.rank = rank


cdef class Searcher:
    """State that one thread keeps from batch to batch. It always belongs to the same thread."""

    cdef spann_searcher *searcher
    cdef NativeIndex index
    cdef int process

    def __cinit__(self, NativeIndex index):
        self.index = index
        self.process = getpid()
        self.searcher = spann_searcher_new(&index.index)
        if self.searcher == NULL:
            raise MemoryError

    def __dealloc__(self):
        # After a fork the reading threads exist in the parent only, so there is nothing to wait for.
        if self.process == getpid():
            spann_searcher_free(self.searcher)

    def run(self, Params params, const unsigned char[:, ::1] queries, int64_t[::1] cursor, int64_t[:, ::1] ids,
            float[:, ::1] distances, unsigned char[:, ::1] stats):
        """Searches the rows of `queries` that it draws from `cursor`. Returns (status, errno, exact, where)."""
        cdef spann_failure failure
        cdef int status
        memset(&failure, 0, sizeof(failure))
        self.index.searches += 1
        with nogil:
            status = spann_searcher_run(self.searcher, &params.params, &queries[0, 0], queries.shape[1],
                                        queries.shape[0], &cursor[0], &ids[0, 0], &distances[0, 0],
                                        <spann_query_stats *> &stats[0, 0], &failure)
        self.index.searches -= 1
        return status, failure.system_error, failure.exact, failure.where

    def expected(self, Params params, const unsigned char[:, ::1] queries, float[:, ::1] out):
        """Expected distances that pruning compares, for as many postings as `params` allow. Returns as `run`."""
        cdef spann_failure failure
        cdef int status
        memset(&failure, 0, sizeof(failure))
        self.index.searches += 1
        with nogil:
            status = spann_searcher_expected(self.searcher, &params.params, &queries[0, 0], queries.shape[1],
                                             queries.shape[0], &out[0, 0], &failure)
        self.index.searches -= 1
        return status, failure.system_error, failure.exact, failure.where

    def nearest(self, Params params, const unsigned char[:, ::1] queries, uint32_t[::1] out):
        """Finds the nearest centroid of each query. Returns as `run`."""
        cdef spann_failure failure
        cdef int status
        memset(&failure, 0, sizeof(failure))
        self.index.searches += 1
        with nogil:
            status = spann_searcher_nearest(self.searcher, &params.params, &queries[0, 0], queries.shape[1],
                                            queries.shape[0], &out[0], &failure)
        self.index.searches -= 1
        return status, failure.system_error, failure.exact, failure.where


cdef class Batch:
    """Posting-major search. Call `next` on one thread, then `step` on all threads, until `next` returns False."""

    cdef spann_batch *batch
    cdef tuple kept

    def __cinit__(self, NativeIndex index, Params params, const unsigned char[:, ::1] queries, int64_t[:, ::1] ids,
                  float[:, ::1] distances, unsigned char[:, ::1] stats, unsigned char[::1] unfinished):
        self.kept = (index, params, queries, ids, distances, stats, unfinished)
        self.batch = spann_batch_new(&index.index, &params.params, &queries[0, 0], queries.shape[1], queries.shape[0],
                                     &ids[0, 0], &distances[0, 0], <spann_query_stats *> &stats[0, 0], &unfinished[0])
        if self.batch == NULL:
            raise MemoryError

    def __dealloc__(self):
        spann_batch_free(self.batch)

    @staticmethod
    def query_bytes(NativeIndex index, Params params):
        """About the bytes that a batch takes for each query."""
        return spann_batch_query_bytes(&index.index, &params.params)

    def next(self):
        """Prepares the next phase. Returns whether there is one."""
        cdef int more
        with nogil:
            more = spann_batch_next(self.batch)
        if more < 0:
            raise MemoryError
        return more == 1

    def step(self, Searcher searcher):
        """Takes part in the phase. Returns as `Searcher.run`."""
        cdef spann_failure failure
        cdef int status
        memset(&failure, 0, sizeof(failure))
        searcher.index.searches += 1
        with nogil:
            status = spann_batch_step(self.batch, searcher.searcher, &failure)
        searcher.index.searches -= 1
        return status, failure.system_error, failure.exact, failure.where
