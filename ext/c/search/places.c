#include "search/places.h"

#include "base/crc32c.h"
/* Where `content` bytes from byte `at` of a file lie. Direct reads take whole pages. */
static spann_place place_in_file(const spann_context *c, spann_file file, uint64_t at, size_t content) {
    if (!c->params->direct) return (spann_place){file, at, content, 0, content};
    size_t skip = at % SPANN_PAGE;
    size_t bytes = (skip + content + SPANN_PAGE - 1) / SPANN_PAGE * SPANN_PAGE;
    return (spann_place){file, at - skip, bytes, skip, content};
}

spann_place spann_posting_place(const spann_context *c, uint32_t posting) {
    const spann_index *index = c->index;
    uint64_t page = index->posting_page[posting];
    uint64_t at = page % index->pages_per_shard * SPANN_PAGE + index->posting_offset[posting];
    return place_in_file(c, index->posting_files[page / index->pages_per_shard], at, index->kind->posting_bytes(c, posting));
}

uint64_t spann_rows_of_shard(const spann_index *index, uint64_t shard) {
    uint64_t left = index->count - shard * index->exact_shard_rows;
    return left < index->exact_shard_rows ? left : index->exact_shard_rows;
}

spann_place spann_pages_place(const spann_context *c, uint64_t first, uint64_t last) {
    uint64_t shard = first / c->exact_shard_pages, at = first % c->exact_shard_pages * SPANN_PAGE;
    uint64_t end = (last - shard * c->exact_shard_pages) * SPANN_PAGE;
    uint64_t rows_end = spann_rows_of_shard(c->index, shard) * c->row_bytes;
    return place_in_file(c, c->index->exact_files[shard], at, (size_t)((end < rows_end ? end : rows_end) - at));
}

int spann_check_posting(spann_context *c, uint32_t posting, const unsigned char *content) {
    if (!c->params->check) return SPANN_OK;
    size_t bytes = c->index->kind->posting_bytes(c, posting);
    if (spann_crc32c(0, content, bytes) == c->index->posting_crc[posting]) return SPANN_OK;
    return spann_fail(c, SPANN_DAMAGED, 0, posting, 0);
}

int spann_check_pages(spann_context *c, uint64_t first, uint64_t last, const unsigned char *content) {
    if (!c->params->check) return SPANN_OK;
    uint64_t shard = first / c->exact_shard_pages;
    uint64_t rows_end = spann_rows_of_shard(c->index, shard) * c->row_bytes;
    for (uint64_t page = first; page < last; page++) {
        uint64_t at = page % c->exact_shard_pages * SPANN_PAGE;
        size_t bytes = rows_end - at < SPANN_PAGE ? (size_t)(rows_end - at) : SPANN_PAGE;
        if (spann_crc32c(0, content + (page - first) * SPANN_PAGE, bytes) != c->index->exact_crc[page])
            return spann_fail(c, SPANN_DAMAGED, 1, page, 0);
    }
    return SPANN_OK;
}
