/* Query-major search: a thread works on several queries at once, so that the disk is busy while it computes. */
#include <stdlib.h>

#include "base/memory.h"
#include "search/rerank.h"
#include "search/searcher.h"

enum { IDLE, POSTINGS, EXACT };

typedef struct { /* a query under way */
    spann_query *query;
    int stage;
    size_t number; /* of the query in the batch */
    size_t next;   /* visit or fetch to start next */
    uint32_t outstanding;
    uint64_t began, waiting_since;
} slot;

typedef struct {
    spann_searcher *searcher;
    slot *slots; /* (params->in_flight) */
    const char *queries;
    size_t query_bytes, n;
    int64_t *cursor, *ids;
    float *distances;
    spann_query_stats *stats;
} run;

static int start_read(run *r, slot *t, size_t item) {
    spann_context *c = &r->searcher->context;
    const spann_query *q = t->query;
    spann_purpose purpose = {.owner = t, .item = item, .exact = t->stage == EXACT};
    if (purpose.exact) {
        purpose.where = q->spans[q->fetches[item].span_from].first;
        purpose.place = spann_fetch_place(c, q, &q->fetches[item]);
    } else {
        purpose.where = q->visits[item].posting;
        purpose.place = spann_posting_place(c, q->visits[item].posting);
    }
    int status = spann_reads_start(&r->searcher->reads, c, purpose);
    if (status == SPANN_OK && t->outstanding++ == 0) t->waiting_since = spann_now_ns();
    return status;
}

static int serve(void *worker, const spann_purpose *purpose, const unsigned char *content) {
    spann_context *c = &((run *)worker)->searcher->context;
    slot *t = purpose->owner;
    spann_query *q = t->query;
    uint64_t start = spann_now_ns();
    int status;
    spann_reads_account(q->stats, purpose);
    if (purpose->exact) {
        status = spann_rerank_fetch(c, q, &q->fetches[purpose->item], content);
        q->stats->rerank_ns += spann_now_ns() - start;
    } else {
        spann_visit *visit = &q->visits[purpose->item];
        status = spann_check_posting(c, visit->posting, content);
        if (status == SPANN_OK) status = spann_query_score(c, q, visit, visit + 1, content);
        q->stats->score_ns += spann_now_ns() - start;
    }
    if (--t->outstanding == 0) q->stats->read_ns += spann_now_ns() - t->waiting_since;
    return status;
}

/* Scores pinned postings and starts reads of the others, from visit t->next on, as far as there is room. A status. */
static int score_postings(run *r, slot *t) {
    spann_context *c = &r->searcher->context;
    spann_query *q = t->query;
    uint64_t start = 0;
    int status;
    for (; t->next < q->visit_count; t->next++) {
        if ((status = spann_go_on(c))) return status;
        spann_visit *visit = &q->visits[t->next];
        if (!spann_query_reads(c, visit)) {
            if (start == 0) start = spann_now_ns();
            status = spann_query_score(c, q, visit, q->visits + q->visit_count, NULL);
        } else if (r->searcher->reads.room) {
            status = start_read(r, t, t->next);
        } else {
            break;
        }
        if (status) return status;
    }
    if (start) q->stats->score_ns += spann_now_ns() - start;
    return SPANN_OK;
}

/* Does for one query what needs no waiting: starts its reads as far as there is room, scores what is in memory, and
 * goes from stage to stage when one is complete. A status. */
