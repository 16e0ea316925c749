#include "search/searcher.h"

#include <math.h>
#include <stdlib.h>

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
    spann_reads_free(&s->reads);
    for (uint32_t i = 0; i < s->query_count; i++) spann_query_free(&s->queries[i]);
    free(s->queries);
    spann_context_free(&s->context);
    free(s);
}

int spann_searcher_queries(spann_searcher *s, uint32_t count) {
    spann_context *c = &s->context;
    if (s->query_count >= count) return SPANN_OK;
    spann_query *more = realloc(s->queries, count * sizeof *more);
    if (more == NULL) return spann_no_memory(c);
    s->queries = more;
    for (; s->query_count < count; s->query_count++)
        if (spann_query_init(&s->queries[s->query_count], c)) return spann_no_memory(c);
    return SPANN_OK;
}

int spann_searcher_expected(spann_searcher *s, const spann_search_params *params, const void *queries,
                            size_t query_bytes, size_t n, float *expected, spann_failure *failure) {
    spann_context *c = &s->context;
    int status = spann_context_start(c, params, failure);
    if (status == SPANN_OK) status = spann_searcher_queries(s, 1);
    for (size_t i = 0; i < n && status == SPANN_OK; i++) {
        spann_query *q = &s->queries[0];
        spann_query_stats stats;
        float *out = expected + i * params->max_postings;
        size_t known = 0;
        if ((status = spann_go_on(c))) break;
        if ((status = spann_query_begin(c, q, (const char *)queries + i * query_bytes, &stats))) break;
        for (size_t v = 0; v < q->visit_count; v++) out[known++] = q->visits[v].expected;
        while (known < params->max_postings) out[known++] = INFINITY;
    }
    return status;
}

int spann_searcher_nearest(spann_searcher *s, const spann_search_params *params, const void *queries,
                           size_t query_bytes, size_t n, uint32_t *centroids, spann_failure *failure) {
    spann_context *c = &s->context;
    int status = spann_context_start(c, params, failure);
    if (status == SPANN_OK) status = spann_searcher_queries(s, 1);
    for (size_t i = 0; i < n && status == SPANN_OK; i++) {
        spann_query_stats stats;
        if ((status = spann_go_on(c))) break;
        status = spann_query_begin(c, &s->queries[0], (const char *)queries + i * query_bytes, &stats);
        if (status == SPANN_OK) centroids[i] = (uint32_t)c->navigator.found.items[0].row;
    }
    return status;
}
