/* Copying postings of codes from disk to where they stay in memory. */
#ifndef SPANN_PINNED_H
#define SPANN_PINNED_H

#include "search/index.h"

/* Copies n postings, whose bytes begin at block + starts[i], to their places in the other arrays. Returns the first
 * posting whose crc32c does not match, or -1. */
int64_t spann_unpack(const spann_index *index, const uint32_t *postings, const uint64_t *starts, size_t n,
                     const unsigned char *block, unsigned char *ids, unsigned char *add, unsigned char *scale,
                     unsigned char *rows, unsigned char *codes, unsigned char *headers);

#endif
