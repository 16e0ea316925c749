/* Searching: navigate, prune, fetch, score, re-rank, collect; no Python inside, any number of threads outside.
 *
 * Contract: the arrays of spann_index are validated when it is made (spann/search/engine.py): every centroid, posting,
 * row and offset in them is in range. Bytes of postings and of the exact store are not trusted: lengths come from the
 * directory, rows of replicas are checked against `count`, and unless `check` is off the crc32c of every posting and of
 * every page of the exact store is compared before it is used. */
#ifndef SPANN_SEARCH_H
#define SPANN_SEARCH_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/distance.h"

#define SPANN_PAGE 4096
/* Readable bytes that must follow pinned codes (codes.h). */
#define SPANN_SLACK 64
#define SPANN_MAX_DIRECTIONS 32

typedef struct {             /* one level of the navigation graph */
    const uint32_t *nodes;   /* (size) ascending centroid numbers; NULL at level 0, where node i is centroid i */
    const uint64_t *offsets; /* (size + 1) into neighbors */
    const uint32_t *neighbors;
    uint64_t size;
} spann_level;

typedef struct {
    spann_metric metric;
    spann_dtype dtype;
    uint64_t dim, count, entries; /* dim: of bits, their bytes; entries: of all postings */
    uint32_t id_bytes;
    float max_norm; /* largest |v|, used by SPANN_IP to put a scale on pruning */

    /* Centroids. With exact vectors in the postings they are vectors of the collection, in `dtype` and `metric`, and
     * centroid_ids (uint32 or uint64 by id_bytes) names them. With codes they live in the working space (codes.h). */
    uint64_t centroids;
    spann_metric centroid_metric;
    spann_dtype centroid_dtype;
    const void *centroid_vectors;
    const void *centroid_ids; /* NULL with codes */
    uint32_t levels;
    const spann_level *graph;
    uint32_t entry; /* where navigation starts, a node of the top level */

    uint64_t postings, own_postings; /* all, and those before the appended ones */
    const uint32_t *chain;        /* (centroids + 1) postings of each centroid; NULL: posting i is centroid i's only one */
    const uint32_t *appended;     /* the postings that were appended, by centroid; NULL: none */
    const uint32_t *appended_end; /* (centroids + 1) where those of each centroid begin in it, and end */
    const uint32_t *posting_page; /* first page */
    const uint16_t *posting_offset;    /* byte in the first page */
    const uint16_t *posting_length;    /* entries */
    const uint16_t *posting_primaries; /* NULL without codes */
    const uint32_t *posting_crc;
    const int *posting_files; /* one descriptor per shard */
    uint64_t pages_per_shard;

    uint32_t code_bits; /* 0: exact vectors in the postings, and nothing below is there */
    uint32_t padded_dim;
    uint32_t row_bytes;         /* 4 or 8: exact-store row of a replica */
    float query_norm;           /* SPANN_IP: the length queries are given in the working space */
    const float *centroid_sqnorm; /* SPANN_IP: (centroids) */
    const float *origin;        /* (dim) subtracted before rotating */
    const unsigned char *signs; /* of the rotation */
    const uint64_t *first_row;  /* (postings + 1) exact-store row of each posting's first primary */
    /* Shapes of all postings, each of shape_bytes (docs/FORMAT.md, Shapes), with the slack of codes. 0 directions: none */
    uint32_t directions;
    size_t shape_bytes;
    const unsigned char *shapes;
    /* Postings 0 to pinned - 1, kept in memory, entry by entry; pinned_rows: of replicas alone, row_bytes each. */
    uint64_t pinned;
    const uint64_t *first_entry; /* (postings + 1) each posting's first; first_row where there are no replicas */
    const unsigned char *pinned_ids, *pinned_add, *pinned_scale, *pinned_rows, *pinned_codes, *pinned_headers;

    const int *exact_files;
    uint64_t exact_shard_rows;
    const uint32_t *exact_crc; /* of each page of rows, counted through the shards */

    int32_t closed; /* not 0 once the index is closed: searches end with SPANN_STOPPED */
} spann_index;

/* What a query may score that has so many vectors within its radius. */
typedef struct {
    double count;
    uint32_t max_postings;
    float epsilon2;
} spann_effort;

typedef struct {
    uint32_t k;
    uint32_t max_postings; /* appended ones apart: they come with the others of their centroid */
    uint32_t navigate; /* length of the navigation's candidate list (ef) */
    float epsilon2;    /* score postings expected within (1 + epsilon2) of the distance of the 16th; infinity: all */
    uint32_t rerank;   /* candidates re-ranked exactly, at most; at least k are */
    float error_bound; /* a candidate is dropped once its estimate less this many standard errors cannot be a result */
    float radius; /* vectors farther, in the metric's unit, need not be found; infinity: none of them */
    /* Of rising count, instead of max_postings and epsilon2 above: a query begins with the first and goes on to another
     * as it sees more vectors within the radius. 0 efforts: none. Query by query only. */
    const spann_effort *effort;
    uint32_t efforts;
    uint32_t join;     /* reads of the exact store at most this many pages apart become one */
    uint32_t in_flight; /* queries a thread works on at once */
    uint32_t depth;     /* reads a thread has outstanding, at most */
    int32_t backend;    /* of io.h */
    int32_t direct;     /* descriptors are O_DIRECT: read whole pages */
    int32_t check;      /* compare checksums */
    const int32_t *stop; /* not 0 once another thread wants the search to end: it then fails with SPANN_STOPPED */
} spann_search_params;

