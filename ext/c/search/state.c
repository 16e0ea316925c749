#include "search/state.h"

#include <stdlib.h>

/* What a query that has ended keeps for the next, at most. 1,000 neighbours take less. */
#define KEPT_BYTES (1 << 20)

int spann_fail(spann_context *c, int status, int exact, uint64_t where, int system_error) {
    *c->failure = (spann_failure){status, system_error, exact, where};
    return status;
}

int spann_no_memory(spann_context *c) { return spann_fail(c, SPANN_NO_MEMORY, 0, 0, 0); }

int spann_context_init(spann_context *c, const spann_index *index) {
    *c = (spann_context){.index = index, .row_bytes = spann_row_bytes(index)};
    if (index->kind->open(c)) return -1;
    return spann_navigator_init(&c->navigator, index);
}

void spann_context_free(spann_context *c) {
    spann_navigator_free(&c->navigator);
    free(c->scores);
    free(c->dots);
    free(c->work);
    free(c->moved);
    free(c->rotated);
    free(c->far_buffer);
    free(c->order);
    free(c->visits);
}

int spann_context_start(spann_context *c, const spann_search_params *params, spann_failure *failure) {
    const spann_index *index = c->index;
    *failure = (spann_failure){0};
    c->failure = failure;
    c->params = params;
    c->live = params->live;
    c->live_length = c->live ? c->live->length : index->posting_length;
    c->work_of = NULL;
    c->posting_ids = NULL;
    c->kernels = spann_kernels_get();
    c->codes = spann_code_kernels_get();
    if (c->kernels == NULL || c->codes == NULL) return spann_fail(c, SPANN_NO_SIMD, 0, 0, 0);
    c->score = c->kernels->score[index->metric][index->dtype];
    c->centroid_score = c->kernels->score[index->centroid_metric][index->centroid_dtype];
    c->centroid_gather = c->kernels->gather[index->centroid_metric][index->centroid_dtype];
    return SPANN_OK;
}

int spann_query_init(spann_query *q, const spann_context *c) {
    *q = (spann_query){0};
    return c->index->kind->open_query(c, q);
}

void spann_query_free(spann_query *q) {
    free(q->code_buffer);
    free(q->visits);
    spann_selection_free(&q->candidates);
    free(q->ids);
    free(q->ranked);
    free(q->chosen);
    free(q->spans);
    free(q->fetches);
    spann_topk_free(&q->hits);
}

int spann_query_trim(spann_query *q) {
    size_t candidates = (q->candidates.capacity + q->chosen_capacity) * sizeof(spann_candidate);
    size_t pages = q->span_capacity * sizeof *q->spans + q->fetch_capacity * sizeof *q->fetches;
    size_t hits = q->hits.k * sizeof *q->hits.heap + q->hits.seen_capacity * sizeof *q->hits.seen;
    size_t visits = q->visit_capacity * sizeof *q->visits + q->ranked_capacity * sizeof *q->ranked;
    if (candidates + pages + hits + visits + q->ids_capacity <= KEPT_BYTES) return 0;
    void *code_buffer = q->code_buffer;
    q->code_buffer = NULL;
    spann_query_free(q);
    *q = (spann_query){.code_buffer = code_buffer};
    return 1;
}
