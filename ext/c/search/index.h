/* An open index, as a search sees it: arrays in memory, and the files of what is read.
 *
 * Contract: whoever makes a spann_index has checked its arrays (spann/search/contract.py). Every centroid, posting, row
 * and offset in them is in range. The bytes of postings and of the exact store are not trusted. Their lengths come from
 * the directory, rows of replicas are compared with `count`, and checksums are compared unless `check` is off. */
#ifndef SPANN_INDEX_H
#define SPANN_INDEX_H

#include "format/posting_format.h"
#include "io/io.h"
#include "kernels/distance.h"
#include "search/tail.h"

typedef struct spann_kind spann_kind; /* search/kind.h */

typedef struct {             /* one level of the navigation graph */
    const uint32_t *nodes;   /* (size) ascending centroid numbers; NULL at level 0, where node i is centroid i */
    const uint64_t *offsets; /* (size + 1) into neighbors */
    const uint32_t *neighbors;
    uint64_t size;
} spann_level;

typedef struct {
    const spann_kind *kind; /* what its postings hold */
    spann_metric metric;
    spann_dtype dtype;
    uint64_t dim, count, entries; /* dim: of bits, their bytes; entries: of all postings */
    uint32_t id_bytes;
    float max_norm; /* largest |v|; SPANN_IP prunes relative to it */

    /* With exact vectors in the postings, centroids are vectors of the collection, in `dtype` and `metric`.
     * centroid_ids (uint32 or uint64 by id_bytes) names them. With codes, they are means in the working space
     * (kernels/codes.h). */
    uint64_t centroids;
    spann_metric centroid_metric;
    spann_dtype centroid_dtype;
    const void *centroid_vectors;
    const void *centroid_ids; /* NULL with codes */
    uint32_t levels;
    const spann_level *graph;
    uint32_t entry; /* where navigation starts, a node of the top level */

    uint64_t postings; /* that searches visit; what was appended is in `tail` */
    const uint32_t *chain;        /* (centroids + 1) where postings of each begin; NULL: centroid i has posting i */
    const uint32_t *posting_page; /* first page */
    const uint16_t *posting_offset;    /* byte in the first page */
    const uint16_t *posting_length;    /* entries */
    const uint16_t *posting_primaries; /* NULL without codes */
    const uint32_t *posting_crc;
    const spann_file *posting_files; /* one per shard */
    uint64_t pages_per_shard;
    spann_tail tail;

    /* Used by the coded kind alone, from here to `closed`. */
    uint32_t code_bits;
    uint32_t padded_dim;
    uint32_t row_bytes;           /* 4 or 8: bytes of a replica's row number */
    float query_norm;             /* SPANN_IP: the length of queries in the working space */
    const float *centroid_sqnorm; /* SPANN_IP: (centroids) */
    const float *origin;          /* (dim) subtracted before rotating */
    const unsigned char *signs;   /* of the rotation */
    const uint64_t *first_row;    /* (postings) exact-store row of each posting's first primary; beyond all if it has none */
    /* Shapes of the postings, shape_bytes each, then SPANN_SLACK bytes. 0 directions: there are none. */
    uint32_t directions;
    size_t shape_bytes;
    const unsigned char *shapes;
    /* Postings 0 to pinned - 1, kept in memory entry by entry. pinned_rows has the rows of replicas alone. */
    uint64_t pinned;
    const uint64_t *first_entry; /* (postings + 1) each posting's first, counted through the pinned ones */
    const unsigned char *pinned_ids, *pinned_add, *pinned_scale, *pinned_rows, *pinned_codes, *pinned_headers;

    const spann_file *exact_files; /* one per shard */
    uint64_t exact_shard_rows;
    const uint32_t *exact_crc; /* of each page of rows, counted through the shards */

    int32_t closed; /* not 0 once the index is closed: searches end with SPANN_STOPPED */
} spann_index;

static inline uint32_t spann_first_posting(const spann_index *index, uint64_t centroid) {
    return index->chain ? index->chain[centroid] : (uint32_t)centroid;
}

/* The runs of a centroid's tail, SPANN_TAIL_RUNS of them; NULL if nothing was appended to it. */
static inline const spann_tail_run *spann_tail_of(const spann_index *index, uint64_t centroid) {
    if (index->tail.runs == NULL) return NULL;
    const spann_tail_run *runs = index->tail.runs + centroid * SPANN_TAIL_RUNS;
    return runs[0].entries + runs[1].entries ? runs : NULL;
}

/* Bytes of a vector of the collection, and pages of a whole shard of the exact store. */
static inline size_t spann_row_bytes(const spann_index *index) { return index->dim * spann_dtype_size(index->dtype); }
static inline uint64_t spann_exact_shard_pages(const spann_index *index) {
    return (index->exact_shard_rows * spann_row_bytes(index) + SPANN_PAGE - 1) / SPANN_PAGE;
}

#endif
