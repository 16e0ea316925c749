/* Where postings and pages of the exact store lie in files, and whether what was read is intact. */
#ifndef SPANN_PLACES_H
#define SPANN_PLACES_H

#include "search/state.h"

/* What to read, and where the bytes asked for lie in it: `content` bytes after the first `skip`. */
typedef struct {
    spann_file file;
    uint64_t offset;
    size_t bytes, skip, content;
} spann_place;

spann_place spann_posting_place(const spann_context *c, uint32_t posting);
/* Pages first to last (excluded) of one shard of the exact store. */
spann_place spann_pages_place(const spann_context *c, uint64_t first, uint64_t last);

/* A status: SPANN_DAMAGED if a checksum differs, unless `check` is off. */
int spann_check_posting(spann_context *c, uint32_t posting, const unsigned char *content);
int spann_check_pages(spann_context *c, uint64_t first, uint64_t last, const unsigned char *content);

/* Rows of the exact store in one of its shards. */
uint64_t spann_rows_of_shard(const spann_index *index, uint64_t shard);

#endif
