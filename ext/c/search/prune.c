/* From a query to the postings it scores: the nearest centroids, and which of their postings reach towards it. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "search/query.h"

/* Postings are pruned by the ratio of their distance to that of the so many-th smallest. The paper takes the smallest,
 * which says little about how dense the data are where the query fell: on 1M SIFT (8,000 centroids, their distances
 * alone) 95 % of the neighbours take 83 postings a query without a rule, 135 with the ratio to the nearest, 75, 69 and 77
 * with that to the 4th, 16th and 64th. */
#define PRUNE_RANK 16

/* What is expected of a posting is its centroid's squared distance d^2 moved by a share of the way to the squared
 * distance d^2 + S - 2 d z of an entry that lies z standard deviations out towards the query. Any from 0.33 to 0.5 and 2.5
 * to 3.5 are within 5 % of each other on SIFT and sentences (docs/DESIGN.md, Shapes). */
#define SHAPE_SHARE 0.4f
#define SHAPE_DEVIATIONS 3.0f

/* What is expected is never nearer than this share of d^2: in few dimensions the entries surround the query, and the
 * deviation is of no meaning. */
#define SHAPE_LEAST 0.25f

/* Lengths of postings, and shapes, that are fetched ahead, and the bytes of a shape; the hardware foresees the rest. */
#define LENGTHS_AHEAD 16
#define SHAPES_AHEAD 8
#define PREFETCH_BYTES 512

