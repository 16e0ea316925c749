/* One query on its way through the stages: what the query-major (query_major.c) and posting-major (posting_major.c) modes share.
 *
 * Classic index: navigate, then every posting read offers its exact distances to `hits`. Index with codes: navigate, then
 * every posting offers its estimates to `candidates`; these are re-ranked exactly in waves of pages of the exact store.
 * Whatever the order in which postings and pages arrive, the result is the same: all selections break ties by row or
 * id, and which pages are read depends on the estimates and on the distances of complete waves alone. */
#ifndef SPANN_QUERY_H
#define SPANN_QUERY_H

#include "search/candidates.h"
#include "kernels/codes.h"
#include "search/navigate.h"
#include "search/search.h"
#include "search/sieve.h"
#include "search/topk.h"

typedef struct {
    uint32_t posting, centroid;
    float value;    /* of the centroid to the query: base of the estimates */
    float expected; /* squared distance at which the nearest entries are expected: what pruning goes by */
    size_t ids;  /* byte of the query's `ids` at which those of the posting's primaries begin; unused where the posting
                    is pinned or the batch has them */
} spann_visit;

typedef struct { /* pages of the exact store that candidates lie in, one after another */
    uint64_t first, last; /* counted through the shards, last excluded */
    uint32_t chosen_from, chosen_to;
} spann_span;

typedef struct { /* one read: spans of one file and what lies between */
    uint32_t span_from, span_to;
} spann_fetch;

/* What is the same for all queries of a batch, and scratch memory of the thread. */
typedef struct {
    const spann_index *index;
    const spann_search_params *params;
    spann_score_fn score, centroid_score;
    spann_gather_fn centroid_gather;
    const spann_code_kernels *codes;
    size_t code_bytes, record_bytes, exact_row_bytes; /* record_bytes: classic postings */
    size_t exact_shard_pages;
    spann_navigator navigator;
    const spann_kernels *kernels;
    float *scores, *moved, *rotated;
    float *work;           /* the query `work_of` as given, in the working space */
    const void *work_of;
    void *far_buffer;      /* the code of a query for one posting that is far (codes.h) */
    spann_code_query far;
    size_t scores_capacity;
    spann_candidate *order; /* of visits while they are sorted, and where to */
    spann_visit *visits;
    size_t order_capacity, visit_capacity;
    /* Posting-major: ids of the primaries of each posting that was read, shared by all queries; else NULL. */
    unsigned char *const *posting_ids;
    spann_failure *failure;
} spann_context;

typedef struct {
    const void *raw;   /* the query as given */
    double norm;       /* its length; 0 under l2 */
    double scale;      /* of the query in the working space */
    double b;          /* working value = b * distance of a hit */
    float reach;       /* working value of the radius: what is beyond is not wanted */
    uint64_t within;   /* primaries of the postings scored that are within reach by their estimates */
    uint32_t effort;   /* of params->effort, the one in force */
    uint32_t attempt;  /* 0; more where the postings scored held fewer than k vectors */
    spann_code_query code;
    void *code_buffer;
    spann_visit *visits; /* nearest centroid first; by posting once all are scored, and so by row */
    size_t visit_count, visit_capacity;
    spann_selection candidates;
    size_t left; /* of the candidates the first so many may still be chosen, once waves have begun; the rest is void */
    unsigned char *ids;
    size_t ids_size, ids_capacity;
    size_t wave_rows; /* rows that the last wave had room for; 0: none yet */
    spann_candidate *chosen; /* of this wave, by row */
    size_t chosen_count, chosen_capacity;
    spann_span *spans;
    size_t span_count, span_capacity;
    spann_fetch *fetches;
    size_t fetch_count, fetch_capacity;
    spann_topk hits;
    spann_sieve sieve; /* what rows pass to become hits */
    spann_query_stats *stats;
} spann_query;

int spann_context_init(spann_context *c, const spann_index *index); /* 0, or -1 if memory ran out */
void spann_context_free(spann_context *c);
/* Takes the kernels of the SIMD level in force; 0, or -1 if it is not to be had. */
int spann_context_start(spann_context *c, const spann_search_params *params, spann_failure *failure);

