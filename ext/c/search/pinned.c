#include "search/pinned.h"

#include <string.h>

#include "base/crc32c.h"
#include "kernels/codes.h"

int64_t spann_unpack(const spann_index *index, const uint32_t *postings, const uint64_t *starts, size_t n,
                     const unsigned char *block, unsigned char *ids, unsigned char *add, unsigned char *scale,
                     unsigned char *rows, unsigned char *codes, unsigned char *headers) {
    spann_widths w = {index->id_bytes, index->row_bytes, spann_code_bytes(index->padded_dim, index->code_bits)};
    for (size_t i = 0; i < n; i++) {
        uint32_t posting = postings[i];
        const unsigned char *content = block + starts[i];
        size_t entries = index->posting_length[posting], primaries = index->posting_primaries[posting];
        size_t entry = index->first_entry[posting], replica = entry - index->first_row[posting];
        spann_posting_parts p = spann_parts_of_posting(&w, entries, primaries);
        if (spann_crc32c(0, content, p.end) != index->posting_crc[posting]) return posting;
        memcpy(headers + (size_t)posting * SPANN_HEADER_BYTES, content, SPANN_HEADER_BYTES);
        memcpy(ids + entry * w.id, content + p.ids, entries * w.id);
        memcpy(add + entry * SPANN_FACTOR_BYTES, content + p.add, entries * SPANN_FACTOR_BYTES);
        memcpy(scale + entry * SPANN_FACTOR_BYTES, content + p.scale, entries * SPANN_FACTOR_BYTES);
        memcpy(rows + replica * w.row, content + p.rows, (entries - primaries) * w.row);
        memcpy(codes + entry * w.code, content + p.codes, entries * w.code);
    }
    return -1;
}
