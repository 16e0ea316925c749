#include "search/candidates.h"

#include <math.h>
#include <stdlib.h>

#define SMALL 16

/* Room, as a multiple of the wanted. More room makes cuts rarer, but each passes over all of it and the limit falls
 * later. With 4 scoring takes 0 to 2 % longer (SIFT, m = 100, Zen 5) (docs/decisions/0016). */
#define FACTOR 2

typedef long long half __attribute__((vector_size(16), may_alias));

/* Explicit halves. gcc takes a struct apart into fields, and its next load waits for the stores of all of them, which
 * made cuts 3 times as slow (docs/decisions/0016). */
static void swap(spann_candidate *a, spann_candidate *b) {
    half *x = (half *)a, *y = (half *)b;
    half low = x[0], high = x[1];
    x[0] = y[0];
    x[1] = y[1];
    y[0] = low;
    y[1] = high;
}

static void insertion_sort(spann_candidate *x, size_t n) {
    for (size_t i = 1; i < n; i++) {
        spann_candidate item = x[i];
        size_t j = i;
        for (; j && spann_candidate_before(&item, &x[j - 1]); j--) x[j] = x[j - 1];
        x[j] = item;
    }
}

/* Lomuto's partition around the median of three; n > 2. Returns the place of the pivot: none before it ranks after it,
 * none after it ranks before it. It has no branches, which would be mispredicted half of the time, and is 3 times as
 * fast as Hoare's (docs/decisions/0016). */
static size_t partition(spann_candidate *x, size_t n) {
    size_t mid = n / 2, last = n - 1, place = 0;
    if (spann_candidate_before(&x[mid], &x[0])) swap(&x[mid], &x[0]);
    if (spann_candidate_before(&x[last], &x[0])) swap(&x[last], &x[0]);
    if (spann_candidate_before(&x[mid], &x[last])) swap(&x[mid], &x[last]);
    spann_candidate pivot = x[last];
    for (size_t i = 0; i < last; i++) {
        float value = x[i].value;
        uint64_t row = x[i].row;
        swap(&x[i], &x[place]);
        place += (value < pivot.value) | ((value == pivot.value) & (row < pivot.row));
    }
    swap(&x[place], &x[last]);
    return place;
}

void spann_candidates_sort(spann_candidate *x, size_t n) {
    while (n > SMALL) {
        size_t place = partition(x, n), rest = n - place - 1;
        if (place < rest) {
            spann_candidates_sort(x, place);
            x += place + 1;
            n = rest;
        } else {
            spann_candidates_sort(x + place + 1, rest);
            n = place;
        }
    }
    insertion_sort(x, n);
}

size_t spann_selection_room(size_t wanted) { return FACTOR * wanted + SMALL; }

int spann_selection_start(spann_selection *s, size_t wanted) {
    s->size = 0;
    s->limit = INFINITY;
    s->wanted = wanted;
    size_t capacity = spann_selection_room(wanted);
    if (capacity <= s->capacity) return 0;
    free(s->items);
    s->items = malloc(capacity * sizeof *s->items);
    s->capacity = s->items ? capacity : 0;
    return s->items ? 0 : -1;
}

int spann_selection_widen(spann_selection *s, size_t wanted) {
    size_t capacity = spann_selection_room(wanted);
    if (capacity > s->capacity) {
        spann_candidate *items = realloc(s->items, capacity * sizeof *items);
        if (items == NULL) return -1;
        s->items = items;
        s->capacity = capacity;
    }
    s->wanted = wanted;
    return 0;
}

void spann_selection_free(spann_selection *s) {
    free(s->items);
    *s = (spann_selection){0};
}

void spann_candidates_select(spann_candidate *x, size_t n, size_t keep) {
    while (keep > 0 && keep < n) {
        if (n <= SMALL) {
            insertion_sort(x, n);
            return;
        }
        size_t place = partition(x, n);
        if (place == keep) return;
        if (place > keep) {
            n = place;
        } else {
            x += place + 1;
            n -= place + 1;
            keep -= place + 1;
        }
    }
}

void spann_selection_cut(spann_selection *s) {
    if (s->size <= s->wanted) return;
    spann_candidates_select(s->items, s->size, s->wanted);
    s->size = s->wanted;
    float limit = s->items[0].value;
    for (size_t i = 1; i < s->size; i++)
        if (s->items[i].value > limit) limit = s->items[i].value;
    s->limit = limit;
}

void spann_selection_finish(spann_selection *s) {
    spann_selection_cut(s);
    spann_candidates_sort(s->items, s->size);
}
