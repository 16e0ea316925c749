/* Posting-major search (search.h). Each query is locked while something is scored for it. A posting serves many
 * queries, so threads rarely meet at one. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "search/rerank.h"
#include "search/searcher.h"

/* Reads of the exact store: long ones, for nearly every page is wanted by somebody. */
#define LONGEST_READ 32 /* pages */
#define MOST_READS 16   /* under way for a thread: with reads this long the disk does no more, and memory is bounded */

/* A query's nearest postings that are scored as it navigates, if they are pinned. They hold most of what it will keep.
 * Otherwise all entries of its first postings, which come in the order of the disk, would become candidates. */
#define SEEDS 8

enum { NAVIGATE, POSTINGS, PLAN, EXACT, FINISH, END };

typedef struct { /* a query wants a posting, or a span of the exact store */
    uint32_t query, item;
} want;

typedef struct { /* spans of the exact store read at once */
    uint64_t first, last; /* pages */
    size_t from, to;      /* wants */
} joined;

struct spann_batch {
    const spann_index *index;
    const spann_search_params *params;
    const char *queries;
    size_t query_bytes, n;
    int64_t *ids;
    float *distances;
    spann_query_stats *stats;
    unsigned char *unfinished;
    spann_query *query;
    unsigned char *locks, *settled;
    unsigned char **posting_ids;
    want *wants;
    size_t *want_end; /* (postings): wants of posting p end here */
    uint32_t *wanted; /* postings that are wanted */
    size_t wanted_count;
    joined *reads;
    size_t read_count;
    int phase;
    uint64_t began;
    size_t items;     /* of work in the phase */
    int64_t cursor;
};

size_t spann_batch_query_bytes(const spann_index *index, const spann_search_params *params) {
    size_t k = params->k < index->count ? params->k : index->count, kind = index->kind->query_bytes(index, params);
    size_t visits = params->max_postings;
    /* For each of k results: the heap and the ids seen, the candidates of a wave, and their pages. */
    size_t result = sizeof(spann_hit) + 32 + 2 * (sizeof(spann_candidate) + sizeof(spann_span) + sizeof(spann_fetch));
    return sizeof(spann_query) + visits * (sizeof(spann_visit) + sizeof(want)) + kind + k * result + 2560;
}

spann_batch *spann_batch_new(const spann_index *index, const spann_search_params *params, const void *queries,
                             size_t query_bytes, size_t n, int64_t *ids, float *distances, spann_query_stats *stats,
                             unsigned char *unfinished) {
    spann_batch *b = calloc(1, sizeof *b);
    if (b == NULL) return NULL;
    b->index = index;
    b->params = params;
    b->queries = queries;
    b->query_bytes = query_bytes;
    b->n = n;
    b->ids = ids;
    b->distances = distances;
    b->stats = stats;
    b->unfinished = unfinished;
    b->query = calloc(n, sizeof *b->query);
    b->locks = calloc(n, 1);
    b->settled = calloc(n, 1);
    b->posting_ids = calloc(index->postings, sizeof *b->posting_ids);
    b->phase = -1;
    b->began = spann_now_ns();
    if (b->query && b->locks && b->settled && b->posting_ids) return b;
    spann_batch_free(b);
    return NULL;
}

void spann_batch_free(spann_batch *b) {
    if (b == NULL) return;
    for (size_t i = 0; b->query && i < b->n; i++) spann_query_free(&b->query[i]);
    for (size_t p = 0; b->posting_ids && p < b->index->postings; p++) free(b->posting_ids[p]);
    free(b->query);
    free(b->locks);
    free(b->settled);
    free(b->posting_ids);
    free(b->wants);
    free(b->want_end);
    free(b->wanted);
    free(b->reads);
    free(b);
    spann_give_back();
}

/* ---- between phases ---- */

static int is_seed(const spann_batch *b, const spann_query *q, size_t visit) {
    return visit < SEEDS && q->visits[visit].posting < b->index->pinned;
}

/* Sorts the wants by posting, by counting. */
static int gather_postings(spann_batch *b) {
    size_t postings = b->index->postings, total = 0, at = 0;
    b->want_end = calloc(postings, sizeof *b->want_end);
    if (b->want_end == NULL) return -1;
    for (size_t i = 0; i < b->n; i++) {
        const spann_query *q = &b->query[i];
        for (size_t v = 0; v < q->visit_count; v++) {
            if (is_seed(b, q, v)) continue;
            b->want_end[q->visits[v].posting]++;
            total++;
        }
    }
    for (size_t p = 0; p < postings; p++) b->wanted_count += b->want_end[p] > 0;
    b->wants = malloc((total ? total : 1) * sizeof *b->wants);
    b->wanted = malloc((b->wanted_count ? b->wanted_count : 1) * sizeof *b->wanted);
    if (b->wants == NULL || b->wanted == NULL) return -1;
    size_t end = 0;
    for (size_t p = 0; p < postings; p++) {
        size_t count = b->want_end[p];
        if (count) b->wanted[at++] = (uint32_t)p;
        b->want_end[p] = end; /* its begin, until the wants are filled in */
        end += count;
    }
    for (size_t i = 0; i < b->n; i++) {
        const spann_query *q = &b->query[i];
        for (size_t v = 0; v < q->visit_count; v++)
            if (!is_seed(b, q, v)) b->wants[b->want_end[q->visits[v].posting]++] = (want){(uint32_t)i, (uint32_t)v};
    }
    b->items = b->wanted_count;
    return 0;
}

