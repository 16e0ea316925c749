#include "search/reads.h"

#include <stdlib.h>

#define AT_ONCE 64 /* completions taken by one call */

int spann_reads_open(spann_reads *r, spann_context *c, uint32_t most) {
    const spann_search_params *p = c->params;
    if (r->io && (r->backend != p->backend || r->depth != p->depth)) {
        spann_io_close(r->io);
        r->io = NULL;
    }
    if (r->io == NULL) {
        int error = 0;
        r->io = spann_io_open(p->backend, p->depth, &error);
        if (r->io == NULL) return spann_fail(c, SPANN_IO_FAILED, 0, 0, error);
        r->backend = p->backend;
        r->depth = p->depth;
    }
    if (r->capacity < most) {
        free(r->pending);
        free(r->unused);
        r->pending = malloc(most * sizeof *r->pending);
        r->unused = malloc(most * sizeof *r->unused);
        r->capacity = r->pending && r->unused ? most : 0;
        if (r->capacity == 0) return spann_no_memory(c);
    }
    r->room = most;
    for (uint32_t i = 0; i < most; i++) r->unused[i] = i;
    return SPANN_OK;
}

void spann_reads_free(spann_reads *r) {
    spann_io_close(r->io);
    free(r->pending);
    free(r->unused);
    spann_buffers_free(&r->buffers);
}

int spann_reads_start(spann_reads *r, spann_context *c, spann_purpose purpose) {
    const spann_place *place = &purpose.place;
    void *buffer = spann_buffers_get(&r->buffers, place->bytes);
    if (buffer == NULL) return spann_no_memory(c);
    uint32_t tag = r->unused[--r->room];
    r->pending[tag] = (spann_pending){purpose, buffer};
    spann_read read = {place->file, (uint32_t)place->bytes, place->offset, buffer, tag};
    int error = spann_io_start(r->io, &read);
    if (error == 0) return SPANN_OK;
    spann_buffers_put(&r->buffers, buffer, place->bytes);
    r->unused[r->room++] = tag;
    return spann_fail(c, SPANN_READ_FAILED, purpose.exact, purpose.where, -error);
}

/* The status of a read that ended with this result. */
static int verdict(spann_context *c, const spann_purpose *purpose, int64_t result) {
    const spann_place *place = &purpose->place;
    if (result < 0) return spann_fail(c, SPANN_READ_FAILED, purpose->exact, purpose->where, (int)-result);
    if ((size_t)result >= place->skip + place->content) return SPANN_OK;
    return spann_fail(c, SPANN_READ_SHORT, purpose->exact, purpose->where, 0);
}

static void give_back(spann_reads *r, uint64_t tag) {
    spann_pending *read = &r->pending[tag];
    spann_buffers_put(&r->buffers, read->buffer, read->purpose.place.bytes);
    r->unused[r->room++] = (uint32_t)tag;
}

int spann_reads_complete(spann_reads *r, spann_context *c, unsigned least, spann_serve_fn serve, void *worker) {
    spann_read_done done[AT_ONCE];
    int got = spann_io_wait(r->io, done, AT_ONCE, least), status = SPANN_OK;
    if (got < 0) return spann_fail(c, SPANN_IO_FAILED, 0, 0, -got);
    for (int i = 0; i < got; i++) {
        const spann_pending *read = &r->pending[done[i].tag];
        const unsigned char *content = (const unsigned char *)read->buffer + read->purpose.place.skip;
        if (status == SPANN_OK) status = verdict(c, &read->purpose, done[i].result);
        if (status == SPANN_OK) status = serve(worker, &read->purpose, content);
        give_back(r, done[i].tag);
    }
    return status;
}

void spann_reads_drain(spann_reads *r) {
    spann_read_done done[AT_ONCE];
    while (r->io && spann_io_outstanding(r->io)) {
        int got = spann_io_wait(r->io, done, AT_ONCE, 1);
        if (got < 0) { /* closing the ring waits, and the buffers are freed with the searcher */
            spann_io_close(r->io);
            r->io = NULL;
            return;
        }
        for (int i = 0; i < got; i++) give_back(r, done[i].tag);
    }
}

void spann_reads_account(spann_query_stats *stats, const spann_purpose *purpose) {
    const spann_place *place = &purpose->place;
    uint32_t pages = (uint32_t)((place->offset % SPANN_PAGE + place->bytes + SPANN_PAGE - 1) / SPANN_PAGE);
    __atomic_fetch_add(&stats->reads, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&stats->bytes_read, place->bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(&stats->pages_read, pages, __ATOMIC_RELAXED);
    if (purpose->exact) __atomic_fetch_add(&stats->exact_pages_read, pages, __ATOMIC_RELAXED);
    else __atomic_fetch_add(&stats->postings_read, 1, __ATOMIC_RELAXED);
}
