/* The native search: navigate, prune, read, score, re-rank, collect. No Python inside, any number of threads outside.
 * This is what ext/_search.pyx calls. Functions that return an int return a status of request.h. */
#ifndef SPANN_SEARCH_H
#define SPANN_SEARCH_H

#include "search/index.h"
#include "search/request.h"

/* What a thread keeps from one batch to the next: its ring and its buffers. One thread uses it at a time, and always
 * the same one where the ring binds itself to a thread. NULL: no memory. */
typedef struct spann_searcher spann_searcher;
spann_searcher *spann_searcher_new(const spann_index *index);
void spann_searcher_free(spann_searcher *s);

/* Query-major search. Draws queries (rows of query_bytes) from *cursor until all n are drawn; several threads share
 * the cursor, which begins at 0. ids, distances (n, k): nearest first, then (-1, +inf), -inf under SPANN_IP.
 * Distances are in the metric's unit. stats (n). On failure `failure` says where, and the cursor moves to n so that
 * other threads end. */
int spann_searcher_run(spann_searcher *s, const spann_search_params *params, const void *queries, size_t query_bytes,
                       size_t n, int64_t *cursor, int64_t *ids, float *distances, spann_query_stats *stats,
                       spann_failure *failure);

/* For each of n queries: the expected squared distances that pruning compares, of the max_postings postings it would
 * look at, then +inf. expected (n, max_postings). epsilon2 must be finite, and large enough to prune none. */
int spann_searcher_expected(spann_searcher *s, const spann_search_params *params, const void *queries,
                            size_t query_bytes, size_t n, float *expected, spann_failure *failure);

/* For each of n queries: the number of the nearest centroid that navigation finds. */
int spann_searcher_nearest(spann_searcher *s, const spann_search_params *params, const void *queries,
                           size_t query_bytes, size_t n, uint32_t *centroids, spann_failure *failure);

/* Posting-major search of n queries: it reads each posting, and each page of the exact store, once for all of them. The
 * work is a row of phases. All threads take part in a phase before the next begins. Results equal those of
 * spann_searcher_run. A read counts for the first query that it serves. */
typedef struct spann_batch spann_batch;

/* Arrays as for spann_searcher_run. They and `params` live as long as the batch. NULL: no memory. */
spann_batch *spann_batch_new(const spann_index *index, const spann_search_params *params, const void *queries,
                             size_t query_bytes, size_t n, int64_t *ids, float *distances, spann_query_stats *stats,
                             unsigned char *unfinished);
void spann_batch_free(spann_batch *b);

/* Prepares the next phase, on one thread: 1, or 0 if there is none, or -1 if memory ran out. At the end
 * unfinished[i] is 1 for queries that found fewer than k vectors though there are more. spann_searcher_run must
 * search these. */
int spann_batch_next(spann_batch *b);

/* Takes part in the phase until all its work is taken. After a failure the batch can only be freed. */
int spann_batch_step(spann_batch *b, spann_searcher *s, spann_failure *failure);

/* About how many bytes a batch takes for each query. */
size_t spann_batch_query_bytes(const spann_index *index, const spann_search_params *params);

#endif
