#include "navigate.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

/* Past this many candidates a beam kept sorted by insertion costs more than a scan of any number of centroids saves. */
#define LONGEST_BEAM 4096

/* The graph scores some 20 centroids for each in the beam, each at a random place; a scan streams through them. On
 * 8,000 and 16,000 centroids of SIFT (beam 128 and 256) the two cost the same at this ratio. */
#define SCAN_RATIO 48

#define BLOCK 256

int spann_navigator_init(spann_navigator *n, const spann_index *index) {
    *n = (spann_navigator){.visited = malloc((index->centroids + 63) / 64 * 8)};
    return n->visited ? 0 : -1;
}

void spann_navigator_free(spann_navigator *n) {
    free(n->visited);
    spann_selection_free(&n->found);
    free(n->frontier);
    free(n->batch);
    free(n->scores);
}

static int push_frontier(spann_navigator *n, spann_candidate item) {
    if (spann_reserve((void **)&n->frontier, &n->frontier_capacity, n->frontier_count + 1, sizeof item)) return -1;
    size_t i = n->frontier_count++;
    for (; i && spann_candidate_before(&item, &n->frontier[(i - 1) / 2]); i = (i - 1) / 2)
        n->frontier[i] = n->frontier[(i - 1) / 2];
    n->frontier[i] = item;
    return 0;
}

static spann_candidate pop_frontier(spann_navigator *n) {
    spann_candidate top = n->frontier[0], item = n->frontier[--n->frontier_count];
    size_t i = 0, size = n->frontier_count;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= size) break;
        if (child + 1 < size && spann_candidate_before(&n->frontier[child + 1], &n->frontier[child])) child++;
        if (!spann_candidate_before(&n->frontier[child], &item)) break;
        n->frontier[i] = n->frontier[child];
        i = child;
    }
    if (size) n->frontier[i] = item;
    return top;
}

/* Keeps `found` sorted and at most `wanted` long. An insertion sort: insertions cluster near the end and the beam is
 * short. */
static int offer(spann_selection *found, spann_candidate item) {
    if (found->size == found->wanted) {
        if (!spann_candidate_before(&item, &found->items[found->size - 1])) return 0;
        found->size--;
    }
    size_t low = 0, high = found->size;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (spann_candidate_before(&found->items[mid], &item)) low = mid + 1;
        else high = mid;
    }
    memmove(found->items + low + 1, found->items + low, (found->size - low) * sizeof item);
    found->items[low] = item;
    found->size++;
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

typedef struct {
    spann_navigator *n;
    const spann_index *index;
    spann_gather_fn gather;
    const void *query;
    spann_topk *hits;
    uint32_t *distances;
} walk;

static int collect(spann_topk *hits, const spann_index *index, float score, uint32_t centroid) {
    return hits ? spann_topk_push(hits, score, spann_read_id(index->centroid_ids, index->id_bytes, centroid)) : 0;
}

static int score_centroids(walk *w, const uint32_t *which, size_t count) {
    spann_navigator *n = w->n;
    if (spann_reserve((void **)&n->scores, &n->scores_capacity, count, sizeof(float))) return -1;
    w->gather(w->query, w->index->centroid_vectors, which, count, w->index->dim, n->scores);
    *w->distances += (uint32_t)count;
    for (size_t i = 0; i < count; i++)
        if (collect(w->hits, w->index, n->scores[i], which[i])) return -1;
    return 0;
}

/* Malkov and Yashunin 2018, algorithms 5 and 2. */
static int walk_graph(walk *w) {
    spann_navigator *n = w->n;
    const spann_index *index = w->index;
    n->frontier_count = 0;
    memset(n->visited, 0, (index->centroids + 63) / 64 * 8);

    uint32_t entry = index->entry;
    if (score_centroids(w, &entry, 1)) return -1;
    spann_candidate best = {.value = n->scores[0], .row = entry};
    for (uint32_t l = index->levels - 1; l > 0; l--) { /* greedy descent */
        const spann_level *level = &index->graph[l];
        for (int moved = 1; moved;) {
            moved = 0;
            size_t at = position_of(level, (uint32_t)best.row);
            const uint32_t *neighbors = level->neighbors + level->offsets[at];
            size_t count = level->offsets[at + 1] - level->offsets[at];
            if (score_centroids(w, neighbors, count)) return -1;
            for (size_t i = 0; i < count; i++) {
                spann_candidate c = {.value = n->scores[i], .row = neighbors[i]};
                if (spann_candidate_before(&c, &best)) {
                    best = c;
                    moved = 1;
                }
            }
        }
    }

    const spann_level *base = &index->graph[0];
    spann_selection *found = &n->found;
    n->visited[best.row / 64] |= 1ull << best.row % 64;
    offer(found, best);
    if (push_frontier(n, best)) return -1;
    while (n->frontier_count) {
        spann_candidate c = pop_frontier(n);
        if (found->size == found->wanted && spann_candidate_before(&found->items[found->size - 1], &c)) break;
        const uint32_t *neighbors = base->neighbors + base->offsets[c.row];
        size_t count = base->offsets[c.row + 1] - base->offsets[c.row], fresh = 0;
        if (spann_reserve((void **)&n->batch, &n->batch_capacity, count, sizeof(uint32_t))) return -1;
        for (size_t i = 0; i < count; i++) {
            uint32_t node = neighbors[i];
            uint64_t bit = 1ull << node % 64;
            if (n->visited[node / 64] & bit) continue;
            n->visited[node / 64] |= bit;
            n->batch[fresh++] = node;
        }
        if (score_centroids(w, n->batch, fresh)) return -1;
        for (size_t i = 0; i < fresh; i++) {
            spann_candidate next = {.value = n->scores[i], .row = n->batch[i]};
            if (offer(found, next) && push_frontier(n, next)) return -1;
        }
    }
    return 0;
}

static int scan_all(walk *w, spann_score_fn score) {
    spann_navigator *n = w->n;
    const spann_index *index = w->index;
    size_t width = index->dim * spann_dtype_size(index->centroid_dtype);
    if (spann_reserve((void **)&n->scores, &n->scores_capacity, BLOCK, sizeof(float))) return -1;
    for (size_t start = 0; start < index->centroids; start += BLOCK) {
        size_t count = index->centroids - start < BLOCK ? index->centroids - start : BLOCK;
        score(w->query, (const char *)index->centroid_vectors + start * width, count, index->dim, n->scores);
        for (size_t i = 0; (i = spann_next_within(n->scores, i, count, n->found.limit)) < count; i++)
            spann_selection_push(&n->found, (spann_candidate){.value = n->scores[i], .row = start + i});
        for (size_t i = 0; w->hits && i < count; i++)
            if (collect(w->hits, index, n->scores[i], (uint32_t)(start + i))) return -1;
    }
    *w->distances += (uint32_t)index->centroids;
    spann_selection_finish(&n->found);
    return 0;
}

int spann_navigate(spann_navigator *n, const spann_index *index, spann_score_fn score, spann_gather_fn gather,
                   const void *query, size_t wanted, size_t beam, spann_topk *hits, uint32_t *distances) {
    walk w = {n, index, gather, query, hits, distances};
    if (beam > index->centroids) beam = index->centroids;
    if (wanted > beam) wanted = beam;
    int scan = beam > LONGEST_BEAM || beam * SCAN_RATIO >= index->centroids;
    if (spann_selection_start(&n->found, scan ? wanted : beam)) return -1;
    return scan ? scan_all(&w, score) : walk_graph(&w);
}