static const spann_span *span_of(const spann_batch *b, want w) { return &b->query[w.query].spans[w.item]; }

typedef struct {
    uint64_t first;
    want want;
} keyed;

static int by_first(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->want.query < y->want.query ? -1 : x->want.query > y->want.query;
}

/* Sorts the wants by page, and plans the reads that serve them. */
static int gather_pages(spann_batch *b) {
    uint64_t shard_pages = spann_exact_shard_pages(b->index);
    size_t total = 0, at = 0;
    for (size_t i = 0; i < b->n; i++) total += b->settled[i] ? 0 : b->query[i].span_count;
    b->items = b->read_count = 0;
    if (total == 0) return 0;
    keyed *sorted = malloc(total * sizeof *sorted);
    want *wants = realloc(b->wants, total * sizeof *wants);
    if (wants) b->wants = wants;
    joined *reads = realloc(b->reads, total * sizeof *reads);
    if (reads) b->reads = reads;
    if (sorted == NULL || wants == NULL || reads == NULL) {
        free(sorted);
        return -1;
    }
    for (size_t i = 0; i < b->n; i++)
        for (size_t s = 0; !b->settled[i] && s < b->query[i].span_count; s++)
            sorted[at++] = (keyed){b->query[i].spans[s].first, {(uint32_t)i, (uint32_t)s}};
    qsort(sorted, total, sizeof *sorted, by_first);
    for (size_t i = 0; i < total; i++) {
        b->wants[i] = sorted[i].want;
        const spann_span *span = span_of(b, sorted[i].want);
        joined *open = b->read_count ? &b->reads[b->read_count - 1] : NULL;
        uint64_t last = open && open->last > span->last ? open->last : span->last;
        if (open && span->first <= open->last + b->params->join && span->first / shard_pages == open->first / shard_pages &&
            last - open->first <= LONGEST_READ) {
            open->last = last;
            open->to = i + 1;
        } else {
            b->reads[b->read_count++] = (joined){span->first, span->last, i, i + 1};
        }
    }
    free(sorted);
    b->items = b->read_count;
    return 0;
}

int spann_batch_next(spann_batch *b) {
    int status = 0;
    switch (b->phase) {
    case -1:
        b->phase = NAVIGATE;
        b->items = b->n;
        break;
    case NAVIGATE:
        b->phase = POSTINGS;
        status = gather_postings(b);
        break;
    case POSTINGS:
        b->phase = b->index->kind->re_ranks ? PLAN : FINISH;
        b->items = b->n;
        break;
    case PLAN:
        status = gather_pages(b);
        b->phase = b->items ? EXACT : FINISH;
        if (b->items == 0) b->items = b->n;
        break;
    case EXACT:
        b->phase = PLAN;
        b->items = b->n;
        break;
    default:
        b->phase = END;
        return 0;
    }
    b->cursor = 0;
    return status ? -1 : 1;
}

/* ---- in a phase ---- */

