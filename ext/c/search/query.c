#include "search/query.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "search/space.h"

int spann_query_begin(spann_context *c, spann_query *q, const void *raw, spann_query_stats *stats) {
    const spann_index *index = c->index;
    size_t count = c->live ? c->live->count : index->count, k = c->params->k < count ? c->params->k : count;
    q->raw = raw;
    q->stats = stats;
    q->attempt = q->effort = 0;
    q->within = 0;
    memset(stats, 0, sizeof *stats);
    if (q->hits.k != k) {
        spann_topk_free(&q->hits);
        if (spann_topk_init(&q->hits, k)) {
            q->hits.k = 0;
            return spann_no_memory(c);
        }
    }
    spann_topk_clear(&q->hits);
    spann_enter_space(c, q);
    spann_sieve_init(&q->sieve, index, c->kernels, c->live, &q->hits, raw, q->norm);
    return spann_query_navigate(c, q);
}

int spann_query_navigate(spann_context *c, spann_query *q) {
    uint64_t start = spann_now_ns();
    int status = spann_visits_find(c, q);
    if (status) return status;
    status = c->index->kind->begin(c, q);
    q->stats->navigate_ns += spann_now_ns() - start;
    return status;
}

int spann_query_short(const spann_context *c, const spann_query *q) {
    const spann_index *index = c->index;
    if (q->hits.size == q->hits.k) return 0;
    /* Within a radius there may be fewer. Without re-ranking and efforts the caller starts with a small k and must get
     * all k, so a radius is no excuse for fewer. */
    if (q->reach < INFINITY && (index->kind->re_ranks || c->params->efforts)) return 0;
    uint64_t limit = c->params->navigate > c->params->max_postings ? c->params->navigate : c->params->max_postings;
    for (uint32_t i = 0; i < q->attempt && limit < index->centroids; i++) limit *= 4;
    return q->attempt == 0 || limit < index->centroids || index->kind->is_crowded(c, q);
}

void spann_query_finish(const spann_context *c, spann_query *q, int64_t *ids, float *distances) {
    spann_metric metric = c->index->metric;
    spann_topk_sort(&q->hits);
    for (size_t i = 0; i < c->params->k; i++) {
        int hit = i < q->hits.size;
        ids[i] = hit ? (int64_t)q->hits.heap[i].id : -1;
        distances[i] = hit ? spann_true_distance(c->index, q->hits.heap[i].distance)
                           : metric == SPANN_IP ? -INFINITY : INFINITY;
    }
}
