/* The k nearest of a stream of (distance, id), each id once. Ties are broken by id, so the result does not depend on
 * the order of the stream. */
#ifndef SPANN_TOPK_H
#define SPANN_TOPK_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    double distance;
    uint64_t id;
} spann_hit;

typedef struct {
    spann_hit *heap; /* max-heap on (distance, id) */
    size_t size, k;
    uint64_t *seen; /* open addressing; id + 1, 0 is free. Ids that were ever in the heap. */
    size_t seen_size, seen_capacity;
} spann_topk;

int spann_topk_init(spann_topk *t, size_t k); /* 0, or -1 if memory ran out; k >= 1 */
void spann_topk_free(spann_topk *t);
void spann_topk_clear(spann_topk *t);

/* Slow path of spann_topk_push: 0, or -1 if memory ran out. */
int spann_topk_insert(spann_topk *t, double distance, uint64_t id);

/* Sorts the hits in place, nearest first; the heap is then only good for reading and clearing. */
void spann_topk_sort(spann_topk *t);

/* An id that fell out of the heap needs no second look: its distance stays, and the bar only falls. */
static inline int spann_topk_push(spann_topk *t, double distance, uint64_t id) {
    if (t->size == t->k) {
        const spann_hit *worst = t->heap;
        if (distance > worst->distance || (distance == worst->distance && id >= worst->id)) return 0;
    }
    return spann_topk_insert(t, distance, id);
}

#endif