typedef struct {
    uint64_t bytes_read;
    uint64_t navigate_ns, read_ns, score_ns, rerank_ns, total_ns;
    uint32_t postings_scored, postings_read;
    uint32_t pages_read; /* of postings and of the exact store */
    uint32_t exact_pages_read;
    uint32_t reads;
    uint32_t estimates; /* codes scored */
    uint32_t distances; /* vectors scored exactly, centroids apart */
    uint32_t centroid_distances;
} spann_query_stats;

enum {
    SPANN_OK = 0,
    SPANN_NO_MEMORY = 1,
    SPANN_READ_FAILED = 2,
    SPANN_READ_SHORT = 3,
    SPANN_DAMAGED = 4,
    SPANN_IO_FAILED = 5, /* the read layer itself: no ring, no threads */
    SPANN_STOPPED = 6
};

typedef struct {
    int32_t status, system_error; /* errno of SPANN_READ_FAILED and SPANN_IO_FAILED */
    int32_t exact;                /* `where` is a page of the exact store, not a posting */
    uint64_t where;
} spann_failure;

/* Copies n postings, whose bytes begin at block + starts[i], to their places in the arrays that are to be pinned. Returns
 * the first posting whose crc32c does not match, or -1. */
int64_t spann_unpack(const spann_index *index, const uint32_t *postings, const uint64_t *starts, size_t n,
                     const unsigned char *block, unsigned char *ids, unsigned char *add, unsigned char *scale,
                     unsigned char *rows, unsigned char *codes, unsigned char *headers);

/* What a thread keeps from one batch to the next: its ring and its buffers. Used by one thread at a time, and by the
 * thread that used it first if the ring binds itself to one. NULL: no memory. */
typedef struct spann_searcher spann_searcher;
spann_searcher *spann_searcher_new(const spann_index *index);
void spann_searcher_free(spann_searcher *s);

/* Searches those of n queries (rows of query_bytes) that it draws from *cursor, which several threads share; *cursor
 * counts up from 0, and is n or more when all are drawn. ids, distances (n, k): nearest first, the places after the last
 * hit are (-1, +inf); distances are the metric's true ones. stats (n). Returns a status; on failure `failure` says
 * where, and *cursor is moved on so that other threads end, too. */
int spann_searcher_run(spann_searcher *s, const spann_search_params *params, const void *queries, size_t query_bytes,
                       size_t n, int64_t *cursor, int64_t *ids, float *distances, spann_query_stats *stats,
                       spann_failure *failure);

/* For each of n queries the squared distances that pruning goes by, of the `max_postings` postings it would look at, in
 * that order, +inf after the last: expected (n, max_postings). epsilon2 must be finite, and large enough to prune none. */
int spann_searcher_expected(spann_searcher *s, const spann_search_params *params, const void *queries,
                            size_t query_bytes, size_t n, float *expected, spann_failure *failure);

/* For each of n queries the number of the nearest centroid that `navigate` candidates of the graph lead to. */
int spann_searcher_nearest(spann_searcher *s, const spann_search_params *params, const void *queries,
                           size_t query_bytes, size_t n, uint32_t *centroids, spann_failure *failure);

/* Posting-major search of n queries: every posting and every page of the exact store is read once for all of them. The
 * work is a row of phases; all threads take part in one before the next begins. Results are those of
 * spann_searcher_run. A read is counted to the first query that it serves. */
typedef struct spann_batch spann_batch;

/* The arrays are as of spann_searcher_run, and live as long as the batch; `params` too. NULL: no memory. */
spann_batch *spann_batch_new(const spann_index *index, const spann_search_params *params, const void *queries,
                             size_t query_bytes, size_t n, int64_t *ids, float *distances, spann_query_stats *stats,
                             unsigned char *unfinished);
void spann_batch_free(spann_batch *b);

/* Makes the next phase ready, on one thread: 1, or 0 if there is none, or -1 if memory ran out. At the end unfinished[i]
 * is 1 for queries that found fewer than k vectors though there are more; these are left to spann_searcher_run. */
int spann_batch_next(spann_batch *b);

/* Takes part in the phase until all its work is taken. A status; after a failure the batch is good for freeing only. */
int spann_batch_step(spann_batch *b, spann_searcher *s, spann_failure *failure);

/* Bytes that a batch takes for each query, about. */
size_t spann_batch_query_bytes(const spann_index *index, const spann_search_params *params);

#endif
