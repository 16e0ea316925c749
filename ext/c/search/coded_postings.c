/* Postings of codes (kind.h): estimates of all entries, then exact distances of the best. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "search/rank.h"
#include "search/rerank.h"
#include "search/score.h"
#include "search/space.h"

/* Prefetch distance in visits: the codes of visit i + 2, and the directory entry of visit i + 4, while visit i is
 * scored. */
#define VISITS_AHEAD 2

/* Bytes of codes scored at a time, while as many others are prefetched. One burst for each posting delays computing: of
 * 10M SIFT, a kernel takes 1.15 ns a code from the first level of the cache, 5.7 ns from memory, 3.1 ns with bursts and
 * 1.5 ns with pieces. All scoring takes 0.6 of what it took with only the first KiB of each posting prefetched
 * (AVX-512, Zen 5) (docs/decisions/0016). */
#define PIECE_BYTES 1024
#define LEAST_ROWS 8 /* what the kernels take at once */

/* Prefetched of a query's code. The hardware foresees the rest. */
#define PREFETCH_BYTES 512

static void *new_code_buffer(const spann_index *index) {
    return aligned_alloc(64, (spann_code_query_bytes(index->padded_dim, index->code_bits) + 63) / 64 * 64);
}

static int open(spann_context *c) {
    const spann_index *index = c->index;
    size_t code_bytes = spann_code_bytes(index->padded_dim, index->code_bits);
    c->widths = (spann_widths){index->id_bytes, index->row_bytes, code_bytes};
    c->exact_shard_pages = spann_exact_shard_pages(index);
    c->work = malloc(index->dim * sizeof(float));
    c->moved = malloc(index->dim * sizeof(float));
    c->rotated = malloc(index->padded_dim * sizeof(float));
    c->far_buffer = new_code_buffer(index);
    return c->work && c->moved && c->rotated && c->far_buffer ? 0 : -1;
}

static int open_query(const spann_context *c, spann_query *q) {
    q->code_buffer = new_code_buffer(c->index);
    return q->code_buffer ? 0 : -1;
}

static size_t query_bytes(const spann_index *index, const spann_search_params *params) {
    size_t k = params->k, rerank = params->rerank > k ? params->rerank : k;
    if (rerank > index->entries) rerank = index->entries;
    return spann_selection_room(rerank) * sizeof(spann_candidate) +
           spann_code_query_bytes(index->padded_dim, index->code_bits) + 64;
}

static size_t posting_bytes(const spann_context *c, uint32_t posting) {
    const spann_index *index = c->index;
    return spann_parts_of_posting(&c->widths, index->posting_length[posting], index->posting_primaries[posting]).end;
}

/* Centroids of bytes are compared with the query as given, means of floats with the query in their space. */
static const void *compared(spann_context *c, const spann_query *q) {
    spann_dtype dtype = c->index->centroid_dtype;
    return dtype == SPANN_U8 || dtype == SPANN_I8 ? q->raw : spann_working_query(c, q);
}

static int begin(spann_context *c, spann_query *q) {
    uint64_t k = q->hits.k, candidates = c->params->rerank > k ? c->params->rerank : k, entries = c->index->entries;
    const spann_search_params *p = c->params;
    if (c->live && c->live->centroids && candidates < c->live->count) {
        candidates = c->live->count; /* few match, and all of them are looked at */
    } else if (p->rank > 0) {
        uint64_t ranked = spann_rank_candidates(c, q);
        if (candidates < ranked) candidates = ranked;
    }
    for (uint32_t i = 0; i < q->attempt && candidates < entries; i++) candidates *= 4;
    q->ids_size = q->wave_rows = q->chosen_count = q->span_count = 0;
    if (candidates > entries) candidates = entries;
    return spann_selection_start(&q->candidates, candidates) ? spann_no_memory(c) : SPANN_OK;
}

/* The entries of a posting, and what makes candidates of their estimates. */
typedef struct {
    const unsigned char *ids, *scale, *replica_rows;
    uint64_t first_row;
    size_t n, primaries;
    spann_code_header header;
    float noise; /* of the query's code */
} entries;

/* Times an entry's scale, this is the standard error of its estimate times the bound asked for. */
static float error_unit(const spann_context *c, float noise, const spann_visit *visit, float error) {
    const spann_index *index = c->index;
    float sqdist = visit->value;
    if (index->metric == SPANN_IP) /* the value is -<q, c> */
        sqdist = index->query_norm * index->query_norm + index->centroid_sqnorm[visit->centroid] + 2 * visit->value;
    return c->params->error_bound * (fabsf(error) * sqrtf(fmaxf(sqdist, 0)) + noise);
}

