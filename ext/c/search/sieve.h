/* Which rows become hits. A score in float dismisses nearly all of them cheaply. Rows that may be among the k
 * nearest are measured in double. So results are in the order of the distances of the vectors as given. */
#ifndef SPANN_SIEVE_H
#define SPANN_SIEVE_H

#include <math.h>
#include <string.h>

#include "search/index.h"
#include "search/live.h"
#include "search/topk.h"

typedef struct {
    spann_topk *hits;
    spann_measure_fn measure; /* NULL: scores are exact */
    const void *query;
    size_t dim;
    double shift, factor;      /* a score stands for the distance shift + factor * score */
    double relative, absolute; /* how far the two may differ: a share of that distance, and a constant */
    float limit;               /* scores above it are dismissed */
    const spann_live *dead;    /* ids that are dismissed; NULL: none */
} spann_sieve;

/* `norm`: the length of the query; unused under l2. */
static inline void spann_sieve_init(spann_sieve *s, const spann_index *index, const spann_kernels *kernels,
                                    const spann_live *live, spann_topk *hits, const void *query, double norm) {
    double error = spann_score_error(index->dim);
    *s = (spann_sieve){.hits = hits, .query = query, .dim = index->dim, .factor = 1, .limit = INFINITY};
    s->dead = live && live->dead ? live : NULL;
    s->measure = kernels->measure[index->metric][index->dtype];
    if (s->measure == NULL) return;
    s->absolute = (double)index->dim * 0x1p-126;
    if (index->metric == SPANN_L2) {
        s->relative = error;
    } else if (index->metric == SPANN_IP) {
        s->absolute += error * norm * index->max_norm;
    } else {
        s->shift = 1;
        s->factor = norm > 0 ? 1 / norm : 0;
        s->absolute += error;
    }
}

/* Rounded to 44 bits. Sums that differ only by rounding tie, and ids decide (v and 3 v under cosine). */
static inline double spann_settled(double distance) {
    uint64_t bits;
    memcpy(&bits, &distance, sizeof bits);
    bits = (bits + 0x80) & ~(uint64_t)0xff;
    memcpy(&distance, &bits, sizeof bits);
    return distance;
}

/* Sets the score above which no row is among the k nearest, whatever its error. Infinite while there are fewer than
 * k. */
static inline void spann_sieve_narrow(spann_sieve *s) {
    if (s->hits->size < s->hits->k) return;
    double most = s->hits->heap[0].distance + s->absolute;
    most = most > 0 ? most / (1 - s->relative) : most / (1 + s->relative);
    s->limit = s->factor > 0 ? nextafterf((float)((most - s->shift) / s->factor), INFINITY) : INFINITY;
}

/* A row and its score; 0, or -1 if memory ran out. */
static inline int spann_sieve_offer(spann_sieve *s, float score, const void *row, uint64_t id) {
    if (score > s->limit) return 0;
    if (s->dead && spann_is_dead(s->dead, id)) return 0;
    double distance = s->measure ? spann_settled(s->measure(s->query, row, s->dim)) : (double)score;
    if (spann_topk_push(s->hits, distance, id)) return -1;
    spann_sieve_narrow(s);
    return 0;
}

#endif
