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
        memcpy(to + n * id_bytes, vectors, n * vector_bytes);
        crcs[p] = spann_crc32c(0, to, n * (id_bytes + vector_bytes));
        ids += n * id_bytes;
        vectors += n * vector_bytes;
    }
}

static unsigned char *put(unsigned char *to, const unsigned char **from, size_t bytes) {
    if (bytes == 0) return to; /* an array of nothing may be NULL, which memcpy does not take */
    memcpy(to, *from, bytes);
    *from += bytes;
    return to + bytes;
}

void spann_pack_coded(const spann_coded *from, const uint16_t *lengths, const uint16_t *primaries,
                      const uint64_t *starts, size_t postings, unsigned char *out, uint32_t *crcs) {
    spann_coded at = *from;
    for (size_t p = 0; p < postings; p++) {
        size_t n = lengths[p], replicas = n - primaries[p];
        unsigned char *start = out + starts[p], *to = start;
        if (n == 0) {
            at.headers += SPANN_POSTING_HEADER;
            crcs[p] = 0;
            continue;
        }
        to = put(to, &at.headers, SPANN_POSTING_HEADER);
        to = put(to, &at.ids, n * at.id_bytes);
        to = put(to, &at.add, n * 2);
        to = put(to, &at.scale, n * 2);
        to = put(to, &at.rows, replicas * at.row_bytes);
        to = put(to, &at.codes, n * at.code_bytes);
        crcs[p] = spann_crc32c(0, start, (size_t)(to - start));
    }
}
