#include "format/posting_format.h"

#include <string.h>

#include "base/crc32c.h"

void spann_pack_postings(const unsigned char *ids, size_t id_bytes, const unsigned char *vectors, size_t vector_bytes,
                         const uint16_t *lengths, const uint64_t *starts, size_t postings, unsigned char *out,
                         uint32_t *crcs) {
    for (size_t p = 0; p < postings; p++) {
        size_t n = lengths[p];
        unsigned char *to = out + starts[p];
        memcpy(to, ids, n * id_bytes);
        memcpy(to + spann_vectors_begin(id_bytes, n), vectors, n * vector_bytes);
        crcs[p] = spann_crc32c(0, to, spann_exact_posting_bytes(id_bytes, vector_bytes, n));
        ids += n * id_bytes;
        vectors += n * vector_bytes;
    }
}

/* Moves the next `bytes` of an array to `to`. */
static void put(unsigned char *to, const unsigned char **from, size_t bytes) {
    if (bytes == 0) return; /* memcpy takes no NULL, which an empty array may be */
    memcpy(to, *from, bytes);
    *from += bytes;
}

void spann_pack_coded(const spann_coded *from, const uint16_t *lengths, const uint16_t *primaries,
                      const uint64_t *starts, size_t postings, unsigned char *out, uint32_t *crcs) {
    spann_coded at = *from;
    for (size_t p = 0; p < postings; p++) {
        size_t n = lengths[p];
        unsigned char *start = out + starts[p];
        if (n == 0) {
            at.headers += SPANN_HEADER_BYTES;
            crcs[p] = 0;
            continue;
        }
        spann_posting_parts part = spann_parts_of_posting(&at.widths, n, primaries[p]);
        put(start, &at.headers, part.ids);
        put(start + part.ids, &at.ids, part.add - part.ids);
        put(start + part.add, &at.add, part.scale - part.add);
        put(start + part.scale, &at.scale, part.rows - part.scale);
        put(start + part.rows, &at.rows, part.codes - part.rows);
        put(start + part.codes, &at.codes, part.end - part.codes);
        crcs[p] = spann_crc32c(0, start, part.end);
    }
}
