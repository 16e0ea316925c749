#include "building/pages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Along the principal axis first, then towards two means of fixed sizes. docs/decisions/0032 has the pages that each
 * step saves. */
#define AXIS_STEPS 6
#define ROUNDS 4

typedef struct {
    float along;
    uint32_t row;
} placed;

typedef struct {
    const spann_kernels *kernels;
    float *x, *moved_x;
    int64_t *order, *moved_order;
    placed *rank;
    float *along;
    double *exact;     /* (dim) */
    float *sum, *axis; /* (dim) */
    size_t dim;
} arranger;

static int by_place(const void *a, const void *b) {
    const placed *x = a, *y = b;
    if (x->along != y->along) return x->along < y->along ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Sets axis to the mean of the rows, and subtracts it from them. Returns the row that was farthest from it. */
static size_t centre(arranger *t, size_t start, size_t n) {
    size_t dim = t->dim, farthest = 0;
    float *x = t->x + start * dim;
    memset(t->exact, 0, dim * sizeof(double));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < dim; j++) t->exact[j] += x[i * dim + j];
    for (size_t j = 0; j < dim; j++) t->axis[j] = (float)(t->exact[j] / (double)n);
    t->kernels->score[SPANN_L2][SPANN_F32](t->axis, x, n, dim, t->along);
    for (size_t i = 1; i < n; i++)
        if (t->along[i] > t->along[farthest]) farthest = i;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < dim; j++) x[i * dim + j] -= t->axis[j];
    return farthest;
}

/* Sets along to rows times the axis, negated as score gives it. */
static void project(arranger *t, size_t start, size_t n) {
    t->kernels->score[SPANN_IP][SPANN_F32](t->axis, t->x + start * t->dim, n, t->dim, t->along);
}

static void rank_rows(arranger *t, size_t start, size_t n) {
    project(t, start, n);
    for (size_t i = 0; i < n; i++) t->rank[i] = (placed){t->along[i], (uint32_t)i};
    qsort(t->rank, n, sizeof(placed), by_place);
}

/* Sets axis to the direction of sum, of length 1. Returns 0 if sum is 0. */
static int point(arranger *t) {
    double length = 0;
    for (size_t j = 0; j < t->dim; j++) length += (double)t->sum[j] * t->sum[j];
    if (length == 0) return 0;
    double scale = 1 / sqrt(length);
    for (size_t j = 0; j < t->dim; j++) t->axis[j] = (float)(t->sum[j] * scale);
    return 1;
}

/* Finds the principal axis of rows that sum to 0, by power iteration from one of them. Returns 0 if that row is 0. */
static int principal_axis(arranger *t, size_t start, size_t n, size_t first) {
    size_t dim = t->dim;
    const float *x = t->x + start * dim;
    memcpy(t->sum, x + first * dim, dim * sizeof(float));
    if (!point(t)) return 0;
    for (int step = 0; step < AXIS_STEPS; step++) {
        project(t, start, n);
        float most = 0;
        for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(t->along[i]));
        if (most == 0) break;
        memset(t->sum, 0, dim * sizeof(float));
        for (size_t i = 0; i < n; i++) {
            float weight = t->along[i] / most; /* products of any vectors stay in range */
            for (size_t j = 0; j < dim; j++) t->sum[j] -= weight * x[i * dim + j];
        }
        if (!point(t)) break;
    }
    return 1;
}

/* Finds the axis between the mean of the `left` rows ranked first and the mean of the others. Returns 0 if they are
 * equal. Rows sum to 0, so both means lie on a line through 0. */
static int axis_of_means(arranger *t, size_t start, size_t left) {
    size_t dim = t->dim;
    memset(t->sum, 0, dim * sizeof(float));
    for (size_t i = 0; i < left; i++) {
        const float *x = t->x + (start + t->rank[i].row) * dim;
        for (size_t j = 0; j < dim; j++) t->sum[j] += x[j];
    }
    return point(t);
}

static void move_rows(arranger *t, size_t start, size_t n) {
    size_t dim = t->dim;
    for (size_t i = 0; i < n; i++) {
        size_t from = start + t->rank[i].row;
        memcpy(t->moved_x + i * dim, t->x + from * dim, dim * sizeof(float));
        t->moved_order[i] = t->order[from];
    }
    memcpy(t->x + start * dim, t->moved_x, n * dim * sizeof(float));
    memcpy(t->order + start, t->moved_order, n * sizeof(int64_t));
}

static void halve(arranger *t, size_t start, size_t n, const int64_t *bounds, size_t bound_count) {
    if (bound_count == 0) return;
    size_t middle = 0;
    for (size_t b = 1; b < bound_count; b++)
        if (llabs(2 * (bounds[b] - (int64_t)start) - (int64_t)n) < llabs(2 * (bounds[middle] - (int64_t)start) - (int64_t)n))
            middle = b;
    size_t left = (size_t)bounds[middle] - start;
    if (!principal_axis(t, start, n, centre(t, start, n))) return;
    rank_rows(t, start, n);
    for (int round = 0; round < ROUNDS && axis_of_means(t, start, left); round++) rank_rows(t, start, n);
    move_rows(t, start, n);
    halve(t, start, left, bounds, middle);
    halve(t, start + left, n - left, bounds + middle + 1, bound_count - middle - 1);
}

int spann_arrange(const spann_kernels *kernels, float *x, size_t dim, const int64_t *lengths, size_t postings,
                  const int64_t *bounds, size_t bound_count, int64_t *order) {
    size_t longest = 1;
    for (size_t p = 0; p < postings; p++)
        if ((size_t)lengths[p] > longest) longest = (size_t)lengths[p];
    arranger t = {
        .kernels = kernels,
        .x = x,
        .order = order,
        .dim = dim,
        .moved_x = malloc(longest * dim * sizeof(float)),
        .moved_order = malloc(longest * sizeof(int64_t)),
        .rank = malloc(longest * sizeof(placed)),
        .along = malloc(longest * sizeof(float)),
        .exact = malloc(dim * sizeof(double)),
        .sum = malloc(dim * sizeof(float)),
        .axis = malloc(dim * sizeof(float)),
    };
    int ready = t.moved_x && t.moved_order && t.rank && t.along && t.exact && t.sum && t.axis;
    size_t start = 0, b = 0;
    for (size_t p = 0; ready && p < postings; p++) {
        size_t n = (size_t)lengths[p], first;
        for (size_t i = 0; i < n; i++) order[start + i] = (int64_t)(start + i);
        while (b < bound_count && (size_t)bounds[b] <= start) b++;
        for (first = b; b < bound_count && (size_t)bounds[b] < start + n;) b++;
        halve(&t, start, n, bounds + first, b - first);
        start += n;
    }
    free(t.moved_x);
    free(t.moved_order);
    free(t.rank);
    free(t.along);
    free(t.exact);
    free(t.sum);
    free(t.axis);
    return ready ? 0 : -1;
}
