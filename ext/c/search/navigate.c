#include "search/navigate.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* A sorted beam longer than this costs more than scanning any number of centroids. */
#define LONGEST_BEAM 4096

/* The graph compares 4 to 7 centroids for each in the beam, at random places, and keeps the beam sorted. A scan streams
 * through all centroids, and through the caches of all other queries. On 8,000 centroids of SIFT the two cost the same
 * at a ratio of 20 where one thread has the machine for itself; on 418 of embeddings, at 8. A scan finds all, and a
 * graph does not where clusters lie apart: with 200,000 clustered vectors and 1,044 centroids, a beam of 64 left 7 % of
 * the neighbours to postings that it did not hold (docs/decisions/0008). */
#define SCAN_RATIO 20

#define BLOCK 256 /* centroids of a scan scored at a time */
_Static_assert(BLOCK % SPANN_BLOCK == 0, "spann_within reads whole blocks");

/* Nodes of the beam that are expanded together, in three steps: their links are prefetched, then the vectors these lead
 * to, then those are compared. Each step runs beside another one of the nodes before and after, so little waits for
 * memory. It makes 1 % more comparisons than one by one. With 8 in one step, navigating 80,000 centroids took 1.45
 * times as long, and 8,000, which the caches hold, as long (SIFT, Zen 5) (docs/decisions/0016). */
#define TOGETHER 4

/* Vectors compared, and others prefetched, at a time. Prefetching all at once delays computing. */
#define PIECE 16

/* Candidates merged into the beam at a time. They are sorted by comparing each with each. */
#define MERGED 16

/* Bytes prefetched of a vector. The hardware foresees the rest. */
#define PREFETCH_BYTES 256

int spann_navigator_init(spann_navigator *n, const spann_index *index) {
    *n = (spann_navigator){.visited = malloc((index->centroids + 63) / 64 * 8)};
    return n->visited ? 0 : -1;
}

void spann_navigator_free(spann_navigator *n) {
    free(n->visited);
    spann_selection_free(&n->found);
    free(n->beam);
    free(n->batch[0].nodes);
    free(n->batch[1].nodes);
    free(n->scores);
    free(n->keys);
}

/* Orders by distance, then by number; the lowest bit is left for EXPANDED. */
static uint64_t key_of(float score, uint32_t node) {
    uint32_t bits;
    score += 0.0f; /* one zero, not two */
    memcpy(&bits, &score, sizeof bits);
    bits ^= bits >> 31 ? UINT32_MAX : 1u << 31;
    return (uint64_t)bits << 32 | (uint64_t)node << 1;
}

static float score_of(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    float score;
    bits ^= bits >> 31 ? 1u << 31 : UINT32_MAX;
    memcpy(&score, &bits, sizeof score);
    return score;
}

#define EXPANDED 1u
#define NODE(key) ((uint32_t)(key) >> 1)

/* The first of the sorted `keys` that is not below `key`, by a search without branches. */
static size_t place_of(const uint64_t *keys, size_t count, uint64_t key) {
    const uint64_t *at = keys;
    for (size_t left = count; left > 0;) {
        size_t half = (left + 1) / 2;
        at += half & -(size_t)(at[half - 1] < key);
        left -= half;
    }
    return (size_t)(at - keys);
}

/* Merges at most MERGED different keys into the beam, which stays sorted and at most `beam` long. Returns the first
 * place that changed, or SIZE_MAX. The keys' places are searched for side by side, and what lies between them moves
 * once. One by one, navigating takes 1.14 times as long (8,000 and 80,000 centroids of SIFT, Zen 5). Eight bytes a
 * candidate make that cheap: with 24, a branching search and a heap it took three times as long
 * (docs/decisions/0016). */
static size_t insert(spann_navigator *n, size_t beam, const uint64_t *keys, size_t count) {
    uint64_t sorted[MERGED];
    size_t places[MERGED];
    for (size_t i = 0; i < count; i++) {
        size_t rank = 0;
        for (size_t j = 0; j < count; j++) rank += keys[j] < keys[i];
        sorted[rank] = keys[i];
    }
    size_t size = n->size;
    while (size + count > beam) { /* the last of both go */
        if (size && n->beam[size - 1] > sorted[count - 1]) size--;
        else count--;
    }
    if (count == 0) return SIZE_MAX;
    for (size_t i = 0; i < count; i++) places[i] = place_of(n->beam, size, sorted[i]);
    n->size = size + count;
    for (size_t i = count; i-- > 0; size = places[i]) {
        memmove(n->beam + places[i] + i + 1, n->beam + places[i], (size - places[i]) * sizeof *n->beam);
        n->beam[places[i] + i] = sorted[i];
    }
    return places[0];
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

typedef struct {
    spann_navigator *n;
    const spann_index *index;
    spann_gather_fn gather;
    const void *query;
    spann_sieve *sieve;
    uint32_t *distances;
    size_t width; /* bytes of a vector */
} walk;

static int collect(const walk *w, float score, uint32_t centroid) {
    const spann_index *index = w->index;
    const char *vector = (const char *)index->centroid_vectors + centroid * w->width;
    return spann_sieve_offer(w->sieve, score, vector, spann_read_id(index->centroid_ids, index->id_bytes, centroid));
}

static void prefetch_vectors(const walk *w, const uint32_t *which, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const char *vector = (const char *)w->index->centroid_vectors + which[i] * w->width;
        spann_prefetch(vector, w->width < PREFETCH_BYTES ? w->width : PREFETCH_BYTES);
    }
}