/* Bit i is set if entry at + i of a posting may count. Those after the primaries are asked one by one. */
static inline uint32_t live_entries(const unsigned char *live, const entries *e, size_t at) {
    if (at >= e->primaries) return UINT32_MAX;
    uint32_t set = spann_live_rows(live, e->first_row + at);
    return e->primaries - at < SPANN_BLOCK ? set | UINT32_MAX << (e->primaries - at) : set;
}

/* Primaries that are live and have estimates within `reach`. Replicas are left out, so that each vector counts once. */
static uint64_t count_within(const spann_context *c, const entries *e, float reach) {
    uint64_t within = 0;
    if (c->live == NULL || c->live->filter) { /* how far a range reaches does not depend on the filter */
        for (size_t i = 0; i < e->primaries; i++) within += c->scores[i] <= reach;
        return within;
    }
    for (size_t at = 0; at < e->primaries; at += SPANN_BLOCK) {
        uint32_t set = spann_within(c->scores, at, e->primaries, reach) & live_entries(c->live->rows, e, at);
        within += (uint64_t)__builtin_popcount(set);
    }
    return within;
}

/* `live`: the bits of the rows that count, or NULL. */
SPANN_SPECIALISED int propose_live(spann_context *c, spann_query *q, const spann_visit *visit, const entries *e,
                                   const unsigned char *live) {
    const spann_index *index = c->index;
    spann_selection *best = &q->candidates;
    float unit = error_unit(c, e->noise, visit, e->header.error);
    /* No entry with an estimate above this can be within the radius. */
    float most = q->reach + unit * (e->header.s_low + e->header.s_step * UINT16_MAX);
    if (c->params->rank > 0) {
        if (spann_rank_sample(q, visit->posting, c->scores, e->primaries, best->limit)) return spann_no_memory(c);
    } else if (c->params->efforts) {
        q->within += count_within(c, e, q->reach);
    }
    for (size_t at = 0; at < e->n; at += SPANN_BLOCK) {
        float limit = best->limit < most ? best->limit : most;
        uint32_t set = spann_within(c->scores, at, e->n, limit);
        if (live && set) set &= live_entries(live, e, at);
        for (; set; set &= set - 1) {
            size_t i = at + (size_t)__builtin_ctz(set);
            float value = c->scores[i];
            uint64_t row = e->first_row + i, id = 0;
            if (i >= e->primaries) {
                id = spann_read_id(e->ids, index->id_bytes, i);
                row = spann_read_id(e->replica_rows, index->row_bytes, i - e->primaries);
                if (row >= index->count) return spann_fail(c, SPANN_DAMAGED, 0, visit->posting, 0);
                if (live && !spann_live_row(live, row)) continue;
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

/* Makes candidates of the estimates in c->scores. A status. */
static int propose(spann_context *c, spann_query *q, const spann_visit *visit, const entries *e) {
    return c->live ? propose_live(c, q, visit, e, c->live->rows) : propose_live(c, q, visit, e, NULL);
}

static int score(spann_context *c, spann_query *q, spann_visit *visit, const unsigned char *content) {
    const spann_index *index = c->index;
    size_t n = index->posting_length[visit->posting];
    if (spann_room_for_scores(c, n)) return spann_no_memory(c);
    entries e = {.n = n, .primaries = index->posting_primaries[visit->posting]};
    spann_posting_parts part = spann_parts_of_posting(&c->widths, n, e.primaries);
    e.ids = content + part.ids;
    e.scale = content + part.scale;
    e.replica_rows = content + part.rows;
    e.first_row = index->first_row[visit->posting];
    memcpy(&e.header, content, SPANN_HEADER_BYTES);
    const spann_code_query *code = spann_code_for(c, q, visit, &e.header);
    e.noise = code->noise;
    c->codes->estimate(code, content + part.codes, content + part.add, e.scale, &e.header, visit->value, n, c->scores);
    if (c->posting_ids == NULL) {
        size_t kept = e.primaries * index->id_bytes;
        if (spann_reserve((void **)&q->ids, &q->ids_capacity, q->ids_size + kept, 1)) return spann_no_memory(c);
        if (kept) memcpy(q->ids + q->ids_size, e.ids, kept);
        visit->ids = q->ids_size;
        q->ids_size += kept;
    }
    return propose(c, q, visit, &e);
}

/* Prefetches all of a pinned posting but its codes. Returns these, with their number of bytes in *bytes. */
static const unsigned char *prefetch_factors(const spann_context *c, uint32_t posting, size_t *bytes) {
    const spann_index *index = c->index;
    uint64_t entry = index->first_entry[posting], n = index->first_entry[posting + 1] - entry;
    spann_prefetch(index->pinned_headers + (size_t)posting * SPANN_HEADER_BYTES, SPANN_HEADER_BYTES);
    spann_prefetch(index->pinned_add + 2 * entry, 2 * n);
    spann_prefetch(index->pinned_scale + 2 * entry, 2 * n);
    *bytes = n * c->widths.code;
    return index->pinned_codes + entry * c->widths.code;
}

/* Leaves the estimates of entries [entry, entry + n) in c->scores. Prefetches the codes of the posting `next`,
 * unless it is NULL, in equal pieces between. */
static void estimate_pinned(spann_context *c, const spann_code_query *code, const spann_visit *visit,
                            const spann_visit *next, const spann_code_header *header, uint64_t entry, size_t n) {
    const spann_index *index = c->index;
    size_t left = 0, piece = PIECE_BYTES / c->widths.code / LEAST_ROWS * LEAST_ROWS;
    if (piece == 0) piece = LEAST_ROWS;
    const unsigned char *ahead = next ? prefetch_factors(c, next->posting, &left) : index->pinned_codes;
    for (size_t at = 0, rows; at < n; at += rows, entry += rows) {
        rows = n - at < piece + LEAST_ROWS ? n - at : piece;
        size_t bytes = left * rows / (n - at);
        spann_prefetch(ahead, bytes);
        ahead += bytes;
        left -= bytes;
        c->codes->estimate(code, index->pinned_codes + entry * c->widths.code, index->pinned_add + 2 * entry,
                           index->pinned_scale + 2 * entry, header, visit->value, rows, c->scores + at);
    }
}

static int score_pinned(spann_context *c, spann_query *q, const spann_visit *visit, const spann_visit *end) {
    const spann_index *index = c->index;
    uint64_t entry = index->first_entry[visit->posting];
    size_t n = index->first_entry[visit->posting + 1] - entry, left = (size_t)(end - visit);
    const spann_visit *next = left > VISITS_AHEAD ? visit + VISITS_AHEAD : NULL;
    if (next && next->posting >= index->pinned) next = NULL;
    if (left > 2 * VISITS_AHEAD)
        spann_prefetch(&index->first_entry[visit[2 * VISITS_AHEAD].posting], 2 * sizeof *index->first_entry);
    if (n == 0) return SPANN_OK;
    if (spann_room_for_scores(c, n)) return spann_no_memory(c);
    entries e = {.n = n, .first_row = index->first_row[visit->posting]};
    e.primaries = index->posting_primaries[visit->posting];
    e.ids = index->pinned_ids + entry * index->id_bytes;
    if (e.primaries < n) e.replica_rows = index->pinned_rows + (entry - e.first_row) * index->row_bytes;
    memcpy(&e.header, index->pinned_headers + (size_t)visit->posting * SPANN_HEADER_BYTES, SPANN_HEADER_BYTES);
    e.scale = index->pinned_scale + 2 * entry;
    const spann_code_query *code = spann_code_for(c, q, visit, &e.header);
    e.noise = code->noise;
    estimate_pinned(c, code, visit, next, &e.header, entry, n);
    return propose(c, q, visit, &e);
}

/* Makes candidates of the estimates of a run in c->scores. A status. */
static int propose_run(spann_context *c, spann_query *q, const spann_visit *visit, const spann_tail_run *run,
                       float noise) {
    const spann_index *index = c->index;
    const spann_tail *tail = &index->tail;
    const unsigned char *live = c->live ? c->live->rows : NULL;
    spann_selection *best = &q->candidates;
    float unit = error_unit(c, noise, visit, run->error), most = q->reach + unit * run->most;
    if (c->params->efforts)
        for (size_t i = 0; i < run->primaries; i++) {
            uint64_t row = spann_read_id(tail->rows, index->row_bytes, run->first + i);
            q->within += c->scores[i] <= q->reach && (live == NULL || spann_live_row(live, row));
        }
    for (size_t at = 0; at < run->entries; at += SPANN_BLOCK) {
        float limit = best->limit < most ? best->limit : most;
        for (uint32_t set = spann_within(c->scores, at, run->entries, limit); set; set &= set - 1) {
            size_t i = at + (size_t)__builtin_ctz(set);
            uint64_t entry = run->first + i, row = spann_read_id(tail->rows, index->row_bytes, entry);
            if (live && !spann_live_row(live, row)) continue;
            float value = c->scores[i], lower = value - unit * tail->scale[entry];
            if (lower > q->reach) continue;
            uint64_t id = i < run->primaries ? 0 : spann_read_id(tail->ids, index->id_bytes, entry);
            spann_selection_push(best, value, lower, row, id);
        }
    }
    q->stats->estimates += run->entries;
    return SPANN_OK;
}

static int score_run(spann_context *c, spann_query *q, const spann_visit *visit, const spann_tail_run *run) {
    const spann_tail *tail = &c->index->tail;
    size_t rows = (run->entries + LEAST_ROWS - 1) / LEAST_ROWS * LEAST_ROWS; /* fewer would take the slow kernel */
    const float *add = tail->add + run->first, *scale = tail->scale + run->first;
    if (spann_room_for_scores(c, rows) || SPANN_GROW(c->dots, c->dots_capacity, rows)) return spann_no_memory(c);
    spann_code_header header = {.error = run->error};
    const spann_code_query *code = spann_code_for(c, q, visit, &header);
    c->codes->dots(code, tail->codes + run->first * c->widths.code, rows, c->dots);
    float base = visit->value, step = code->step, offset = code->offset;
    for (size_t at = 0; at < rows; at += LEAST_ROWS) { /* in the order of the kernel `estimate` */
        float found[LEAST_ROWS];
        for (size_t i = 0; i < LEAST_ROWS; i++)
            found[i] = (base + add[at + i]) - scale[at + i] * (step * (float)c->dots[at + i] + offset);
        memcpy(c->scores + at, found, sizeof found);
    }
    return propose_run(c, q, visit, run, code->noise);
}

static void prefetch_run(const spann_context *c, const spann_tail_run *run) {
    const spann_tail *tail = &c->index->tail;
    size_t codes = run->entries * c->widths.code, row_bytes = c->index->row_bytes;
    spann_prefetch(tail->rows + run->first * row_bytes, run->entries * row_bytes);
    spann_prefetch(tail->add + run->first, run->entries * sizeof *tail->add);
    spann_prefetch(tail->scale + run->first, run->entries * sizeof *tail->scale);
    spann_prefetch(tail->codes + run->first * c->widths.code, codes < PIECE_BYTES ? codes : PIECE_BYTES);
}

static int keep(spann_context *c, uint32_t posting, const unsigned char *content, unsigned char **kept) {
    const spann_index *index = c->index;
    size_t primaries = index->posting_primaries[posting], bytes = primaries * index->id_bytes;
    spann_posting_parts part = spann_parts_of_posting(&c->widths, index->posting_length[posting], primaries);
    if ((*kept = malloc(bytes ? bytes : 1)) == NULL) return spann_no_memory(c);
    memcpy(*kept, content + part.ids, bytes);
    return SPANN_OK;
}

static void prefetch_query(const spann_index *index, const spann_query *q) {
    size_t bytes = spann_code_query_bytes(index->padded_dim, index->code_bits);
    spann_prefetch(q->code_buffer, bytes < PREFETCH_BYTES ? bytes : PREFETCH_BYTES);
}

/* By their estimates. */
static double seen_within(const spann_query *q) { return (double)q->within; }

/* Replicas of one row may have displaced other rows from the candidates. */
static int is_crowded(const spann_context *c, const spann_query *q) {
    size_t wanted = q->candidates.wanted;
    return q->candidates.size == wanted && wanted < c->index->entries;
}

const spann_kind spann_coded_postings = {
    .open = open,
    .open_query = open_query,
    .query_bytes = query_bytes,
    .posting_bytes = posting_bytes,
    .enter = spann_enter_code_space,
    .compared = compared,
    .begin = begin,
    .score = score,
    .score_pinned = score_pinned,
    .score_run = score_run,
    .prefetch_run = prefetch_run,
    .keep = keep,
    .prefetch_query = prefetch_query,
    .finish = spann_rerank_plan,
    .seen_within = seen_within,
    .is_crowded = is_crowded,
    .re_ranks = 1,
};
