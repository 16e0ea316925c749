#include "search/visits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "search/rank.h"
#include "search/space.h"

/* Postings are pruned by the ratio of their distance to the 16th smallest. The paper takes the smallest, which says
 * little about how dense the data are near the query. On 1M SIFT (8,000 centroids, their distances alone), 95 % of the
 * neighbours take 83 postings a query without a rule. They take 135 with the ratio to the nearest, and 75, 69 and 77
 * with the ratio to the 4th, 16th and 64th (docs/decisions/0010). */
#define PRUNE_RANK 16

/* The expected squared distance of a posting starts at its centroid's, d^2. It moves a share of the way to d^2 + S - 2
 * d z, the squared distance of an entry z standard deviations out towards the query. Shares of 0.33 to 0.5 and 2.5 to
 * 3.5 deviations are within 5 % of each other on SIFT and sentences (docs/DESIGN.md, Shapes) (docs/decisions/0009). */
#define SHAPE_SHARE 0.4f
#define SHAPE_DEVIATIONS 3.0f

/* The expected squared distance is never below this share of d^2. In few dimensions the entries surround the query, and
 * the deviation means nothing. */
#define SHAPE_LEAST 0.25f

/* Matches, as a multiple of k, from which the share of matches near a query is estimated. */
#define MATCHES 3

/* Efforts that are passed at a time while fewer than k matches are known. */
#define STEPS 4

/* How far ahead lengths of postings and shapes are prefetched, and how much of a shape. The hardware foresees the
 * rest. */
#define LENGTHS_AHEAD 16
#define SHAPES_AHEAD 8
#define PREFETCH_BYTES 512

/* Mean squared length of the residuals of a centroid's own vectors. Under ip all vectors have length R, so the
 * centroid's own squared length is R^2 less that. */
static float spread_around(const spann_index *index, uint32_t centroid) {
    spann_shape shape;
    memcpy(&shape, index->shapes + spann_first_posting(index, centroid) * index->shape_bytes, sizeof shape);
    return shape.spread;
}

/* Squared distance at which the nearest entries of the posting are expected, from its spread towards the query. */
static float expected_sqdist(spann_context *c, const spann_query *q, const spann_visit *visit) {
    const spann_index *index = c->index;
    size_t n = index->directions;
    const unsigned char *at = index->shapes + visit->posting * index->shape_bytes;
    spann_shape_parts part = spann_parts_of_shape(c->widths.code, n);
    spann_shape shape;
    float offsets[SPANN_MAX_DIRECTIONS], estimates[SPANN_MAX_DIRECTIONS];
    memcpy(&shape, at, sizeof shape);
    memcpy(offsets, at + part.offsets, n * sizeof *offsets);
    const spann_code_query *code = spann_code_for(c, q, visit, &shape.header);
    c->codes->estimate(code, at + part.codes, at + part.add, at + part.scale, &shape.header, visit->value, n,
                       estimates);

    float sqdist = (float)spann_geometric_sqdist(c, q, visit->value), scale = 0.5f;
    if (index->metric == SPANN_IP) { /* the estimates are of queries of the length query_norm */
        if (q->norm == 0 || index->query_norm == 0) return sqdist;
        scale = index->max_norm / index->query_norm;
        sqdist = fmaxf(sqdist - spread_around(index, visit->centroid), 0);
    }
    float variance = shape.rest * sqdist; /* times d^2 */
    for (size_t i = 0; i < n; i++) {
        float along = scale * (visit->value - estimates[i]) + offsets[i];
        variance += along * along;
    }
    float moved = sqdist + SHAPE_SHARE * (shape.spread - 2 * SHAPE_DEVIATIONS * sqrtf(variance));
    return fmaxf(moved, SHAPE_LEAST * sqdist);
}

static int add_visit(spann_query *q, uint32_t posting, uint32_t centroid, float value, float expected) {
    if (SPANN_GROW(q->visits, q->visit_capacity, q->visit_count + 1)) return -1;
    q->visits[q->visit_count++] = (spann_visit){posting, centroid, value, expected, 0};
    return 0;
}

/* Adds visits to the postings of the centroids found, nearest first, up to `budget` postings. An empty
 * posting is passed over unless it has a tail. Stops at centroids farther than `bound`. *left becomes what is left of the
 * budget where all centroids found were looked at, and else 0. 0, or -1 if memory ran out. */
static int list_postings(const spann_context *c, spann_query *q, uint64_t budget, double bound, uint64_t *left) {
    const spann_index *index = c->index;
    const spann_selection *found = &c->navigator.found;
    /* Settings were measured without a filter. They hold under one if postings without a match count as well. */
    uint64_t counts_all = c->live && c->live->filter && c->params->efforts;
    *left = q->passed = 0;
    for (size_t i = 0; i < found->size && budget > 0; i++) {
        float value = found->items[i].value;
        uint32_t centroid = (uint32_t)found->items[i].row;
        if (i + LENGTHS_AHEAD < found->size)
            spann_prefetch(&c->live_length[spann_first_posting(index, found->items[i + LENGTHS_AHEAD].row)], 2);
        double sqdist = spann_geometric_sqdist(c, q, value);
        if (sqdist > bound) return 0;
        uint32_t first = spann_first_posting(index, centroid), end = spann_first_posting(index, centroid + 1);
        const spann_tail_run *tail = spann_tail_of(index, centroid);
        for (; first < end && budget > 0; first++, tail = NULL) {
            if (c->live_length[first] == 0 && tail == NULL) {
                q->passed++;
                budget -= counts_all;
                continue;
            }
            if (add_visit(q, first, centroid, value, (float)sqdist)) return -1;
            budget--;
        }
    }
    *left = budget;
    return 0;
}

