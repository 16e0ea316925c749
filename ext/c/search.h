/* Searching a block of queries: navigate, prune, fetch, score, collect; no Python inside, any number of threads outside.
 *
 * Contract: the arrays of spann_index are validated when it is made (spann/search/engine.py): every centroid, posting and
 * offset in them is in range. Bytes of postings are not trusted: lengths come from the directory, and unless `check` is
 * off the crc32c of every posting is compared before it is used. */
#ifndef SPANN_SEARCH_H
#define SPANN_SEARCH_H

#include <stddef.h>
#include <stdint.h>

#include "distance.h"

#define SPANN_PAGE 4096

typedef struct {             /* one level of the navigation graph */
    const uint32_t *nodes;   /* (size) ascending centroid numbers; NULL at level 0, where node i is centroid i */
    const uint64_t *offsets; /* (size + 1) into neighbors */
    const uint32_t *neighbors;
    uint64_t size;
} spann_level;

typedef struct {
    spann_metric metric;
    spann_dtype dtype;
    uint64_t dim, count, centroids;
    float max_norm; /* largest |v|, used by SPANN_IP to put a scale on pruning */
    const void *centroid_vectors;
    const void *centroid_ids; /* uint32 or uint64 by id_bytes */
    uint32_t id_bytes;
    uint32_t levels;
    const spann_level *graph;
    uint32_t entry;               /* where navigation starts, a node of the top level */
    const uint32_t *chain;        /* (centroids + 1) postings of each centroid; NULL: posting i is centroid i's only one */
    const uint32_t *posting_page; /* first page */
    const uint16_t *posting_offset; /* byte in the first page */
    const uint16_t *posting_length; /* entries */
    const uint32_t *posting_crc;
    const int *files; /* one descriptor per shard */
    uint64_t pages_per_shard;
} spann_index;

typedef struct {
    uint32_t k;
    uint32_t max_postings;
    uint32_t navigate; /* length of the navigation's candidate list (ef) */
    float epsilon2;    /* read postings within (1 + epsilon2) of the nearest centroid's distance; infinity: no pruning */
    int32_t direct;    /* descriptors are O_DIRECT: read whole pages */
    int32_t check;     /* compare checksums */
} spann_search_params;

typedef struct {
    uint32_t postings_read, pages_read;
    uint64_t bytes_read;
    uint32_t distances;          /* vectors scored from postings */
    uint32_t centroid_distances; /* vectors scored by navigation */
    uint64_t navigate_ns, read_ns, score_ns, total_ns;
} spann_query_stats;

enum { SPANN_OK = 0, SPANN_NO_MEMORY = 1, SPANN_READ_FAILED = 2, SPANN_READ_SHORT = 3, SPANN_DAMAGED = 4 };

typedef struct {
    int32_t status, system_error; /* errno of SPANN_READ_FAILED */
    uint32_t posting;
} spann_failure;

/* n queries, rows of query_bytes. ids, distances (n, k): nearest first, the places after the last hit are (-1, +inf);
 * distances are the metric's true ones. stats (n). Returns a status; on failure `failure` says where. */
int spann_search(const spann_index *index, const spann_kernels *kernels, const spann_search_params *params,
                 const void *queries, size_t query_bytes, size_t n, int64_t *ids, float *distances,
                 spann_query_stats *stats, spann_failure *failure);

#endif