static int advance(run *r, slot *t) {
    spann_context *c = &r->searcher->context;
    spann_query *q = t->query;
    int status;
    while (t->stage != IDLE) {
        if (t->stage == POSTINGS) {
            if ((status = score_postings(r, t))) return status;
            if (t->next < q->visit_count || t->outstanding) return SPANN_OK;
            if ((status = spann_visits_extend(c, q, &t->next))) return status;
            if (t->next < q->visit_count) continue;
            t->stage = EXACT;
            t->next = 0;
            if ((status = c->index->kind->finish(c, q))) return status;
        }
        for (; t->next < q->fetch_count && r->searcher->reads.room; t->next++)
            if ((status = start_read(r, t, t->next))) return status;
        if (t->next < q->fetch_count || t->outstanding) return SPANN_OK;
        if (q->fetch_count) {
            t->next = 0;
            if ((status = c->index->kind->finish(c, q))) return status;
            if (q->fetch_count) continue;
        }
        if (spann_query_short(c, q)) {
            q->attempt++;
            q->stats->restarts++;
            t->stage = POSTINGS;
            t->next = 0;
            if ((status = spann_query_navigate(c, q))) return status;
            continue;
        }
        spann_query_finish(c, q, r->ids + t->number * c->params->k, r->distances + t->number * c->params->k);
        q->stats->total_ns = spann_now_ns() - t->began;
        t->stage = IDLE;
    }
    return SPANN_OK;
}

/* Draws the next query of the batch into an idle slot. Leaves 0 in *drawn if there is none left. A status. */
static int draw(run *r, slot *t, int *drawn) {
    int64_t number = __atomic_fetch_add(r->cursor, 1, __ATOMIC_RELAXED);
    *drawn = (uint64_t)number < r->n;
    if (!*drawn) return SPANN_OK;
    t->began = spann_now_ns();
    t->number = (size_t)number;
    t->next = t->outstanding = 0;
    t->stage = POSTINGS;
    return spann_query_begin(&r->searcher->context, t->query, r->queries + t->number * r->query_bytes,
                             r->stats + t->number);
}

static int work(run *r) {
    spann_context *c = &r->searcher->context;
    spann_reads *reads = &r->searcher->reads;
    uint32_t in_flight = c->params->in_flight;
    int status, more = 1;
    for (;;) {
        if ((status = spann_go_on(c))) return status;
        /* One new query at a time. The disk gets its reads before the next query navigates. */
        slot *fresh = NULL;
        for (uint32_t i = 0; i < in_flight && more && fresh == NULL; i++)
            if (r->slots[i].stage == IDLE) fresh = &r->slots[i];
        if (fresh && (status = draw(r, fresh, &more))) return status;
        uint32_t active = 0;
        for (uint32_t i = 0; i < in_flight; i++) {
            if ((status = advance(r, &r->slots[i]))) return status;
            active += r->slots[i].stage != IDLE;
        }
        if (active == 0 && !more) return SPANN_OK;
        if (spann_io_outstanding(reads->io) == 0) continue;
        int full = active == in_flight || !more;
        if ((status = spann_reads_complete(reads, c, full ? 1 : 0, serve, r))) return status;
    }
}

static int run_batch(run *r) {
    spann_searcher *s = r->searcher;
    const spann_search_params *p = s->context.params;
    int status = spann_searcher_queries(s, p->in_flight);
    if (status == SPANN_OK) status = spann_reads_open(&s->reads, &s->context, p->depth);
    if (status) return status;
    r->slots = calloc(p->in_flight, sizeof *r->slots);
    if (r->slots == NULL) return spann_no_memory(&s->context);
    for (uint32_t i = 0; i < p->in_flight; i++) r->slots[i].query = &s->queries[i];
    status = work(r);
    if (status) spann_reads_drain(&s->reads);
    free(r->slots);
    int trimmed = 0;
    for (uint32_t i = 0; i < s->query_count; i++) trimmed |= spann_query_trim(&s->queries[i]);
    if (trimmed) spann_give_back();
    return status;
}

int spann_searcher_run(spann_searcher *s, const spann_search_params *params, const void *queries, size_t query_bytes,
                       size_t n, int64_t *cursor, int64_t *ids, float *distances, spann_query_stats *stats,
                       spann_failure *failure) {
    run r = {s, NULL, queries, query_bytes, n, cursor, ids, distances, stats};
    int status = spann_context_start(&s->context, params, failure);
    if (status == SPANN_OK) status = run_batch(&r);
    if (status) __atomic_store_n(cursor, (int64_t)n, __ATOMIC_RELAXED);
    return status;
}
