/* Query-major search: a thread works on several queries at once, so that the disk is busy while it computes. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "search/searcher.h"

enum { IDLE, POSTINGS, EXACT };

struct spann_slot {
    spann_query query;
    int stage;
    size_t number; /* of the query in the batch */
    size_t next;   /* visit or fetch to start next */
    uint32_t outstanding;
    uint64_t began, waiting_since;
};

typedef struct spann_slot slot;

struct spann_pending { /* a read under way */
    slot *owner;
    size_t item; /* visit or fetch */
    void *buffer;
    spann_place place;
};

typedef struct spann_pending pending;

spann_searcher *spann_searcher_new(const spann_index *index) {
    spann_searcher *s = calloc(1, sizeof *s);
    if (s && spann_context_init(&s->context, index)) {
        spann_searcher_free(s);
        return NULL;
    }
    return s;
}

void spann_searcher_free(spann_searcher *s) {
    if (s == NULL) return;
    spann_io_close(s->io);
    for (uint32_t i = 0; i < s->slot_count; i++) spann_query_free(&s->slots[i].query);
    free(s->slots);
    free(s->pending);
    free(s->free_pending);
    spann_buffers_free(&s->buffers);
    spann_context_free(&s->context);
    free(s);
}

int spann_searcher_ring(spann_searcher *s, const spann_search_params *p) {
    if (s->io && (s->backend != p->backend || s->depth != p->depth)) {
        spann_io_close(s->io);
        s->io = NULL;
    }
    if (s->io == NULL) {
        int error = 0;
        s->io = spann_io_open(p->backend, p->depth, &error);
        if (s->io == NULL) return spann_fail(&s->context, SPANN_IO_FAILED, 0, 0, error);
        s->backend = p->backend;
        s->depth = p->depth;
    }
    return SPANN_OK;
}

static int prepare(spann_searcher *s, const spann_search_params *p) {
    spann_context *c = &s->context;
    if (s->slot_count < p->in_flight) {
        slot *more = realloc(s->slots, p->in_flight * sizeof *more);
        if (more == NULL) return spann_fail(c, SPANN_NO_MEMORY, 0, 0, 0);
        s->slots = more;
        while (s->slot_count < p->in_flight) {
            slot *new = &s->slots[s->slot_count];
            *new = (slot){0};
            if (spann_query_init(&new->query, c)) return spann_fail(c, SPANN_NO_MEMORY, 0, 0, 0);
            s->slot_count++;
        }
    }
    int status = spann_searcher_ring(s, p);
    if (status) return status;
    if (s->pending_count < p->depth) {
        free(s->pending);
        free(s->free_pending);
        s->pending = malloc(p->depth * sizeof *s->pending);
        s->free_pending = malloc(p->depth * sizeof *s->free_pending);
        s->pending_count = s->pending && s->free_pending ? p->depth : 0;
        if (s->pending_count == 0) return spann_fail(c, SPANN_NO_MEMORY, 0, 0, 0);
    }
    s->free_count = p->depth;
    for (uint32_t i = 0; i < p->depth; i++) s->free_pending[i] = i;
    return SPANN_OK;
}

static int start_read(spann_searcher *s, slot *owner, size_t item, spann_place place) {
    spann_context *c = &s->context;
    uint64_t where = owner->stage == EXACT ? owner->query.spans[owner->query.fetches[item].span_from].first
                                           : owner->query.visits[item].posting;
    void *buffer = spann_buffers_get(&s->buffers, place.bytes);
    if (buffer == NULL) return spann_fail(c, SPANN_NO_MEMORY, 0, 0, 0);
    uint32_t at = s->free_pending[--s->free_count];
    s->pending[at] = (pending){owner, item, buffer, place};
    spann_read read = {place.file, (uint32_t)place.bytes, place.offset, buffer, at};
    int error = spann_io_start(s->io, &read);
    if (error) {
        spann_buffers_put(&s->buffers, buffer, place.bytes);
        s->free_pending[s->free_count++] = at;
        return spann_fail(c, SPANN_READ_FAILED, owner->stage == EXACT, where, -error);
    }
    if (owner->outstanding++ == 0) owner->waiting_since = spann_now_ns();
    return SPANN_OK;
}

