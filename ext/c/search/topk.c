#include "search/topk.h"

#include <stdlib.h>
#include <string.h>

static int farther(spann_hit a, spann_hit b) {
    return a.distance > b.distance || (a.distance == b.distance && a.id > b.id);
}

static size_t slot_of(const spann_topk *t, uint64_t id) {
    uint64_t h = id * 0x9e3779b97f4a7c15ull;
    return (size_t)(h ^ (h >> 32)) & (t->seen_capacity - 1);
}

int spann_topk_init(spann_topk *t, size_t k) {
    t->k = k;
    t->size = t->seen_size = 0;
    t->seen_capacity = 256;
    t->heap = malloc(k * sizeof *t->heap);
    t->seen = calloc(t->seen_capacity, sizeof *t->seen);
    if (t->heap && t->seen) return 0;
    spann_topk_free(t);
    return -1;
}

void spann_topk_free(spann_topk *t) {
    free(t->heap);
    free(t->seen);
    t->heap = NULL;
    t->seen = NULL;
}

void spann_topk_clear(spann_topk *t) {
    t->size = t->seen_size = 0;
    memset(t->seen, 0, t->seen_capacity * sizeof *t->seen);
}

/* 1 if new, 0 if it was there. */
static int mark_seen(spann_topk *t, uint64_t id) {
    size_t slot = slot_of(t, id);
    while (t->seen[slot]) {
        if (t->seen[slot] == id + 1) return 0;
        slot = (slot + 1) & (t->seen_capacity - 1);
    }
    t->seen[slot] = id + 1;
    t->seen_size++;
    return 1;
}

static int grow_seen(spann_topk *t) {
    uint64_t *old = t->seen;
    size_t old_capacity = t->seen_capacity;
    uint64_t *larger = calloc(old_capacity * 2, sizeof *larger);
    if (larger == NULL) return -1;
    t->seen = larger;
    t->seen_capacity = old_capacity * 2;
    t->seen_size = 0;
    for (size_t i = 0; i < old_capacity; i++)
        if (old[i]) mark_seen(t, old[i] - 1);
    free(old);
    return 0;
}

static void sift_down(spann_hit *heap, size_t n, spann_hit item) {
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && farther(heap[child + 1], heap[child])) child++;
        if (!farther(heap[child], item)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = item;
}

int spann_topk_insert(spann_topk *t, double distance, uint64_t id) {
    if (t->seen_size * 2 >= t->seen_capacity && grow_seen(t)) return -1;
    if (!mark_seen(t, id)) return 0;
    spann_hit item = {distance, id};
    if (t->size == t->k) {
        sift_down(t->heap, t->size, item);
        return 0;
    }
    size_t i = t->size++;
    while (i && farther(item, t->heap[(i - 1) / 2])) {
        t->heap[i] = t->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    t->heap[i] = item;
    return 0;
}

void spann_topk_sort(spann_topk *t) {
    for (size_t n = t->size; n > 1; n--) {
        spann_hit last = t->heap[n - 1];
        t->heap[n - 1] = t->heap[0];
        sift_down(t->heap, n - 1, last);
    }
}
