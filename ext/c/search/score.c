#include "search/score.h"

#include "base/memory.h"

int spann_room_for_scores(spann_context *c, size_t n) {
    return spann_reserve((void **)&c->scores, &c->scores_capacity, n + SPANN_BLOCK, sizeof(float));
}

/* `rows` has a bit for each vector from `first` on, or is NULL. */
SPANN_SPECIALISED int score(spann_context *c, spann_query *q, const unsigned char *rows, uint64_t first,
                            const unsigned char *vectors, size_t n, const unsigned char *ids) {
    if (spann_room_for_scores(c, n)) return spann_no_memory(c);
    c->score(q->raw, vectors, n, c->index->dim, c->scores);
    q->stats->distances += (uint32_t)n;
    for (size_t i = 0; i < n; i++, vectors += c->row_bytes) {
        if (rows && !spann_live_row(rows, first + i)) continue;
        if (spann_sieve_offer(&q->sieve, c->scores[i], vectors, spann_read_id(ids, c->index->id_bytes, i)))
            return spann_no_memory(c);
    }
    return SPANN_OK;
}

int spann_score_vectors(spann_context *c, spann_query *q, const unsigned char *vectors, size_t n,
                        const unsigned char *ids) {
    return score(c, q, NULL, 0, vectors, n, ids);
}

int spann_score_rows(spann_context *c, spann_query *q, uint64_t first, const unsigned char *vectors, size_t n,
                     const unsigned char *ids) {
    if (c->live) return score(c, q, c->live->rows, first, vectors, n, ids);
    return spann_score_vectors(c, q, vectors, n, ids);
}