static int complete_read(spann_searcher *s, const spann_read_done *done) {
    spann_context *c = &s->context;
    pending *p = &s->pending[done->tag];
    slot *owner = p->owner;
    spann_query *q = &owner->query;
    int exact = owner->stage == EXACT;
    uint64_t where = exact ? q->spans[q->fetches[p->item].span_from].first : q->visits[p->item].posting;
    const unsigned char *content = (const unsigned char *)p->buffer + p->place.skip;
    spann_query_stats *stats = q->stats;
    uint64_t start = spann_now_ns();
    int status;
    if (done->result < 0) {
        status = spann_fail(c, SPANN_READ_FAILED, exact, where, (int)-done->result);
    } else if ((size_t)done->result < p->place.skip + p->place.content) {
        status = spann_fail(c, SPANN_READ_SHORT, exact, where, 0);
    } else {
        uint32_t pages = (uint32_t)((p->place.offset % SPANN_PAGE + p->place.bytes + SPANN_PAGE - 1) / SPANN_PAGE);
        stats->reads++;
        stats->bytes_read += p->place.bytes;
        stats->pages_read += pages;
        if (exact) stats->exact_pages_read += pages;
        else stats->postings_read++;
        if (exact) {
            status = spann_query_exact(c, q, &q->fetches[p->item], content);
        } else {
            spann_visit *visit = &q->visits[p->item];
            status = spann_check_posting(c, visit->posting, content);
            if (status == SPANN_OK) status = spann_query_posting(c, q, visit, content);
        }
        *(exact ? &stats->rerank_ns : &stats->score_ns) += spann_now_ns() - start;
    }
    if (--owner->outstanding == 0) stats->read_ns += spann_now_ns() - owner->waiting_since;
    spann_buffers_put(&s->buffers, p->buffer, p->place.bytes);
    s->free_pending[s->free_count++] = (uint32_t)done->tag;
    return status;
}

typedef struct {
    const char *queries;
    size_t query_bytes, n;
    int64_t *cursor, *ids;
    float *distances;
    spann_query_stats *stats;
} batch;

/* Does for one query what needs no waiting: starts its reads as far as `depth` allows, scores what is in memory, and
 * goes from stage to stage when one is complete. */
static int advance(spann_searcher *s, slot *t, const batch *b) {
    spann_context *c = &s->context;
    spann_query *q = &t->query;
    int status = SPANN_OK;
    while (t->stage != IDLE) {
        if (t->stage == POSTINGS) {
            uint64_t start = 0;
            for (; t->next < q->visit_count; t->next++) {
                if ((status = spann_go_on(c))) return status;
                const spann_visit *visit = &q->visits[t->next];
                if (visit->posting < c->index->pinned) {
                    if (start == 0) start = spann_now_ns();
                    status = spann_query_pinned(c, q, visit, q->visits + q->visit_count);
                } else if (s->free_count) {
                    status = start_read(s, t, t->next, spann_posting_place(c, visit->posting));
                } else {
                    break;
                }
                if (status) return status;
            }
            if (start) q->stats->score_ns += spann_now_ns() - start;
            if (t->next < q->visit_count || t->outstanding) return SPANN_OK;
            if ((status = spann_query_extend(c, q))) return status;
            if (t->next < q->visit_count) continue;
            t->stage = EXACT;
            t->next = 0;
            if ((status = spann_query_plan(c, q))) return status;
        }
        for (; t->next < q->fetch_count && s->free_count; t->next++)
            if ((status = start_read(s, t, t->next, spann_fetch_place(c, q, &q->fetches[t->next])))) return status;
        if (t->next < q->fetch_count || t->outstanding) return SPANN_OK;
        if (q->fetch_count) {
            t->next = 0;
            if ((status = spann_query_plan(c, q))) return status;
            if (q->fetch_count) continue;
        }
        if (spann_query_short(c, q)) {
            q->attempt++;
            t->stage = POSTINGS;
            t->next = 0;
            if ((status = spann_query_navigate(c, q))) return status;
            continue;
        }
        spann_query_finish(c, q, b->ids + t->number * c->params->k, b->distances + t->number * c->params->k);
        q->stats->total_ns = spann_now_ns() - t->began;
        t->stage = IDLE;
    }
    return SPANN_OK;
}

/* Draws the next query of the batch into an idle slot; 0 in *drawn if there is none left. */
static int draw(spann_searcher *s, slot *t, const batch *b, int *drawn) {
    int64_t number = __atomic_fetch_add(b->cursor, 1, __ATOMIC_RELAXED);
    *drawn = (uint64_t)number < b->n;
    if (!*drawn) return SPANN_OK;
    t->began = spann_now_ns();
    t->number = (size_t)number;
    t->next = t->outstanding = 0;
    t->stage = POSTINGS;
    return spann_query_begin(&s->context, &t->query, b->queries + t->number * b->query_bytes, b->stats + t->number);
}

