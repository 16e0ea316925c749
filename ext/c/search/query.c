#include "search/query.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/memory.h"

#define HEADER_BYTES 20

/* While a posting in memory is scored, that of so many visits later is fetched, and where the one of twice as many
 * later begins. */
#define VISITS_AHEAD 2

/* Codes scored, and others fetched, at a time, where postings are of like length. Fetched in one burst for each posting
 * they hold up what is computed: a kernel that takes 1.15 ns a code of 10M SIFT from the first level of the cache takes
 * 5.7 from memory, 3.1 with bursts, 1.5 with pieces, and all scoring 0.6 of what it took with the first KiB of each
 * posting fetched (AVX-512, Zen 5). */
#define PIECE_BYTES 1024
#define LEAST_ROWS 8 /* what the kernels take at once */

/* What a query that has ended keeps for the next at most: 1,000 neighbours take less. */
#define KEPT_BYTES (1 << 20)

int spann_fail(spann_context *c, int status, int exact, uint64_t where, int system_error) {
    *c->failure = (spann_failure){status, system_error, exact, where};
    return status;
}

int spann_no_memory(spann_context *c) { return spann_fail(c, SPANN_NO_MEMORY, 0, 0, 0); }

static void *new_code_buffer(const spann_index *index) {
    return aligned_alloc(64, (spann_code_query_bytes(index->padded_dim, index->code_bits) + 63) / 64 * 64);
}

int spann_context_init(spann_context *c, const spann_index *index) {
    *c = (spann_context){.index = index};
    c->record_bytes = index->id_bytes + index->dim * spann_dtype_size(index->dtype);
    c->exact_row_bytes = index->dim * spann_dtype_size(index->dtype);
    if (index->code_bits) {
        c->code_bytes = spann_code_bytes(index->padded_dim, index->code_bits);
        c->exact_shard_pages = (index->exact_shard_rows * c->exact_row_bytes + SPANN_PAGE - 1) / SPANN_PAGE;
        c->work = malloc(index->dim * sizeof(float));
        c->moved = malloc(index->dim * sizeof(float));
        c->rotated = malloc(index->padded_dim * sizeof(float));
        c->far_buffer = new_code_buffer(index);
        if (c->work == NULL || c->moved == NULL || c->rotated == NULL || c->far_buffer == NULL) return -1;
    }
    return spann_navigator_init(&c->navigator, index);
}

void spann_context_free(spann_context *c) {
    spann_navigator_free(&c->navigator);
    free(c->scores);
    free(c->work);
    free(c->moved);
    free(c->rotated);
    free(c->far_buffer);
    free(c->order);
    free(c->visits);
}

int spann_context_start(spann_context *c, const spann_search_params *params, spann_failure *failure) {
    const spann_kernels *kernels = spann_kernels_get();
    const spann_index *index = c->index;
    c->codes = spann_code_kernels_get();
    if (kernels == NULL || c->codes == NULL) return -1;
    c->kernels = kernels;
    c->params = params;
    c->work_of = NULL;
    c->posting_ids = NULL;
    c->failure = failure;
    c->score = kernels->score[index->metric][index->dtype];
    c->centroid_score = kernels->score[index->centroid_metric][index->centroid_dtype];
    c->centroid_gather = kernels->gather[index->centroid_metric][index->centroid_dtype];
    return 0;
}

int spann_query_init(spann_query *q, const spann_context *c) {
    *q = (spann_query){0};
    if (c->index->code_bits == 0) return 0;
    q->code_buffer = new_code_buffer(c->index);
    return q->code_buffer ? 0 : -1;
}

void spann_query_free(spann_query *q) {
    free(q->code_buffer);
    free(q->visits);
    spann_selection_free(&q->candidates);
    free(q->ids);
    free(q->chosen);
    free(q->spans);
    free(q->fetches);
    spann_topk_free(&q->hits);
}

