/* What a search is asked for, what it cost, and how it ended. */
#ifndef SPANN_REQUEST_H
#define SPANN_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "search/live.h"

/* What a query may score that has seen `count` vectors within its radius. */
typedef struct {
    double count;
    uint32_t max_postings;
    float epsilon2;
} spann_effort;

typedef struct {
    uint32_t k;
    uint32_t max_postings; /* without appended ones, which come with the others of their centroid */
    uint32_t navigate;     /* length of the navigation's candidate list (ef) */
    float epsilon2;        /* prune beyond (1 + epsilon2) times the 16th smallest expected distance; infinity: never */
    uint32_t rerank;       /* candidates re-ranked exactly, at most; never fewer than k */
    float error_bound;     /* drop a candidate once its estimate less this many standard errors cannot be a result */
    float radius;          /* vectors farther, in the metric's unit, need not be found; infinity: no limit */
    /* Ascending by count; they replace max_postings and epsilon2. A query begins with the first, and takes a later one
     * as it sees more vectors within the radius. 0 efforts: none. Only query-major search has them. */
    const spann_effort *effort;
    uint32_t efforts;
    /* Under a filter efforts go by rank: a query takes the one for `rank` times as many vectors as are nearer than its
     * k-th match (rank.h). 0: by vectors within the radius. */
    float rank;
    uint32_t join;       /* reads of the exact store at most this many pages apart become one */
    uint32_t in_flight;  /* queries a thread works on at once */
    uint32_t depth;      /* reads a thread has outstanding, at most */
    int32_t backend;     /* of io/io.h */
    int32_t direct;      /* files are O_DIRECT: read whole pages */
    int32_t check;       /* compare checksums */
    const spann_live *live; /* which vectors count; NULL: all */
    const int32_t *stop; /* not 0 once another thread wants the search to end: it then fails with SPANN_STOPPED */
} spann_search_params;

typedef struct {
    uint64_t bytes_read;
    uint64_t navigate_ns, read_ns, score_ns, rerank_ns, total_ns;
    uint64_t restarts; /* times that the query began again, farther out, for it had found fewer than k vectors */
    uint32_t postings_scored, postings_read;
    uint32_t pages_read; /* of postings and of the exact store */
    uint32_t exact_pages_read;
    uint32_t reads;
    uint32_t estimates; /* codes scored */
    uint32_t distances; /* vectors scored exactly, without centroids */
    uint32_t centroid_distances;
} spann_query_stats;

enum {
    SPANN_NO_SIMD = -1, /* SPANN_SIMD names no level that this processor has */
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

#endif
