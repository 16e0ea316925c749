# Declarations of ext/c/search: an open index, the request of a search, and the calls.
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from c_io cimport spann_file
from c_kernels cimport spann_dtype, spann_metric


cdef extern from "search/tail.h" nogil:
    enum:
        SPANN_TAIL_RUNS
        SPANN_TAIL_SLACK
    ctypedef struct spann_tail_run:
        pass
    ctypedef struct spann_tail:
        const spann_tail_run *runs
        const unsigned char *ids
        const unsigned char *vectors
        const unsigned char *rows
        const unsigned char *codes
        const float *add
        const float *scale
        uint64_t parts
        const uint64_t *part_row
        const uint16_t *part_primaries
        const uint32_t *part_centroid
        const uint64_t *part_first

cdef extern from "search/index.h" nogil:
    ctypedef struct spann_level:
        const uint32_t *nodes
        const uint64_t *offsets
        const uint32_t *neighbors
        uint64_t size
    ctypedef struct spann_kind:
        pass
    ctypedef struct spann_index:
        const spann_kind *kind
        spann_metric metric
        spann_dtype dtype
        uint64_t dim
        uint64_t count
        uint64_t entries
        uint32_t id_bytes
        float max_norm
        uint64_t centroids
        spann_metric centroid_metric
        spann_dtype centroid_dtype
        const void *centroid_vectors
        const void *centroid_ids
        uint32_t levels
        const spann_level *graph
        uint32_t entry
        uint64_t postings
        const uint32_t *chain
        const uint32_t *posting_page
        const uint16_t *posting_offset
        const uint16_t *posting_length
        const uint16_t *posting_primaries
        const uint32_t *posting_crc
        const spann_file *posting_files
        uint64_t pages_per_shard
        spann_tail tail
        uint32_t code_bits
        uint32_t padded_dim
        uint32_t row_bytes
        float query_norm
        const float *centroid_sqnorm
        const float *origin
        const unsigned char *signs
        const uint64_t *first_row
        uint32_t directions
        size_t shape_bytes
        const unsigned char *shapes
        uint64_t pinned
        const uint64_t *first_entry
        const unsigned char *pinned_ids
        const unsigned char *pinned_add
        const unsigned char *pinned_scale
        const unsigned char *pinned_rows
        const unsigned char *pinned_codes
        const unsigned char *pinned_headers
        const spann_file *exact_files
        uint64_t exact_shard_rows
        const uint32_t *exact_crc
        int32_t closed

cdef extern from "search/kind.h" nogil:
    const spann_kind spann_exact_postings
    const spann_kind spann_coded_postings

cdef extern from "search/live.h" nogil:
    enum:
        SPANN_LIVE_SLACK
    ctypedef struct spann_live:
        uint64_t count
        const uint16_t *length
        const unsigned char *rows
        const uint64_t *dead
        uint64_t dead_mask
        int32_t listed
        int32_t filter
        const uint32_t *centroids
        uint64_t centroid_count
    uint64_t spann_live_place(uint64_t, uint64_t)
    int spann_is_dead(const spann_live *, uint64_t)

cdef extern from "search/request.h" nogil:
    ctypedef struct spann_effort:
        double count
        uint32_t max_postings
        float epsilon2
    ctypedef struct spann_search_params:
        uint32_t k
        uint32_t max_postings
        uint32_t navigate
        float epsilon2
        uint32_t rerank
        float error_bound
        float radius
        const spann_effort *effort
        uint32_t efforts
        float rank
        uint32_t join
        uint32_t in_flight
        uint32_t depth
        int32_t backend
        int32_t direct
        int32_t check
        const spann_live *live
        const int32_t *stop
    ctypedef struct spann_query_stats:
        uint64_t bytes_read
    enum:
        SPANN_NO_SIMD
        SPANN_OK
        SPANN_NO_MEMORY
        SPANN_READ_FAILED
        SPANN_READ_SHORT
        SPANN_DAMAGED
        SPANN_IO_FAILED
        SPANN_STOPPED
    ctypedef struct spann_failure:
        int32_t status
        int32_t system_error
        int32_t exact
        uint64_t where

cdef extern from "search/pinned.h" nogil:
    int64_t spann_unpack(const spann_index *, const uint32_t *, const uint64_t *, size_t, const unsigned char *,
                         unsigned char *, unsigned char *, unsigned char *, unsigned char *, unsigned char *,
                         unsigned char *)
    ctypedef struct spann_part:
        pass
    int64_t spann_unpack_tail(const spann_index *, const spann_part *, size_t, const unsigned char *, unsigned char *,
                              unsigned char *, float *, float *, unsigned char *)
    int64_t spann_unpack_vectors(const spann_index *, const spann_part *, size_t, const unsigned char *,
                                 unsigned char *, unsigned char *)

cdef extern from "search/search.h" nogil:
    ctypedef struct spann_searcher:
        pass
    spann_searcher *spann_searcher_new(const spann_index *)
    void spann_searcher_free(spann_searcher *)
    int spann_searcher_run(spann_searcher *, const spann_search_params *, const void *, size_t, size_t, int64_t *,
                           int64_t *, float *, spann_query_stats *, spann_failure *)
    int spann_searcher_expected(spann_searcher *, const spann_search_params *, const void *, size_t, size_t, float *,
                                spann_failure *)
    int spann_searcher_nearest(spann_searcher *, const spann_search_params *, const void *, size_t, size_t, uint32_t *,
                               spann_failure *)
    ctypedef struct spann_batch:
        pass
    spann_batch *spann_batch_new(const spann_index *, const spann_search_params *, const void *, size_t, size_t,
                                 int64_t *, float *, spann_query_stats *, unsigned char *)
    void spann_batch_free(spann_batch *)
    int spann_batch_next(spann_batch *)
    int spann_batch_step(spann_batch *, spann_searcher *, spann_failure *)
    size_t spann_batch_query_bytes(const spann_index *, const spann_search_params *)