/* Scores `count` centroids; those of `coming` are fetched in pieces between. */
static int score_centroids(walk *w, const uint32_t *which, size_t count, const spann_nodes *coming) {
    spann_navigator *n = w->n;
    if (spann_reserve((void **)&n->scores, &n->scores_capacity, count, sizeof(float))) return -1;
    size_t fetched = 0;
    for (size_t at = 0; at < count; at += PIECE) {
        size_t some = count - at < PIECE ? count - at : PIECE, more = (coming->size - fetched) * some / (count - at);
        prefetch_vectors(w, coming->nodes + fetched, more);
        fetched += more;
        w->gather(w->query, w->index->centroid_vectors, which + at, some, w->index->dim, n->scores + at);
    }
    if (count == 0) prefetch_vectors(w, coming->nodes, coming->size);
    *w->distances += (uint32_t)count;
    for (size_t i = 0; w->sieve && i < count; i++)
        if (collect(w, n->scores[i], which[i])) return -1;
    return 0;
}

/* Takes from the beam, from place *next on, the nearest nodes not expanded yet. Returns how many, at most TOGETHER. */
static size_t choose(spann_navigator *n, const spann_level *base, size_t *next, uint32_t *nodes) {
    size_t some = 0;
    for (; *next < n->size && some < TOGETHER; ++*next) {
        if (n->beam[*next] & EXPANDED) continue;
        n->beam[*next] |= EXPANDED;
        nodes[some++] = NODE(n->beam[*next]);
    }
    for (size_t i = 0; i < some; i++) {
        const uint64_t *links = base->offsets + nodes[i];
        spann_prefetch(base->neighbors + links[0], (links[1] - links[0]) * sizeof *base->neighbors);
    }
    return some;
}

/* Leaves in `fresh` the neighbours of `some` nodes that were not visited. Each is written, but only new ones are kept,
 * without a branch. A branch made navigating 8,000 centroids take 1.25 times as long, 80,000 1.03 times (SIFT, Zen 5)
 * (docs/decisions/0016). */
static int neighbors_of(walk *w, const spann_level *base, const uint32_t *nodes, size_t some, spann_nodes *fresh) {
    uint64_t *visited = w->n->visited;
    size_t count = 0, kept = 0;
    for (size_t i = 0; i < some; i++) count += base->offsets[nodes[i] + 1] - base->offsets[nodes[i]];
    if (spann_reserve((void **)&fresh->nodes, &fresh->capacity, count, sizeof(uint32_t))) return -1;
    uint32_t *kept_nodes = fresh->nodes;
    for (size_t i = 0; i < some; i++)
        for (uint64_t j = base->offsets[nodes[i]]; j < base->offsets[nodes[i] + 1]; j++) {
            uint32_t neighbor = base->neighbors[j];
            uint64_t *word = &visited[neighbor / 64], seen = *word >> neighbor % 64 & 1;
            *word |= 1ull << neighbor % 64;
            kept_nodes[kept] = neighbor;
            kept += 1 - seen;
        }
    fresh->size = kept;
    return 0;
}

/* Adds the near ones of the scored batch to the beam. *next sinks to the first place that changed. */
static int add_to_beam(spann_navigator *n, const spann_level *base, size_t beam, const spann_nodes *batch, size_t *next) {
    if (spann_reserve((void **)&n->keys, &n->keys_capacity, batch->size, sizeof *n->keys)) return -1;
    uint64_t limit = n->size == beam ? n->beam[beam - 1] : UINT64_MAX;
    size_t near = 0;
    for (size_t i = 0; i < batch->size; i++) { /* without a branch, for none could be foreseen */
        n->keys[near] = key_of(n->scores[i], batch->nodes[i]);
        near += n->keys[near] < limit;
    }
    for (size_t i = 0; i < near; i++) spann_prefetch(&base->offsets[NODE(n->keys[i])], 2 * sizeof *base->offsets);
    for (size_t i = 0; i < near; i += MERGED) {
        size_t place = insert(n, beam, n->keys + i, near - i < MERGED ? near - i : MERGED);
        if (place < *next) *next = place;
    }
    return 0;
}

