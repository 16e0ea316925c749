/* What a thread keeps from batch to batch, for both ways of working on one. */
#ifndef SPANN_SEARCHER_H
#define SPANN_SEARCHER_H

#include "base/buffers.h"
#include "io/io.h"
#include "search/query.h"

struct spann_searcher {
    spann_context context;
    spann_buffers buffers;
    spann_io *io;
    int backend;
    uint32_t depth;
    /* Of query_major.c alone. */
    struct spann_slot *slots;
    uint32_t slot_count;
    struct spann_pending *pending;
    uint32_t *free_pending;
    uint32_t pending_count, free_count;
};

/* Makes sure that there is a ring as `p` wants it. A status. */
int spann_searcher_ring(spann_searcher *s, const spann_search_params *p);

#endif
