/* Postings of vectors (kind.h): their distances are exact, so nothing is re-ranked, and nothing is pinned. */
#include "search/rank.h"
#include "search/score.h"

static int open(spann_context *c) {
    (void)c;
    return 0;
}

static int open_query(const spann_context *c, spann_query *q) {
    (void)c, (void)q;
    return 0;
}

static size_t query_bytes(const spann_index *index, const spann_search_params *params) {
    (void)index, (void)params;
    return 0;
}

static size_t posting_bytes(const spann_context *c, uint32_t posting) {
    return spann_exact_posting_bytes(c->index->id_bytes, c->row_bytes, c->index->posting_length[posting]);
}

static void enter(spann_context *c, spann_query *q) { (void)c, (void)q; }

/* Centroids are vectors of the collection. */
static const void *compared(spann_context *c, const spann_query *q) {
    (void)c;
    return q->raw;
}

static int begin(spann_context *c, spann_query *q) {
    (void)c, (void)q;
    return SPANN_OK;
}

static int score(spann_context *c, spann_query *q, spann_visit *visit, const unsigned char *content) {
    size_t n = c->index->posting_length[visit->posting];
    int status = spann_score_vectors(c, q, content + spann_vectors_begin(c->index->id_bytes, n), n, content);
    if (status || c->params->rank == 0) return status;
    return spann_rank_sample(q, visit->posting, c->scores, n, q->sieve.limit) ? spann_no_memory(c) : SPANN_OK;
}

static int score_run(spann_context *c, spann_query *q, const spann_visit *visit, const spann_tail_run *run) {
    const spann_tail *tail = &c->index->tail;
    (void)visit;
    return spann_score_vectors(c, q, tail->vectors + run->first * c->row_bytes, run->entries,
                               tail->ids + run->first * c->index->id_bytes);
}

static void prefetch_run(const spann_context *c, const spann_tail_run *run) { (void)c, (void)run; }

static int keep(spann_context *c, uint32_t posting, const unsigned char *content, unsigned char **kept) {
    (void)c, (void)posting, (void)content;
    *kept = NULL;
    return SPANN_OK;
}

static void prefetch_query(const spann_index *index, const spann_query *q) { (void)index, (void)q; }

static int finish(spann_context *c, spann_query *q) {
    (void)c, (void)q;
    return SPANN_OK;
}

static double seen_within(const spann_query *q) {
    size_t seen = 0;
    for (size_t i = 0; i < q->hits.size; i++) seen += q->hits.heap[i].distance <= q->reach;
    return (double)seen;
}

static int is_crowded(const spann_context *c, const spann_query *q) {
    (void)c, (void)q;
    return 0;
}

const spann_kind spann_exact_postings = {
    .open = open,
    .open_query = open_query,
    .query_bytes = query_bytes,
    .posting_bytes = posting_bytes,
    .enter = enter,
    .compared = compared,
    .begin = begin,
    .score = score,
    .score_pinned = NULL,
    .score_run = score_run,
    .prefetch_run = prefetch_run,
    .keep = keep,
    .prefetch_query = prefetch_query,
    .finish = finish,
    .seen_within = seen_within,
    .is_crowded = is_crowded,
    .re_ranks = 0,
};
