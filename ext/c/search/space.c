#include "search/space.h"

#include <math.h>

static float element(const spann_index *index, const void *query, size_t j) {
    switch (index->dtype) {
    case SPANN_U8:
        return ((const uint8_t *)query)[j];
    case SPANN_I8:
        return ((const int8_t *)query)[j];
    default:
        return ((const float *)query)[j];
    }
}

static double length_of(const spann_index *index, const void *query) {
    double sum = 0;
    for (size_t j = 0; j < index->dim; j++) {
        double x = element(index, query, j);
        sum += x * x;
    }
    return sqrt(sum);
}

static void set_scale(const spann_context *c, spann_query *q) {
    const spann_index *index = c->index;
    if (index->metric == SPANN_COS) {
        q->scale = 1 / q->norm;
        q->b = 2; /* the squared chord */
    } else if (index->metric == SPANN_IP) {
        q->scale = q->norm > 0 ? index->query_norm / q->norm : 1;
        q->b = q->scale;
        q->space_norm = index->query_norm;
    }
}

const float *spann_working_query(spann_context *c, const spann_query *q) {
    if (c->work_of == q->raw) return c->work;
    for (size_t j = 0; j < c->index->dim; j++) c->work[j] = (float)(element(c->index, q->raw, j) * q->scale);
    c->work_of = q->raw;
    return c->work;
}

/* The code of the query less `origin`, which has elements of that type. */
static void make_code(spann_context *c, const spann_query *q, const void *origin, spann_dtype dtype, void *buffer,
                      spann_code_query *code) {
    const spann_index *index = c->index;
    c->codes->less(spann_working_query(c, q), origin, dtype, index->dim, c->moved);
    c->codes->rotate(c->moved, index->dim, index->padded_dim, index->signs, c->rotated);
    c->codes->prepare(c->rotated, index->padded_dim, index->code_bits, buffer, code);
}

const spann_code_query *spann_code_for(spann_context *c, const spann_query *q, const spann_visit *visit,
                                       const spann_code_header *header) {
    const spann_index *index = c->index;
    if (!spann_code_is_far(header)) return &q->code;
    size_t width = index->dim * spann_dtype_size(index->centroid_dtype);
    const char *centroid = (const char *)index->centroid_vectors + visit->centroid * width;
    make_code(c, q, centroid, index->centroid_dtype, c->far_buffer, &c->far);
    return &c->far;
}

void spann_enter_code_space(spann_context *c, spann_query *q) {
    set_scale(c, q);
    make_code(c, q, c->index->origin, SPANN_F32, q->code_buffer, &q->code);
}

/* The radius as a working value, rounded up. Vectors read in vain are dropped by their exact distance. */
static float reach_of(const spann_context *c, const spann_query *q) {
    double radius = c->params->radius, distance = -radius;
    if (isinf(radius)) return INFINITY;
    if (c->index->metric == SPANN_L2) distance = c->index->dtype == SPANN_BITS ? radius : radius * radius;
    if (c->index->metric == SPANN_COS) distance = radius;
    double value = q->b * distance;
    return (float)(value + 1e-5 * fabs(value));
}

void spann_enter_space(spann_context *c, spann_query *q) {
    const spann_index *index = c->index;
    q->norm = index->metric == SPANN_L2 ? 0 : length_of(index, q->raw);
    q->space_norm = q->norm;
    q->scale = q->b = 1;
    index->kind->enter(c, q);
    q->reach = reach_of(c, q);
}

double spann_geometric_sqdist(const spann_context *c, const spann_query *q, float value) {
    const spann_index *index = c->index;
    double norm = q->space_norm;
    switch (index->centroid_metric) {
    case SPANN_L2:
        return value;
    case SPANN_COS:
        return fmax(0, 2 + 2 * value / norm);
    default: { /* the query scaled to the largest norm R: |q|^2 + R^2 - 2 q.v */
        double r = index->max_norm;
        return norm > 0 ? fmax(0, 2 * r * r + 2 * r * value / norm) : 2 * r * r;
    }
    }
}

float spann_true_distance(const spann_index *index, double distance) {
    if (index->metric == SPANN_IP) return (float)-distance;
    return (float)(index->metric == SPANN_L2 && index->dtype != SPANN_BITS ? sqrt(distance) : distance);
}
