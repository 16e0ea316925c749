/* Which stored vectors count in a search. The others were deleted or replaced, or a filter leaves them out.
 *
 * They are masked where scores are compared, so none takes the place of a result. If all vectors of an index count, it
 * has no spann_live: the pointer is NULL, and nothing is tested. */
#ifndef SPANN_LIVE_H
#define SPANN_LIVE_H

#include <stdint.h>
#include <string.h>

#define SPANN_LIVE_SLACK 8 /* readable bytes that must follow `rows` */

typedef struct {
    uint64_t count;            /* vectors that count, at least 1 */
    const uint16_t *length;    /* (postings) entries of each that may count; a posting with 0 is passed over */
    const unsigned char *rows; /* with codes: bit r % 8 of byte r / 8 is 1 if row r of the exact store counts */
    const uint64_t *dead;      /* without codes: ids that do not count, an open hash table of id + 1; 0 is free */
    uint64_t dead_mask;        /* its size, a power of two, less 1 */
    int32_t listed;            /* not 0: the table has the ids that count instead */
    int32_t filter;            /* not 0: a filter leaves vectors out; postings without a match count as looked at */
    /* With a filter that few vectors match: the centroids of their postings, which are all that is looked at. NULL:
     * the nearest centroids are looked for. */
    const uint32_t *centroids;
    uint64_t centroid_count;
} spann_live;

/* Bit i is set if row `first` + i counts, for i from 0 to 15. */
static inline uint32_t spann_live_rows(const unsigned char *rows, uint64_t first) {
    uint32_t bits;
    memcpy(&bits, rows + first / 8, sizeof bits);
    return bits >> first % 8 & 0xffff;
}

static inline int spann_live_row(const unsigned char *rows, uint64_t row) { return rows[row / 8] >> row % 8 & 1; }

/* The place in a hash table where looking for an id begins (Fibonacci hashing). */
static inline uint64_t spann_live_place(uint64_t id, uint64_t mask) {
    return (id * 0x9e3779b97f4a7c15u >> 20) & mask;
}

static inline int spann_is_dead(const spann_live *live, uint64_t id) {
    for (uint64_t at = spann_live_place(id, live->dead_mask);; at = (at + 1) & live->dead_mask) {
        if (live->dead[at] == 0) return live->listed != 0;
        if (live->dead[at] == id + 1) return live->listed == 0;
    }
}

#endif
