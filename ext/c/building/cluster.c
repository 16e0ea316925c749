#include "building/cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE 16
#define ROWS_PER_BLOCK 256

static uint64_t next_random(uint64_t *state) { /* splitmix64 (Steele, Lea and Flood 2014) */
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Multiply-shift into [0, bound): the bias is below bound / 2^64. */
static size_t random_below(uint64_t *state, size_t bound) {
    return (size_t)(((unsigned __int128)next_random(state) * bound) >> 64);
}

static float square_norm(const float *v, size_t dim) {
    float sum = 0;
    for (size_t j = 0; j < dim; j++) sum += v[j] * v[j];
    return sum;
}

/* ---- one split: balanced k-means ---- */

typedef struct {
    const spann_kernels *kernels;
    size_t dim, k, tiles;
    float *centres;  /* (k, dim) */
    float *tile;     /* (tiles, dim, 16): centres, column-interleaved */
    float *offset;   /* (tiles * 16): |c|^2 + weight; infinite for the columns that pad the last tile */
    float *weights;  /* (k) the size penalty, in sqdist */
    float *dots;     /* (ROWS_PER_BLOCK, 16) */
    float *costs;    /* (ROWS_PER_BLOCK, tiles * 16): |c|^2 + weight - 2 x.c, which is sqdist + weight - |x|^2; with |x|^2
                        where they are exact */
    double *sums;    /* (k, dim) */
    double *spread;  /* (k) sum of sqdist to the centre */
    size_t *counts;  /* (k) */
    int exact;       /* costs are distances computed one by one, because products would cancel */
} split;

/* Rows cancel if their squared distance from the centre is below this share of their squared length. Then |c|^2 - 2 x.c
 * in float keeps less than 13 bits of the distance. Once an eighth of the rows cancel, all distances are computed one
 * by one (docs/decisions/0024). */
#define CANCELS 0x1p-10f

static void split_free(split *s) {
    free(s->tile);
    free(s->offset);
    free(s->dots);
    free(s->costs);
    free(s->sums);
    free(s->spread);
    free(s->counts);
}

static int split_init(split *s, const spann_kernels *kernels, size_t dim, size_t k, float *centres, float *weights) {
    memset(s, 0, sizeof *s);
    s->kernels = kernels;
    s->dim = dim;
    s->k = k;
    s->tiles = (k + TILE - 1) / TILE;
    s->centres = centres;
    s->weights = weights;
    s->tile = calloc(s->tiles * dim * TILE, sizeof(float));
    s->offset = malloc(s->tiles * TILE * sizeof(float));
    s->dots = malloc(ROWS_PER_BLOCK * TILE * sizeof(float));
    s->costs = malloc(ROWS_PER_BLOCK * s->tiles * TILE * sizeof(float));
    s->sums = malloc(k * dim * sizeof(double));
    s->spread = malloc(k * sizeof(double));
    s->counts = malloc(k * sizeof(size_t));
    if (s->tile && s->offset && s->dots && s->costs && s->sums && s->spread && s->counts) return 0;
    split_free(s);
    return -1;
}

static void pack_centres(split *s) {
    for (size_t c = 0; c < s->tiles * TILE; c++) {
        if (c >= s->k) {
            s->offset[c] = INFINITY;
            continue;
        }
        const float *centre = s->centres + c * s->dim;
        float *column = s->tile + (c / TILE) * s->dim * TILE + c % TILE;
        for (size_t j = 0; j < s->dim; j++) column[j * TILE] = centre[j];
        s->offset[c] = square_norm(centre, s->dim) + s->weights[c];
    }
}

static void block_costs(split *s, const float *x, size_t n) {
    size_t width = s->tiles * TILE;
    for (size_t i = 0; s->exact && i < n; i++) {
        float *costs = s->costs + i * width;
        s->kernels->score[SPANN_L2][SPANN_F32](x + i * s->dim, s->centres, s->k, s->dim, costs);
        for (size_t c = 0; c < width; c++) costs[c] = c < s->k ? costs[c] + s->weights[c] : INFINITY;
    }
    if (s->exact) return;
    for (size_t t = 0; t < s->tiles; t++) {
        s->kernels->dot_tile(x, s->tile + t * s->dim * TILE, n, s->dim, s->dots);
        for (size_t i = 0; i < n; i++)
            for (size_t c = 0; c < TILE; c++)
                s->costs[i * width + t * TILE + c] = s->offset[t * TILE + c] - 2.0f * s->dots[i * TILE + c];
    }
}

static size_t argmin(const float *v, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (v[i] < v[best]) best = i;
    return best;
}

/* Weights rise for clusters above the even size and fall for those below. This is dual ascent on the size constraints:
 * the cells become a power diagram with nearly even sizes. SPANN's lambda * count is one step of it
 * (docs/decisions/0004). */
static void train(split *s, const float *x, size_t n, int iterations, float balance, uint64_t *random) {
    size_t dim = s->dim, k = s->k, width = s->tiles * TILE;
    size_t *picked = s->counts; /* free until the first iteration */
    for (size_t c = 0; c < k; c++) { /* Floyd's sample of k distinct rows */
        size_t top = n - k + c, row = random_below(random, top + 1);
        for (size_t p = 0; p < c; p++)
            if (picked[p] == row) {
                row = top;
                break;
            }
        picked[c] = row;
        memcpy(s->centres + c * dim, x + row * dim, dim * sizeof(float));
        s->weights[c] = 0;
    }
    for (int iteration = 0; iteration < iterations; iteration++) {
        pack_centres(s);
        memset(s->sums, 0, k * dim * sizeof(double));
        memset(s->counts, 0, k * sizeof(size_t));
        memset(s->spread, 0, k * sizeof(double));
        float worst_cost = -INFINITY;
        size_t worst = 0, close = 0;
        for (size_t start = 0; start < n; start += ROWS_PER_BLOCK) {
            size_t rows = n - start < ROWS_PER_BLOCK ? n - start : ROWS_PER_BLOCK;
            block_costs(s, x + start * dim, rows);
            for (size_t i = 0; i < rows; i++) {
                size_t c = argmin(s->costs + i * width, k);
                const float *row = x + (start + i) * dim;
                double *sum = s->sums + c * dim;
                for (size_t j = 0; j < dim; j++) sum[j] += row[j];
                s->counts[c]++;
                float cost = s->costs[i * width + c] - s->weights[c], square = s->exact ? 0 : square_norm(row, dim);
                cost += square;
                close += cost < CANCELS * square;
                s->spread[c] += fmaxf(cost, 0);
                if (cost > worst_cost) {
                    worst_cost = cost;
                    worst = start + i;
                }
            }
        }
        s->exact |= close > n / 8;
        for (size_t c = 0; c < k; c++) {
            float *centre = s->centres + c * dim;
            if (s->counts[c] == 0) { /* an empty cluster starts again at the row that fits worst */
                memcpy(centre, x + worst * dim, dim * sizeof(float));
                s->weights[c] = 0;
                continue;
            }
            for (size_t j = 0; j < dim; j++) centre[j] = (float)(s->sums[c * dim + j] / (double)s->counts[c]);
            double load = (double)s->counts[c] * (double)k / (double)n - 1.0;
            /* In units of the cluster's own radius. One unit for all would overshoot where density varies. */
            s->weights[c] += (float)(balance * fmin(load, 1.0) * s->spread[c] / (double)s->counts[c]);
        }
    }
}

int spann_balanced_kmeans(const spann_kernels *kernels, const float *x, size_t n, size_t dim, size_t k, int iterations,
                          float balance, uint64_t seed, float *centres, float *weights) {
    split s;
    if (split_init(&s, kernels, dim, k, centres, weights)) return -1;
    uint64_t random = seed;
    train(&s, x, n, iterations, balance, &random);
    split_free(&s);
    return 0;
}

/* ---- the tree ---- */

typedef struct {
    float cost;
    uint32_t row;
} ranked;

static int by_cost(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->cost != y->cost) return x->cost < y->cost ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

typedef struct {
    const spann_kernels *kernels;
    const spann_cluster_params *params;
    float *x, *moved_x, *costs;
    int64_t *rows, *moved_rows;
    uint32_t *child;
    ranked *rank;
    size_t dim;
    uint64_t random;
    uint32_t *leaf_end, *leaf_rep, *leaf_group;
    size_t leaves, groups;
} tree;

static void make_leaf(tree *t, size_t start, size_t n) {
    size_t dim = t->dim;
    float *mean = t->moved_x;
    for (size_t j = 0; j < dim; j++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += t->x[(start + i) * dim + j];
        mean[j] = (float)(sum / (double)n);
    }
    float *sqdist = t->costs;
    t->kernels->score[SPANN_L2][SPANN_F32](mean, t->x + start * dim, n, dim, sqdist);
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (sqdist[i] < sqdist[best] || (sqdist[i] == sqdist[best] && t->rows[start + i] < t->rows[start + best])) best = i;
    t->leaf_end[t->leaves] = (uint32_t)(start + n);
    t->leaf_rep[t->leaves] = (uint32_t)(start + best);
    t->leaf_group[t->leaves] = (uint32_t)(t->groups - 1);
    t->leaves++;
}

static int all_identical(const tree *t, size_t start, size_t n) {
    const float *first = t->x + start * t->dim;
    for (size_t i = 1; i < n; i++)
        if (memcmp(first, first + i * t->dim, t->dim * sizeof(float)) != 0) return 0;
    return 1;
}

/* Gives every row to its cheapest child that is not full, the best fits first, and makes children contiguous. */
static void distribute(tree *t, split *s, size_t start, size_t n, size_t *sizes) {
    size_t dim = t->dim, k = s->k, width = s->tiles * TILE;
    size_t capacity = (size_t)ceil(fmax(1, t->params->slack) * (double)n / (double)k);
    if (capacity >= n) capacity = n - 1; /* a split must split, even if rounding makes all costs equal */
    pack_centres(s);
    for (size_t b = 0; b < n; b += ROWS_PER_BLOCK) {
        size_t count = n - b < ROWS_PER_BLOCK ? n - b : ROWS_PER_BLOCK;
        block_costs(s, t->x + (start + b) * dim, count);
        for (size_t i = 0; i < count; i++) {
            memcpy(t->costs + (b + i) * TILE, s->costs + i * width, TILE * sizeof(float));
            float own = s->exact ? 0 : square_norm(t->x + (start + b + i) * dim, dim);
            t->rank[b + i] = (ranked){own + s->costs[i * width + argmin(s->costs + i * width, k)], (uint32_t)(b + i)};
        }
    }
    qsort(t->rank, n, sizeof(ranked), by_cost);
    memset(sizes, 0, k * sizeof(size_t));
    for (size_t r = 0; r < n; r++) {
        uint32_t row = t->rank[r].row;
        float *cost = t->costs + (size_t)row * TILE;
        size_t c = argmin(cost, k);
        while (sizes[c] >= capacity) { /* k * capacity >= n: one has room */
            cost[c] = INFINITY;
            c = argmin(cost, k);
        }
        t->child[row] = (uint32_t)c;
        sizes[c]++;
    }
    size_t next[TILE], sum = 0;
    for (size_t c = 0; c < k; c++) {
        next[c] = sum;
        sum += sizes[c];
    }
    for (size_t i = 0; i < n; i++) {
        size_t to = next[t->child[i]]++;
        memcpy(t->moved_x + to * dim, t->x + (start + i) * dim, dim * sizeof(float));
        t->moved_rows[to] = t->rows[start + i];
    }
    memcpy(t->x + start * dim, t->moved_x, n * dim * sizeof(float));
    memcpy(t->rows + start, t->moved_rows, n * sizeof(int64_t));
}

static int grow(tree *t, size_t start, size_t n, size_t leaves, int in_group) {
    if (!in_group && n <= t->params->group_rows) {
        t->groups++;
        in_group = 1;
    }
    if (leaves <= 1 || all_identical(t, start, n)) {
        if (!in_group) t->groups++;
        make_leaf(t, start, n);
        return 0;
    }
    /* Equal fan-out on all levels: 2500 leaves are 14 * 14 * 13, not 16 * 16 * 10. */
    int depth = (int)ceil(log((double)leaves) / log((double)TILE) - 1e-9);
    size_t k = depth <= 1 ? leaves : (size_t)ceil(pow((double)leaves, 1.0 / depth) - 1e-9);
    if (k > TILE) k = TILE;

    float weights[TILE], *centres = malloc(k * t->dim * sizeof(float));
    size_t sizes[TILE];
    split s;
    if (centres == NULL || split_init(&s, t->kernels, t->dim, k, centres, weights)) {
        free(centres);
        return -1;
    }
    train(&s, t->x + start * t->dim, n, t->params->iterations, t->params->balance, &t->random);
    distribute(t, &s, start, n, sizes);
    split_free(&s);
    free(centres);

    size_t children = 0, rows_left = n, leaves_left = leaves;
    for (size_t c = 0; c < k; c++) children += sizes[c] > 0;
    for (size_t c = 0; c < k; c++) {
        if (sizes[c] == 0) continue;
        children--;
        /* In proportion to rows, out of the leaves that remain, so that shares add up. Each later child keeps at least
         * one. */
        size_t share = (size_t)llround((double)leaves_left * (double)sizes[c] / (double)rows_left);
        if (share > leaves_left - children) share = leaves_left - children;
        if (share > sizes[c]) share = sizes[c];
        if (share < 1) share = 1;
        if (grow(t, start, sizes[c], share, in_group)) return -1;
        start += sizes[c];
        rows_left -= sizes[c];
        leaves_left -= share;
    }
    return 0;
}

int64_t spann_cluster(const spann_kernels *kernels, float *x, int64_t *rows, size_t n, size_t dim,
                      const spann_cluster_params *params, uint32_t *leaf_end, uint32_t *leaf_rep, uint32_t *leaf_group) {
    tree t = {
        .kernels = kernels,
        .params = params,
        .x = x,
        .rows = rows,
        .dim = dim,
        .random = params->seed,
        .leaf_end = leaf_end,
        .leaf_rep = leaf_rep,
        .leaf_group = leaf_group,
        .moved_x = malloc(n * dim * sizeof(float)),
        .moved_rows = malloc(n * sizeof(int64_t)),
        .costs = malloc(n * TILE * sizeof(float)),
        .child = malloc(n * sizeof(uint32_t)),
        .rank = malloc(n * sizeof(ranked)),
    };
    int64_t made = -1;
    if (t.moved_x && t.moved_rows && t.costs && t.child && t.rank && grow(&t, 0, n, params->leaves, 0) == 0)
        made = (int64_t)t.leaves;
    free(t.moved_x);
    free(t.moved_rows);
    free(t.costs);
    free(t.child);
    free(t.rank);
    return made;
}

/* ---- closure ---- */

static inline int before(ranked a, ranked b) { return a.cost < b.cost || (a.cost == b.cost && a.row < b.row); }

static void sift_down(ranked *heap, size_t n, size_t i, ranked item) {
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], item)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = item;
}