/* Malkov and Yashunin 2018, algorithms 5 and 2, with one list for both found nodes and nodes to expand. */
static int walk_graph(walk *w, size_t beam) {
    spann_navigator *n = w->n;
    const spann_index *index = w->index;
    memset(n->visited, 0, (index->centroids + 63) / 64 * 8);

    spann_nodes *batch = &n->batch[0], *coming = &n->batch[1], *swapped;
    batch->size = coming->size = 0;
    if (score_centroids(w, &index->entry, 1, coming)) return -1;
    uint64_t best = key_of(n->scores[0], index->entry);
    for (uint32_t l = index->levels - 1; l > 0; l--) { /* greedy descent */
        const spann_level *level = &index->graph[l];
        for (uint64_t before = 0; before != best;) {
            before = best;
            size_t at = position_of(level, NODE(best));
            const uint32_t *neighbors = level->neighbors + level->offsets[at];
            size_t count = level->offsets[at + 1] - level->offsets[at];
            if (score_centroids(w, neighbors, count, coming)) return -1;
            for (size_t i = 0; i < count; i++) {
                uint64_t key = key_of(n->scores[i], neighbors[i]);
                if (key < best) best = key;
            }
        }
    }

    const spann_level *base = &index->graph[0];
    n->visited[NODE(best) / 64] |= 1ull << NODE(best) % 64;
    n->beam[0] = best;
    n->size = 1;
    uint32_t nodes[TOGETHER];
    for (size_t next = 0, some = 0;;) {
        if (neighbors_of(w, base, nodes, some, coming)) return -1;
        some = choose(n, base, &next, nodes);
        if (some == 0 && batch->size == 0 && coming->size == 0) break;
        if (score_centroids(w, batch->nodes, batch->size, coming)) return -1;
        if (add_to_beam(n, base, beam, batch, &next)) return -1;
        swapped = batch;
        batch = coming;
        coming = swapped;
    }
    return 0;
}

static int scan_all(walk *w, spann_score_fn score) {
    spann_navigator *n = w->n;
    const spann_index *index = w->index;
    if (spann_reserve((void **)&n->scores, &n->scores_capacity, BLOCK, sizeof(float))) return -1;
    for (size_t start = 0; start < index->centroids; start += BLOCK) {
        size_t count = index->centroids - start < BLOCK ? index->centroids - start : BLOCK;
        score(w->query, (const char *)index->centroid_vectors + start * w->width, count, index->dim, n->scores);
        for (size_t at = 0; at < count; at += SPANN_BLOCK)
            for (uint32_t set = spann_within(n->scores, at, count, n->found.limit); set; set &= set - 1) {
                size_t i = at + (size_t)__builtin_ctz(set);
                spann_selection_push(&n->found, n->scores[i], 0, start + i, 0);
            }
        for (size_t i = 0; w->sieve && i < count; i++)
            if (collect(w, n->scores[i], (uint32_t)(start + i))) return -1;
    }
    *w->distances += (uint32_t)index->centroids;
    spann_selection_finish(&n->found);
    return 0;
}

int spann_navigate(spann_navigator *n, const spann_index *index, spann_score_fn score, spann_gather_fn gather,
                   const void *query, size_t wanted, size_t beam, spann_sieve *sieve, uint32_t *distances) {
    size_t width = index->dim * spann_dtype_size(index->centroid_dtype);
    walk w = {n, index, gather, query, sieve, distances, width};
    if (beam > index->centroids) beam = index->centroids;
    if (wanted > beam) wanted = beam;
    int scan = beam > LONGEST_BEAM || beam * SCAN_RATIO >= index->centroids || index->centroids > UINT32_MAX / 2;
    if (spann_selection_start(&n->found, scan ? wanted : beam)) return -1;
    if (scan) return scan_all(&w, score);
    if (spann_reserve((void **)&n->beam, &n->beam_capacity, beam + 1, sizeof *n->beam)) return -1;
    if (walk_graph(&w, beam)) return -1;
    for (size_t i = 0; i < n->size; i++)
        n->found.items[i] = (spann_candidate){.value = score_of(n->beam[i]), .row = NODE(n->beam[i])};
    n->found.size = n->size;
    return 0;
}
