#include "search/rank.h"

#include <math.h>

#include "base/memory.h"

/* One block of scores in so many is sampled. */
#define STRIDE 4

/* Candidates, at most, unless more are asked for. */
#define MOST_CANDIDATES 16384

int spann_rank_sample(spann_query *q, uint32_t posting, const float *scores, size_t n, float limit) {
    if (SPANN_GROW(q->ranked, q->ranked_capacity, q->ranked_count + n)) return -1;
    for (size_t at = posting % STRIDE * SPANN_BLOCK; at < n; at += STRIDE * SPANN_BLOCK)
        for (uint32_t set = spann_within(scores, at, n, limit); set; set &= set - 1)
            q->ranked[q->ranked_count++] = scores[at + (size_t)__builtin_ctz(set)];
    return 0;
}

/* The score of the k-th match. */
static float kth_score(spann_context *c, const spann_query *q, int *failed) {
    const spann_selection *found = &q->candidates;
    size_t k = q->hits.k, n = found->size;
    if (!c->index->kind->re_ranks) return q->sieve.limit;
    if (n < k) return INFINITY;
    if ((*failed = SPANN_GROW(c->order, c->order_capacity, n))) return INFINITY;
    memcpy(c->order, found->items, n * sizeof *c->order);
    spann_candidates_select(c->order, n, k);
    float most = -INFINITY;
    for (size_t i = 0; i < k; i++) most = fmaxf(most, c->order[i].value);
    return most;
}

double spann_rank_nearer(spann_context *c, const spann_query *q) {
    int failed = 0;
    float kth = kth_score(c, q, &failed);
    if (failed) return -1;
    if (kth == INFINITY) return INFINITY;
    size_t nearer = 0;
    for (size_t i = 0; i < q->ranked_count; i++) nearer += q->ranked[i] <= kth;
    return (double)STRIDE * (double)nearer;
}

uint64_t spann_rank_candidates(const spann_context *c, const spann_query *q) {
    double count = fmin(c->params->effort[q->effort].count, MOST_CANDIDATES);
    return count < (double)c->index->entries ? (uint64_t)count : c->index->entries;
}

int spann_rank_widen(spann_context *c, spann_query *q, int *again) {
    spann_selection *found = &q->candidates;
    uint64_t wanted = spann_rank_candidates(c, q);
    if (wanted <= found->wanted) return SPANN_OK;
    *again = found->limit < INFINITY;
    if (*again) return c->index->kind->begin(c, q);
    return spann_selection_widen(found, wanted) ? spann_no_memory(c) : SPANN_OK;
}
