/* The m smallest of a stream of values: a buffer of several times as many, cut by quickselect when it is full.
 *
 * On the 32,000 estimates of a query (m = 200) that takes a tenth of the time of a heap: nearly every value is dismissed
 * by one comparison with the limit. Ties are broken by row, so the outcome does not depend on the order of the stream. */
#ifndef SPANN_CANDIDATES_H
#define SPANN_CANDIDATES_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    float value; /* what is ranked by */
    float lower; /* carried along: bound of the true value */
    uint64_t row, id;
} spann_candidate;

typedef struct {
    spann_candidate *items;
    size_t size, wanted, capacity;
    float limit; /* values above it cannot be among the wanted */
} spann_selection;

/* Empties the selection and sets how many are wanted, at least 1. 0, or -1 if memory ran out. */
int spann_selection_start(spann_selection *s, size_t wanted);
void spann_selection_free(spann_selection *s);

/* Drops all but the wanted ones, in no order. */
void spann_selection_cut(spann_selection *s);

/* Cuts, then sorts ascending. */
void spann_selection_finish(spann_selection *s);

static inline void spann_selection_push(spann_selection *s, spann_candidate c) {
    s->items[s->size++] = c;
    if (s->size == s->capacity) spann_selection_cut(s);
}

/* The first of values[at..n) that is not above `limit`, or n. Sixteen at a time, which the compiler turns into a few wide
 * comparisons: nearly all values are above. */
static inline size_t spann_next_within(const float *values, size_t at, size_t n, float limit) {
    for (; at + 16 <= n; at += 16) {
        int any = 0;
        for (int i = 0; i < 16; i++) any |= values[at + i] <= limit;
        if (any) break;
    }
    while (at < n && !(values[at] <= limit)) at++;
    return at;
}

static inline int spann_candidate_before(const spann_candidate *a, const spann_candidate *b) {
    return a->value < b->value || (a->value == b->value && a->row < b->row);
}

void spann_candidates_sort(spann_candidate *items, size_t n);

#endif
