/* The m smallest of a stream of values: a buffer of twice as many, cut by quickselect when it is full.
 *
 * Nearly every value is dismissed by one comparison with the limit: on the 32,000 estimates of a query (m = 200) a heap
 * took ten times as long. Ties are broken by row, so the outcome does not depend on the order of the stream
 * (docs/decisions/0016). */
#ifndef SPANN_CANDIDATES_H
#define SPANN_CANDIDATES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* 32 bytes, so that it moves as two halves of 16 (candidates.c). */
typedef struct {
    _Alignas(16) float value; /* what is ranked by */
    float lower;              /* carried along: bound of the true value */
    uint64_t row, id;         /* the id only of a replica: that of a primary is found by its row */
} spann_candidate;

typedef struct {
    spann_candidate *items;
    size_t size, wanted, capacity;
    float limit; /* values above it cannot be among the wanted */
} spann_selection;

/* Candidates that it takes memory for. */
size_t spann_selection_room(size_t wanted);

/* Empties the selection and sets how many are wanted, at least 1. 0, or -1 if memory ran out. */
int spann_selection_start(spann_selection *s, size_t wanted);
void spann_selection_free(spann_selection *s);

/* Wants more, of a selection that has dropped none. 0, or -1 if memory ran out. */
int spann_selection_widen(spann_selection *s, size_t wanted);

/* Drops all but the wanted ones, in no order. */
void spann_selection_cut(spann_selection *s);

/* Cuts, then sorts ascending. */
void spann_selection_finish(spann_selection *s);

/* Written by fields. A struct put together on the stack and copied fails store-to-load forwarding, which costs a
 * third of the time of proposing candidates. */
static inline void spann_selection_push(spann_selection *s, float value, float lower, uint64_t row, uint64_t id) {
    spann_candidate *c = &s->items[s->size++];
    c->value = value;
    c->lower = lower;
    c->row = row;
    c->id = id;
    if (s->size == s->capacity) spann_selection_cut(s);
}

typedef float spann_float4 __attribute__((vector_size(16)));
typedef int32_t spann_int4 __attribute__((vector_size(16)));

#define SPANN_BLOCK 16

/* Bit i is set where i < n - at and values[at + i] <= limit. A whole block must be readable. It has no branches,
 * because nearly all values are above. */
static inline uint32_t spann_within(const float *values, size_t at, size_t n, float limit) {
    static const spann_int4 bit = {1, 2, 4, 8};
    spann_float4 v[4];
    memcpy(v, values + at, sizeof v);
    spann_int4 set = ((v[0] <= limit) & bit) | ((v[1] <= limit) & bit << 4) | ((v[2] <= limit) & bit << 8) |
                     ((v[3] <= limit) & bit << 12);
    uint64_t half[2];
    memcpy(half, &set, sizeof half);
    half[0] |= half[1];
    uint32_t all = (uint32_t)(half[0] | half[0] >> 32);
    return n - at < SPANN_BLOCK ? all & ((1u << (n - at)) - 1) : all;
}

static inline int spann_candidate_before(const spann_candidate *a, const spann_candidate *b) {
    return a->value < b->value || (a->value == b->value && a->row < b->row);
}

void spann_candidates_sort(spann_candidate *items, size_t n);
/* Brings the `keep` that rank first to the front, in no order. */
void spann_candidates_select(spann_candidate *items, size_t n, size_t keep);

#endif
