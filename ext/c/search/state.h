/* The state of a thread and of a query while they search, and how both fail. The stages are in the files above this one
 * (README.md): visits.c, exact_postings.c, coded_postings.c, rerank.c. */
#ifndef SPANN_STATE_H
#define SPANN_STATE_H

#include "kernels/codes.h"
#include "search/candidates.h"
#include "search/kind.h"
#include "search/navigate.h"
#include "search/request.h"
#include "search/sieve.h"
#include "search/topk.h"

struct spann_visit { /* a posting that a query scores */
    uint32_t posting, centroid;
    float value;    /* score of the centroid: base of the estimates */
    float expected; /* squared distance at which its nearest entries are expected: what pruning compares */
    size_t ids;     /* where its primaries' ids begin in the query's `ids`; unused if pinned, or in a batch */
};

typedef struct { /* consecutive pages of the exact store in which candidates lie */
    uint64_t first, last; /* counted through the shards, last excluded */
    uint32_t chosen_from, chosen_to;
} spann_span;

typedef struct { /* one read: spans of one file and what lies between */
    uint32_t span_from, span_to;
} spann_fetch;

/* What all queries of a batch share, and scratch memory of the thread. */
struct spann_context {
    const spann_index *index;
    const spann_search_params *params;
    const spann_live *live;       /* as in params */
    const uint16_t *live_length; /* (postings) entries that may count */
    const spann_kernels *kernels;
    const spann_code_kernels *codes;
    spann_score_fn score, centroid_score;
    spann_gather_fn centroid_gather;
    spann_widths widths; /* of entries with codes */
    size_t row_bytes;    /* of a vector */
    size_t exact_shard_pages;
    spann_navigator navigator;
    float *scores, *moved, *rotated;
    float *work;         /* the query `work_of` in the working space */
    const void *work_of; /* as given */
    void *far_buffer;    /* for the code of a query against one posting that is far (kernels/codes.h) */
    spann_code_query far;
    size_t scores_capacity;
    int32_t *dots; /* of codes of a tail */
    size_t dots_capacity;
    spann_candidate *order; /* keys of visits while they are sorted */
    spann_visit *visits;    /* where they are sorted to */
    size_t order_capacity, visit_capacity;
    /* Posting-major search: ids of the primaries of each posting that was read, for all queries. Otherwise NULL. */
    unsigned char *const *posting_ids;
    spann_failure *failure;
};

struct spann_query {
    const void *raw;  /* the query as given */
    double norm;      /* its length; 0 under l2 */
    double space_norm; /* its length where it is compared with centroids */
    double scale;     /* factor to the working space; a float would overflow for the shortest queries */
    double b;         /* working value = b * distance of a hit */
    float reach;      /* working value of the radius: nothing beyond it is wanted */
    uint64_t within;  /* primaries of the postings scored whose estimates are within reach */
    uint32_t effort;  /* the current one of params->effort */
    float *ranked;    /* scores sampled under a filter (rank.h) */
    size_t ranked_count, ranked_capacity;
    uint32_t attempt; /* 0; counts up while the postings scored hold fewer than k vectors */
    spann_code_query code;
    void *code_buffer;
    spann_visit *visits; /* nearest centroid first; by posting, and so by row, once all are scored */
    size_t visit_count, visit_capacity;
    uint64_t passed; /* postings that were passed over when the last visits were found: nothing in them may count */
    spann_selection candidates;
    size_t left; /* once waves have begun: the first `left` candidates may still be chosen, the rest is void */
    unsigned char *ids;
    size_t ids_size, ids_capacity;
    size_t wave_rows;        /* rows that the last wave had room for; 0: no wave yet */
    spann_candidate *chosen; /* of this wave, by row */
    size_t chosen_count, chosen_capacity;
    spann_span *spans;
    size_t span_count, span_capacity;
    spann_fetch *fetches;
    size_t fetch_count, fetch_capacity;
    spann_topk hits;
    spann_sieve sieve; /* decides which rows become hits */
    spann_query_stats *stats;
};

int spann_context_init(spann_context *c, const spann_index *index); /* 0, or -1 if memory ran out */
void spann_context_free(spann_context *c);
/* Begins a search: takes its parameters, and the kernels of the SIMD level asked for. A status. */
int spann_context_start(spann_context *c, const spann_search_params *params, spann_failure *failure);

int spann_query_init(spann_query *q, const spann_context *c); /* 0, or -1 if memory ran out */
void spann_query_free(spann_query *q);
/* Frees what a query of unusual size took, and says whether it has. */
int spann_query_trim(spann_query *q);

/* Notes a failure and returns its status. */
int spann_fail(spann_context *c, int status, int exact, uint64_t where, int system_error);
int spann_no_memory(spann_context *c);

/* A status: whether the search was asked to end. Called for each posting and each page, which take microseconds. */
static inline int spann_go_on(spann_context *c) {
    int closed = __atomic_load_n(&c->index->closed, __ATOMIC_RELAXED);
    int asked = closed | __atomic_load_n(c->params->stop, __ATOMIC_RELAXED);
    return asked ? spann_fail(c, SPANN_STOPPED, 0, 0, 0) : SPANN_OK;
}

#endif
