/* Copying postings from disk to where they stay in memory. */
#ifndef SPANN_PINNED_H
#define SPANN_PINNED_H

#include "search/index.h"

/* Copies n postings, whose bytes begin at block + starts[i], to their places in the other arrays. Returns the first
 * posting whose crc32c does not match, or -1. */
int64_t spann_unpack(const spann_index *index, const uint32_t *postings, const uint64_t *starts, size_t n,
                     const unsigned char *block, unsigned char *ids, unsigned char *add, unsigned char *scale,
                     unsigned char *rows, unsigned char *codes, unsigned char *headers);

/* A posting that becomes part of a tail. */
typedef struct {
    uint64_t start;                  /* of its bytes in a block */
    uint64_t first_row;              /* with codes: row of the exact store of its first primary */
    uint64_t primary_at, replica_at; /* entries where its primaries and its replicas go, and those after them */
    uint32_t crc;
    uint16_t length, primaries;
} spann_part;

/* Copies n postings of codes to their places in a tail. Returns the number of the first one in `parts` that is damaged:
 * its crc32c does not match, or a replica has a row that does not exist. Otherwise -1. */
int64_t spann_unpack_tail(const spann_index *index, const spann_part *parts, size_t n, const unsigned char *block,
                          unsigned char *ids, unsigned char *rows, float *add, float *scale, unsigned char *codes);

/* The same for postings of vectors. All their entries go to primary_at and after. */
int64_t spann_unpack_vectors(const spann_index *index, const spann_part *parts, size_t n, const unsigned char *block,
                             unsigned char *ids, unsigned char *vectors);

#endif
