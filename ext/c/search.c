#include "search.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crc32c.h"
#include "topk.h"

/* Past this many candidates a sorted list of all centroids is cheaper than a beam kept sorted by insertion. */
#define LONGEST_BEAM 4096

typedef struct {
    float distance;
    uint32_t centroid;
} candidate;

typedef struct {
    const spann_index *index;
    const spann_search_params *params;
    spann_score_fn score;
    spann_gather_fn gather;
    const void *query;
    double query_norm;
    uint64_t *visited;       /* bit per centroid: navigation has its distance */
    uint64_t *taken;         /* bit per centroid: its postings are read */
    uint32_t cut_centroid, cut_posting; /* the chain in whose middle the budget ended, and where to go on */
    candidate *near;         /* navigation's best, ascending */
    size_t near_count, near_capacity;
    candidate *frontier;     /* min-heap of candidates to expand */
    size_t frontier_count, frontier_capacity;
    uint32_t *batch;         /* neighbours not yet visited */
    float *scores;
    size_t batch_capacity, scores_capacity;
    unsigned char *buffer;   /* page-aligned */
    size_t buffer_size;
    spann_topk hits;
    spann_query_stats *stats;
    spann_failure *failure;
} searcher;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int fail(searcher *s, int status, uint32_t posting, int system_error) {
    *s->failure = (spann_failure){status, system_error, posting};
    return status;
}

/* Room for `needed` elements of `size` bytes; contents are kept. */
static int reserve(void **array, size_t *capacity, size_t needed, size_t size) {
    if (needed <= *capacity) return 0;
    size_t larger = *capacity * 2 > needed ? *capacity * 2 : needed;
    void *moved = realloc(*array, larger * size);
    if (moved == NULL) return -1;
    *array = moved;
    *capacity = larger;
    return 0;
}

static uint64_t read_id(const void *ids, uint32_t id_bytes, size_t i) {
    if (id_bytes == 4) {
        uint32_t id;
        memcpy(&id, (const char *)ids + i * 4, 4);
        return id;
    }
    uint64_t id;
    memcpy(&id, (const char *)ids + i * 8, 8);
    return id;
}

/* ---- navigate: best-first search of the HNSW graph (Malkov and Yashunin 2018, algorithm 2) ---- */

static int nearer(candidate a, candidate b) {
    return a.distance < b.distance || (a.distance == b.distance && a.centroid < b.centroid);
}

static int push_frontier(searcher *s, candidate item) {
    if (reserve((void **)&s->frontier, &s->frontier_capacity, s->frontier_count + 1, sizeof(candidate))) return -1;
    size_t i = s->frontier_count++;
    while (i && nearer(item, s->frontier[(i - 1) / 2])) {
        s->frontier[i] = s->frontier[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->frontier[i] = item;
    return 0;
}

static candidate pop_frontier(searcher *s) {
    candidate top = s->frontier[0], item = s->frontier[--s->frontier_count];
    size_t i = 0, n = s->frontier_count;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && nearer(s->frontier[child + 1], s->frontier[child])) child++;
        if (!nearer(s->frontier[child], item)) break;
        s->frontier[i] = s->frontier[child];
        i = child;
    }
    if (n) s->frontier[i] = item;
    return top;
}

/* Keeps `near` sorted and at most `limit` long. An insertion sort: insertions cluster near the end and limit is small. */
static int offer_near(searcher *s, candidate item, size_t limit) {
    if (s->near_count == limit) {
        if (!nearer(item, s->near[limit - 1])) return 0;
        s->near_count--;
    }
    size_t low = 0, high = s->near_count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (nearer(s->near[mid], item)) low = mid + 1;
        else high = mid;
    }
    memmove(s->near + low + 1, s->near + low, (s->near_count - low) * sizeof(candidate));
    s->near[low] = item;
    s->near_count++;
    return 1;
}

/* Where `node` lies at `level`; every neighbour named at a level is a node of it (validated at open). */
static size_t position_of(const spann_level *level, uint32_t node) {
    if (level->nodes == NULL) return node;
    size_t low = 0, high = level->size;
    while (low + 1 < high) {
        size_t mid = (low + high) / 2;
        if (level->nodes[mid] <= node) low = mid;
        else high = mid;
    }
    return low;
}

static int score_centroids(searcher *s, const uint32_t *which, size_t n) {
    if (reserve((void **)&s->scores, &s->scores_capacity, n, sizeof(float))) return -1;
    s->gather(s->query, s->index->centroid_vectors, which, n, s->index->dim, s->scores);
    s->stats->centroid_distances += (uint32_t)n;
    return 0;
}

