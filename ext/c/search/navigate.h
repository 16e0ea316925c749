/* Finds the centroids nearest to a query, by best-first search of the navigation graph or by scanning all where that
 * is cheaper. */
#ifndef SPANN_NAVIGATE_H
#define SPANN_NAVIGATE_H

#include "search/candidates.h"
#include "search/index.h"
#include "search/sieve.h"

typedef struct {
    uint32_t *nodes;
    size_t size, capacity;
} spann_nodes;

typedef struct {
    uint64_t *visited;     /* bit per centroid: its distance is known */
    spann_selection found; /* ascending after spann_navigate; `row` is the centroid */
    uint64_t *beam;        /* ascending candidates of the graph search, expanded or not */
    size_t size, beam_capacity;
    spann_nodes batch[2]; /* neighbours not yet visited: in turn those to compare next, and those after them */
    float *scores;
    size_t scores_capacity;
    uint64_t *keys; /* of a batch, as they are in the beam */
    size_t keys_capacity;
} spann_navigator;

int spann_navigator_init(spann_navigator *n, const spann_index *index); /* 0, or -1 if memory ran out */
void spann_navigator_free(spann_navigator *n);

/* Leaves in `found` at least the `wanted` nearest centroids found with a candidate list of `beam` or longer. If both
 * numbers reach that of the centroids, all are found. `score` and `gather` are the kernels of the centroids, and
 * take `query`. Where centroids are vectors of the collection, all scored ones are offered to `sieve`; otherwise it
 * is NULL. 0, or -1 if memory ran out. */
int spann_navigate(spann_navigator *n, const spann_index *index, spann_score_fn score, spann_gather_fn gather,
                   const void *query, size_t wanted, size_t beam, spann_sieve *sieve, uint32_t *distances);

#endif