/* Squared distance in the space the index was clustered in (docs/DESIGN.md, Metrics), where ratios have a meaning. */
static double geometric_sqdist(const spann_context *c, const spann_query *q, float value) {
    const spann_index *index = c->index;
    double norm = q->norm;
    if (index->code_bits) {
        if (index->metric != SPANN_IP) return value;
        norm = index->query_norm;
    }
    switch (index->metric) {
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

typedef struct { /* of a posting; docs/FORMAT.md, Shapes */
    spann_code_header header;
    float spread, rest;
    float offsets[SPANN_MAX_DIRECTIONS];
} shape;

static uint32_t first_posting(const spann_index *index, uint64_t centroid) {
    return index->chain ? index->chain[centroid] : (uint32_t)centroid;
}

/* Mean squared length of the residuals of those that the centroid was made of: under ip all vectors have length R, so its
 * own squared length is R^2 less that. */
static float spread_around(const spann_index *index, uint32_t centroid) {
    const unsigned char *at = index->shapes + first_posting(index, centroid) * index->shape_bytes;
    float spread;
    memcpy(&spread, at + offsetof(shape, spread), sizeof spread);
    return spread;
}

/* Squared distance at which the nearest entries of the posting are expected, by how it is spread towards the query. */
static float expected_sqdist(spann_context *c, const spann_query *q, const spann_visit *visit) {
    const spann_index *index = c->index;
    size_t n = index->directions;
    const unsigned char *at = index->shapes + visit->posting * index->shape_bytes, *add;
    shape s;
    memcpy(&s, at, sizeof s - sizeof s.offsets + n * sizeof(float));
    add = at + sizeof s - sizeof s.offsets + n * sizeof(float);
    float estimates[SPANN_MAX_DIRECTIONS];
    const spann_code_query *code = spann_code_for(c, q, visit, &s.header);
    c->codes->estimate(code, add + 4 * n, add, add + 2 * n, &s.header, visit->value, n, estimates);

    float sqdist = (float)geometric_sqdist(c, q, visit->value), scale = 0.5f;
    if (index->metric == SPANN_IP) { /* the estimates are of queries of the length query_norm */
        if (q->norm == 0 || index->query_norm == 0) return sqdist;
        scale = index->max_norm / index->query_norm;
        sqdist = fmaxf(sqdist - spread_around(index, visit->centroid), 0);
    }
    float variance = s.rest * sqdist; /* times d^2 */
    for (size_t i = 0; i < n; i++) {
        float along = scale * (visit->value - estimates[i]) + s.offsets[i];
        variance += along * along;
    }
    float moved = sqdist + SHAPE_SHARE * (s.spread - 2 * SHAPE_DEVIATIONS * sqrtf(variance));
    return fmaxf(moved, SHAPE_LEAST * sqdist);
}

static int visit(spann_query *q, uint32_t posting, uint32_t centroid, float value, float expected) {
    if (GROW(q->visits, q->visit_capacity, q->visit_count + 1)) return -1;
    q->visits[q->visit_count++] = (spann_visit){posting, centroid, value, expected, 0};
    return 0;
}

/* Of the centroids found, nearest first, at most `budget` postings, and those appended to them, behind the visits there
 * are; not those of centroids farther than `bound`. */
static int list_postings(const spann_context *c, spann_query *q, uint64_t budget, double bound) {
    const spann_index *index = c->index;
    const spann_selection *found = &c->navigator.found;
    for (size_t i = 0; i < found->size && budget > 0; i++) {
        float value = found->items[i].value;
        uint32_t centroid = (uint32_t)found->items[i].row;
        if (i + LENGTHS_AHEAD < found->size)
            spann_prefetch(&index->posting_length[first_posting(index, found->items[i + LENGTHS_AHEAD].row)], 2);
        double sqdist = geometric_sqdist(c, q, value);
        if (sqdist > bound) break;
        uint32_t first = first_posting(index, centroid), end = first_posting(index, centroid + 1);
        for (; first < end && budget > 0; first++) {
            if (index->posting_length[first] == 0) continue;
            if (visit(q, first, centroid, value, (float)sqdist)) return -1;
            budget--;
        }
        if (index->appended == NULL) continue;
        for (uint32_t j = index->appended_end[centroid]; j < index->appended_end[centroid + 1]; j++) {
            if (index->posting_length[index->appended[j]] == 0) continue;
            if (visit(q, index->appended[j], centroid, value, (float)sqdist)) return -1;
        }
    }
    return 0;
}

static void prefetch_shape(const spann_index *index, uint32_t posting) {
    size_t bytes = index->shape_bytes < PREFETCH_BYTES ? index->shape_bytes : PREFETCH_BYTES;
    spann_prefetch(index->shapes + posting * index->shape_bytes, bytes);
}

/* Drops postings of which less is expected than (1 + epsilon2) times the distance of the 16th. Those appended do not
 * count for that: they hold few, and would make it smaller than it was. Visits before `from` stay as they are. */
static void prune_by_shape(spann_context *c, spann_query *q, size_t from, float epsilon2) {
    const spann_index *index = c->index;
    float smallest[PRUNE_RANK];
    size_t rank = 0, kept = from;
    for (size_t i = from; i < q->visit_count; i++) {
        if (i + SHAPES_AHEAD < q->visit_count) prefetch_shape(index, q->visits[i + SHAPES_AHEAD].posting);
        q->visits[i].expected = expected_sqdist(c, q, &q->visits[i]);
    }
    /* In a pass of its own: its branches cannot be foreseen, and would hold up the estimates. */
    for (size_t i = from; i < q->visit_count; i++) {
        float value = q->visits[i].expected;
        if (q->visits[i].posting >= index->own_postings) continue;
        if (rank == PRUNE_RANK && value >= smallest[rank - 1]) continue;
        size_t place = rank < PRUNE_RANK ? rank++ : rank - 1;
        for (; place > 0 && smallest[place - 1] > value; place--) smallest[place] = smallest[place - 1];
        smallest[place] = value;
    }
    if (rank == 0) return;
    double reach = 1 + (double)epsilon2, bound = smallest[rank - 1] * reach * reach;
    for (size_t i = from; i < q->visit_count; i++)
        if (q->visits[i].expected <= bound) q->visits[kept++] = q->visits[i];
    q->visit_count = kept;
}

static int by_posting(const void *a, const void *b) {
    const spann_visit *x = a, *y = b;
    return x->posting < y->posting ? -1 : x->posting > y->posting;
}

/* Adds the postings to score to the visits there are, but not those that are among them. */
static int find_postings(spann_context *c, spann_query *q, uint32_t max_postings, float epsilon2) {
    const spann_index *index = c->index;
    const spann_search_params *p = c->params;
    /* Empty postings do not count, so a few centroids more are wanted than postings. */
    uint64_t wanted = max_postings + max_postings / 16 + 1, budget = max_postings;
    uint64_t limit = p->navigate > wanted ? p->navigate : wanted;
    for (uint32_t i = 0; i < q->attempt && limit < index->centroids; i++) limit *= 4;
    for (uint32_t i = 0; i < q->attempt; i++) budget = budget > UINT64_MAX / 4 ? UINT64_MAX : budget * 4;
    if (q->attempt) wanted = limit;
    if (q->attempt && limit >= index->centroids) budget = UINT64_MAX;

    const void *query = q->raw;
    if (index->code_bits && index->centroid_dtype != SPANN_U8 && index->centroid_dtype != SPANN_I8)
        query = spann_working_query(c, q);
    spann_sieve *sieve = index->centroid_ids ? &q->sieve : NULL;
    if (spann_navigate(&c->navigator, index, c->centroid_score, c->centroid_gather, query, wanted, limit, sieve,
                       &q->stats->centroid_distances))
        return -1;
    int prunes = q->attempt == 0 && epsilon2 < INFINITY;
    double bound = INFINITY;
    if (prunes && index->directions == 0 && c->navigator.found.size) {
        const spann_selection *found = &c->navigator.found;
        size_t rank = found->size < PRUNE_RANK ? found->size : PRUNE_RANK;
        double reach = 1 + (double)epsilon2;
        bound = geometric_sqdist(c, q, found->items[rank - 1].value) * reach * reach;
    }
    size_t before = q->visit_count, kept = before;
    if (list_postings(c, q, budget, bound)) return -1;
    if (prunes && index->directions) prune_by_shape(c, q, before, epsilon2);
    if (before == 0) return 0;
    for (size_t i = before; i < q->visit_count; i++)
        if (bsearch(&q->visits[i], q->visits, before, sizeof *q->visits, by_posting) == NULL)
            q->visits[kept++] = q->visits[i];
    q->visit_count = kept;
    return 0;
}

/* A query may have to go further only where the postings it may score hold fewer than k vectors: k results are owed
 * whenever the index has them. Then beam and budget grow fourfold, unpruned, and what was scored is scored again. */
int spann_query_navigate(spann_context *c, spann_query *q) {
    const spann_index *index = c->index;
    const spann_search_params *p = c->params;
    uint64_t start = spann_now_ns();
    q->visit_count = 0;
    int failed = p->efforts ? find_postings(c, q, p->effort[q->effort].max_postings, p->effort[q->effort].epsilon2)
                            : find_postings(c, q, p->max_postings, p->epsilon2);
    if (failed) return spann_no_memory(c);
    q->stats->postings_scored = (uint32_t)q->visit_count;
    if (index->code_bits) {
        uint64_t candidates = p->rerank > q->hits.k ? p->rerank : q->hits.k, entries = index->entries;
        for (uint32_t i = 0; i < q->attempt && candidates < entries; i++) candidates *= 4;
        q->ids_size = q->wave_rows = q->chosen_count = q->span_count = 0;
        if (spann_selection_start(&q->candidates, candidates < entries ? candidates : entries)) return spann_no_memory(c);
    }
    q->stats->navigate_ns += spann_now_ns() - start;
    return SPANN_OK;
}

/* Vectors seen within the radius: by estimates; or, where vectors are exact, among the hits. */
static double seen_within(const spann_context *c, const spann_query *q) {
    const spann_index *index = c->index;
    if (index->code_bits) return (double)q->within;
    size_t seen = 0;
    for (size_t i = 0; i < q->hits.size; i++) seen += q->hits.heap[i].distance <= q->reach;
    return (double)seen;
}

int spann_query_extend(spann_context *c, spann_query *q) {
    const spann_search_params *p = c->params;
    if (q->effort + 1 >= p->efforts) return SPANN_OK;
    uint64_t start = spann_now_ns();
    double seen = seen_within(c, q);
    uint32_t row = q->effort;
    while (row + 1 < p->efforts && p->effort[row].count < seen) row++;
    if (row > q->effort) {
        q->effort = row;
        int status = spann_sort_visits(c, q);
        if (status) return status;
        if (find_postings(c, q, p->effort[row].max_postings, p->effort[row].epsilon2)) return spann_no_memory(c);
        q->stats->postings_scored = (uint32_t)q->visit_count;
    }
    q->stats->navigate_ns += spann_now_ns() - start;
    return SPANN_OK;
}
