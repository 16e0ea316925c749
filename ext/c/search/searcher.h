/* What a thread keeps from batch to batch, for both orders of work. */
#ifndef SPANN_SEARCHER_H
#define SPANN_SEARCHER_H

#include "search/query.h"
#include "search/reads.h"
#include "search/search.h"

struct spann_searcher {
    spann_context context;
    spann_reads reads;
    spann_query *queries; /* (query_count) used by query-major search */
    uint32_t query_count;
};

/* Makes sure that there are `count` queries, none of them under way. A status. */
int spann_searcher_queries(spann_searcher *s, uint32_t count);

#endif
