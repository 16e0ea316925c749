/* What a posting holds decides how a search scores it. There are two kinds, each a table of functions behind which the
 * rest of the search knows nothing of it:
 *
 * - spann_exact_postings hold vectors. Their distances are final: each goes to `hits`.
 * - spann_coded_postings hold codes. Estimates go to `candidates`, and the best of these are re-ranked by their exact
 *   vectors. Only these postings can be pinned.
 *
 * An index has its kind from when it is opened. Functions that return an int return a status, unless said. */
#ifndef SPANN_KIND_H
#define SPANN_KIND_H

#include "search/index.h"
#include "search/request.h"

typedef struct spann_context spann_context; /* search/state.h */
typedef struct spann_query spann_query;
typedef struct spann_visit spann_visit;

struct spann_kind {
    /* Makes what a thread, and what a query, needs besides. 0, or -1 if memory ran out. */
    int (*open)(spann_context *c);
    int (*open_query)(const spann_context *c, spann_query *q);
    /* About how many bytes a query under way takes for that, and for its candidates. */
    size_t (*query_bytes)(const spann_index *index, const spann_search_params *params);

    /* Bytes of a posting on disk. */
    size_t (*posting_bytes)(const spann_context *c, uint32_t posting);

    /* Takes the query as given into the space of the centroids. Its norm is known. */
    void (*enter)(spann_context *c, spann_query *q);
    /* The query in the form in which kernels compare it with centroids. */
    const void *(*compared)(spann_context *c, const spann_query *q);

    /* Called when the postings to score are known: makes room for what they will offer. */
    int (*begin)(spann_context *c, spann_query *q);
    /* Scores the bytes of a posting, which SPANN_SLACK readable bytes follow. Keeps its ids, unless the batch does. */
    int (*score)(spann_context *c, spann_query *q, spann_visit *visit, const unsigned char *content);
    /* The same for a pinned posting. It prefetches for the visits after it, up to `end`, which are expected next. */
    int (*score_pinned)(spann_context *c, spann_query *q, const spann_visit *visit, const spann_visit *end);
    /* Scores a run of the tail of the visit's centroid. `prefetch_run` fetches a run that is expected soon. */
    int (*score_run)(spann_context *c, spann_query *q, const spann_visit *visit, const spann_tail_run *run);
    void (*prefetch_run)(const spann_context *c, const spann_tail_run *run);
    /* Posting-major: copies what all queries of the batch need of a posting once it is gone. *kept is NULL if nothing. */
    int (*keep)(spann_context *c, uint32_t posting, const unsigned char *content, unsigned char **kept);
    /* Posting-major: prefetches what scoring a posting reads of a query. */
    void (*prefetch_query)(const spann_index *index, const spann_query *q);

    /* Called when all visits are scored, and again when all fetches of a wave are: plans the next wave. No fetches mean
     * that none is needed. */
    int (*finish)(spann_context *c, spann_query *q);

    /* Vectors seen within the radius, in the postings scored. */
    double (*seen_within)(const spann_query *q);
    /* Whether a query that found fewer than k vectors may find others among the postings that it scored. */
    int (*is_crowded)(const spann_context *c, const spann_query *q);
    int re_ranks; /* whether `finish` can plan a wave */
};

extern const spann_kind spann_exact_postings, spann_coded_postings;

#endif
