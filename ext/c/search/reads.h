/* The reads of a thread, in either order of work: starting them, completing them, giving up on them, accounting for
 * them. */
#ifndef SPANN_READS_H
#define SPANN_READS_H

#include "io/buffers.h"
#include "search/places.h"

/* What a read is for. */
typedef struct {
    void *owner;    /* for the caller */
    size_t item;    /* for the caller */
    int exact;      /* reads the exact store, not a posting */
    uint64_t where; /* first page, or posting */
    spann_place place;
} spann_purpose;

typedef struct { /* a read under way */
    spann_purpose purpose;
    void *buffer;
} spann_pending;

typedef struct {
    spann_io *io;
    int32_t backend;
    uint32_t depth;
    spann_buffers buffers;
    spann_pending *pending; /* (capacity) by tag */
    uint32_t *unused;       /* (room) tags that no read has */
    uint32_t capacity, room;
} spann_reads;

/* Uses what arrived: `content` is what the place asked for, without the bytes before it. A status. */
typedef int (*spann_serve_fn)(void *worker, const spann_purpose *purpose, const unsigned char *content);

/* Opens a ring as the parameters want it, unless it is open, and makes room for `most` reads under way. A status. */
int spann_reads_open(spann_reads *r, spann_context *c, uint32_t most);
void spann_reads_free(spann_reads *r);

/* Starts a read. There must be room for it. A status. */
int spann_reads_start(spann_reads *r, spann_context *c, spann_purpose purpose);

/* Waits for at least `least` reads and serves what has arrived. A status. After a failure nothing more is served. */
int spann_reads_complete(spann_reads *r, spann_context *c, unsigned least, spann_serve_fn serve, void *worker);

/* Waits for all reads under way, and serves none. Called after a failure, when their owners may end. */
void spann_reads_drain(spann_reads *r);

/* Adds a read to a query's statistics, which several threads may do at once. */
void spann_reads_account(spann_query_stats *stats, const spann_purpose *purpose);

#endif