static void prefetch_shape(const spann_index *index, uint32_t posting) {
    size_t bytes = index->shape_bytes < PREFETCH_BYTES ? index->shape_bytes : PREFETCH_BYTES;
    spann_prefetch(index->shapes + posting * index->shape_bytes, bytes);
}

/* Drops postings expected farther than (1 + epsilon2) times the distance of the 16th. Visits before `from` stay. */
static void prune_by_shape(spann_context *c, spann_query *q, size_t from, float epsilon2) {
    const spann_index *index = c->index;
    float smallest[PRUNE_RANK];
    size_t rank = 0, kept = from;
    for (size_t i = from; i < q->visit_count; i++) {
        if (i + SHAPES_AHEAD < q->visit_count) prefetch_shape(index, q->visits[i + SHAPES_AHEAD].posting);
        q->visits[i].expected = expected_sqdist(c, q, &q->visits[i]);
    }
    /* A pass of its own: its branches cannot be foreseen, and would delay the estimates. */
    for (size_t i = from; i < q->visit_count; i++) {
        float value = q->visits[i].expected;
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

/* Finds the centroids of a filter that few vectors match, instead of the nearest: nearest first. 0, or -1 if memory ran
 * out. */
static int list_centroids(spann_context *c, spann_query *q) {
    const spann_index *index = c->index;
    size_t n = c->live->centroid_count;
    spann_selection *found = &c->navigator.found;
    if (spann_selection_start(found, n) || spann_reserve((void **)&c->scores, &c->scores_capacity, n, sizeof(float)))
        return -1;
    c->centroid_gather(index->kind->compared(c, q), index->centroid_vectors, c->live->centroids, n, index->dim,
                       c->scores);
    q->stats->centroid_distances += (uint32_t)n;
    for (size_t i = 0; i < n; i++) spann_selection_push(found, c->scores[i], 0, c->live->centroids[i], 0);
    spann_selection_finish(found);
    return 0;
}

/* Adds visits to the postings to score, each posting once. */
static int find_postings(spann_context *c, spann_query *q, uint32_t max_postings, float epsilon2) {
    const spann_index *index = c->index;
    const spann_search_params *p = c->params;
    /* Empty postings do not count, so a few more centroids are wanted than postings. */
    uint64_t wanted = max_postings + max_postings / 16 + 1, budget = max_postings;
    uint64_t limit = p->navigate > wanted ? p->navigate : wanted;
    for (uint32_t i = 0; i < q->attempt && limit < index->centroids; i++) limit *= 4;
    for (uint32_t i = 0; i < q->attempt; i++) budget = budget > UINT64_MAX / 4 ? UINT64_MAX : budget * 4;
    if (q->attempt) wanted = limit;
    if (q->attempt && limit >= index->centroids) budget = UINT64_MAX;

    spann_sieve *sieve = index->centroid_ids ? &q->sieve : NULL;
    int listed = c->live && c->live->centroids, prunes = !listed && q->attempt == 0 && epsilon2 < INFINITY;
    if (listed) budget = UINT64_MAX;
    size_t before = q->visit_count, kept = before;
    for (;;) {
        if (listed ? list_centroids(c, q)
                   : spann_navigate(&c->navigator, index, c->centroid_score, c->centroid_gather,
                                    index->kind->compared(c, q), wanted, limit, sieve, &q->stats->centroid_distances))
            return -1;
        double bound = INFINITY;
        if (prunes && index->directions == 0 && c->navigator.found.size) {
            const spann_selection *found = &c->navigator.found;
            size_t rank = found->size < PRUNE_RANK ? found->size : PRUNE_RANK;
            double reach = 1 + (double)epsilon2;
            bound = spann_geometric_sqdist(c, q, found->items[rank - 1].value) * reach * reach;
        }
        uint64_t left;
        if (list_postings(c, q, budget, bound, &left)) return -1;
        /* Where whole cells are dead, their neighbours are looked for among twice as many centroids. */
        if (listed || c->live == NULL || left == 0 || limit >= index->centroids) break;
        q->visit_count = before;
        wanted = limit *= 2;
    }
    if (prunes && index->directions) prune_by_shape(c, q, before, epsilon2);
    if (before == 0) return 0;
    for (size_t i = before; i < q->visit_count; i++)
        if (bsearch(&q->visits[i], q->visits, before, sizeof *q->visits, by_posting) == NULL)
            q->visits[kept++] = q->visits[i];
    q->visit_count = kept;
    return 0;
}

/* The first effort from `row` on for at least `count` vectors, else the last. */
static uint32_t effort_for(const spann_search_params *p, uint32_t row, double count) {
    while (row + 1 < p->efforts && p->effort[row].count < count) row++;
    return row;
}

/* Chooses the first effort under a filter. The share of matches among the vectors near the query says about how many
 * vectors are nearer than the k-th match. 0, or -1 if memory ran out. */
static int choose_effort(spann_context *c, spann_query *q) {
    const spann_index *index = c->index;
    const spann_search_params *p = c->params;
    double k = (double)q->hits.k;
    uint32_t row = effort_for(p, 0, p->rank * k);
    for (;;) {
        uint64_t wanted = p->effort[row].max_postings, limit = p->navigate > wanted ? p->navigate : wanted;
        if (spann_navigate(&c->navigator, index, c->centroid_score, c->centroid_gather, index->kind->compared(c, q),
                           wanted, limit, NULL, &q->stats->centroid_distances))
            return -1;
        const spann_selection *found = &c->navigator.found;
        double matches = 0, seen = 0;
        for (size_t i = 0; i < found->size && matches < MATCHES * k; i++) {
            uint32_t first = spann_first_posting(index, found->items[i].row), end = spann_first_posting(index, found->items[i].row + 1);
            for (; first < end; first++) {
                matches += c->live_length[first];
                seen += index->posting_length[first];
            }
        }
        uint32_t next = effort_for(p, row, matches > 0 ? p->rank * k * seen / matches : INFINITY);
        if (matches == 0 && next > row + STEPS) next = row + STEPS;
        if (next == row || found->size >= index->centroids) {
            q->effort = next;
            return 0;
        }
        row = next;
        if (matches >= MATCHES * k) {
            q->effort = next;
            return 0;
        }
    }
}

int spann_visits_find(spann_context *c, spann_query *q) {
    const spann_search_params *p = c->params;
    q->visit_count = 0;
    if (p->rank > 0 && p->efforts && q->attempt == 0 && choose_effort(c, q)) return spann_no_memory(c);
    int failed = p->efforts ? find_postings(c, q, p->effort[q->effort].max_postings, p->effort[q->effort].epsilon2)
                            : find_postings(c, q, p->max_postings, p->epsilon2);
    if (failed) return spann_no_memory(c);
    q->stats->postings_scored = (uint32_t)q->visit_count;
    return SPANN_OK;
}

/* Sorts the visits by keys[posting], or by posting if that is NULL. Equal ones are by posting. A status. */
static int sort_visits(spann_context *c, spann_query *q, const uint64_t *keys) {
    size_t n = q->visit_count;
    if (SPANN_GROW(c->order, c->order_capacity, n) || SPANN_GROW(c->visits, c->visit_capacity, n))
        return spann_no_memory(c);
    for (size_t i = 0; i < n; i++) {
        uint32_t posting = q->visits[i].posting;
        c->order[i] = (spann_candidate){.row = keys ? keys[posting] : posting, .id = i};
    }
    spann_candidates_sort(c->order, n);
    for (size_t i = 0; i < n; i++) {
        size_t at = i;
        spann_visit visit = q->visits[c->order[i].id];
        for (; at > 0 && c->order[at - 1].row == c->order[i].row && c->visits[at - 1].posting > visit.posting; at--)
            c->visits[at] = c->visits[at - 1];
        c->visits[at] = visit;
    }
    if (n) memcpy(q->visits, c->visits, n * sizeof *q->visits);
    return SPANN_OK;
}

int spann_visits_sort_by_row(spann_context *c, spann_query *q) { return sort_visits(c, q, c->index->first_row); }

int spann_visits_extend(spann_context *c, spann_query *q, size_t *next) {
    const spann_search_params *p = c->params;
    if (q->effort + 1 >= p->efforts) return SPANN_OK;
    uint64_t start = spann_now_ns();
    double seen = p->rank > 0 ? p->rank * spann_rank_nearer(c, q) : c->index->kind->seen_within(q);
    if (seen < 0) return spann_no_memory(c);
    /* Postings without a match were passed over, and hold as many vectors. */
    if (c->live && c->live->filter && q->visit_count) seen *= 1 + (double)q->passed / (double)q->visit_count;
    uint32_t row = effort_for(p, q->effort, seen);
    if (seen == INFINITY && row > q->effort + STEPS) row = q->effort + STEPS;
    if (row > q->effort) {
        q->effort = row;
        int again = 0, status = sort_visits(c, q, NULL);
        if (status) return status;
        if (find_postings(c, q, p->effort[row].max_postings, p->effort[row].epsilon2)) return spann_no_memory(c);
        if (p->rank > 0 && c->index->kind->re_ranks && (status = spann_rank_widen(c, q, &again))) return status;
        if (again) q->ranked_count = *next = 0;
        q->stats->postings_scored = (uint32_t)q->visit_count;
    }
    q->stats->navigate_ns += spann_now_ns() - start;
    return SPANN_OK;
}
