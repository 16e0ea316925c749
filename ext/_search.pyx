"""Thin door to ext/c/search.h; spann.search.engine makes the arrays, checks them and keeps them alive."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc


cdef extern from "distance.h" nogil:
    ctypedef enum spann_metric:
        pass
    ctypedef enum spann_dtype:
        pass
    ctypedef struct spann_kernels:
        pass
    const spann_kernels *spann_kernels_get()

cdef extern from "search.h" nogil:
    ctypedef struct spann_level:
        const uint32_t *nodes
        const uint64_t *offsets
        const uint32_t *neighbors
        uint64_t size
    ctypedef struct spann_index:
        spann_metric metric
        spann_dtype dtype
        uint64_t dim
        uint64_t count
        uint64_t centroids
        float max_norm
        const void *centroid_vectors
        const void *centroid_ids
        uint32_t id_bytes
        uint32_t levels
        const spann_level *graph
        uint32_t entry
        const uint32_t *chain
        const uint32_t *posting_page
        const uint16_t *posting_offset
        const uint16_t *posting_length
        const uint32_t *posting_crc
        const int *files
        uint64_t pages_per_shard
    ctypedef struct spann_search_params:
        uint32_t k
        uint32_t max_postings
        uint32_t navigate
        float epsilon2
        int32_t direct
        int32_t check
    ctypedef struct spann_query_stats:
        uint32_t postings_read
    ctypedef struct spann_failure:
        int32_t status
        int32_t system_error
        uint32_t posting
    int spann_search(const spann_index *, const spann_kernels *, const spann_search_params *, const void *, size_t,
                     size_t, int64_t *, float *, spann_query_stats *, spann_failure *)


def stats_bytes():
    """Size of one query's statistics; the caller's record type must agree."""
    return sizeof(spann_query_stats)


cdef class NativeIndex:
    """The C view of an open index. Holds references to every array it points into."""

    cdef spann_index index
    cdef spann_level *graph
    cdef list kept

    def __cinit__(self):
        self.graph = NULL
        self.kept = []

    def __dealloc__(self):
        free(self.graph)

    def __init__(self, int metric, int dtype, uint64_t dim, uint64_t count, float max_norm,
                 const unsigned char[::1] centroid_vectors, uint64_t centroids,
                 const unsigned char[::1] centroid_ids, uint32_t id_bytes, uint32_t entry,
                 list levels, const uint32_t[::1] chain,
                 const uint32_t[::1] page, const uint16_t[::1] offset, const uint16_t[::1] length,
                 const uint32_t[::1] crc, uint64_t pages_per_shard):
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
        self.index.metric = <spann_metric> metric
        self.index.dtype = <spann_dtype> dtype
        self.index.dim = dim
        self.index.count = count
        self.index.centroids = centroids
        self.index.max_norm = max_norm
        self.index.centroid_vectors = &centroid_vectors[0]
        self.index.centroid_ids = &centroid_ids[0]
        self.index.id_bytes = id_bytes
        self.index.levels = <uint32_t> len(levels)
        self.index.graph = self.graph
        self.index.entry = entry
        self.index.chain = &chain[0] if chain is not None else NULL
        self.index.posting_page = &page[0]
        self.index.posting_offset = &offset[0]
        self.index.posting_length = &length[0]
        self.index.posting_crc = &crc[0]
        self.index.pages_per_shard = pages_per_shard
        self.index.files = NULL
        self.kept = [levels, centroid_vectors, centroid_ids, chain, page, offset, length, crc]

    def search(self, const int[::1] files, const unsigned char[:, ::1] queries, uint32_t k, uint32_t max_postings,
               uint32_t navigate, float epsilon2, bint direct, bint check, int64_t[:, ::1] ids,
               float[:, ::1] distances, unsigned char[:, ::1] stats):
        """Searches all rows of `queries`; returns (status, errno, posting)."""
        cdef spann_index index = self.index
        cdef spann_search_params params
        cdef spann_failure failure
        cdef const spann_kernels *kernels = spann_kernels_get()
        cdef int status
        if kernels == NULL:
            return -1, 0, 0
        index.files = &files[0] if files.shape[0] else NULL
        params.k = k
        params.max_postings = max_postings
        params.navigate = navigate
        params.epsilon2 = epsilon2
        params.direct = direct
        params.check = check
        failure.status = 0
        failure.system_error = 0
        failure.posting = 0
        with nogil:
            status = spann_search(&index, kernels, &params, &queries[0, 0], queries.shape[1], queries.shape[0],
                                  &ids[0, 0], &distances[0, 0], <spann_query_stats *> &stats[0, 0], &failure)
        return status, failure.system_error, failure.posting