static int work(spann_searcher *s, const batch *b) {
    enum { AT_ONCE = 64 };
    spann_read_done done[AT_ONCE];
    spann_context *c = &s->context;
    uint32_t in_flight = c->params->in_flight, active = 0;
    int status, more = 1;
    for (;;) {
        if ((status = spann_go_on(c))) return status;
        /* One new query at a time, and what it started handed to the disk before the next is navigated. */
        slot *fresh = NULL;
        for (uint32_t i = 0; i < in_flight && more && fresh == NULL; i++)
            if (s->slots[i].stage == IDLE) fresh = &s->slots[i];
        if (fresh) {
            if ((status = draw(s, fresh, b, &more))) return status;
            active += (uint32_t)more;
        }
        active = 0;
        for (uint32_t i = 0; i < in_flight; i++) {
            if ((status = advance(s, &s->slots[i], b))) return status;
            active += s->slots[i].stage != IDLE;
        }
        if (active == 0 && !more) return SPANN_OK;
        if (spann_io_outstanding(s->io) == 0) continue;
        int full = active == in_flight || !more;
        int got = spann_io_wait(s->io, done, AT_ONCE, full ? 1 : 0);
        if (got < 0) return spann_fail(c, SPANN_IO_FAILED, 0, 0, -got);
        for (int i = 0; i < got; i++)
            if ((status = complete_read(s, &done[i]))) {
                /* The others of this lot are done as well; their buffers go back. */
                for (i++; i < got; i++) {
                    pending *p = &s->pending[done[i].tag];
                    spann_buffers_put(&s->buffers, p->buffer, p->place.bytes);
                }
                return status;
            }
    }
}

/* After a failure: nothing may be under way in buffers that are given up. */
static void drain(spann_searcher *s) {
    spann_read_done done[16];
    while (spann_io_outstanding(s->io)) {
        int got = spann_io_wait(s->io, done, 16, 1);
        if (got < 0) { /* the ring is beyond help: closing it waits, and the buffers are freed with the searcher */
            spann_io_close(s->io);
            s->io = NULL;
            break;
        }
        for (int i = 0; i < got; i++) {
            pending *p = &s->pending[done[i].tag];
            spann_buffers_put(&s->buffers, p->buffer, p->place.bytes);
        }
    }
}

int spann_searcher_run(spann_searcher *s, const spann_search_params *params, const void *queries, size_t query_bytes,
                       size_t n, int64_t *cursor, int64_t *ids, float *distances, spann_query_stats *stats,
                       spann_failure *failure) {
    *failure = (spann_failure){0};
    if (spann_context_start(&s->context, params, failure)) return -1;
    batch b = {queries, query_bytes, n, cursor, ids, distances, stats};
    int status = prepare(s, params);
    if (status == SPANN_OK) {
        for (uint32_t i = 0; i < s->slot_count; i++) s->slots[i].stage = IDLE;
        status = work(s, &b);
        if (status) drain(s);
        int trimmed = 0;
        for (uint32_t i = 0; i < s->slot_count; i++) trimmed |= spann_query_trim(&s->slots[i].query);
        if (trimmed) spann_give_back();
    }
    if (status) __atomic_store_n(cursor, (int64_t)n, __ATOMIC_RELAXED);
    return status;
}

int spann_searcher_expected(spann_searcher *s, const spann_search_params *params, const void *queries,
                            size_t query_bytes, size_t n, float *expected, spann_failure *failure) {
    *failure = (spann_failure){0};
    if (spann_context_start(&s->context, params, failure)) return -1;
    int status = prepare(s, params);
    spann_query *q = &s->slots[0].query;
    for (size_t i = 0; i < n && status == SPANN_OK; i++) {
        spann_query_stats stats;
        float *out = expected + i * params->max_postings;
        size_t known = 0;
        if ((status = spann_go_on(&s->context))) break;
        if ((status = spann_query_begin(&s->context, q, (const char *)queries + i * query_bytes, &stats))) break;
        for (size_t v = 0; v < q->visit_count; v++)
            if (q->visits[v].posting < s->context.index->own_postings) out[known++] = q->visits[v].expected;
        while (known < params->max_postings) out[known++] = INFINITY;
    }
    return status;
}

int spann_searcher_nearest(spann_searcher *s, const spann_search_params *params, const void *queries,
                           size_t query_bytes, size_t n, uint32_t *centroids, spann_failure *failure) {
    *failure = (spann_failure){0};
    if (spann_context_start(&s->context, params, failure)) return -1;
    int status = prepare(s, params);
    for (size_t i = 0; i < n && status == SPANN_OK; i++) {
        spann_query_stats stats;
        if ((status = spann_go_on(&s->context))) break;
        status = spann_query_begin(&s->context, &s->slots[0].query, (const char *)queries + i * query_bytes, &stats);
        if (status == SPANN_OK) centroids[i] = (uint32_t)s->context.navigator.found.items[0].row;
    }
    return status;
}