int spann_query_trim(spann_query *q) {
    size_t candidates = (q->candidates.capacity + q->chosen_capacity) * sizeof(spann_candidate);
    size_t pages = q->span_capacity * sizeof *q->spans + q->fetch_capacity * sizeof *q->fetches;
    size_t hits = q->hits.k * sizeof *q->hits.heap + q->hits.seen_capacity * sizeof *q->hits.seen;
    size_t visits = q->visit_capacity * sizeof *q->visits;
    if (candidates + pages + hits + visits + q->ids_capacity <= KEPT_BYTES) return 0;
    void *code_buffer = q->code_buffer;
    q->code_buffer = NULL;
    spann_query_free(q);
    *q = (spann_query){.code_buffer = code_buffer};
    return 1;
}

/* ---- begin ---- */

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

/* The query's length in the working space, where centroids and codes live: as it is under l2, 1 under cosine, a typical
 * vector's under ip (the estimate's error grows with its distance from the centroids). And how far a hit is there. */
static void enter_working_space(const spann_context *c, spann_query *q) {
    const spann_index *index = c->index;
    q->scale = 1; /* a float would overflow for the shortest queries */
    if (index->metric == SPANN_COS) {
        q->scale = 1 / q->norm;
        q->b = 2; /* the squared chord */
    } else if (index->metric == SPANN_IP) {
        q->scale = q->norm > 0 ? index->query_norm / q->norm : 1;
        q->b = q->scale;
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

/* The radius as a working value, a little more than it is: what is read too much is dropped by its distance. */
static float reach_of(const spann_context *c, const spann_query *q) {
    double radius = c->params->radius, distance = -radius;
    if (isinf(radius)) return INFINITY;
    if (c->index->metric == SPANN_L2) distance = c->index->dtype == SPANN_BITS ? radius : radius * radius;
    if (c->index->metric == SPANN_COS) distance = radius;
    double value = q->b * distance;
    return (float)(value + 1e-5 * fabs(value));
}

int spann_query_begin(spann_context *c, spann_query *q, const void *raw, spann_query_stats *stats) {
    const spann_index *index = c->index;
    size_t k = c->params->k < index->count ? c->params->k : index->count;
    q->raw = raw;
    q->stats = stats;
    q->attempt = 0;
    memset(stats, 0, sizeof *stats);
    if (q->hits.k != k) {
        spann_topk_free(&q->hits);
        if (spann_topk_init(&q->hits, k)) {
            q->hits.k = 0;
            return spann_no_memory(c);
        }
    }
    spann_topk_clear(&q->hits);
    q->norm = index->metric == SPANN_L2 ? 0 : length_of(index, raw);
    spann_sieve_init(&q->sieve, index, c->kernels, &q->hits, raw, q->norm);
    q->b = 1;
    if (index->code_bits) {
        enter_working_space(c, q);
        make_code(c, q, index->origin, SPANN_F32, q->code_buffer, &q->code);
    }
    q->reach = reach_of(c, q);
    q->within = q->effort = 0;
    return spann_query_navigate(c, q);
}

/* ---- score a posting ---- */

static size_t posting_bytes(const spann_context *c, uint32_t posting) {
    const spann_index *index = c->index;
    size_t n = index->posting_length[posting];
    if (index->code_bits == 0) return n * c->record_bytes;
    size_t replicas = n - index->posting_primaries[posting];
    return n ? HEADER_BYTES + n * (index->id_bytes + 4 + c->code_bytes) + replicas * index->row_bytes : 0;
}

spann_place spann_file_place(const spann_context *c, int file, uint64_t at, size_t content) {
    if (!c->params->direct) return (spann_place){file, at, content, 0, content};
    size_t skip = at % SPANN_PAGE;
    size_t bytes = (skip + content + SPANN_PAGE - 1) / SPANN_PAGE * SPANN_PAGE;
    return (spann_place){file, at - skip, bytes, skip, content};
}

spann_place spann_posting_place(const spann_context *c, uint32_t posting) {
    const spann_index *index = c->index;
    uint64_t page = index->posting_page[posting];
    uint64_t at = page % index->pages_per_shard * SPANN_PAGE + index->posting_offset[posting];
    return spann_file_place(c, index->posting_files[page / index->pages_per_shard], at, posting_bytes(c, posting));
}

/* Of whole blocks, as spann_within reads them. */
static int room_for_scores(spann_context *c, size_t n) {
    return spann_reserve((void **)&c->scores, &c->scores_capacity, n + SPANN_BLOCK, sizeof(float));
}

int spann_score_rows(spann_context *c, spann_query *q, const unsigned char *rows, size_t n, const unsigned char *ids) {
    if (room_for_scores(c, n)) return spann_no_memory(c);
    c->score(q->raw, rows, n, c->index->dim, c->scores);
    q->stats->distances += (uint32_t)n;
    for (size_t i = 0; i < n; i++, rows += c->exact_row_bytes)
        if (spann_sieve_offer(&q->sieve, c->scores[i], rows, spann_read_id(ids, c->index->id_bytes, i)))
            return spann_no_memory(c);
    return SPANN_OK;
}

/* One entry of a posting and its estimates: what is needed to make candidates of them. */
typedef struct {
    const unsigned char *ids, *scale, *replica_rows;
    uint64_t first_row;
    size_t n, primaries;
    spann_code_header header;
    float noise; /* of the query's code */
} entries;

/* Standard error of an estimate of the posting as a multiple of its entry's scale, times the bound asked for. */
static float error_unit(const spann_context *c, float noise, const spann_visit *visit, float error) {
    const spann_index *index = c->index;
    float sqdist = visit->value;
    if (index->metric == SPANN_IP) /* the value is -<q, c> */
        sqdist = index->query_norm * index->query_norm + index->centroid_sqnorm[visit->centroid] + 2 * visit->value;
    return c->params->error_bound * (fabsf(error) * sqrtf(fmaxf(sqdist, 0)) + noise);
}

static int propose(spann_context *c, spann_query *q, const spann_visit *visit, const entries *e) {
    const spann_index *index = c->index;
    spann_selection *best = &q->candidates;
    float unit = error_unit(c, e->noise, visit, e->header.error);
    /* No estimate above this has a bound within the radius. */
    float most = q->reach + unit * (e->header.s_low + e->header.s_step * UINT16_MAX);
    /* Primaries only, so that a vector counts once, whatever is pinned. */
    if (c->params->efforts)
        for (size_t i = 0; i < e->primaries; i++) q->within += c->scores[i] <= q->reach;
    for (size_t at = 0; at < e->n; at += SPANN_BLOCK) {
        float limit = best->limit < most ? best->limit : most;
        for (uint32_t set = spann_within(c->scores, at, e->n, limit); set; set &= set - 1) {
            size_t i = at + (size_t)__builtin_ctz(set);
            float value = c->scores[i];
            uint64_t row = e->first_row + i, id = 0;
            if (i >= e->primaries) {
                id = spann_read_id(e->ids, index->id_bytes, i);
                row = spann_read_id(e->replica_rows, index->row_bytes, i - e->primaries);
                if (row >= index->count) return spann_fail(c, SPANN_DAMAGED, 0, visit->posting, 0);
            }
            uint16_t scale;
            memcpy(&scale, e->scale + 2 * i, 2);
            float lower = value - unit * (e->header.s_low + e->header.s_step * scale);
            if (lower <= q->reach) spann_selection_push(best, value, lower, row, id);
        }
    }
    q->stats->estimates += (uint32_t)e->n;
    return SPANN_OK;
}

/* Where the parts of a coded posting's bytes begin (docs/FORMAT.md, Postings of codes). */
typedef struct {
    const unsigned char *ids, *add, *scale, *replica_rows, *codes;
} parts;

static parts parts_of(const spann_index *index, uint32_t posting, const unsigned char *content) {
    size_t n = index->posting_length[posting], replicas = n - index->posting_primaries[posting];
    parts p = {.ids = content + HEADER_BYTES};
    p.add = p.ids + n * index->id_bytes;
    p.scale = p.add + 2 * n;
    p.replica_rows = p.scale + 2 * n;
    p.codes = p.replica_rows + replicas * index->row_bytes;
    return p;
}

int64_t spann_unpack(const spann_index *index, const uint32_t *postings, const uint64_t *starts, size_t n,
                     const unsigned char *block, unsigned char *ids, unsigned char *add, unsigned char *scale,
                     unsigned char *rows, unsigned char *codes, unsigned char *headers) {
    size_t code_bytes = spann_code_bytes(index->padded_dim, index->code_bits);
    for (size_t i = 0; i < n; i++) {
        uint32_t posting = postings[i];
        const unsigned char *content = block + starts[i];
        parts p = parts_of(index, posting, content);
        size_t entry = index->first_entry[posting], replica = entry - index->first_row[posting];
        size_t entries = index->posting_length[posting], replicas = entries - index->posting_primaries[posting];
        size_t bytes = (size_t)(p.codes - content) + entries * code_bytes;
        if (spann_crc32c(0, content, bytes) != index->posting_crc[posting]) return posting;
        memcpy(headers + (size_t)posting * HEADER_BYTES, content, HEADER_BYTES);
        memcpy(ids + entry * index->id_bytes, p.ids, entries * index->id_bytes);
        memcpy(add + entry * 2, p.add, entries * 2);
        memcpy(scale + entry * 2, p.scale, entries * 2);
        memcpy(rows + replica * index->row_bytes, p.replica_rows, replicas * index->row_bytes);
        memcpy(codes + entry * code_bytes, p.codes, entries * code_bytes);
    }
    return -1;
}

const unsigned char *spann_posting_ids(const unsigned char *content) { return content + HEADER_BYTES; }

int spann_check_posting(spann_context *c, uint32_t posting, const unsigned char *content) {
    if (c->params->check && spann_crc32c(0, content, posting_bytes(c, posting)) != c->index->posting_crc[posting])
        return spann_fail(c, SPANN_DAMAGED, 0, posting, 0);
    return SPANN_OK;
}

int spann_query_posting(spann_context *c, spann_query *q, spann_visit *visit, const unsigned char *content) {
    const spann_index *index = c->index;
    size_t n = index->posting_length[visit->posting];
    if (index->code_bits == 0) return spann_score_rows(c, q, content + n * index->id_bytes, n, content);
    if (room_for_scores(c, n)) return spann_no_memory(c);
    parts p = parts_of(index, visit->posting, content);
    entries e = {.ids = p.ids, .scale = p.scale, .replica_rows = p.replica_rows, .n = n};
    e.primaries = index->posting_primaries[visit->posting];
    e.first_row = index->first_row[visit->posting];
    memcpy(&e.header, content, HEADER_BYTES);
    const spann_code_query *code = spann_code_for(c, q, visit, &e.header);
    e.noise = code->noise;
    c->codes->estimate(code, p.codes, p.add, p.scale, &e.header, visit->value, n, c->scores);
    if (c->posting_ids == NULL) {
        size_t kept = e.primaries * index->id_bytes;
        if (spann_reserve((void **)&q->ids, &q->ids_capacity, q->ids_size + kept, 1)) return spann_no_memory(c);
        if (kept) memcpy(q->ids + q->ids_size, e.ids, kept);
        visit->ids = q->ids_size;
        q->ids_size += kept;
    }
    return propose(c, q, visit, &e);
}

/* Fetches what is short of a posting in memory; returns its codes, in *bytes how many. */
static const unsigned char *prefetch_factors(const spann_context *c, uint32_t posting, size_t *bytes) {
    const spann_index *index = c->index;
    uint64_t entry = index->first_entry[posting], n = index->first_entry[posting + 1] - entry;
    spann_prefetch(index->pinned_headers + (size_t)posting * HEADER_BYTES, HEADER_BYTES);
    spann_prefetch(index->pinned_add + 2 * entry, 2 * n);
    spann_prefetch(index->pinned_scale + 2 * entry, 2 * n);
    *bytes = n * c->code_bytes;
    return index->pinned_codes + entry * c->code_bytes;
}

/* Leaves the estimates of entries [entry, entry + n) in c->scores, and fetches the codes of the posting `next`, if it is not
 * NULL, in equal pieces between. */
static void estimate_pinned(spann_context *c, const spann_code_query *code, const spann_visit *visit,
                            const spann_visit *next, const spann_code_header *header, uint64_t entry, size_t n) {
    const spann_index *index = c->index;
    size_t left = 0, piece = PIECE_BYTES / c->code_bytes / LEAST_ROWS * LEAST_ROWS;
    if (piece == 0) piece = LEAST_ROWS;
    const unsigned char *ahead = next ? prefetch_factors(c, next->posting, &left) : index->pinned_codes;
    for (size_t at = 0, rows; at < n; at += rows, entry += rows) {
        rows = n - at < piece + LEAST_ROWS ? n - at : piece;
        size_t bytes = left * rows / (n - at);
        spann_prefetch(ahead, bytes);
        ahead += bytes;
        left -= bytes;
        c->codes->estimate(code, index->pinned_codes + entry * c->code_bytes, index->pinned_add + 2 * entry,
                           index->pinned_scale + 2 * entry, header, visit->value, rows, c->scores + at);
    }
}

int spann_query_pinned(spann_context *c, spann_query *q, const spann_visit *visit, const spann_visit *end) {
    const spann_index *index = c->index;
    uint64_t entry = index->first_entry[visit->posting];
    size_t n = index->first_entry[visit->posting + 1] - entry, left = (size_t)(end - visit);
    const spann_visit *next = left > VISITS_AHEAD ? visit + VISITS_AHEAD : NULL;
    if (next && next->posting >= index->pinned) next = NULL;
    if (left > 2 * VISITS_AHEAD)
        spann_prefetch(&index->first_entry[visit[2 * VISITS_AHEAD].posting], 2 * sizeof *index->first_entry);
    if (n == 0) return SPANN_OK;
    if (room_for_scores(c, n)) return spann_no_memory(c);
    entries e = {.n = n, .first_row = index->first_row[visit->posting]};
    e.primaries = index->first_row[visit->posting + 1] - e.first_row;
    e.ids = index->pinned_ids + entry * index->id_bytes;
    e.replica_rows = index->pinned_rows + (entry - e.first_row) * index->row_bytes;
    memcpy(&e.header, index->pinned_headers + (size_t)visit->posting * HEADER_BYTES, HEADER_BYTES);
    e.scale = index->pinned_scale + 2 * entry;
    const spann_code_query *code = spann_code_for(c, q, visit, &e.header);
    e.noise = code->noise;
    estimate_pinned(c, code, visit, next, &e.header, entry, n);
    return propose(c, q, visit, &e);
}

/* ---- collect ---- */

int spann_query_short(const spann_context *c, const spann_query *q) {
    const spann_index *index = c->index;
    if (q->hits.size == q->hits.k) return 0;
    /* Within a radius there may be fewer. Who does without codes and efforts asks for few at first, and is owed them. */
    if (q->reach < INFINITY && (index->code_bits || c->params->efforts)) return 0;
    uint64_t limit = c->params->navigate > c->params->max_postings ? c->params->navigate : c->params->max_postings;
    for (uint32_t i = 0; i < q->attempt && limit < index->centroids; i++) limit *= 4;
    /* Copies of a row, from several postings, may have taken the place of others among the candidates. */
    int crowded = index->code_bits && q->candidates.size == q->candidates.wanted && q->candidates.wanted < index->entries;
    return q->attempt == 0 || limit < index->centroids || crowded;
}

static float true_distance(const spann_index *index, double distance) {
    if (index->metric == SPANN_IP) return (float)-distance;
    return (float)(index->metric == SPANN_L2 && index->dtype != SPANN_BITS ? sqrt(distance) : distance);
}

void spann_query_finish(const spann_context *c, spann_query *q, int64_t *ids, float *distances) {
    spann_metric metric = c->index->metric;
    spann_topk_sort(&q->hits);
    for (size_t i = 0; i < c->params->k; i++) {
        int hit = i < q->hits.size;
        ids[i] = hit ? (int64_t)q->hits.heap[i].id : -1;
        distances[i] = hit ? true_distance(c->index, q->hits.heap[i].distance)
                           : metric == SPANN_IP ? -INFINITY : INFINITY;
    }
}
