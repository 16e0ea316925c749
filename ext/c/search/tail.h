/* What was appended to the postings of centroids, merged by centroid and kept in memory.
 *
 * A centroid's tail belongs to its first posting: it is scored when that is, after the same verdict of pruning, and
 * costs neither a visit nor a read. Entries of several appends lie next to each other, so their factors are floats:
 * those of a stored posting are relative to its own header. */
#ifndef SPANN_TAIL_H
#define SPANN_TAIL_H

#include <stdint.h>

typedef struct {
    uint64_t first;              /* of its entries in the arrays of the tail */
    uint32_t entries, primaries; /* the primaries come first */
    float error;                 /* with codes: the largest E of the entries, negative if they are far (kernels/codes.h) */
    float most;                  /* with codes: the largest S */
} spann_tail_run;

#define SPANN_TAIL_RUNS 2  /* of a centroid: the second has far codes. Either may be empty */
#define SPANN_TAIL_SLACK 8 /* factors and codes after the last entry that may be read */

typedef struct {
    const spann_tail_run *runs; /* (centroids, SPANN_TAIL_RUNS); NULL: nothing was appended */
    const unsigned char *ids;
    const unsigned char *vectors;      /* without codes */
    const unsigned char *rows, *codes; /* with codes: the row of each entry in the exact store */
    const float *add, *scale;          /* with codes: A and S */

    /* With codes: the postings that the entries come from, by rising row of the exact store. Re-ranking finds by them
     * who owns a row. */
    uint64_t parts;
    const uint64_t *part_row;       /* (parts) of the first primary */
    const uint16_t *part_primaries; /* (parts) */
    const uint32_t *part_centroid;  /* (parts) */
    const uint64_t *part_first;     /* (parts) entry of the first primary */
} spann_tail;

#endif