/* Every centroid is a vector of the collection (a representative), so what navigation has scored is a hit already. */
static int collect_centroids(searcher *s, const uint32_t *which, size_t n) {
    const spann_index *index = s->index;
    for (size_t i = 0; i < n; i++)
        if (spann_topk_push(&s->hits, s->scores[i], read_id(index->centroid_ids, index->id_bytes, which[i]))) return -1;
    return 0;
}

static int navigate(searcher *s, size_t limit) {
    const spann_index *index = s->index;
    if (reserve((void **)&s->near, &s->near_capacity, limit + 1, sizeof(candidate))) return -1;
    s->near_count = s->frontier_count = 0;
    memset(s->visited, 0, (index->centroids + 63) / 64 * 8);

    uint32_t entry = index->entry;
    if (score_centroids(s, &entry, 1) || collect_centroids(s, &entry, 1)) return -1;
    candidate best = {s->scores[0], entry};
    for (uint32_t l = index->levels - 1; l > 0; l--) { /* greedy descent */
        const spann_level *level = &index->graph[l];
        for (int moved = 1; moved;) {
            moved = 0;
            size_t at = position_of(level, best.centroid);
            const uint32_t *neighbors = level->neighbors + level->offsets[at];
            size_t n = level->offsets[at + 1] - level->offsets[at];
            if (score_centroids(s, neighbors, n) || collect_centroids(s, neighbors, n)) return -1;
            for (size_t i = 0; i < n; i++) {
                candidate c = {s->scores[i], neighbors[i]};
                if (nearer(c, best)) {
                    best = c;
                    moved = 1;
                }
            }
        }
    }

    const spann_level *base = &index->graph[0];
    s->visited[best.centroid / 64] |= 1ull << best.centroid % 64;
    offer_near(s, best, limit);
    if (push_frontier(s, best)) return -1;
    while (s->frontier_count) {
        candidate c = pop_frontier(s);
        if (s->near_count == limit && nearer(s->near[limit - 1], c)) break;
        const uint32_t *neighbors = base->neighbors + base->offsets[c.centroid];
        size_t n = base->offsets[c.centroid + 1] - base->offsets[c.centroid], fresh = 0;
        if (reserve((void **)&s->batch, &s->batch_capacity, n, sizeof(uint32_t))) return -1;
        for (size_t i = 0; i < n; i++) {
            uint32_t node = neighbors[i];
            uint64_t bit = 1ull << node % 64;
            if (s->visited[node / 64] & bit) continue;
            s->visited[node / 64] |= bit;
            s->batch[fresh++] = node;
        }
        if (score_centroids(s, s->batch, fresh) || collect_centroids(s, s->batch, fresh)) return -1;
        for (size_t i = 0; i < fresh; i++) {
            candidate found = {s->scores[i], s->batch[i]};
            if (offer_near(s, found, limit) && push_frontier(s, found)) return -1;
        }
    }
    return 0;
}

static int by_distance(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return nearer(*x, *y) ? -1 : nearer(*y, *x);
}

/* All centroids, sorted: what navigation turns into when a query asks for more than a beam should carry. */
static int rank_all(searcher *s) {
    const spann_index *index = s->index;
    size_t width = index->dim * spann_dtype_size(index->dtype);
    if (reserve((void **)&s->near, &s->near_capacity, index->centroids, sizeof(candidate))) return -1;
    if (reserve((void **)&s->scores, &s->scores_capacity, 256, sizeof(float))) return -1;
    for (size_t start = 0; start < index->centroids; start += 256) {
        size_t n = index->centroids - start < 256 ? index->centroids - start : 256;
        s->score(s->query, (const char *)index->centroid_vectors + start * width, n, index->dim, s->scores);
        for (size_t i = 0; i < n; i++) {
            s->near[start + i] = (candidate){s->scores[i], (uint32_t)(start + i)};
            if (spann_topk_push(&s->hits, s->scores[i], read_id(index->centroid_ids, index->id_bytes, start + i))) return -1;
        }
    }
    s->stats->centroid_distances += (uint32_t)index->centroids;
    s->near_count = index->centroids;
    qsort(s->near, s->near_count, sizeof(candidate), by_distance);
    return 0;
}

/* ---- prune ---- */

