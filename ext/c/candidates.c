#include "candidates.h"

#include <math.h>
#include <stdlib.h>

#define SMALL 16

/* Room for so many times the wanted: each cut passes over all of it, and more room makes cuts rarer. */
#define FACTOR 4

static void swap(spann_candidate *a, spann_candidate *b) {
    spann_candidate t = *a;
    *a = *b;
    *b = t;
}

static void insertion_sort(spann_candidate *x, size_t n) {
    for (size_t i = 1; i < n; i++) {
        spann_candidate item = x[i];
        size_t j = i;
        for (; j && spann_candidate_before(&item, &x[j - 1]); j--) x[j] = x[j - 1];
        x[j] = item;
    }
}

/* Hoare's partition around the median of three: x[0..end) are not after x[end..n), both parts not empty. n > 2. */
static size_t partition(spann_candidate *x, size_t n) {
    size_t mid = n / 2;
    if (spann_candidate_before(&x[mid], &x[0])) swap(&x[mid], &x[0]);
    if (spann_candidate_before(&x[n - 1], &x[0])) swap(&x[n - 1], &x[0]);
    if (spann_candidate_before(&x[n - 1], &x[mid])) swap(&x[n - 1], &x[mid]);
    spann_candidate pivot = x[mid];
    size_t i = 0, j = n - 1;
    for (;;) {
        do i++;
        while (spann_candidate_before(&x[i], &pivot));
        do j--;
        while (spann_candidate_before(&pivot, &x[j]));
        if (i >= j) return j + 1;
        swap(&x[i], &x[j]);
    }
}

void spann_candidates_sort(spann_candidate *x, size_t n) {
    while (n > SMALL) {
        size_t end = partition(x, n);
        if (end < n - end) {
            spann_candidates_sort(x, end);
            x += end;
            n -= end;
        } else {
            spann_candidates_sort(x + end, n - end);
            n = end;
        }
    }
    insertion_sort(x, n);
}

int spann_selection_start(spann_selection *s, size_t wanted) {
    s->size = 0;
    s->limit = INFINITY;
    s->wanted = wanted;
    size_t capacity = FACTOR * wanted + SMALL;
    if (capacity <= s->capacity) return 0;
    free(s->items);
    s->items = malloc(capacity * sizeof *s->items);
    s->capacity = s->items ? capacity : 0;
    return s->items ? 0 : -1;
}

void spann_selection_free(spann_selection *s) {
    free(s->items);
    *s = (spann_selection){0};
}

void spann_selection_cut(spann_selection *s) {
    if (s->size <= s->wanted) return;
    spann_candidate *x = s->items;
    size_t n = s->size, keep = s->wanted;
    while (n > SMALL) {
        size_t end = partition(x, n);
        if (end == keep) break;
        if (end > keep) {
            n = end;
        } else {
            x += end;
            n -= end;
            keep -= end;
        }
    }
    if (n <= SMALL) insertion_sort(x, n);
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
