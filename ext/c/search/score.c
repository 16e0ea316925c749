#include "search/score.h"

#include "base/memory.h"

int spann_room_for_scores(spann_context *c, size_t n) {
    return spann_reserve((void **)&c->scores, &c->scores_capacity, n + SPANN_BLOCK, sizeof(float));
}

int spann_score_rows(spann_context *c, spann_query *q, const unsigned char *rows, size_t n, const unsigned char *ids) {
    if (spann_room_for_scores(c, n)) return spann_no_memory(c);
    c->score(q->raw, rows, n, c->index->dim, c->scores);
    q->stats->distances += (uint32_t)n;
    for (size_t i = 0; i < n; i++, rows += c->row_bytes)
        if (spann_sieve_offer(&q->sieve, c->scores[i], rows, spann_read_id(ids, c->index->id_bytes, i)))
            return spann_no_memory(c);
    return SPANN_OK;
}
