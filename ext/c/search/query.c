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
    q->ranked_count = 0;
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

/* Prefetch distance in visits: the entries of a tail, and before that its runs. */
#define TAILS_AHEAD 2

/* Scores the tail of the visit's centroid, if the posting is its first. A status. */
static int score_tail(spann_context *c, spann_query *q, const spann_visit *visit, const spann_visit *end) {
    const spann_index *index = c->index;
    const spann_tail_run *all = index->tail.runs;
    size_t left = (size_t)(end - visit);
    if (left > 2 * TAILS_AHEAD) __builtin_prefetch(all + visit[2 * TAILS_AHEAD].centroid * SPANN_TAIL_RUNS);
    if (left > TAILS_AHEAD) {
        const spann_tail_run *next = all + visit[TAILS_AHEAD].centroid * SPANN_TAIL_RUNS;
        if (next->entries) index->kind->prefetch_run(c, next);
    }
    if (visit->posting != spann_first_posting(index, visit->centroid)) return SPANN_OK;
    const spann_tail_run *runs = all + visit->centroid * SPANN_TAIL_RUNS;
    for (int i = 0; i < SPANN_TAIL_RUNS; i++) {
        int status = runs[i].entries ? index->kind->score_run(c, q, visit, &runs[i]) : SPANN_OK;
        if (status) return status;
    }
    return SPANN_OK;
}

int spann_query_score(spann_context *c, spann_query *q, spann_visit *visit, const spann_visit *end,
                      const unsigned char *content) {
    const spann_index *index = c->index;
    int status = SPANN_OK;
    if (content) status = index->kind->score(c, q, visit, content);
    else if (c->live_length[visit->posting]) status = index->kind->score_pinned(c, q, visit, end);
    return status == SPANN_OK && index->tail.runs ? score_tail(c, q, visit, end) : status;
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