int spann_query_init(spann_query *q, const spann_context *c);
void spann_query_free(spann_query *q);
/* Frees what a query of unusual size took, and says whether it has. */
int spann_query_trim(spann_query *q);

/* Stages. Each returns a status; failures are noted in the context. */

/* Navigates and prunes: leaves the postings to score in `visits`, nearest centroid first. Called again after
 * spann_query_short, it goes further. */
int spann_query_begin(spann_context *c, spann_query *q, const void *raw, spann_query_stats *stats);
int spann_query_navigate(spann_context *c, spann_query *q);
/* Called when all visits are scored: adds some, where more vectors are within the radius than the effort is for. */
int spann_query_extend(spann_context *c, spann_query *q);

/* Where posting p lies: file, offset and bytes to read, and the bytes before it in what is read. */
typedef struct {
    int file;
    uint64_t offset;
    size_t bytes, skip, content;
} spann_place;
spann_place spann_posting_place(const spann_context *c, uint32_t posting);

/* Compares the checksum of a posting's bytes, if it is to be. */
int spann_check_posting(spann_context *c, uint32_t posting, const unsigned char *content);
/* Scores the bytes of a posting; SPANN_SLACK readable bytes follow them. Where queries keep their own, keeps its ids. */
int spann_query_posting(spann_context *c, spann_query *q, spann_visit *visit, const unsigned char *content);
/* The same for a pinned posting; the visits after it up to `end` are expected to be scored next. */
int spann_query_pinned(spann_context *c, spann_query *q, const spann_visit *visit, const spann_visit *end);
/* The ids in the bytes of a posting of codes. */
const unsigned char *spann_posting_ids(const unsigned char *content);

/* Called when all visits are scored, and again when all fetches of a wave are: plans the next wave. No fetches: none is
 * needed. */
int spann_query_plan(spann_context *c, spann_query *q);
spann_place spann_fetch_place(const spann_context *c, const spann_query *q, const spann_fetch *fetch);
/* Checks and scores what was read for a fetch. */
int spann_query_exact(spann_context *c, spann_query *q, const spann_fetch *fetch, const unsigned char *content);

/* The two halves of it: pages first to last (excluded) against their checksums; the rows of a span. */
int spann_check_pages(spann_context *c, uint64_t first, uint64_t last, const unsigned char *content);
int spann_query_span(spann_context *c, spann_query *q, const spann_span *span, const unsigned char *content);
/* What to read for pages first to last (excluded) of one shard of the exact store. */
spann_place spann_pages_place(const spann_context *c, uint64_t first, uint64_t last);

/* True if fewer than k vectors were found though the index has more: navigate again, and score the new visits. */
int spann_query_short(const spann_context *c, const spann_query *q);
void spann_query_finish(const spann_context *c, spann_query *q, int64_t *ids, float *distances);

int spann_fail(spann_context *c, int status, int exact, uint64_t where, int system_error);

/* A status: whether the search was asked to end. Looked at for each posting and each page, which take microseconds. */
static inline int spann_go_on(spann_context *c) {
    int asked = __atomic_load_n(c->params->stop, __ATOMIC_RELAXED) | __atomic_load_n(&c->index->closed, __ATOMIC_RELAXED);
    return asked ? spann_fail(c, SPANN_STOPPED, 0, 0, 0) : SPANN_OK;
}

/* ---- what query.c, prune.c and rerank.c share ---- */

#define GROW(array, capacity, needed) spann_reserve((void **)&(array), &(capacity), needed, sizeof *(array))

int spann_no_memory(spann_context *c);
int spann_sort_visits(spann_context *c, spann_query *q); /* by posting */
/* The query in the space of centroids and codes (dim); lives until another one is asked for. */
const float *spann_working_query(spann_context *c, const spann_query *q);
/* The code of the query that fits those of a posting with that header; lives until the next is asked for. */
const spann_code_query *spann_code_for(spann_context *c, const spann_query *q, const spann_visit *visit,
                                       const spann_code_header *header);
/* What must be read of a file for `content` bytes from byte `at` of its pages on. */
spann_place spann_file_place(const spann_context *c, int file, uint64_t at, size_t content);
/* Offers n rows of exact vectors, with their ids, to the hits. */
int spann_score_rows(spann_context *c, spann_query *q, const unsigned char *rows, size_t n, const unsigned char *ids);

#endif