static ranked pop(ranked *heap, size_t n) {
    ranked top = heap[0];
    sift_down(heap, n - 1, 0, heap[n - 1]);
    return top;
}

#define SAMPLE_STEP 16

static inline float not_negative(float v) { return v > 0 ? v : 0; } /* fmaxf is a call */

/* A min-heap of candidates: at least the `near` smallest of m values, without those above `reach` times the least. A bar
 * guessed from every 16th value finds them. They are not sorted, because closure mostly stops before half of them
 * (docs/decisions/0031). */
static size_t gather_near(const float *sqdist, size_t m, size_t near, float reach, ranked *heap) {
    float least[TILE];
    size_t whole = m - m % TILE;
    for (size_t c = 0; c < TILE; c++) least[c] = INFINITY;
    for (size_t i = 0; i < whole; i += TILE)
        for (size_t c = 0; c < TILE; c++) least[c] = sqdist[i + c] < least[c] ? sqdist[i + c] : least[c];
    for (size_t i = whole; i < m; i++) least[0] = sqdist[i] < least[0] ? sqdist[i] : least[0];
    float limit = not_negative(least[argmin(least, TILE)]) * reach, bar = limit;
    size_t found = 0, samples = 0;
    if (m > 4 * near && m > 64 * SAMPLE_STEP) {
        size_t rank = near * 3 / 2 / SAMPLE_STEP + 4;
        for (size_t i = 0; i < m; i += SAMPLE_STEP)
            if (sqdist[i] <= limit) heap[samples++] = (ranked){not_negative(sqdist[i]), (uint32_t)i};
        if (samples > rank) {
            for (size_t i = samples / 2; i-- > 0;) sift_down(heap, samples, i, heap[i]);
            while (rank-- > 0) bar = pop(heap, samples--).cost;
        }
    }
    for (size_t i = 0; i < m; i++)
        if (sqdist[i] <= bar) heap[found++] = (ranked){not_negative(sqdist[i]), (uint32_t)i};
    if (found < near && bar < limit) { /* the sample misled */
        found = 0;
        for (size_t i = 0; i < m; i++)
            if (sqdist[i] <= limit) heap[found++] = (ranked){not_negative(sqdist[i]), (uint32_t)i};
    }
    for (size_t i = found / 2; i-- > 0;) sift_down(heap, found, i, heap[i]);
    return found;
}