static void lock(spann_batch *b, size_t query) {
    while (__atomic_test_and_set(&b->locks[query], __ATOMIC_ACQUIRE)) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

static void unlock(spann_batch *b, size_t query) { __atomic_clear(&b->locks[query], __ATOMIC_RELEASE); }

static int take(spann_batch *b, size_t *item) {
    *item = (size_t)__atomic_fetch_add(&b->cursor, 1, __ATOMIC_RELAXED);
    return *item < b->items;
}

/* Scores a posting for all queries that want it. `content` is NULL if it need not be read. */
static int serve_posting(spann_batch *b, spann_context *c, uint32_t posting, const unsigned char *content) {
    const spann_kind *kind = b->index->kind;
    if (content) {
        int status = spann_check_posting(c, posting, content);
        if (status == SPANN_OK) status = kind->keep(c, posting, content, &b->posting_ids[posting]);
        if (status) return status;
    }
    for (size_t i = posting ? b->want_end[posting - 1] : 0; i < b->want_end[posting]; i++) {
        want w = b->wants[i];
        spann_query *q = &b->query[w.query];
        if (i + 2 < b->want_end[posting]) spann_prefetch(&b->query[b->wants[i + 2].query], sizeof *q);
        if (i + 1 < b->want_end[posting]) {
            const spann_query *next = &b->query[b->wants[i + 1].query];
            kind->prefetch_query(b->index, next);
            spann_prefetch(&next->visits[b->wants[i + 1].item], sizeof(spann_visit));
        }
        int status = spann_go_on(c);
        if (status) return status;
        lock(b, w.query);
        status = spann_query_score(c, q, &q->visits[w.item], &q->visits[w.item] + 1, content);
        unlock(b, w.query);
        if (status) return status;
    }
    return SPANN_OK;
}

static int serve_pages(spann_batch *b, spann_context *c, const joined *read, const unsigned char *content) {
    uint64_t checked = read->first;
    for (size_t i = read->from; i < read->to; i++) {
        want w = b->wants[i];
        const spann_span *span = span_of(b, w);
        int status = spann_go_on(c);
        if (status) return status;
        uint64_t from = span->first > checked ? span->first : checked;
        if (from < span->last) {
            status = spann_check_pages(c, from, span->last, content + (from - read->first) * SPANN_PAGE);
            checked = span->last;
        }
        if (status) return status;
        lock(b, w.query);
        status = spann_rerank_span(c, &b->query[w.query], span, content + (span->first - read->first) * SPANN_PAGE);
        unlock(b, w.query);
        if (status) return status;
    }
    return SPANN_OK;
}

typedef struct { /* a thread's part in a phase */
    spann_batch *batch;
    spann_context *context;
} part;

static int serve(void *worker, const spann_purpose *purpose, const unsigned char *content) {
    spann_batch *b = ((part *)worker)->batch;
    spann_context *c = ((part *)worker)->context;
    const joined *read = purpose->exact ? &b->reads[purpose->item] : NULL;
    size_t first = read ? read->from : purpose->where ? b->want_end[purpose->where - 1] : 0;
    spann_reads_account(&b->stats[b->wants[first].query], purpose);
    return read ? serve_pages(b, c, read, content) : serve_posting(b, c, (uint32_t)purpose->where, content);
}

/* Starts the read of an item, or serves it at once if it is pinned. A status. */
static int start(spann_batch *b, spann_searcher *s, size_t item) {
    spann_context *c = &s->context;
    spann_purpose purpose = {.item = item, .exact = b->phase == EXACT};
    if (purpose.exact) {
        purpose.where = b->reads[item].first;
        purpose.place = spann_pages_place(c, b->reads[item].first, b->reads[item].last);
    } else {
        uint32_t posting = b->wanted[item];
        if (posting < b->index->pinned || c->live_length[posting] == 0) return serve_posting(b, c, posting, NULL);
        purpose.where = posting;
        purpose.place = spann_posting_place(c, posting);
    }
    return spann_reads_start(&s->reads, c, purpose);
}

/* POSTINGS and EXACT: keeps reads under way, and serves what has arrived. A status. */
static int read_and_serve(spann_batch *b, spann_searcher *s) {
    spann_context *c = &s->context;
    part mine = {b, c};
    size_t item;
    int more = 1, status = SPANN_OK;
    while (status == SPANN_OK) {
        while (status == SPANN_OK && s->reads.room && (more = more && take(b, &item))) status = start(b, s, item);
        if (status || spann_io_outstanding(s->reads.io) == 0) break;
        status = spann_reads_complete(&s->reads, c, 1, serve, &mine);
    }
    if (status) spann_reads_drain(&s->reads);
    return status;
}

static int serve_query(spann_batch *b, spann_context *c, size_t i) {
    spann_query *q = &b->query[i];
    int status = spann_go_on(c);
    if (status) return status;
    if (b->phase == NAVIGATE) {
        if (spann_query_init(q, c)) return spann_no_memory(c);
        status = spann_query_begin(c, q, b->queries + i * b->query_bytes, b->stats + i);
        size_t seeds = q->visit_count < SEEDS ? q->visit_count : SEEDS;
        for (size_t v = 0; status == SPANN_OK && v < seeds; v++)
            if (is_seed(b, q, v)) status = spann_query_score(c, q, &q->visits[v], q->visits + seeds, NULL);
        return status;
    }
    if (b->phase == PLAN) {
        if (!b->settled[i]) status = c->index->kind->finish(c, q);
        b->settled[i] = q->fetch_count == 0;
        return status;
    }
    b->unfinished[i] = (unsigned char)spann_query_short(c, q);
    if (!b->unfinished[i]) spann_query_finish(c, q, b->ids + i * b->params->k, b->distances + i * b->params->k);
    q->stats->total_ns = spann_now_ns() - b->began;
    return SPANN_OK;
}

int spann_batch_step(spann_batch *b, spann_searcher *s, spann_failure *failure) {
    uint32_t depth = b->params->depth;
    int status = spann_context_start(&s->context, b->params, failure);
    if (status) return status;
    s->context.posting_ids = b->posting_ids;
    status = spann_reads_open(&s->reads, &s->context, depth < MOST_READS ? depth : MOST_READS);
    if (status == SPANN_OK && (b->phase == POSTINGS || b->phase == EXACT)) {
        status = read_and_serve(b, s);
    } else {
        size_t item;
        while (status == SPANN_OK && take(b, &item)) status = serve_query(b, &s->context, item);
    }
    if (status) __atomic_store_n(&b->cursor, (int64_t)b->items, __ATOMIC_RELAXED);
    return status;
}
