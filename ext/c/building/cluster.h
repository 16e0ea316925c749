/* Hierarchical balanced clustering of a region of vectors, and closure assignment (SPANN, sections 3.2.1 and 3.2.2).
 *
 * Contract: sizes are trusted, values are finite, 1 <= leaves <= n, n < 2^32. All randomness comes from `seed`, and a
 * call uses one thread, so the result depends on the arguments only. */
#ifndef SPANN_CLUSTER_H
#define SPANN_CLUSTER_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/distance.h"

typedef struct {
    size_t leaves;      /* clusters to make */
    size_t group_rows;  /* a node of at most so many rows is one group; its leaves share candidates */
    int iterations;     /* Lloyd iterations of a split */
    float balance;      /* step of the size penalty, in mean squared radii for a cluster of twice the even size */
    double slack;       /* a child takes at most slack * (its even share) rows, >= 1 */
    uint64_t seed;
} spann_cluster_params;

/* Splits x (n, dim) into leaves. rows (n) are the caller's row numbers. x and rows are permuted together into tree
 * order. Output for each leaf: leaf_end, the end of its rows in tree order; leaf_rep, the position of the row nearest
 * to its mean; leaf_group, its group, from 0. Returns the number of leaves, or -1 if memory ran out. Identical vectors
 * give fewer leaves than asked for. */
int64_t spann_cluster(const spann_kernels *kernels, float *x, int64_t *rows, size_t n, size_t dim,
                      const spann_cluster_params *params, uint32_t *leaf_end, uint32_t *leaf_rep, uint32_t *leaf_group);

/* Balanced k-means of a sample: the split of spann_cluster at every node. k is at most 16 * tiles. Fills centres (k,
 * dim) and weights (k). The cell of a point minimises sqdist + weight. */
int spann_balanced_kmeans(const spann_kernels *kernels, const float *x, size_t n, size_t dim, size_t k, int iterations,
                          float balance, uint64_t seed, float *centres, float *weights);

typedef struct {
    size_t near;      /* candidates looked at: the nearest so many */
    size_t replicas;  /* postings a vector may be in, >= 1 */
    float reach;      /* (1 + eps1)^2: a candidate is at most so many times the nearest's sqdist away */
    float rng;        /* RNG rule: candidate c is dropped if an accepted a has rng * sqdist(a, c) <= sqdist(v, c) */
} spann_closure_params;

/* Closure of n rows over m candidate centroids. sqdist (n, m) is from row to candidate; rounding may make a zero
 * slightly negative. centroids (m, dim) have rows `stride` floats apart. Output: chosen (n, replicas) candidate
 * numbers, nearest first, their chosen_sqdist, and counts (n), at least 1. Returns 0, or -1 if memory ran out. */
int spann_closure(const spann_kernels *kernels, const float *sqdist, const float *centroids, size_t stride, size_t n,
                  size_t m, size_t dim, const spann_closure_params *params, uint32_t *chosen, float *chosen_sqdist,
                  uint32_t *counts);

#endif