int spann_closure(const spann_kernels *kernels, const float *sqdist, const float *centroids, size_t stride, size_t n,
                  size_t m, size_t dim, const spann_closure_params *params, uint32_t *chosen, float *chosen_sqdist,
                  uint32_t *counts) {
    ranked *heap = malloc(m * sizeof(ranked));
    if (heap == NULL) return -1;
    spann_score_fn score = kernels->score[SPANN_L2][SPANN_F32];
    for (size_t i = 0; i < n; i++) {
        size_t left = gather_near(sqdist + i * m, m, params->near, params->reach, heap), count = 0;
        uint32_t *out = chosen + i * params->replicas;
        float *out_sqdist = chosen_sqdist + i * params->replicas;
        for (size_t looked = 0; looked < params->near && left && count < params->replicas; looked++) {
            ranked next = pop(heap, left--);
            const float *candidate = centroids + (size_t)next.row * stride;
            int hidden = 0;
            for (size_t a = 0; a < count && !hidden; a++) {
                float between;
                score(centroids + (size_t)out[a] * stride, candidate, 1, dim, &between);
                hidden = params->rng * between <= next.cost;
            }
            if (hidden) continue;
            out[count] = next.row;
            out_sqdist[count] = next.cost;
            count++;
        }
        counts[i] = (uint32_t)count;
    }
    free(heap);
    return 0;
}