/* Squared distance in the space the index was clustered in (docs/DESIGN.md, Metrics), where ratios have a meaning. */
static double geometric_sqdist(const searcher *s, float score) {
    switch (s->index->metric) {
    case SPANN_L2:
        return score;
    case SPANN_COS:
        return fmax(0, 2 + 2 * score / s->query_norm);
    default: { /* the query scaled to the largest norm R: |q|^2 + R^2 - 2 q.v */
        double r = s->index->max_norm;
        return s->query_norm > 0 ? fmax(0, 2 * r * r + 2 * r * score / s->query_norm) : 2 * r * r;
    }
    }
}

/* ---- fetch and score one posting ---- */

static int read_posting(searcher *s, uint32_t posting, size_t bytes, const unsigned char **content) {
    const spann_index *index = s->index;
    uint64_t page = index->posting_page[posting];
    size_t skip = index->posting_offset[posting];
    int file = index->files[page / index->pages_per_shard];
    off_t at = (off_t)(page % index->pages_per_shard * SPANN_PAGE);
    size_t pages = (skip + bytes + SPANN_PAGE - 1) / SPANN_PAGE;
    size_t wanted = bytes, offset_in_buffer = 0;
    if (s->params->direct) {
        wanted = pages * SPANN_PAGE;
        offset_in_buffer = skip;
    } else {
        at += (off_t)skip;
    }
    if (wanted > s->buffer_size) {
        size_t size = (wanted + SPANN_PAGE - 1) / SPANN_PAGE * SPANN_PAGE * 2;
        free(s->buffer);
        s->buffer_size = 0;
        s->buffer = aligned_alloc(SPANN_PAGE, size);
        if (s->buffer == NULL) return fail(s, SPANN_NO_MEMORY, posting, 0);
        s->buffer_size = size;
    }
    for (size_t done = 0; done < wanted;) {
        ssize_t got = pread(file, s->buffer + done, wanted - done, at + (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail(s, SPANN_READ_FAILED, posting, errno);
        if (got == 0) return fail(s, SPANN_READ_SHORT, posting, 0);
        done += (size_t)got;
    }
    s->stats->postings_read++;
    s->stats->pages_read += (uint32_t)pages;
    s->stats->bytes_read += wanted;
    *content = s->buffer + offset_in_buffer;
    return SPANN_OK;
}

static int scan_posting(searcher *s, uint32_t posting) {
    const spann_index *index = s->index;
    size_t n = index->posting_length[posting];
    if (n == 0) return SPANN_OK;
    size_t bytes = n * (index->id_bytes + index->dim * spann_dtype_size(index->dtype));
    const unsigned char *content;
    uint64_t start = now_ns();
    int status = read_posting(s, posting, bytes, &content);
    uint64_t fetched = now_ns();
    s->stats->read_ns += fetched - start;
    if (status) return status;
    if (s->params->check && spann_crc32c(0, content, bytes) != index->posting_crc[posting])
        return fail(s, SPANN_DAMAGED, posting, 0);
    if (reserve((void **)&s->scores, &s->scores_capacity, n, sizeof(float))) return fail(s, SPANN_NO_MEMORY, posting, 0);
    s->score(s->query, content + n * index->id_bytes, n, index->dim, s->scores);
    s->stats->distances += (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        if (spann_topk_push(&s->hits, s->scores[i], read_id(content, index->id_bytes, i)))
            return fail(s, SPANN_NO_MEMORY, posting, 0);
    s->stats->score_ns += now_ns() - fetched;
    return SPANN_OK;
}

/* Reads the postings of the centroids in `near`, nearest first, up to `budget` postings in all and `bound` in distance. */
static int read_near(searcher *s, uint64_t budget, double bound) {
    const spann_index *index = s->index;
    for (size_t i = 0; i < s->near_count && s->stats->postings_read < budget; i++) {
        uint32_t centroid = s->near[i].centroid;
        uint64_t bit = 1ull << centroid % 64;
        if (geometric_sqdist(s, s->near[i].distance) > bound) break;
        if (s->taken[centroid / 64] & bit) continue;
        uint32_t first = index->chain ? index->chain[centroid] : centroid;
        uint32_t end = index->chain ? index->chain[centroid + 1] : centroid + 1;
        if (s->cut_centroid == centroid) first = s->cut_posting;
        s->cut_centroid = UINT32_MAX;
        for (; first < end && s->stats->postings_read < budget; first++) {
            int status = scan_posting(s, first);
            if (status) return status;
        }
        if (first < end) { /* the budget ended inside a chain */
            s->cut_centroid = centroid;
            s->cut_posting = first;
        } else {
            s->taken[centroid / 64] |= bit;
        }
    }
    return SPANN_OK;
}

static double vector_norm(const searcher *s) {
    double sum = 0;
    for (size_t j = 0; j < s->index->dim; j++) {
        double x;
        switch (s->index->dtype) {
        case SPANN_U8:
            x = ((const uint8_t *)s->query)[j];
            break;
        case SPANN_I8:
            x = ((const int8_t *)s->query)[j];
            break;
        default:
            x = ((const float *)s->query)[j];
        }
        sum += x * x;
    }
    return sqrt(sum);
}

static float true_distance(const searcher *s, float score) {
    switch (s->index->metric) {
    case SPANN_L2:
        return sqrtf(score);
    case SPANN_COS: {
        double cosine = -(double)score / s->query_norm;
        return (float)(1 - fmin(1, fmax(-1, cosine)));
    }
    default:
        return -score;
    }
}

static int search_one(searcher *s, int64_t *ids, float *distances) {
    const spann_index *index = s->index;
    const spann_search_params *p = s->params;
    uint64_t start = now_ns();
    memset(s->stats, 0, sizeof *s->stats);
    memset(s->taken, 0, (index->centroids + 63) / 64 * 8);
    s->cut_centroid = UINT32_MAX;
    spann_topk_clear(&s->hits);
    s->query_norm = index->metric == SPANN_L2 ? 0 : vector_norm(s);

    size_t limit = p->navigate > p->max_postings ? p->navigate : p->max_postings;
    size_t wanted = p->k < index->count ? p->k : index->count;
    uint64_t budget = p->max_postings;
    double reach = 1 + (double)p->epsilon2;
    /* One round, unless the postings that a query may read hold fewer than k vectors: k results are owed whenever the
     * index has them, so beam and budget grow, unpruned, until they are there or everything is read. */
    for (int round = 0;; round++) {
        uint64_t began = now_ns();
        if (limit >= index->centroids || limit > LONGEST_BEAM ? rank_all(s) : navigate(s, limit))
            return fail(s, SPANN_NO_MEMORY, 0, 0);
        s->stats->navigate_ns += now_ns() - began;
        double bound = round == 0 ? geometric_sqdist(s, s->near[0].distance) * reach * reach : INFINITY;
        int status = read_near(s, budget, bound);
        if (status) return status;
        int everything = s->near_count == index->centroids;
        if (s->hits.size >= wanted || (everything && budget == UINT64_MAX)) break;
        budget = everything ? UINT64_MAX : budget * 4;
        limit *= 4;
    }

    spann_topk_sort(&s->hits);
    for (size_t i = 0; i < p->k; i++) {
        int hit = i < s->hits.size;
        ids[i] = hit ? (int64_t)s->hits.heap[i].id : -1;
        distances[i] = hit ? true_distance(s, s->hits.heap[i].distance) : index->metric == SPANN_IP ? -INFINITY : INFINITY;
    }
    s->stats->total_ns = now_ns() - start;
    return SPANN_OK;
}

int spann_search(const spann_index *index, const spann_kernels *kernels, const spann_search_params *params,
                 const void *queries, size_t query_bytes, size_t n, int64_t *ids, float *distances,
                 spann_query_stats *stats, spann_failure *failure) {
    size_t words = (index->centroids + 63) / 64;
    size_t k = params->k < index->count ? params->k : index->count;
    searcher s = {
        .index = index,
        .params = params,
        .score = kernels->score[index->metric][index->dtype],
        .gather = kernels->gather[index->metric][index->dtype],
        .visited = malloc(words * 8),
        .taken = malloc(words * 8),
        .failure = failure,
        .stats = stats,
    };
    int status = SPANN_OK;
    if (spann_topk_init(&s.hits, k) || s.visited == NULL || s.taken == NULL) status = fail(&s, SPANN_NO_MEMORY, 0, 0);
    for (size_t i = 0; i < n && status == SPANN_OK; i++) {
        s.query = (const char *)queries + i * query_bytes;
        s.stats = stats + i;
        status = search_one(&s, ids + i * params->k, distances + i * params->k);
    }
    spann_topk_free(&s.hits);
    free(s.visited);
    free(s.taken);
    free(s.near);
    free(s.frontier);
    free(s.batch);
    free(s.scores);
    free(s.buffer);
    return status;
}
